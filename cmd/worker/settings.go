package main

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/hostup"
)

// natsSettings say how to reach NATS; they mean what they mean to the nats
// command line.
type natsSettings struct {
	NATSURL      string `name:"nats-url" env:"NATS_URL" default:"nats://127.0.0.1:4222" placeholder:"URL" group:"NATS" help:"NATS servers, separated by commas."`
	NATSCreds    string `name:"nats-creds" env:"NATS_CREDS" placeholder:"FILE" group:"NATS" help:"Credentials file."`
	NATSNKey     string `name:"nats-nkey" env:"NATS_NKEY" placeholder:"FILE" group:"NATS" help:"NKey seed file."`
	NATSUser     string `name:"nats-user" env:"NATS_USER" placeholder:"NAME" group:"NATS" help:"User name."`
	NATSPassword string `name:"nats-password" env:"NATS_PASSWORD" placeholder:"SECRET" group:"NATS" help:"Password."`
	NATSCert     string `name:"nats-cert" env:"NATS_CERT" placeholder:"FILE" group:"NATS" help:"Client certificate."`
	NATSKey      string `name:"nats-key" env:"NATS_KEY" placeholder:"FILE" group:"NATS" help:"Key of the client certificate."`
	NATSCA       string `name:"nats-ca" env:"NATS_CA" placeholder:"FILE" group:"NATS" help:"Certificate authority of the servers."`
	NATSInbox    string `name:"nats-inbox-prefix" env:"NATS_INBOX_PREFIX" placeholder:"PREFIX" group:"NATS" help:"Beginning of the subjects on which answers are received, for a user that may not subscribe to _INBOX.>."`
	NATSContext  string `name:"nats-context" env:"NATS_CONTEXT" placeholder:"NAME" group:"NATS" help:"Context of the nats command line to connect with, instead of the above."`
}

func (s natsSettings) options() broker.Options {
	return broker.Options{
		URL: s.NATSURL, Creds: s.NATSCreds, NKey: s.NATSNKey, User: s.NATSUser, Password: s.NATSPassword,
		Cert: s.NATSCert, Key: s.NATSKey, CA: s.NATSCA, Context: s.NATSContext, InboxPrefix: s.NATSInbox, Name: "deploy-worker",
	}
}

func (s natsSettings) validate() error {
	if s.NATSInbox != "" && !nameable(s.NATSInbox, true) {
		return fmt.Errorf("NATS_INBOX_PREFIX=%q: tokens of letters, digits, - and _, separated by dots", s.NATSInbox)
	}
	if s.NATSContext != "" {
		return nil
	}
	if err := broker.ValidateURL(s.NATSURL); err != nil {
		return fmt.Errorf("NATS_URL=%q: %w", broker.RedactURL(s.NATSURL), err)
	}
	return nil
}

// hostupSettings say how to reach the HostUp API.
type hostupSettings struct {
	APIURL        string        `name:"hostup-api-url" env:"HOSTUP_API_URL" default:"https://cloud.hostup.se/api/v2" placeholder:"URL" group:"HostUp API" help:"Address of the API, version included."`
	APIToken      string        `name:"hostup-api-token" env:"HOSTUP_API_TOKEN" placeholder:"SECRET" group:"HostUp API" help:"API key. Prefer the variable or the file: a flag is visible to other users of the machine."`
	APITokenFile  string        `name:"hostup-api-token-file" env:"HOSTUP_API_TOKEN_FILE" placeholder:"FILE" group:"HostUp API" help:"File with the API key; read again when it changes and after a 401."`
	AllowHTTP     bool          `name:"hostup-allow-http" env:"HOSTUP_ALLOW_HTTP" group:"HostUp API" help:"Allow plain http to a host that is not loopback."`
	ReadTimeout   time.Duration `name:"hostup-read-timeout" env:"HOSTUP_READ_TIMEOUT" default:"15s" group:"HostUp API" help:"Longest time of one GET."`
	CreateTimeout time.Duration `name:"hostup-create-timeout" env:"HOSTUP_CREATE_TIMEOUT" default:"60s" group:"HostUp API" help:"Longest time of one create call; after it none can be in flight."`
}

// validate judges the address; a key is needed only where it is used.
func (s hostupSettings) validate() error {
	anyKey, err := hostup.StaticToken("any-key")
	if err == nil {
		err = hostup.Config{BaseURL: s.APIURL, AllowHTTP: s.AllowHTTP, Token: anyKey}.Validate()
	}
	if err != nil {
		return fmt.Errorf("HOSTUP_API_URL=%q (HOSTUP_ALLOW_HTTP=%t): %w", broker.RedactURL(s.APIURL), s.AllowHTTP, err)
	}
	return nil
}

