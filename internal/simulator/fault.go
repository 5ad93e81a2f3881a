package simulator

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Fault is one way to misbehave, read from a specification such as
// cut-after*1 by ParseFault; FaultHelp lists them all. The zero value is no
// fault. Faults are comparable and have a text form, so they work as flags and
// in JSON.
type Fault struct {
	kind    string // a name in faultKinds, or empty
	status  int    // of kindStatus
	form    string // of kindStatus: "", formBare or formLimit
	after   bool   // the effect happens first
	options string // k=v or flag, comma separated, in the order of faultOptions
	times   int    // 0 is always
}

const (
	kindNone      = "none"
	kindStatus    = "STATUS"
	kindCut       = "cut"
	kindHang      = "hang"
	kindTruncated = "truncated"
	kindGarbage   = "garbage"
	kindEmpty     = "empty"
	kindSlow      = "slow"

	formBare  = "bare"
	formLimit = "limit"

	phaseBefore = "before"
	phaseAfter  = "after"

	optionDelay = "delay"
)

func phase(after bool) string {
	if after {
		return phaseAfter
	}
	return phaseBefore
}

// maxTimes bounds the *N of a specification; more is the same as always.
const maxTimes = 1_000_000

type faultKind struct {
	name, usage, help string
	// after is the phase of a specification that names none.
	after bool
	// onePhase forbids naming the other phase.
	onePhase bool
	options  []string
}

var faultKinds = []faultKind{
	{name: kindNone, usage: kindNone, help: "no fault: exempts what it matches from later rules", onePhase: true},
	{
		name: kindStatus, usage: "300…599", help: "this status with a problem document (307 points back to the same URL)",
		options: []string{optionDelay, "code", "blocker", "extensions", "legacy", "retry-after", "date", "reset", "epoch", "none"},
	},
	{name: kindCut, usage: "cut", help: "the connection is reset without one byte of an answer", options: []string{optionDelay, "fin"}},
	{name: kindHang, usage: "hang", help: "no answer until the client gives up or the simulator is closed"},
	{
		name: kindTruncated, usage: "truncated", help: "the good answer, cut off after the vpsId (reads: half way)",
		after: true, onePhase: true, options: []string{optionDelay, "at"},
	},
	{name: kindGarbage, usage: "garbage", help: "the good status with a body that is not JSON", after: true, options: []string{optionDelay}},
	{name: kindEmpty, usage: "empty", help: "the good status without a body", after: true, options: []string{optionDelay}},
	{name: kindSlow, usage: "slow=D", help: "nothing wrong, but D later (before: the effect itself is late)", after: true, options: []string{optionDelay}},
}

type faultOption struct {
	name, value, help string // an empty value makes it a flag
	check             func(string) error
}

var faultOptions = []faultOption{
	{optionDelay, "D", "misbehave only after this time; a create goes on although its client left", checkDelay},
	{"code", "C", "code of the problem document", nil},
	{"blocker", "R", "blockerReasons of the problem document", nil},
	{"extensions", "", "blockerReasons below extensions, as older pages have them", nil},
	{"legacy", "", "the legacy envelope instead of a problem document", nil},
	{"retry-after", "V", "header Retry-After: V, whatever V is", nil},
	{"date", "D", "header Retry-After: an HTTP date D from now", checkDuration},
	{"reset", "D", "header X-RateLimit-Reset: an ISO timestamp D from now", checkDuration},
	{"epoch", "D", "header X-RateLimit-Reset: Unix seconds D from now", checkDuration},
	{"none", "", "no rate limit headers at all", nil},
	{"fin", "", "close politely instead of a reset", nil},
	{"at", "N", "keep N bytes of the body", checkCount},
}

func checkDuration(v string) error {
	_, err := time.ParseDuration(v)
	return err
}

func checkDelay(v string) error {
	if d, err := time.ParseDuration(v); err != nil || d < 0 {
		return fmt.Errorf("%q is not a duration of 0 or more", v)
	}
	return nil
}

func checkCount(v string) error {
	if n, err := strconv.Atoi(v); err != nil || n < 0 {
		return fmt.Errorf("%q is not a number of 0 or more", v)
	}
	return nil
}

