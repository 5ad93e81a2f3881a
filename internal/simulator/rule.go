package simulator

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// Rule says which requests a Fault hits. Its text form is
//
//	[target][:][name-prefix*]/FAULT[@probability]
//
// for example web-*/cut-after*1, reads/503*2 or list:web-*/hang@0.1.
type Rule struct {
	// Target is creates (also the zero value), reads (all GETs) or one
	// endpoint: limits, options, list, get, details, status, cancel.
	Target string
	// Prefix restricts the rule to names that begin with it, in any case. For
	// list that is the name looked up; other reads have no name.
	Prefix string
	// Probability of a hit, at most 1. Zero means always.
	Probability float64
	// Fault is what happens. The zero value exempts from later rules.
	Fault Fault
}

const (
	targetCreates = "creates"
	targetReads   = "reads"
)

// targetNames lists the targets that are one endpoint.
func targetNames() []string {
	var names []string
	for _, e := range endpoints {
		if e.name != targetCreates {
			names = append(names, e.name)
		}
	}
	return names
}

// ParseRule reads the text form. Without a slash all of it is a FAULT for
// every create.
func ParseRule(text string) (Rule, error) {
	selector, spec, ok := strings.Cut(text, "/")
	if !ok {
		selector, spec = "", text
	}
	var r Rule
	r.Target, r.Prefix = cutSelector(selector)
	spec, chance, ok := cutLast(spec, "@")
	if ok {
		p, err := strconv.ParseFloat(chance, 64)
		if err != nil || !(p > 0 && p <= 1) {
			return Rule{}, fmt.Errorf("rule %q: probability %q is not above 0 and at most 1", text, chance)
		}
		r.Probability = p
	}
	var err error
	if r.Fault, err = ParseFault(spec); err != nil {
		return Rule{}, fmt.Errorf("rule %q: %w", text, err)
	}
	if err := r.validate(); err != nil {
		return Rule{}, fmt.Errorf("rule %q: %w", text, err)
	}
	return r, nil
}

// cutSelector splits target:prefix*, of which either part may be missing.
func cutSelector(s string) (target, prefix string) {
	target, prefix, both := strings.Cut(s, ":")
	if !both && strings.HasSuffix(s, "*") {
		target, prefix = "", s
	}
	return target, strings.TrimSuffix(prefix, "*")
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func (r Rule) validate() error {
	switch {
	case r.Target != "" && r.Target != targetCreates && r.Target != targetReads && !slices.Contains(targetNames(), r.Target):
		return fmt.Errorf("no such target %q; a name prefix ends in *", r.Target)
	case strings.ContainsAny(r.Prefix, "*/:@"):
		return fmt.Errorf("bad character in the name prefix %q", r.Prefix)
	case !(r.Probability >= 0 && r.Probability <= 1):
		return errors.New("the probability is not between 0 and 1")
	}
	return nil
}

// String returns the text form.
func (r Rule) String() string {
	var b strings.Builder
	b.WriteString(r.Target)
	if r.Prefix != "" {
		if r.Target != "" {
			b.WriteString(":")
		}
		b.WriteString(r.Prefix + "*")
	}
	if b.Len() > 0 {
		b.WriteString("/")
	}
	b.WriteString(r.Fault.String())
	if r.Probability > 0 {
		b.WriteString("@" + strconv.FormatFloat(r.Probability, 'g', -1, 64))
	}
	return b.String()
}

// MarshalText implements encoding.TextMarshaler.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Rule) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRule(string(text))
	return err
}

func (r Rule) matches(e endpoint, name string) bool {
	target := r.Target
	if target == "" {
		target = targetCreates
	}
	hit := target == e.name || target == targetReads && e.scope == scopeRead
	return hit && len(name) >= len(r.Prefix) && strings.EqualFold(name[:len(r.Prefix)], r.Prefix)
}

const namePrefix = "fault-"