// tokens returns the source of the API key.
func (s hostupSettings) tokens() (*hostup.TokenSource, error) {
	switch {
	case s.APIToken != "" && s.APITokenFile != "":
		return nil, errors.New("HOSTUP_API_TOKEN and HOSTUP_API_TOKEN_FILE are both set: give one of them")
	case s.APITokenFile != "":
		tokens := hostup.TokenFile(s.APITokenFile)
		if _, err := tokens.Token(); err != nil {
			return nil, fmt.Errorf("HOSTUP_API_TOKEN_FILE=%q: %w", s.APITokenFile, err)
		}
		return tokens, nil
	case s.APIToken != "":
		tokens, err := hostup.StaticToken(s.APIToken)
		if err != nil {
			return nil, fmt.Errorf("HOSTUP_API_TOKEN: %w", err)
		}
		return tokens, nil
	default:
		return nil, errors.New("no API key: set HOSTUP_API_TOKEN or HOSTUP_API_TOKEN_FILE (keys are made at cloud.hostup.se/api-management; scopes read:vm and write:billing), or try `worker run --dev`")
	}
}

// placeSettings name the worker's objects on the broker.
type placeSettings struct {
	Stream        string        `name:"stream" env:"WORKER_STREAM" default:"DEPLOY" group:"Streams and ledger" help:"Stream of the requests."`
	Consumer      string        `name:"consumer" env:"WORKER_CONSUMER" default:"deploy-worker" group:"Streams and ledger" help:"Durable consumer."`
	EventsStream  string        `name:"events-stream" env:"WORKER_EVENTS_STREAM" default:"DEPLOY_EVENTS" group:"Streams and ledger" help:"Stream of the outcome events."`
	DeadStream    string        `name:"dead-stream" env:"WORKER_DEAD_STREAM" default:"DEPLOY_DEAD" group:"Streams and ledger" help:"Stream of the dead letters."`
	Ledger        string        `name:"ledger" env:"WORKER_LEDGER" default:"deploy-ledger" group:"Streams and ledger" help:"KV bucket of the ledger."`
	SubjectPrefix string        `name:"subject-prefix" env:"WORKER_SUBJECT_PREFIX" default:"deploy" group:"Streams and ledger" help:"Subjects are PREFIX.requested, .provisioning, .failed, .held and .dead."`
	Replicas      int           `name:"replicas" env:"WORKER_REPLICAS" default:"1" group:"Streams and ledger" help:"Replicas of what is created."`
	AckWait       time.Duration `name:"ack-wait" env:"WORKER_ACK_WAIT" default:"30s" group:"Streams and ledger" help:"Ack wait of the consumer; a message in work is kept alive three times in it."`
	LedgerTTL     time.Duration `name:"ledger-ttl" env:"WORKER_LEDGER_TTL" default:"720h" group:"Streams and ledger" help:"How long a record is kept after its last change; must exceed the request stream's max age."`
}

func (s placeSettings) topology() broker.Topology {
	return broker.Topology{
		Stream: s.Stream, Consumer: s.Consumer, EventsStream: s.EventsStream, DeadStream: s.DeadStream,
		Bucket: s.Ledger, Prefix: s.SubjectPrefix, Replicas: s.Replicas, AckWait: s.AckWait, LedgerTTL: s.LedgerTTL,
	}
}

func (s placeSettings) validate() error {
	var errs []error
	names := []struct{ variable, value string }{
		{"WORKER_STREAM", s.Stream},
		{"WORKER_CONSUMER", s.Consumer},
		{"WORKER_EVENTS_STREAM", s.EventsStream},
		{"WORKER_DEAD_STREAM", s.DeadStream},
		{"WORKER_LEDGER", s.Ledger},
	}
	for _, n := range names {
		if !nameable(n.value, false) {
			errs = append(errs, fmt.Errorf("%s=%q: a name has letters, digits, - and _", n.variable, n.value))
		}
	}
	if !nameable(s.SubjectPrefix, true) {
		errs = append(errs, fmt.Errorf("WORKER_SUBJECT_PREFIX=%q: tokens of letters, digits, - and _, separated by dots", s.SubjectPrefix))
	}
	if s.Replicas < 1 || s.Replicas > 5 {
		errs = append(errs, fmt.Errorf("WORKER_REPLICAS=%d: from 1 to 5", s.Replicas))
	}
	errs = append(errs, positive("WORKER_ACK_WAIT", s.AckWait), positive("WORKER_LEDGER_TTL", s.LedgerTTL))
	return errors.Join(errs...)
}

