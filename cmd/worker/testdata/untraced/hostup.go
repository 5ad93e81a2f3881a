package hostup

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"
)

// traced measures what the real one measures.
func traced(cfg Config, base http.RoundTripper) http.RoundTripper {
	meter := cfg.MeterProvider.Meter("untraced")
	took, _ := httpconv.NewClientRequestDuration(meter)
	size, _ := httpconv.NewClientRequestBodySize(meter)
	return measured{base, took, size}
}

type measured struct {
	base http.RoundTripper
	took httpconv.ClientRequestDuration
	size httpconv.ClientRequestBodySize
}

func (c measured) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := c.base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	method, host, port := httpconv.RequestMethodAttr(r.Method), r.URL.Hostname(), portOf(r.URL)
	status, scheme := c.took.AttrResponseStatusCode(resp.StatusCode), c.took.AttrURLScheme(r.URL.Scheme)
	name, version := c.took.AttrNetworkProtocolName("http"), c.took.AttrNetworkProtocolVersion("1.1")
	c.size.Record(r.Context(), r.ContentLength, method, host, port, status, scheme, name, version)
	c.took.Record(r.Context(), time.Since(began).Seconds(), method, host, port, status, scheme, name, version)
	return resp, nil
}

func portOf(u *url.URL) int {
	n, _ := strconv.Atoi(u.Port())
	return n
}

func annotate(*http.Request, *exchange) {}
