package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector keeps the batches of spans that it gets, and reads them when it is
// asked: a real one is on another machine, so this one costs as little as it can.
type collector struct {
	url string

	mu         sync.Mutex
	got, spare [][]byte
}

func newCollector(b *testing.B) *collector {
	b.Helper()
	c := &collector{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body := c.buffer(int(r.ContentLength))
		_, _ = io.ReadFull(r.Body, body) // what is missing is missed below
		c.mu.Lock()
		defer c.mu.Unlock()
		c.got = append(c.got, body)
	}))
	b.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *collector) buffer(size int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.spare); n > 0 && cap(c.spare[n-1]) >= size {
		body := c.spare[n-1][:size]
		c.spare = c.spare[:n-1]
		return body
	}
	return make([]byte, size, max(size, 1<<18))
}

// spansEach is how many spans a request has that goes straight to its server.
const spansEach = 10

// await returns when the spans of so many requests are there: what is exported
// after a turn is not paid by the next one, and spans that the worker dropped,
// because it makes more than it exports, fail the benchmark.
func (c *collector) await(b *testing.B, requests int) {
	b.Helper()
	deliveries, all := 0, 0
	eventually(b, "every span is exported", func() bool {
		c.mu.Lock()
		got := c.got
		c.got = nil
		c.mu.Unlock()
		for _, body := range got {
			ofDeliveries, spans := count(b, body)
			deliveries, all = deliveries+ofDeliveries, all+spans
		}
		c.mu.Lock()
		c.spare = append(c.spare, got...)
		c.mu.Unlock()
		return deliveries == requests && all >= spansEach*requests
	})
}

// count returns how many spans are in an export, and how many of them are of
// deliveries.
func count(b *testing.B, body []byte) (deliveries, all int) {
	b.Helper()
	var batch collectorpb.ExportTraceServiceRequest
	must(b, proto.Unmarshal(body, &batch))
	for _, r := range batch.GetResourceSpans() {
		for _, s := range r.GetScopeSpans() {
			all += len(s.GetSpans())
			for _, span := range s.GetSpans() {
				if strings.HasPrefix(span.GetName(), "process ") {
					deliveries++
				}
			}
		}
	}
	return deliveries, all
}
