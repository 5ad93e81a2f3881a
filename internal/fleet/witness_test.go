package fleet

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// event is what a requester is told.
type event struct {
	kind string
	id   string
	key  string
	at   time.Time // when the broker stored it

	Reason   string          `json:"reason"`
	Rejected bool            `json:"rejected"`
	Attempts int             `json:"attempts"`
	Problem  json.RawMessage `json:"problem"`
}

// witness follows the events, as a requester does.
type witness struct {
	stop func()

	mu       sync.Mutex
	outcomes map[string]event // the first of each key
	counts   map[string]int   // by kind, and failures by kind/reason
	others   int              // outcomes with another id than the first
	rejected int
}

func newWitness(ctx context.Context, js jetstream.JetStream) (*witness, error) {
	w := &witness{outcomes: make(map[string]event), counts: make(map[string]int)}
	c, err := js.OrderedConsumer(ctx, "DEPLOY_EVENTS", jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	following, err := c.Consume(w.take)
	if err != nil {
		return nil, err
	}
	w.stop = following.Stop
	return w, nil
}

func (w *witness) take(m jetstream.Msg) {
	e := event{kind: m.Subject()[strings.LastIndexByte(m.Subject(), '.')+1:]}
	if ids := m.Headers()["ce-id"]; len(ids) > 0 {
		e.id = ids[0]
	}
	if keys := m.Headers()["ce-subject"]; len(keys) > 0 {
		e.key = keys[0]
	}
	if meta, err := m.Metadata(); err == nil {
		e.at = meta.Timestamp
	}
	_ = json.Unmarshal(m.Data(), &e)
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Rejected {
		w.rejected++
	}
	if e.Rejected || e.kind == "held" {
		return
	}
	if first, seen := w.outcomes[e.key]; seen {
		if first.id != e.id {
			w.others++
		}
		return
	}
	w.outcomes[e.key] = e
	w.counts[e.kind]++
	if e.Reason != "" {
		w.counts[e.kind+"/"+e.Reason]++
	}
}

// count is how many keys ended in a kind of event, or a kind/reason.
func (w *witness) count(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[what]
}

// ended counts the keys with an outcome.
func (w *witness) ended() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.outcomes)
}

func (w *witness) rejections() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rejected
}

func (w *witness) contradictions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.others
}

// outcome returns how a key ended.
func (w *witness) outcome(key string) (event, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.outcomes[key]
	return e, ok
}

const (
	provisioned = "provisioning"
	failed      = "failed"
	overLimit   = "failed/limit-exceeded"
	tooLate     = "failed/deadline-exceeded"
)

// left counts the messages that nobody has acked; -1 when the broker is away.
func (w *world) left() int {
	s, err := w.js.Stream(w.ctx, "DEPLOY")
	if err != nil {
		return -1
	}
	return int(s.CachedInfo().State.Msgs)
}

// judgeNothingLost judges that so many messages are left in the request stream.
func (w *world) judgeNothingLost(want int) {
	w.until(patience/4, func() bool { return w.left() == want })
	got := w.left()
	w.judgef(got == want, "messages left in the request stream %d (goal %d)", got, want)
}

// delivered sums over the consumers of the request stream: how many deliveries
// there were, and how many messages have been delivered at least once.
func (w *world) delivered() (deliveries, messages int) {
	s, err := w.js.Stream(w.ctx, "DEPLOY")
	if err != nil {
		return 0, 0
	}
	list := s.ListConsumers(w.ctx)
	for info := range list.Info() {
		deliveries += int(info.Delivered.Consumer)
		messages = max(messages, int(info.Delivered.Stream))
	}
	return deliveries, messages
}
