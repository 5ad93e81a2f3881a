package ledger

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Config says where the ledger is and how long its broker may take.
type Config struct {
	// Bucket is the KV bucket; its stream is KV_<Bucket>.
	Bucket string
	// AnswerTimeout bounds one answer of the broker, Timeout a whole call,
	// with everything it takes to find out what an ambiguous answer meant.
	AnswerTimeout time.Duration
	Timeout       time.Duration
	// KeepNames is how long a name remembers the servers that were finished
	// under it, in whole seconds. It must exceed the longest deadline: a request
	// that waited all that time must not adopt the server of a shorter one.
	KeepNames time.Duration
	// Reserve is how long an open name row that does not change reserves room. A
	// Watch tells those that are older, and by more than brokers' clocks may be
	// apart, when it is live already.
	Reserve time.Duration
	// Step, if set, is told the key of each write, before it is sent and when it
	// was stored. It is where tests end the process.
	Step func(key string, stored bool)
}

// Defaults for the zero values of Config.
const (
	DefaultAnswerTimeout = 4 * time.Second
	DefaultTimeout       = 15 * time.Second
	DefaultKeepNames     = 24*time.Hour + 10*time.Minute
	DefaultReserve       = 15 * time.Minute
)

// leaderSkew is how far the clocks of two brokers may be apart, each of which may
// lead.
const leaderSkew = 2 * time.Minute

// tokenHeader marks each write with a token of its own, which tells after an
// ambiguous answer whether the stored value is ours.
const tokenHeader = "deploy-write"

