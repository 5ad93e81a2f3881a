package batch

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

const threeOrders = "idempotencyKey,name,cpu_cores,memory_gb,storage_gb,region\na,web-a,2,4,80,stockholm\nb,web-b,2,4,80,stockholm\nc,web-c,2,4,80,stockholm\na,web-a,2,4,80,stockholm\n"

func request(key string) provision.Request {
	return provision.Request{Key: key, Name: "web-" + key, CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm"}
}

func outcome(t *testing.T, b *Batch, i int) Outcome {
	t.Helper()
	o, err := b.Outcome(i)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func answer(t *testing.T, b *Batch, e provision.Event) {
	t.Helper()
	if err := b.Answer(e); err != nil {
		t.Fatal(err)
	}
}

func sent(b *Batch) {
	for i, body := range []string{"00000000000000aa", "00000000000000bb", "00000000000000cc"} {
		b.Sending(i, body)
		b.Sent(i)
	}
}

// What answers an order and what does not.
func TestAnswers(t *testing.T) {
	t.Parallel()
	another := request("a")
	another.CPUCores = 4
	problem := json.RawMessage(`{"title":"No","detail":"there is no room"}`)
	for name, tc := range map[string]struct {
		event provision.Event
		want  Outcome
	}{
		"provisioning":             {provision.Event{Kind: provision.KindProvisioning, Key: "a", Request: request("a"), VPSID: "v", OrderID: "o", InvoiceID: "i", Adopted: true}, Outcome{State: Provisioning, VPSID: "v", OrderID: "o", InvoiceID: "i", Adopted: true, Billed: "yes"}},
		"failed":                   {provision.Event{Kind: provision.KindFailed, Key: "a", Request: request("a"), Reason: provision.ReasonRefused, Billed: provision.BilledNo, Retryable: true, Problem: problem}, Outcome{State: Failed, Reason: "refused", Billed: "no", Retryable: true, Detail: "there is no room"}},
		"held":                     {provision.Event{Kind: provision.KindHeld, Key: "a", Problem: json.RawMessage(`{"title":"Held"}`)}, Outcome{State: Held, Detail: "Held"}},
		"our message is rejected":  {provision.Event{ID: provision.RejectedID("a", "00000000000000aa"), Kind: provision.KindFailed, Key: "a", Request: another, Rejected: true, Reason: provision.ReasonIdempotencyConflict}, Outcome{State: Failed, Reason: "idempotency-conflict"}},
		"another is rejected":      {provision.Event{ID: provision.RejectedID("a", "00000000000000ab"), Kind: provision.KindFailed, Key: "a", Request: request("a"), Rejected: true}, Outcome{State: Submitted}},
		"another with our key":     {provision.Event{Kind: provision.KindProvisioning, Key: "a", Request: another, VPSID: "v"}, Outcome{State: Submitted}},
		"another with it fails":    {provision.Event{Kind: provision.KindFailed, Key: "a", Request: another}, Outcome{State: Submitted}},
		"a key that is not ours":   {provision.Event{Kind: provision.KindProvisioning, Key: "x", Request: request("a")}, Outcome{State: Submitted}},
		"all faults of a rejected": {provision.Event{ID: provision.RejectedID("a", "00000000000000aa"), Kind: provision.KindFailed, Key: "a", Rejected: true, Problem: json.RawMessage(`{"detail":"2 faults","errors":[{"detail":"one"},{"detail":"two"}]}`)}, Outcome{State: Failed, Detail: "one; two"}},
		"a problem that is none":   {provision.Event{Kind: provision.KindFailed, Key: "a", Request: request("a"), Problem: json.RawMessage(`[1`)}, Outcome{State: Failed}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := sound(t, "x", threeOrders)
			sent(b)
			answer(t, b, tc.event)
			if diff := cmp.Diff(tc.want, outcome(t, b, 0)); diff != "" {
				t.Errorf("want -, have +:\n%s", diff)
			}
			if o := outcome(t, b, 1); o.State != Submitted {
				t.Errorf("another order is %s", o.State)
			}
			if o := outcome(t, b, 3); o.State != Duplicate || o.Detail != "says the same as line 2, and is not sent" {
				t.Errorf("the repeated row is %+v", o)
			}
		})
	}
}

// An order has one outcome, however it is told and how often, and its counts
// are right at each step.
func TestCounts(t *testing.T) {
	t.Parallel()
	b := sound(t, "x", threeOrders)
	begun := time.Now()
	want := func(step string, c Counts) {
		t.Helper()
		c.Orders, c.Repeated = 3, 1
		if diff := cmp.Diff(c, b.Counts()); diff != "" {
			t.Errorf("%s: want -, have +:\n%s", step, diff)
		}
	}
	want("at first", Counts{})
	// An event may come before the broker's confirmation.
	answer(t, b, provision.Event{Kind: provision.KindProvisioning, Key: "c", Request: request("c"), VPSID: "v"})
	sent(b)
	sent(b)
	want("sent", Counts{Sent: 3, Provisioning: 1})
	for range 2 {
		answer(t, b, provision.Event{Kind: provision.KindHeld, Key: "a"})
	}
	want("held", Counts{Sent: 3, Provisioning: 1, Held: 1})
	open := func() (rows []int) {
		b.Open(func(i int, hash string) bool {
			if hash != provision.KeyHash([]string{"a", "b", "c"}[i]) {
				t.Errorf("the hash of row %d is %s", i, hash)
			}
			rows = append(rows, i)
			return true
		})
		return rows
	}
	if diff := cmp.Diff([]int{0, 1}, open()); diff != "" {
		t.Error(diff)
	}
	// The ledger: one not finished, one of another request, one known before.
	record := func(i int, r provision.Record) {
		t.Helper()
		if err := b.Recorded(i, &r, begun); err != nil {
			t.Fatal(err)
		}
	}
	failed := &provision.Outcome{Kind: provision.KindFailed, Reason: provision.ReasonAbandoned, Billed: provision.BilledNo, Problem: json.RawMessage(`{"detail":"gone"}`)}
	record(1, provision.Record{State: provision.StateAccepted, Request: request("b")})
	record(1, provision.Record{State: provision.StateDone, Request: request("a"), Outcome: failed})
	want("nothing new", Counts{Sent: 3, Provisioning: 1, Held: 1})
	record(0, provision.Record{State: provision.StateFailed, Request: request("a"), Outcome: failed, CreatedAt: begun.Add(time.Second)})
	want("decided", Counts{Sent: 3, Provisioning: 1, Failed: 1})
	select {
	case <-b.Answered():
		t.Error("all are answered too early")
	default:
	}
	record(1, provision.Record{State: provision.StateCreated, Request: request("b"), VPSID: "w", Outcome: &provision.Outcome{Kind: provision.KindProvisioning}, CreatedAt: begun.Add(-time.Second)})
	answer(t, b, provision.Event{Kind: provision.KindFailed, Key: "b", Request: request("b")})
	want("all", Counts{Sent: 3, Provisioning: 2, Failed: 1, Before: 1})
	<-b.Answered()
	if o := outcome(t, b, 1); o.State != Provisioning || o.VPSID != "w" || !o.OrderedAt.Equal(begun.Add(-time.Second)) {
		t.Errorf("the order that was known is %+v", o)
	}
	if o := outcome(t, b, 0); o.Reason != "abandoned" || o.Detail != "gone" || !o.OrderedAt.IsZero() {
		t.Errorf("the order that was decided is %+v", o)
	}
	if len(open()) != 0 {
		t.Error("something is open")
	}
}
