package consumer

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Headers of a dead letter (contract section 4).
const (
	headerReason     = "deploy-dead-reason"
	headerDetail     = "deploy-dead-detail"
	headerSubject    = "deploy-dead-subject"
	headerStream     = "deploy-dead-stream"
	headerSequence   = "deploy-dead-sequence"
	headerDeliveries = "deploy-dead-deliveries"
	headerTime       = "deploy-dead-time"
	headerTruncated  = "deploy-dead-truncated"
	// headerKept begins the name of a header that the broker would act on.
	headerKept = "deploy-dead-header-"
	// headerDropped is set when the original headers alone fill a message.
	headerDropped = "deploy-dead-headers-dropped"
)

const (
	// keptBytes is how much of a body survives that does not fit.
	keptBytes = 64 << 10
	// maxHeaders is how many bytes of headers JetStream stores with a message.
	maxHeaders = 64<<10 - 1
	// buryTimeout bounds the confirmation of a dead letter.
	buryTimeout = 10 * time.Second
	// lineOverhead is the separator and line end of one header.
	lineOverhead = 4
)

// bury stores a message in the dead letters, byte for byte and with its
// headers, and returns once that is confirmed.
func (c *Consumer) bury(ctx context.Context, m jetstream.Msg, defect provision.Defect) error {
	meta, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("read the metadata of a dead message: %w", err)
	}
	dead := nats.NewMsg(c.cfg.DeadSubject)
	dead.Data = m.Data()
	for name, values := range m.Headers() {
		dead.Header[keptName(name)] = values
	}
	own := map[string]string{
		headerReason: string(defect.Reason), headerDetail: defect.Detail, headerSubject: m.Subject(),
		headerStream: meta.Stream, headerSequence: strconv.FormatUint(meta.Sequence.Stream, 10),
		headerDeliveries: strconv.FormatUint(meta.NumDelivered, 10),
		headerTime:       time.Now().UTC().Format(time.RFC3339Nano),
		// The stored message again is the same dead letter; a stream that was
		// deleted and made again counts its messages anew, hence the time.
		jetstream.MsgIDHeader: fmt.Sprintf("dead.%s.%d.%d", meta.Stream, meta.Sequence.Stream, meta.Timestamp.UnixNano()),
	}
	for name, value := range own {
		dead.Header[name] = []string{value}
	}
	c.fit(dead, own)
	ctx, cancel := context.WithTimeout(ctx, buryTimeout)
	defer cancel()
	began := time.Now()
	_, err = c.ports.JetStream.PublishMsg(ctx, dead, jetstream.WithExpectStream(c.cfg.DeadStream))
	c.meter.published(ctx, c.cfg.DeadSubject, began, err)
	if err != nil {
		return fmt.Errorf("store the dead letter of %s sequence %d: %w", meta.Stream, meta.Sequence.Stream, err)
	}
	return nil
}

// keptName moves the headers aside that would make the broker drop, refuse,
// expire or schedule the dead letter.
func keptName(name string) string {
	if strings.HasPrefix(strings.ToLower(name), "nats-") {
		return headerKept + strings.ToLower(name)
	}
	return name
}

// fit cuts what the broker would not take: JetStream stores at most maxHeaders
// of headers (error 10097), and a message at most the server's max_payload.
func (c *Consumer) fit(dead *nats.Msg, own map[string]string) {
	limit := int(c.ports.JetStream.Conn().MaxPayload())
	if headerSize(dead.Header) > min(maxHeaders, limit-min(len(dead.Data), keptBytes)) {
		dead.Header = nats.Header{headerDropped: {"true"}}
		for name, value := range own {
			dead.Header[name] = []string{value}
		}
	}
	if headerSize(dead.Header)+len(dead.Data) > limit {
		dead.Header[headerTruncated] = []string{"true"}
		dead.Data = dead.Data[:min(len(dead.Data), keptBytes)]
	}
}

func headerSize(h nats.Header) int {
	n := len("NATS/1.0\r\n\r\n") + 128 // what publishing adds
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v) + lineOverhead
		}
	}
	return n
}
