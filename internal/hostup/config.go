package hostup

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Defaults of Config.
const (
	DefaultBaseURL       = "https://cloud.hostup.se/api/v2"
	DefaultReadTimeout   = 15 * time.Second
	DefaultUserAgent     = "hostup-deploy-worker"
	DefaultRetryAfterMax = time.Hour
)

// Config says how to reach the API. Token is required; a zero value of any
// other field gives the default named at it.
type Config struct {
	// BaseURL is the address up to and including the version
	// (DefaultBaseURL). It must be https, unless the host is loopback or
	// AllowHTTP is set.
	BaseURL   string
	AllowHTTP bool
	// Token gives the API key of each request.
	Token *TokenSource
	// ReadTimeout ends one GET (DefaultReadTimeout). Creates end with the
	// context of the call.
	ReadTimeout time.Duration
	// UserAgent is sent with every request (DefaultUserAgent). HostUp's edge
	// is known to refuse some libraries' own.
	UserAgent string
	// Reads, if set, says when a read may be sent, and is told what came of it:
	// nobody else is to use up HostUp's limit on them.
	Reads Turns
	// OnClock, if set, is told how far HostUp's clock is ahead of Now, to the
	// second, by every answer to a read that says so. It must not block.
	OnClock func(ahead time.Duration)
	// RetryAfterMax clamps how long the API may ask us to wait
	// (DefaultRetryAfterMax).
	RetryAfterMax time.Duration
	// RootCAs verifies the server (the system's).
	RootCAs *x509.CertPool
	// Now is the clock for Facts.AskedAt, and for dates in answers that have
	// no Date of their own (time.Now). Deadlines do not use it.
	Now func() time.Time
	// TracerProvider and MeterProvider receive telemetry (none: no spans are
	// begun). Propagator writes the trace context into requests, whether or not anything is
	// exported (propagation.TraceContext).
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	Propagator     propagation.TextMapPropagator
}

// Turns hands out the turns of reads. provision.ReadGate is one.
type Turns interface {
	// Enter returns when a read may be sent; leave is called once with its
	// answer.
	Enter(ctx context.Context) (leave func(provision.ReadAnswer), err error)
}

// Validate reports everything that is wrong with the configuration, joined,
// and what to do about it.
func (c Config) Validate() error {
	var errs []error
	if err := validateBaseURL(cmp.Or(c.BaseURL, DefaultBaseURL), c.AllowHTTP); err != nil {
		errs = append(errs, err)
	}
	if c.Token == nil {
		errs = append(errs, errors.New("there is no API key: give it directly or name a file that holds it"))
	}
	if c.ReadTimeout < 0 {
		errs = append(errs, fmt.Errorf("the read timeout %v must be positive", c.ReadTimeout))
	}
	if c.RetryAfterMax < 0 {
		errs = append(errs, fmt.Errorf("the longest Retry-After %v must be positive", c.RetryAfterMax))
	}
	if strings.ContainsFunc(c.UserAgent, func(r rune) bool { return r < ' ' || r > '~' }) {
		errs = append(errs, fmt.Errorf("the user agent %q must be printable ASCII", c.UserAgent))
	}
	return errors.Join(errs...)
}

func validateBaseURL(raw string, allowHTTP bool) error {
	u, err := url.Parse(raw)
	if err != nil {
		// The parser's error quotes its input, which may hold a password.
		return errors.New("the API address is not a URL: give one such as " + DefaultBaseURL)
	}
	switch {
	case u.User != nil:
		return fmt.Errorf("the API address %q must not contain a user or password: the API takes a key instead", u.Redacted())
	case u.Hostname() == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return fmt.Errorf("the API address %q must be an absolute https URL, such as %s", raw, DefaultBaseURL)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return fmt.Errorf("the API address %q must not have a query or a fragment", raw)
	case u.Scheme == "http" && !allowHTTP && !loopback(u.Hostname()):
		return fmt.Errorf("the API address %q would send the API key unencrypted: use https, or allow plain http explicitly", raw)
	}
	return nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