// faultInName reads the fault out of a server name such as
// fault-cut-after-x1-web01. Names may hold only letters, digits and hyphens, so
// a hyphen stands for every separator. A name that cannot be read has none.
func faultInName(name string) (Fault, bool) {
	rest, ok := strings.CutPrefix(strings.ToLower(name), namePrefix)
	if !ok {
		return Fault{}, false
	}
	words := strings.Split(rest, "-")
	spec := words[0]
	words = words[1:]
	for _, group := range [][]string{{formBare, formLimit}, {phaseBefore, phaseAfter}} {
		if len(words) > 0 && slices.Contains(group, words[0]) {
			spec, words = spec+"-"+words[0], words[1:]
		}
	}
	kindName, _, _ := strings.Cut(spec, "-")
	kind, _ := findKind(kindName)
	options, words := optionsInName(kind, words)
	if len(options) > 0 {
		spec += ":" + strings.Join(options, ",")
	}
	if len(words) > 0 && strings.HasPrefix(words[0], "x") {
		if n, err := strconv.Atoi(words[0][1:]); err == nil {
			spec += "*" + strconv.Itoa(n)
		}
	}
	f, err := ParseFault(spec)
	return f, err == nil
}

// optionsInName takes the options off the front of words and returns the rest.
func optionsInName(kind faultKind, words []string) (options, rest []string) {
	if kind.name == kindSlow && len(words) > 0 && words[0] != optionDelay {
		return []string{optionDelay + "=" + words[0]}, words[1:]
	}
	for range faultOptions {
		option, length := optionAtFront(kind, words)
		if length == 0 {
			break
		}
		options, words = append(options, option), words[length:]
	}
	return options, words
}

func optionAtFront(kind faultKind, words []string) (option string, length int) {
	for _, o := range faultOptions {
		n := strings.Count(o.name, "-") + 1
		if !slices.Contains(kind.options, o.name) || len(words) < n || strings.Join(words[:n], "-") != o.name {
			continue
		}
		if o.value == "" {
			return o.name, n
		}
		if len(words) > n && checkOption(kind, o.name, words[n]) == nil {
			return o.name + "=" + words[n], n + 1
		}
	}
	return "", 0
}

// injector chooses the fault of each request. It is guarded by Server.mu.
type injector struct {
	// hits counts how often a fault that is limited by *N was used, draws how
	// often a rule with a probability was asked; both for each key.
	hits, draws map[injectorKey]int
}

// injectorKey is a rule (by its index; fromName and fromDefault are not in the
// list) and the name or, for reads without one, the endpoint.
type injectorKey struct {
	rule int
	what string
}

const (
	fromName    = -1
	fromDefault = -2
)

func newInjector() injector {
	return injector{hits: map[injectorKey]int{}, draws: map[injectorKey]int{}}
}

func (in *injector) choose(cfg *Config, e endpoint, name string) Fault {
	what := e.name + " " + strings.ToLower(name)
	if e.name == targetCreates {
		if f, ok := faultInName(name); ok {
			if !in.use(f, injectorKey{fromName, what}) {
				return Fault{} // used up: this name is healthy now
			}
			return f
		}
	}
	for i, r := range cfg.Faults {
		key := injectorKey{i, what}
		if r.matches(e, name) && in.draw(r, key, cfg.Seed) && in.use(r.Fault, key) {
			return r.Fault
		}
	}
	if e.name == targetCreates && in.use(cfg.Fault, injectorKey{fromDefault, what}) {
		return cfg.Fault
	}
	return Fault{}
}

// use reports whether the fault has a time left for key, and takes it.
func (in *injector) use(f Fault, key injectorKey) bool {
	if f.times == 0 {
		return true
	}
	if in.hits[key] >= f.times {
		return false
	}
	in.hits[key]++
	return true
}

// draw decides by seed, rule, name and how often that was asked before, so
// that concurrent requests for other names change nothing.
func (in *injector) draw(r Rule, key injectorKey, seed uint64) bool {
	if r.Probability == 0 {
		return true
	}
	in.draws[key]++
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %s %d", key.rule, key.what, in.draws[key]) // a hash does not fail
	return rand.New(rand.NewPCG(seed, h.Sum64())).Float64() < r.Probability
}
