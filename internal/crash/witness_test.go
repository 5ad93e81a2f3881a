package crash

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Names that a worker has by default.
const (
	requestStream  = "DEPLOY"
	requestSubject = "deploy.requested"
	eventStream    = "DEPLOY_EVENTS"
	ledgerBucket   = "deploy-ledger"
)

// askPatience bounds one question to a broker that may be dead; it is asked
// again.
const askPatience = 2 * time.Second

// witness publishes requests and reads events, as a requester does.
type witness struct {
	js     jetstream.JetStream
	events []event
	cursor uint64
}

// event is one stored message of the events stream.
type event struct {
	Kind string `json:"-"`
	ID   string `json:"-"`
	Key  string `json:"-"`
	Data string `json:"-"`

	at time.Time // when it was stored

	VPSID    string `json:"vpsId"`
	Adopted  bool   `json:"adopted"`
	Rejected bool   `json:"rejected"`
	Reason   string `json:"reason"`
	Billed   string `json:"billed"`
}

// outcome reports whether the event ends its request.
func (e event) outcome() bool { return !e.Rejected && e.Kind != "held" }

func newWitness(nc *nats.Conn) (*witness, error) {
	js, err := jetstream.New(nc)
	return &witness{js: js}, err
}

// publish reports whether the request is stored for sure.
func (w *witness) publish(ctx context.Context, body []byte) bool {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	_, err := w.js.Publish(ctx, requestSubject, body)
	return err == nil
}

// send publishes until the request is stored for sure, and reports whether it
// was before ctx ended.
func (w *witness) send(ctx context.Context, body []byte, pause time.Duration) bool {
	again := time.NewTicker(pause)
	defer again.Stop()
	for !w.publish(ctx, body) {
		select {
		case <-again.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// requestsLeft counts the messages that no worker has acked.
func (w *witness) requestsLeft(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	s, err := w.js.Stream(ctx, requestStream)
	if err != nil {
		return 0, err
	}
	return int(s.CachedInfo().State.Msgs), nil
}

// braked reports whether the brake is on, as far as the broker says now.
func (w *witness) braked(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	kv, err := w.js.KeyValue(ctx, ledgerBucket)
	if err != nil {
		return false
	}
	row, err := kv.Get(ctx, "ctl.brake")
	if err != nil {
		return false
	}
	var brake struct {
		On bool `json:"on"`
	}
	return json.Unmarshal(row.Value(), &brake) == nil && brake.On
}

// buried reads the bodies of the dead letters.
func (w *witness) buried(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*askPatience)
	defer cancel()
	s, err := w.js.Stream(ctx, deadStream)
	if err != nil {
		return nil, err
	}
	var bodies []string
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if err != nil {
			return nil, err
		}
		bodies = append(bodies, string(m.Data))
	}
	return bodies, nil
}

// poll reads the events that are new. What it cannot read now it reads the
// next time.
func (w *witness) poll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*askPatience)
	defer cancel()
	s, err := w.js.Stream(ctx, eventStream)
	if err != nil {
		return err
	}
	for last := s.CachedInfo().State.LastSeq; w.cursor < last; w.cursor++ {
		m, err := s.GetMsg(ctx, w.cursor+1)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		e := event{
			Kind: m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], Data: string(m.Data),
			ID: header(m.Header, "ce-id"), Key: header(m.Header, "ce-subject"), at: m.Time,
		}
		if err := json.Unmarshal(m.Data, &e); err != nil {
			return err
		}
		w.events = append(w.events, e)
	}
	return nil
}

func header(h nats.Header, name string) string {
	if v := h[name]; len(v) == 1 {
		return v[0]
	}
	return ""
}

// outcomes are the first outcome events by key.
func outcomes(events []event) map[string]event {
	found := make(map[string]event)
	for _, e := range events {
		if _, seen := found[e.Key]; e.outcome() && !seen {
			found[e.Key] = e
		}
	}
	return found
}

// unended are the orders without an outcome. Where holding is an end, a held
// request has ended, and so has whoever waits for its name.
func unended(orders []order, events []event, allowHeld bool) []order {
	ended := outcomes(events)
	heldNames := make(map[string]bool)
	held := heldKeys(events)
	for _, o := range orders {
		if held[o.key] {
			heldNames[o.name] = true
		}
	}
	var open []order
	for _, o := range orders {
		if _, is := ended[o.key]; !is && (!allowHeld || !heldNames[o.name]) {
			open = append(open, o)
		}
	}
	return open
}

func heldKeys(events []event) map[string]bool {
	held := make(map[string]bool)
	for _, e := range events {
		if e.Kind == "held" {
			held[e.Key] = true
		}
	}
	return held
}
