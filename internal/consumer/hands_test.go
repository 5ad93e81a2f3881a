package consumer

import (
	"bytes"
	"runtime"
	"testing"
	"testing/synctest"
)

// goroutine is the number of the goroutine that asks.
func goroutine() string {
	text := make([]byte, 64)
	text = text[:runtime.Stack(text, false)]
	number, _, _ := bytes.Cut(bytes.TrimPrefix(text, []byte("goroutine ")), []byte(" "))
	return string(number)
}

// Who is done takes the next message; who is at work keeps nobody waiting.
func TestHandsAreUsedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		at, done := make(chan string), make(chan struct{})
		h := newHands(func(work) {
			at <- goroutine()
			<-done
		})
		take := func() string {
			h.take(work{})
			return <-at
		}
		first := take()
		second := take()
		if first == second {
			t.Error("one goroutine does two things at once")
		}
		done <- struct{}{}
		synctest.Wait()
		if third := take(); third != first && third != second {
			t.Error("an idle goroutine was not used")
		}
		close(done)
		h.busy.Wait()
		h.end() // or the bubble does not end
	})
}