// New returns the ledger in a bucket. It does not look whether the bucket
// exists.
func New(js jetstream.JetStream, cfg Config) *Ledger {
	if cfg.AnswerTimeout <= 0 {
		cfg.AnswerTimeout = DefaultAnswerTimeout
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.KeepNames < time.Second {
		cfg.KeepNames = DefaultKeepNames
	}
	if cfg.Reserve <= 0 {
		cfg.Reserve = DefaultReserve
	}
	return &Ledger{
		store: &bucket{js: js, cfg: cfg, now: time.Now, skew: leaderSkew, missed: missedHeartbeats}, now: time.Now,
		keep: cfg.KeepNames.Truncate(time.Second), reserve: cfg.Reserve,
	}
}

type bucket struct {
	js   jetstream.JetStream
	cfg  Config
	now  func() time.Time
	skew time.Duration
	// missed is how many heartbeats in a row are borne with.
	missed int
}

func (b *bucket) subject(key string) string { return "$KV." + b.cfg.Bucket + "." + key }

// noMessage is the API's error code for "no message found".
const noMessage = 10037

// get reads through the stream's leader. KeyValue.Get may ask any replica, and
// a follower may not have seen our own last write.
func (b *bucket) get(ctx context.Context, key string) (cell, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.AnswerTimeout)
	defer cancel()
	ask, err := json.Marshal(map[string]string{"last_by_subj": b.subject(key)})
	if err != nil {
		return cell{}, fmt.Errorf("encode the read of %s: %w", key, err)
	}
	m, err := b.js.Conn().RequestWithContext(ctx, apiPrefix(b.js.Options())+"STREAM.MSG.GET.KV_"+b.cfg.Bucket, ask)
	if err != nil {
		return cell{}, fmt.Errorf("read %s: %w", key, err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Sequence uint64 `json:"seq"`
			Header   []byte `json:"hdrs"`
			Data     []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return cell{}, fmt.Errorf("read %s: decode the broker's answer: %w", key, err)
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == noMessage {
			return cell{}, nil
		}
		return cell{}, fmt.Errorf("read %s: %w", key, answer.Error)
	}
	c := cell{data: answer.Message.Data, revision: answer.Message.Sequence}
	if len(answer.Message.Header) > 0 {
		h, err := nats.DecodeHeadersMsg(answer.Message.Header)
		if err != nil {
			return cell{}, fmt.Errorf("read %s: decode headers: %w", key, err)
		}
		c.token = h.Get(tokenHeader)
		if h.Get("KV-Operation") != "" || h.Get(jetstream.MarkerReasonHeader) != "" {
			c.data = nil
		}
	}
	return c, nil
}

// apiPrefix begins the subjects of the JetStream API for this connection.
func apiPrefix(o jetstream.JetStreamOptions) string {
	switch {
	case o.Domain != "":
		return "$JS." + o.Domain + ".API."
	case o.APIPrefix != "":
		return strings.TrimSuffix(o.APIPrefix, ".") + "."
	default:
		return jetstream.DefaultAPIPrefix
	}
}

// start sends the write at once and without waiting, so that the writes of one
// caller reach the stream in their order.
func (b *bucket) start(ctx context.Context, w write) func() (uint64, error) {
	token := rand.Text()
	b.step(w.key, false)
	future, err := b.js.PublishMsgAsync(b.message(w, token), b.options(w)...)
	return func() (uint64, error) {
		revision, err := b.finish(ctx, w, token, future, err)
		if err == nil {
			b.step(w.key, true)
		}
		return revision, err
	}
}

// finish waits for the answer to a write that was sent, or finds out.
func (b *bucket) finish(ctx context.Context, w write, token string, future jetstream.PubAckFuture, err error) (uint64, error) {
	began := time.Now()
	if err == nil {
		var ack *jetstream.PubAck
		if ack, err = b.await(ctx, future); err == nil {
			return ack.Sequence, nil
		}
	}
	ctx, cancel := context.WithDeadline(ctx, began.Add(b.cfg.Timeout))
	defer cancel()
	return b.settle(ctx, w, token, err)
}

func (b *bucket) step(key string, stored bool) {
	if b.cfg.Step != nil {
		b.cfg.Step(key, stored)
	}
}

func (b *bucket) message(w write, token string) *nats.Msg {
	h := newFields()
	h.set(tokenHeader, token)
	if w.ttl == forever {
		h.set(jetstream.MsgTTLHeader, "never")
	}
	if w.label.state != "" {
		h.set(stateHeader, string(w.label.state))
		h.set(nameHeader, w.label.name)
		h.set(vpsHeader, w.label.vpsID)
	}
	if w.label.origin.Stream != "" {
		h.origin(w.label.origin)
	}
	if w.label.row != nil {
		h.row(*w.label.row)
	}
	return &nats.Msg{Subject: b.subject(w.key), Header: h.Header, Data: w.data}
}

func (b *bucket) options(w write) []jetstream.PublishOpt {
	opts := []jetstream.PublishOpt{jetstream.WithExpectLastSequencePerSubject(w.revision)}
	if w.ttl > 0 {
		opts = append(opts, jetstream.WithMsgTTL(w.ttl))
	}
	return opts
}

func (b *bucket) await(ctx context.Context, f jetstream.PubAckFuture) (*jetstream.PubAck, error) {
	t := time.NewTimer(min(b.cfg.AnswerTimeout, b.cfg.Timeout))
	defer t.Stop()
	select {
	case ack := <-f.Ok():
		return ack, nil
	case err := <-f.Err():
		return nil, err
	case <-t.C:
		return nil, fmt.Errorf("no answer within %s", b.cfg.AnswerTimeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// settle finds out what became of a write that was not confirmed. No error of
// the broker is believed: a write can be refused although its first copy was
// stored (10071 after a lost answer, 10164 while another is in flight), and a
// time-out says nothing. What is stored decides.
func (b *bucket) settle(ctx context.Context, w write, token string, cause error) (uint64, error) {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		current, err := b.get(ctx, w.key)
		switch {
		case err != nil:
			cause = errors.Join(cause, err)
		case current.token == token:
			return current.revision, nil
		case current.revision != w.revision && (w.revision != 0 || !current.absent()):
			return 0, provision.ErrConflict
		default:
			// Not stored, or not yet: the same write again. Should the first copy
			// arrive after all, one of the two is refused and the token is found.
			w.revision = current.revision
			ack, err := b.publish(ctx, w, token)
			if err == nil {
				return ack.Sequence, nil
			}
			cause = err
		}
		if !sleep(ctx, pause) {
			return 0, fmt.Errorf("write %s: not confirmed within %s: %w", w.key, b.cfg.Timeout, cause)
		}
	}
}

func (b *bucket) publish(ctx context.Context, w write, token string) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.AnswerTimeout)
	defer cancel()
	return b.js.PublishMsg(ctx, b.message(w, token), b.options(w)...)
}
