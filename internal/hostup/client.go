package hostup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
)

// scope names this package to the telemetry.
const scope = "github.com/hostup/deploy-worker/internal/hostup"

// maxAnswer bounds the body of any answer; the largest honest one is a page of
// a hundred servers.
const maxAnswer = 1 << 20

// Client speaks to one account. It may be used concurrently. It implements
// provision.API.
type Client struct {
	base          *url.URL
	tokens        *TokenSource
	userAgent     string
	readTimeout   time.Duration
	retryAfterMax time.Duration
	now           func() time.Time
	create        *createChannel
	reads         http.RoundTripper
	pool          *http.Transport
	clamped       metric.Int64Counter
	turns         Turns
	onClock       func(time.Duration)
}

// New returns a client, or the error of Config.Validate. It opens no
// connection and does not read the key.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	base, err := url.Parse(cfg.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("parse the API address: %w", err)
	}
	meter := cfg.MeterProvider.Meter(scope)
	clamped, err := meter.Int64Counter("hostup_worker.retry_after.clamped",
		metric.WithUnit("{answer}"),
		metric.WithDescription("Answers whose wish to wait was too long (clamped) or could not be used (ignored)"))
	if err != nil {
		return nil, fmt.Errorf("make the counter of clamped waits: %w", err)
	}
	for _, kind := range []string{clampedWait, ignoredWait} {
		clamped.Add(context.Background(), 0, metric.WithAttributes(attribute.String("kind", kind)))
	}
	calls, err := newClientMetrics(meter, base)
	if err != nil {
		return nil, err
	}
	pool := newPool(cfg.RootCAs)
	return &Client{
		base: base, tokens: cfg.Token, userAgent: cfg.UserAgent, readTimeout: cfg.ReadTimeout,
		retryAfterMax: cfg.RetryAfterMax, now: cfg.Now, clamped: clamped, turns: cfg.Reads, onClock: cfg.OnClock,
		create: newCreateChannel(cfg, base, calls), pool: pool, reads: layered(cfg, base, calls, pool),
	}, nil
}

func (c Config) withDefaults() Config {
	c.BaseURL = cmp.Or(c.BaseURL, DefaultBaseURL)
	c.ReadTimeout = cmp.Or(c.ReadTimeout, DefaultReadTimeout)
	c.UserAgent = cmp.Or(c.UserAgent, DefaultUserAgent)
	c.RetryAfterMax = cmp.Or(c.RetryAfterMax, DefaultRetryAfterMax)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MeterProvider == nil {
		c.MeterProvider = metricnoop.NewMeterProvider()
	}
	if c.Propagator == nil {
		c.Propagator = propagation.TraceContext{}
	}
	return c
}

// layered puts around a transport what both channels have.
func layered(cfg Config, to *url.URL, calls *clientMetrics, base http.RoundTripper) http.RoundTripper {
	return traced(cfg, to, measured{calls, carrier{cfg.Propagator, base}})
}

// Close closes the idle connections of the reads. The client stays usable.
func (c *Client) Close() { c.pool.CloseIdleConnections() }

// newRequest fills in what every request has, except the key: that is added
// below the tracing layer.
func (c *Client) newRequest(ctx context.Context, x *exchange, method string, query url.Values, path ...string) (*http.Request, error) {
	u := c.base
	for _, step := range path {
		u = u.JoinPath(url.PathEscape(step))
	}
	u.RawQuery = query.Encode() // u is a copy: no path is empty
	req, err := http.NewRequestWithContext(withExchange(ctx, x), method, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("User-Agent", c.userAgent)
	return req, nil
}

// What became of a wish to wait that was not taken as it came.
const (
	clampedWait = "clamped"
	ignoredWait = "ignored"
)

// count reports a wish to wait that was not taken as it came.
func (c *Client) count(ctx context.Context, w wait) {
	if w.clamped {
		c.clamped.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", clampedWait)))
	}
	if w.ignored {
		c.clamped.Add(ctx, 1, metric.WithAttributes(attribute.String("kind", ignoredWait)))
	}
}

var errAnswerTooLarge = errors.New("the answer is larger than 1 MiB")