// ParseFault reads a specification:
//
//	kind[-bare|-limit][-before|-after][:key=value|flag,…][*N]
//
// Values may hold letters, digits and . _ + -. FaultHelp has the kinds and
// options.
func ParseFault(spec string) (Fault, error) {
	f, err := parseFault(spec)
	if err != nil {
		return Fault{}, fmt.Errorf("fault %q: %w", spec, err)
	}
	return f, nil
}

// MustFault is ParseFault for literals: it panics on a bad specification.
func MustFault(spec string) Fault {
	f, err := ParseFault(spec)
	if err != nil {
		panic(err)
	}
	return f
}

func parseFault(spec string) (Fault, error) {
	head, times, limited := cutLast(spec, "*")
	count, err := strconv.Atoi(times)
	if limited && (err != nil || count < 1 || count > maxTimes) {
		return Fault{}, fmt.Errorf("*%s is not *1 to *%d", times, maxTimes)
	}
	head, options, optional := strings.Cut(head, ":")
	if optional && options == "" {
		return Fault{}, errors.New("no options after the colon")
	}
	// slow=2s is what one would write; slow:delay=2s is what it means.
	if name, delay, ok := strings.Cut(head, "="); ok && !optional {
		head, options = name, optionDelay+"="+delay
	}
	f, kind, err := parseHead(head)
	if err != nil {
		return f, err
	}
	if f.options, err = parseOptions(kind, options); err != nil {
		return f, err
	}
	if f.kind == kindSlow && f.option(optionDelay) == "" {
		return f, errors.New("slow needs a duration: slow=2s")
	}
	if f.kind == kindNone {
		return Fault{}, nil
	}
	f.times = count
	return f, nil
}

// parseHead reads kind, form and phase.
func parseHead(head string) (f Fault, kind faultKind, err error) {
	parts := strings.Split(head, "-")
	kind, ok := findKind(parts[0])
	if !ok {
		return f, kind, fmt.Errorf("no such kind %q", parts[0])
	}
	f.kind, f.after = kind.name, kind.after
	if kind.name == kindStatus {
		f.status, _ = strconv.Atoi(parts[0])
	}
	rest := parts[1:]
	if len(rest) > 0 && kind.name == kindStatus && (rest[0] == formBare || rest[0] == formLimit) {
		f.form, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 && (rest[0] == phaseBefore || rest[0] == phaseAfter) {
		f.after, rest = rest[0] == phaseAfter, rest[1:]
	}
	if len(rest) > 0 {
		return f, kind, fmt.Errorf("%q does not go with %s", strings.Join(rest, "-"), parts[0])
	}
	if kind.onePhase && f.after != kind.after {
		return f, kind, fmt.Errorf("%s has no other phase", kind.name)
	}
	return f, kind, nil
}

func findKind(name string) (faultKind, bool) {
	if n, err := strconv.Atoi(name); err == nil && len(name) == 3 && n >= 300 && n <= 599 {
		name = kindStatus
	} else if name == kindStatus {
		return faultKind{}, false
	}
	i := slices.IndexFunc(faultKinds, func(k faultKind) bool { return k.name == name })
	if i < 0 {
		return faultKind{}, false
	}
	return faultKinds[i], true
}

// parseOptions returns the options in the order of faultOptions.
func parseOptions(kind faultKind, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	given := map[string]string{}
	for item := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(item, "=")
		if _, twice := given[name]; twice {
			return "", fmt.Errorf("option %s is given twice", name)
		}
		if err := checkOption(kind, name, value); err != nil {
			return "", err
		}
		if value == "" {
			item = name // none= is none
		}
		given[name] = item
	}
	var canonical []string
	for _, o := range faultOptions {
		if item, ok := given[o.name]; ok {
			canonical = append(canonical, item)
		}
	}
	return strings.Join(canonical, ","), nil
}

