package hostup

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"

	"github.com/hostup/deploy-worker/internal/series"
)

// called is what tells the series of the HTTP conventions' metrics apart, beside
// the address, which a client has one of.
type called struct {
	method string
	// status is 0 without an answer; then failed is the kind of error.
	status int
	// proto is that of the answer, of the request where there is none.
	proto  string
	failed string
}

// clientMetrics are the metrics of the HTTP conventions for a client. otelhttp
// has them too, and works out the attributes of every call anew, also where
// nothing is exported (BenchmarkMeasured). A test compares the two.
type clientMetrics struct {
	took   httpconv.ClientRequestDuration
	size   httpconv.ClientRequestBodySize
	series *series.By[called]
}

func newClientMetrics(m metric.Meter, base *url.URL) (*clientMetrics, error) {
	took, err1 := httpconv.NewClientRequestDuration(m)
	size, err2 := httpconv.NewClientRequestBodySize(m)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("make the metrics of calls: %w", err)
	}
	address := append(addressOf(base), semconv.URLScheme(base.Scheme), semconv.NetworkProtocolName("http"))
	return &clientMetrics{took, size, series.New(func(c called) []attribute.KeyValue {
		as := append(make([]attribute.KeyValue, 0, len(address)+3), address...)
		as = append(as, semconv.HTTPRequestMethodKey.String(c.method), versionOf(c.proto))
		if c.status > 0 {
			return append(as, semconv.HTTPResponseStatusCode(c.status))
		}
		return append(as, semconv.ErrorTypeKey.String(c.failed))
	})}, nil
}

// addressOf is where calls go.
func addressOf(base *url.URL) []attribute.KeyValue {
	as := []attribute.KeyValue{semconv.ServerAddress(base.Hostname())}
	if port, err := strconv.Atoi(base.Port()); err == nil {
		as = append(as, semconv.ServerPort(port))
	}
	return as
}

// versionOf is the version of HTTP, of "HTTP/1.1" for example.
func versionOf(proto string) attribute.KeyValue {
	return semconv.NetworkProtocolVersion(strings.TrimPrefix(proto, "HTTP/"))
}

// kindOf is a word for why there is no answer: the type of the error, and not a
// text that varies.
func kindOf(err error) string { return strings.TrimPrefix(fmt.Sprintf("%T", err), "*") }

// measured measures each call, up to the headers of its answer.
type measured struct {
	*clientMetrics

	base http.RoundTripper
}

func (m measured) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := m.base.RoundTrip(r)
	c, size := called{method: r.Method, proto: r.Proto}, r.ContentLength
	if err == nil {
		c.status, c.proto = resp.StatusCode, resp.Proto
	} else {
		c.failed = kindOf(err)
		if m := exchangeOf(r.Context()).meter; m != nil && !m.sent() {
			size = 0
		}
	}
	of := m.series.Of(c)
	m.took.Inst().Record(r.Context(), time.Since(began).Seconds(), of)
	m.size.Inst().Record(r.Context(), size, of)
	return resp, err
}
