package hostup

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hostup/deploy-worker/internal/provision"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testKey is distinctive, and has characters that JSON and addresses escape.
const testKey = `hu_live_Zx9/"q&<7>%51~k3y`

var anOrder = provision.Request{
	Key: "order-1001", Name: "web-01", CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm",
	Metadata: map[string]string{"customer": "c-17"},
}

const createdBody = `{"status":"provisioning","vpsId":"vps_01hxa3b4","orderId":"ord_01hxa3b4","invoiceId":"inv_01hxa3b4",` +
	`"deployment":{"name":"web-01","region":"stockholm","resources":{"cpuCores":2,"memoryGb":4,"storageGb":80}}}`

func mustStatic(t testing.TB, key string) *TokenSource {
	t.Helper()
	s, err := StaticToken(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newTestClient(t testing.TB, cfg Config) *Client {
	t.Helper()
	if cfg.Token == nil {
		cfg.Token = mustStatic(t, testKey)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// serve returns a client of a server with one handler.
func serve(t testing.TB, cfg Config, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	cfg.BaseURL = s.URL + "/api/v2"
	c := newTestClient(t, cfg)
	t.Cleanup(func() { c.Close(); s.Close() })
	return c
}

// callContext is the context of one create call.
func callContext(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func respond(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}