func checkOption(kind faultKind, name, value string) error {
	i := slices.IndexFunc(faultOptions, func(o faultOption) bool { return o.name == name })
	if i < 0 || !slices.Contains(kind.options, name) {
		return fmt.Errorf("no option %q for %s", name, kind.usage)
	}
	o := faultOptions[i]
	switch {
	case (o.value == "") != (value == ""):
		return fmt.Errorf("option %s: want %s", name, o.usage())
	case strings.ContainsFunc(value, notValueRune):
		return fmt.Errorf("option %s: bad character in %q", name, value)
	case o.check != nil:
		if err := o.check(value); err != nil {
			return fmt.Errorf("option %s: %w", name, err)
		}
	}
	return nil
}

// notValueRune keeps out everything with a meaning in specifications and
// rules, and everything that a header may not carry.
func notValueRune(r rune) bool {
	letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !letter && !strings.ContainsRune("._+-", r)
}

// String returns the specification; ParseFault reads it back to an equal Fault.
func (f Fault) String() string {
	if f.kind == "" {
		return kindNone
	}
	var b strings.Builder
	if f.kind == kindStatus {
		b.WriteString(strconv.Itoa(f.status))
	} else {
		b.WriteString(f.kind)
	}
	if f.form != "" {
		b.WriteString("-" + f.form)
	}
	if kind, _ := findKind(strings.SplitN(b.String(), "-", 2)[0]); !kind.onePhase {
		b.WriteString("-" + phase(f.after))
	}
	if f.options != "" {
		b.WriteString(":" + f.options)
	}
	if f.times > 0 {
		fmt.Fprintf(&b, "*%d", f.times)
	}
	return b.String()
}

// MarshalText implements encoding.TextMarshaler.
func (f Fault) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Fault) UnmarshalText(text []byte) (err error) {
	*f, err = ParseFault(string(text))
	return err
}

// option returns the value of an option, "" when it is not given.
func (f Fault) option(name string) string {
	for item := range strings.SplitSeq(f.options, ",") {
		if key, value, _ := strings.Cut(item, "="); key == name {
			return value
		}
	}
	return ""
}

func (f Fault) flag(name string) bool {
	return slices.Contains(strings.Split(f.options, ","), name)
}

func (f Fault) delay() time.Duration {
	d, _ := time.ParseDuration(f.option(optionDelay)) // checked by ParseFault
	return d
}

func (o faultOption) usage() string {
	if o.value == "" {
		return o.name
	}
	return o.name + "=" + o.value
}

// FaultHelp explains the specifications of faults and rules, for --help. The
// text has no colour and no tabs, and lines of at most 110 columns.
func FaultHelp() string {
	var b strings.Builder
	b.WriteString("RULE   [target][:][name-prefix*]/FAULT[@probability]\n")
	b.WriteString("       target: creates (default), reads, " + strings.Join(targetNames(), ", ") + "\n")
	b.WriteString("FAULT  kind[-bare|-limit][-before|-after][:option,…][*N]\n")
	b.WriteString("       -before: nothing was created (default)   -after: created and billed, then the fault\n")
	b.WriteString("       a request that is refused anyway gets its refusal instead of an -after fault\n")
	b.WriteString("       -bare: HTML instead of a problem document   -limit: blockerReasons instance_limit_exceeded\n")
	b.WriteString("       *N: only the first N times, per server name (reads: per endpoint); reads know no phase\n")
	b.WriteString("NAME   a server named fault-FAULT-anything gets that fault: - for : = and , and xN for *N,\n")
	b.WriteString("       as in fault-cut-after-x1-web01, fault-429-retry-after-3-web, fault-slow-2s-web\n")
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "kind\tdefault\twhat happens")
	for _, k := range faultKinds {
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", k.usage, phase(k.after), k.help)
	}
	_ = w.Flush() // a strings.Builder does not fail
	_, _ = fmt.Fprintln(w, "option\tfor\tmeaning")
	for _, o := range faultOptions {
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\n", o.usage(), o.kinds(), o.help)
	}
	_ = w.Flush()
	return b.String()
}

// kinds names the kinds that take the option, for the help.
func (o faultOption) kinds() string {
	var names []string
	for _, k := range faultKinds {
		if slices.Contains(k.options, o.name) {
			name, _, _ := strings.Cut(k.usage, "=")
			names = append(names, name)
		}
	}
	if len(names) > 2 {
		return "all but hang"
	}
	return strings.Join(names, ", ")
}
