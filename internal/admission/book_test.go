package admission_test

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

var asked = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

// slots are facts with so many places left.
func slots(n int64, at time.Time) admission.Facts {
	return admission.Facts{CanDeploy: true, Remaining: room(2*n, 4*n, 80*n, n), AskedAt: at}
}

func TestBook(t *testing.T) {
	t.Parallel()
	ask := room(2, 4, 80, 1)
	tests := map[string]struct {
		reason string
		before func(*admission.Book)
		facts  admission.Facts
		want   admission.Verdict
	}{
		"Empty": {"nothing in flight", func(*admission.Book) {}, slots(1, asked), admission.Admit},
		"InFlight": {"another is being created", func(b *admission.Book) {
			b.Admit("other", slots(1, asked), ask)
		}, slots(1, asked), admission.Crowded},
		"InFlightAndFull": {"what HostUp says is left alone does not fit", func(b *admission.Book) {
			b.Admit("other", slots(1, asked), ask)
		}, slots(0, asked), admission.Full},
		"Itself": {"an entry is not counted against its own key", func(b *admission.Book) {
			b.Admit("me", slots(1, asked), ask)
		}, slots(1, asked), admission.Admit},
		"Forgotten": {"nothing was bought", func(b *admission.Book) {
			b.Admit("other", slots(1, asked), ask)
			b.Forget("other")
		}, slots(1, asked), admission.Admit},
		"BoughtAfterAsking": {"the facts may lack the purchase", func(b *admission.Book) {
			b.Admit("other", slots(1, asked), ask)
			b.Bought("other", asked.Add(time.Second))
		}, slots(1, asked), admission.Crowded},
		"BoughtWhenAsked": {"at the same moment they may, too", func(b *admission.Book) {
			b.Admit("other", slots(1, asked), ask)
			b.Bought("other", asked)
		}, slots(1, asked), admission.Crowded},
		"BoughtBeforeAsking": {"the facts contain the purchase", func(b *admission.Book) {
			b.Admit("other", slots(1, asked), ask)
			b.Bought("other", asked.Add(-time.Second))
		}, slots(1, asked), admission.Admit},
		"RefusedIsNotEntered": {"a request that was not admitted holds no place", func(b *admission.Book) {
			b.Admit("other", slots(0, asked), ask)
		}, slots(1, asked), admission.Admit},
		"RefusedLosesItsEntry": {"an entry ends when its key is judged again and refused", func(b *admission.Book) {
			b.Admit("other", slots(1, asked), ask)
			b.Admit("other", slots(0, asked), ask)
		}, slots(1, asked), admission.Admit},
		"BoughtUnknown": {"a purchase without an entry is not counted", func(b *admission.Book) {
			b.Bought("other", asked.Add(time.Hour))
		}, slots(1, asked), admission.Admit},
		"BoughtThenForgotten": {"forgetting does not undo a purchase", func(b *admission.Book) {
			b.Admit("other", slots(1, asked), ask)
			b.Bought("other", asked.Add(time.Second))
			b.Forget("other")
		}, slots(1, asked), admission.Crowded},
		"TwoOfThree": {"two in flight of three places", func(b *admission.Book) {
			b.Admit("x", slots(3, asked), ask)
			b.Admit("y", slots(3, asked), ask)
		}, slots(3, asked), admission.Admit},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBook()
			tc.before(b)
			if got := b.Admit("me", tc.facts, ask); got.Verdict != tc.want {
				t.Errorf("%s: got %+v, want verdict %d", tc.reason, got, tc.want)
			}
		})
	}
}

// However many ask at once, no more are admitted than there are places.
func TestBookUnderContention(t *testing.T) {
	t.Parallel()
	const places, askers = 7, 64
	b := newBook()
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for i := range askers {
		wg.Go(func() {
			key := strconv.Itoa(i)
			if b.Admit(key, slots(places, asked), room(2, 4, 80, 1)).Verdict != admission.Admit {
				b.Forget(key)
				return
			}
			admitted.Add(1)
			b.Bought(key, asked.Add(time.Duration(i)))
		})
	}
	wg.Wait()
	if n := admitted.Load(); n != places {
		t.Errorf("%d were admitted to %d places", n, places)
	}
	if d := b.Admit("late", slots(places, asked.Add(time.Hour)), room(2, 4, 80, 1)); d.Verdict != admission.Admit {
		t.Errorf("newer facts: got %+v", d)
	}
}

// settle is how long a row reserves room beside newer facts.
const settle = 10 * time.Minute

func newBook() *admission.Book {
	return admission.NewBook(settle, func(key string) string { return key })
}