// workSettings bound how the worker works.
type workSettings struct {
	Concurrency      int           `name:"concurrency" env:"WORKER_CONCURRENCY" default:"16" group:"Work" help:"Requests in work at once in this process."`
	Provision        bool          `name:"provision" env:"WORKER_PROVISION" group:"Work" help:"Create missing streams, consumer and ledger at start."`
	Deadline         time.Duration `name:"deadline" env:"WORKER_DEADLINE" default:"24h" group:"Work" help:"A request not answered by then fails; a request may carry an earlier deadline."`
	BackoffInitial   time.Duration `name:"backoff-initial" env:"WORKER_BACKOFF_INITIAL" default:"1s" group:"Work" help:"First delay of the backoff (full jitter)."`
	BackoffMax       time.Duration `name:"backoff-max" env:"WORKER_BACKOFF_MAX" default:"60s" group:"Work" help:"Longest delay of the backoff. A server's Retry-After is never undercut."`
	RetryAfterMax    time.Duration `name:"retry-after-max" env:"WORKER_RETRY_AFTER_MAX" default:"1h" group:"Work" help:"A longer Retry-After is clamped to this."`
	InlineWait       time.Duration `name:"inline-wait" env:"WORKER_INLINE_WAIT" default:"5s" group:"Work" help:"Waits up to this long keep the message in hand; longer ones give the slot back."`
	SettleAnswered   time.Duration `name:"settle-answered" env:"WORKER_SETTLE_ANSWERED" default:"2m" group:"Work" help:"How long absence must be observed before a create that HostUp itself says has failed (5xx) is tried again."`
	SettleUnanswered time.Duration `name:"settle-unanswered" env:"WORKER_SETTLE_UNANSWERED" default:"10m" group:"Work" help:"The same after no answer, or one that proves nothing."`
	SettleReads      int           `name:"settle-reads" env:"WORKER_SETTLE_READS" default:"4" group:"Work" help:"How many looks, spread over that time, must find nothing."`
	UnknownPolicy    string        `name:"unknown-policy" env:"WORKER_UNKNOWN_POLICY" default:"retry" group:"Work" help:"After proof of absence: retry, or hold for a person. A proved candidate is adopted under both."`
	BreakerUnknowns  int           `name:"breaker-unknowns" env:"WORKER_BREAKER_UNKNOWNS" default:"5" group:"Work" help:"So many unknown outcomes in a row stop the fleet's creates for a growing pause, then one probe; 0 is off."`
	MaxCreates       int           `name:"max-creates-per-hour" env:"WORKER_MAX_CREATES_PER_HOUR" default:"0" group:"Work" help:"Creates of the whole fleet in an hour; one more puts the brake on until worker resume. 0 is off."`
	MaxHourlyCost    float64       `name:"max-hourly-cost" env:"WORKER_MAX_HOURLY_COST" default:"0" group:"Work" help:"Price per hour, in the account's currency, of all that the fleet created in the last 24 h; more puts the brake on until worker resume. 0 is off."`
	LimitPolicy      string        `name:"limit-policy" env:"WORKER_LIMIT_POLICY" default:"fail" group:"Work" help:"A full account: fail at once, or wait until it fits or the deadline."`
	AuthPolicy       string        `name:"auth-policy" env:"WORKER_AUTH_POLICY" default:"hold" group:"Work" help:"A refused API key: hold the queue until it works, or fail each request."`
	LimitsTTL        time.Duration `name:"limits-ttl" env:"WORKER_LIMITS_TTL" default:"10s" group:"Work" help:"How long a limits answer is used."`
	AuditEvery       time.Duration `name:"audit-every" env:"WORKER_AUDIT_EVERY" default:"0s" group:"Work" help:"How often the ledger is compared with the account; 0 is off. Findings go to the log and the metrics, and a suspected double purchase puts the brake on."`
	AdminAddr        string        `name:"admin-addr" env:"WORKER_ADMIN_ADDR" default:"127.0.0.1:9090" group:"Work" help:"Address of /healthz, /readyz, /metrics and /version; empty turns it off."`
	DrainTimeout     time.Duration `name:"drain-timeout" env:"WORKER_DRAIN_TIMEOUT" default:"75s" group:"Work" help:"Longest end after SIGTERM; must exceed HOSTUP_CREATE_TIMEOUT."`

	TraceRelationship string `name:"trace-relationship" env:"WORKER_TRACE_RELATIONSHIP" default:"parent" group:"Work" help:"What a first delivery's span is to the requester's: parent, a child with a link; link, a trace of its own with a link."`
}

