package hostup

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace/noop"
)

// callSeries are the series of the calls' metrics with what they counted; of the
// sizes also the sum.
func callSeries(t *testing.T, r *sdkmetric.ManualReader) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := r.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	n := make(map[string]int64)
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			name := m.Name + " " + m.Unit + " " + m.Description + " "
			switch d := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					n[name+p.Attributes.Encoded(attribute.DefaultEncoder())] = int64(p.Count)
				}
			case metricdata.Histogram[int64]:
				for _, p := range d.DataPoints {
					n[name+p.Attributes.Encoded(attribute.DefaultEncoder())] = int64(p.Count)*1000 + p.Sum
				}
			}
		}
	}
	return n
}

// What is measured of calls is what otelhttp measures, to the letter.
func TestCallsAreMeasuredByTheConventions(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/vps_2") {
			respond(http.StatusNotFound, "application/json", "{}")(w, r)
			return
		}
		respond(http.StatusCreated, "application/json", createdBody)(w, r)
	}))
	defer server.Close()
	const gone = "http://127.0.0.1:1" // nobody's, and never anybody's in a test

	ours, theirs := sdkmetric.NewManualReader(), sdkmetric.NewManualReader()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(ours))
	for _, base := range []string{server.URL, gone} {
		c := newTestClient(t, Config{BaseURL: base + "/api/v2", MeterProvider: meters})
		c.Create(callContext(t, time.Minute), anOrder)
		_, _ = c.Server(t.Context(), "vps_2")
		_, _ = c.Server(t.Context(), "vps_2")
	}
	body, err := json.Marshal(order{anOrder.Name, anOrder.CPUCores, anOrder.MemoryGB, anOrder.StorageGB, anOrder.Region})
	if err != nil {
		t.Fatal(err)
	}
	their := byOtelhttp(&http.Transport{DisableKeepAlives: true}, sdkmetric.NewMeterProvider(sdkmetric.WithReader(theirs)))
	for _, base := range []string{server.URL, gone} {
		for _, call := range []struct{ method, path, body string }{
			{"POST", "/vps/payg/deployments", string(body)}, {"GET", "/vps/vps_2", ""}, {"GET", "/vps/vps_2", ""},
		} {
			req, err := http.NewRequestWithContext(t.Context(), call.method, base+"/api/v2"+call.path, strings.NewReader(call.body))
			if err != nil {
				t.Fatal(err)
			}
			if resp, err := their.RoundTrip(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		}
	}
	got, want := callSeries(t, ours), callSeries(t, theirs)
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if got[k] != want[k] {
			t.Errorf("%s: %d, otelhttp has %d", k, got[k], want[k])
		}
	}
	for k := range got {
		if _, there := want[k]; !there && !strings.Contains(k, "clamped") {
			t.Errorf("otelhttp has no %s", k)
		}
	}
	if len(want) != 8 {
		t.Errorf("%d series of otelhttp", len(want))
	}
}

// byOtelhttp measures calls with nothing exported.
func byOtelhttp(base http.RoundTripper, meters metric.MeterProvider) http.RoundTripper {
	return otelhttp.NewTransport(base, otelhttp.WithTracerProvider(noop.NewTracerProvider()), otelhttp.WithMeterProvider(meters))
}

// answering answers every call at once.
type answering struct{}

func (answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusCreated, Proto: "HTTP/1.1", Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// What measuring a call costs here, and with otelhttp.
func BenchmarkMeasured(b *testing.B) {
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	to, err := url.Parse("http://127.0.0.1:8080/api/v2")
	if err != nil {
		b.Fatal(err)
	}
	calls, err := newClientMetrics(meters.Meter(scope), to)
	if err != nil {
		b.Fatal(err)
	}
	for name, transport := range map[string]http.RoundTripper{"ours": measured{calls, answering{}}, "otelhttp": byOtelhttp(answering{}, meters)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			r, err := http.NewRequestWithContext(withExchange(b.Context(), &exchange{}), http.MethodPost, to.String(), http.NoBody)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				resp, err := transport.RoundTrip(r)
				if err != nil {
					b.Fatal(err)
				}
				_ = resp.Body.Close()
			}
		})
	}
}