// workerSettings is everything that `run` and `config` know.
type workerSettings struct {
	natsSettings
	hostupSettings
	placeSettings
	workSettings
	logSettings
}

// validate reports everything that cannot work, at once.
func (s workerSettings) validate() error {
	errs := []error{s.natsSettings.validate(), s.hostupSettings.validate(), s.placeSettings.validate(), s.logSettings.validate()}
	if s.Concurrency < 1 {
		errs = append(errs, fmt.Errorf("WORKER_CONCURRENCY=%d: at least 1", s.Concurrency))
	}
	for _, d := range []struct {
		variable string
		value    time.Duration
	}{
		{"HOSTUP_READ_TIMEOUT", s.ReadTimeout},
		{"HOSTUP_CREATE_TIMEOUT", s.CreateTimeout},
		{"WORKER_DEADLINE", s.Deadline},
		{"WORKER_BACKOFF_INITIAL", s.BackoffInitial},
		{"WORKER_BACKOFF_MAX", s.BackoffMax},
		{"WORKER_RETRY_AFTER_MAX", s.RetryAfterMax},
		{"WORKER_LIMITS_TTL", s.LimitsTTL},
		{"WORKER_SETTLE_ANSWERED", s.SettleAnswered},
		{"WORKER_SETTLE_UNANSWERED", s.SettleUnanswered},
		{"WORKER_DRAIN_TIMEOUT", s.DrainTimeout},
	} {
		errs = append(errs, positive(d.variable, d.value))
	}
	if s.InlineWait < 0 {
		errs = append(errs, fmt.Errorf("WORKER_INLINE_WAIT=%s: must not be negative", s.InlineWait))
	}
	if s.BackoffMax < s.BackoffInitial {
		errs = append(errs, fmt.Errorf("WORKER_BACKOFF_MAX=%s: below WORKER_BACKOFF_INITIAL=%s", s.BackoffMax, s.BackoffInitial))
	}
	if s.DrainTimeout <= s.CreateTimeout {
		errs = append(errs, fmt.Errorf("WORKER_DRAIN_TIMEOUT=%s: must exceed HOSTUP_CREATE_TIMEOUT=%s, or a shutdown could lose a paid answer", s.DrainTimeout, s.CreateTimeout))
	}
	if s.BreakerUnknowns < 0 {
		errs = append(errs, fmt.Errorf("WORKER_BREAKER_UNKNOWNS=%d: must not be negative", s.BreakerUnknowns))
	}
	if s.MaxCreates < 0 {
		errs = append(errs, fmt.Errorf("WORKER_MAX_CREATES_PER_HOUR=%d: must not be negative", s.MaxCreates))
	}
	if !(s.MaxHourlyCost >= 0) || math.IsInf(s.MaxHourlyCost, 1) {
		errs = append(errs, fmt.Errorf("WORKER_MAX_HOURLY_COST=%v: must be a number that is not negative", s.MaxHourlyCost))
	}
	if s.AuditEvery < 0 {
		errs = append(errs, fmt.Errorf("WORKER_AUDIT_EVERY=%s: must not be negative", s.AuditEvery))
	}
	if s.SettleReads < 1 {
		errs = append(errs, fmt.Errorf("WORKER_SETTLE_READS=%d: at least 1", s.SettleReads))
	}
	errs = append(errs,
		oneOf("WORKER_UNKNOWN_POLICY", s.UnknownPolicy, "retry", "hold"),
		oneOf("WORKER_LIMIT_POLICY", s.LimitPolicy, "fail", "wait"),
		oneOf("WORKER_AUTH_POLICY", s.AuthPolicy, "hold", "fail"),
		oneOf("WORKER_TRACE_RELATIONSHIP", s.TraceRelationship, "parent", "link"))
	return errors.Join(errs...)
}

func positive(variable string, d time.Duration) error {
	if d <= 0 {
		return fmt.Errorf("%s=%s: must be more than 0", variable, d)
	}
	return nil
}

func oneOf(variable, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%s=%q: must be one of %q", variable, value, allowed)
}

// nameable reports whether s can be a name on the broker, or with dots a
// subject of literal tokens.
func nameable(s string, dots bool) bool {
	last := '.'
	for _, c := range s {
		word := c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !word && (!dots || c != '.' || last == '.') {
			return false
		}
		last = c
	}
	return s != "" && last != '.'
}
