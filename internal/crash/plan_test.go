package crash

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// points are all failpoints of the worker, without .before and .after, and how
// often one process reaches them in most rounds, as far as a full run insists.
var points = []struct {
	name  string
	times int
}{
	{"handle", 2},
	{"load", 2},
	{"store.accepted", 2},
	{"spend", 2},
	{"intend", 2},
	{"row", 2},
	{"create", 2},
	{"store.created", 2},
	{"store.failed", 1},
	{"store.unknown", 2},
	{"lookup", 2},
	{"store.held", 1},
	{"publish.provisioning", 2},
	{"publish.failed", 1},
	{"publish.held", 1},
	{"store.done", 2},
	{"release", 2},
	{"gate", 2},
	{"brake", 1},
	{"mend", 1},
	{"bury", 1},
}

// actions are what is armed at them.
var actions = []string{"kill", "stop", "term", "delay"}

// strike is an action at the nth time of a point in a process.
type strike struct {
	point, action string
	nth           int
}

// strikes are all that a full run has to take.
func strikes() []strike {
	var all []strike
	for _, p := range points {
		for _, when := range []string{".before", ".after"} {
			for _, a := range actions {
				for n := range p.times {
					all = append(all, strike{p.name + when, a, n + 1})
				}
			}
		}
	}
	return all
}

// mainStrike is what a round is about. Neighbours differ, and because the stride
// has no factor in common with their number, all have their turn.
func mainStrike(round int) strike {
	all := strikes()
	return all[round*37%len(all)]
}

// plan is everything that is drawn for a round.
type plan struct {
	seed  uint64
	round int
	// main is armed in every worker of the round, so that each strike has its
	// turn.
	main strike
	// armed are, for each worker, the failpoints of its first process and of
	// those that follow it; later ones have none.
	armed  [][]string
	orders []order
	rules  []simulator.Rule
	lag    time.Duration

	concurrency int
	inlineWait  time.Duration
	// cap is the cap on creates per hour, 0 for none, and breaker after how many
	// unknown outcomes in a row nobody sends for a while, 0 for never. A low cap
	// puts the brake on, and the round takes it off again.
	cap, breaker int
	// letters are the times at which a message is sent that nobody can read.
	letters     []time.Duration
	brokerKills []moment
	workerKills []moment
}

// moment is when something is killed, and which, or how long it stays away.
type moment struct {
	at   time.Duration
	slot int
	away time.Duration
}

// order is one idempotency key with what happens to it.
type order struct {
	key, name              string
	cores, memory, storage int
	// published are the times at which a copy of the request is sent.
	published []time.Duration
	deadline  time.Duration
	// kind is what the API does to its creates, fault how.
	kind, fault string
	// namesake is the kind of the foreign server with the same name.
	namesake string
	// twin shares its name with another order.
	twin bool
	// ambiguous has a namesake that cannot be told from its own server: nobody
	// but a person may decide, so it may end as unknown.
	ambiguous bool
}

// The ways in which the API fails a create. The simulator's FaultHelp explains
// them; each hits the first call for a name unless it says how often.
var faults = map[string][]string{
	"created-then-cut":     {"cut-after*1", "cut-after:fin*1", "cut-after:delay=100ms*1"},
	"created-then-5xx":     {"500-after*1", "502-after*1", "503-bare-after*1", "504-after:code=upstream_timeout*1", "500-after*2"},
	"created-then-timeout": {"hang-after*1", "408-after*1", "425-after*1"},
	"created-then-garbage": {"garbage*1", "empty*1", "truncated*1", "truncated:at=12*1", "307-after*1"},
	"created-too-late":     {fmt.Sprintf("slow-before=%s*1", latestEffect)},
	"nothing-and-cut":      {"cut*1", "cut:fin*1", "cut*2"},
	"nothing-and-5xx":      {"500*1", "502*1", "503-bare*1", "504:code=upstream_timeout*1", "500*2"},
	"nothing-and-timeout":  {"hang*1", "408*1"},
	"nothing-and-garbage":  {"garbage-before*1", "empty-before*1", "307*1"},
	"refused":              {"400", "409", "422", "403-limit"},
	"throttled":            {"429:none*1", "429:none*2", "429:reset=200ms*1"},
	"slow":                 {"slow=150ms", "slow-before=100ms"},
	"none":                 {"none"},
}

// always are the kinds of which each round has one, so that every point can be
// reached in it; sometimes are what the other orders draw from.
var (
	always = [][]string{
		{"created-then-cut", "created-then-5xx", "created-then-timeout", "created-then-garbage", "created-too-late"},
		{"nothing-and-cut", "nothing-and-5xx", "nothing-and-timeout", "nothing-and-garbage"},
		{"refused"},
		{"throttled"},
		{"none"},
	}
	sometimes = []string{
		"none", "none", "none", "slow", "throttled", "created-then-cut", "created-then-5xx", "created-then-timeout",
		"created-then-garbage", "created-too-late", "nothing-and-cut", "nothing-and-5xx", "nothing-and-timeout", "nothing-and-garbage",
	}
	namesakes = []string{"older", "fixed-cycle", "other-size", "cancelled"}
)

// drawPlan draws a round from the seed and its number, and from nothing else.
func drawPlan(seed uint64, round int, allowHeld bool) *plan {
	rng := rand.New(rand.NewPCG(seed, uint64(round)))
	p := &plan{
		seed: seed, round: round,
		main:        mainStrike(round),
		concurrency: pick(rng, 2, 4, 16),
		inlineWait:  pick(rng, 0, 100*time.Millisecond, time.Second, 5*time.Second),
		lag:         pick(rng, 0, 0, 100*time.Millisecond, longestLag),
		cap:         pick(rng, 0, 0, highCap, highCap, lowCap),
		breaker:     pick(rng, 0, 2, 5),
	}
	switch {
	case p.about("brake"):
		p.cap = lowCap
	case p.about("spend") && p.cap == 0:
		p.cap = highCap
	}
	for range 1 + rng.IntN(2) {
		p.letters = append(p.letters, upTo(rng, time.Second))
	}
	p.drawWorkers(rng)
	p.drawOrders(rng)
	if o := &p.orders[0]; !allowHeld && !o.twin && (p.holds() || rng.IntN(20) == 0) {
		o.ambiguous, o.namesake, o.deadline = true, "indistinguishable", 8*time.Second
		if p.holds() {
			// Both servers are to be there at the first look: of one alone it would
			// take the namesake for its own.
			o.kind, p.lag = "created-then-cut", 0
			o.fault = pick(rng, faults[o.kind]...)
		}
	}
	p.drawRules(rng)
	if rng.IntN(7) == 0 {
		p.brokerKills = append(p.brokerKills, moment{at: upTo(rng, 1500*time.Millisecond), away: upTo(rng, 500*time.Millisecond)})
	}
	for range rng.IntN(3) {
		p.workerKills = append(p.workerKills, moment{at: upTo(rng, 2*time.Second), slot: rng.IntN(len(p.armed))})
	}
	return p
}

// A cap that no round reaches, and one that each does.
const (
	highCap = 1000
	lowCap  = 3
)

// about reports whether the round is about a point.
func (p *plan) about(point string) bool { return strings.HasPrefix(p.main.point, point+".") }

// holds reports whether the round is about holding a request.
func (p *plan) holds() bool { return strings.Contains(p.main.point, "held") }

// contends reports whether the round is about taking a name, and needs two keys
// that want one.
func (p *plan) contends() bool { return p.about("intend") || p.about("store.accepted") }

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

func upTo(rng *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(d))).Round(time.Millisecond)
}

// drawWorkers arms the main strike in every first process, and others at random
// there and in the processes that follow. What has to happen a second time in
// one process does so sooner where there are few.
func (p *plan) drawWorkers(rng *rand.Rand) {
	all := strikes()
	other := func(most int) string {
		what := pick(rng, all...)
		what.nth = 1 + rng.IntN(most)
		return arming(rng, what)
	}
	for range 1 + rng.IntN(4-p.main.nth) {
		runs := []string{arming(rng, p.main)}
		for range rng.IntN(3) {
			runs[0] += "," + other(4)
		}
		for range rng.IntN(3) {
			runs = append(runs, other(3))
		}
		main := arming(rng, p.main)
		switch {
		case p.about("mend"):
			// A row is left by who ends before releasing it, and mended by who
			// comes after.
			left := arming(rng, strike{"release.before", "kill", 1})
			runs = []string{left + "," + main, left + "," + main, main, main}
		case p.about("brake"), p.about("bury"), p.holds():
			// Reached late, or once: by whichever process is there then.
			runs = []string{runs[0], main, main}
		}
		p.armed = append(p.armed, runs)
	}
}

// arming writes one failpoint for WORKER_FAILPOINTS. Some stops outlast the ack
// wait, some the create timeout, some both together.
func arming(rng *rand.Rand, what strike) string {
	action := what.action
	switch action {
	case "stop":
		action += ":" + pick(rng, 100*time.Millisecond, 400*time.Millisecond, createTimeout, 2*createTimeout).String()
	case "delay":
		action += ":" + pick(rng, 50*time.Millisecond, 200*time.Millisecond, createTimeout-100*time.Millisecond).String()
	}
	return fmt.Sprintf("%s:%d=%s", what.point, what.nth, action)
}

func (p *plan) drawOrders(rng *rand.Rand) {
	for i := range len(always) + rng.IntN(8) {
		kind := pick(rng, sometimes...)
		if i < len(always) {
			kind = pick(rng, always[i]...)
		}
		o := order{
			key: fmt.Sprintf("s%d-r%d-k%02d", p.seed, p.round, i), name: fmt.Sprintf("n%02d-web", i),
			cores: 1 + rng.IntN(4), memory: 1 + rng.IntN(8), storage: 50 + 10*i,
			kind: kind, fault: pick(rng, faults[kind]...),
			published: []time.Duration{upTo(rng, 300*time.Millisecond)},
		}
		if rng.IntN(2) == 0 {
			for range 1 + rng.IntN(2) {
				o.published = append(o.published, upTo(rng, 1500*time.Millisecond))
			}
		}
		if rng.IntN(3) == 0 {
			o.namesake = pick(rng, namesakes...)
		}
		p.orders = append(p.orders, o)
	}
	if p.contends() {
		// Only who waits for a name is to be sent back to accepted, and whoever
		// has the name is to know for long nothing of its server.
		p.orders[3].kind, p.orders[3].fault = "none", "none"
		p.orders[0].kind, p.orders[0].fault = "created-then-timeout", "hang-after*1"
		p.lag = longestLag
	}
	if rng.IntN(3) == 0 || p.contends() {
		p.drawTwin(rng)
	}
}

// drawTwin adds an order under the name of another one, of the same or of
// another size.
func (p *plan) drawTwin(rng *rand.Rand) {
	// Not of one that is refused or throttled by design, nor of the one that
	// is to be held.
	first := &p.orders[pick(rng, 0, 1, 4)]
	switch {
	case p.holds():
		first = &p.orders[1]
	case p.contends():
		first = &p.orders[0]
	}
	first.twin = true
	twin := *first
	twin.key += "-twin"
	twin.published = []time.Duration{upTo(rng, 500*time.Millisecond)}
	if rng.IntN(2) == 0 {
		twin.storage += 5
	}
	p.orders = append(p.orders, twin)
}

// drawRules turns the orders' faults into rules and lets some reads fail.
func (p *plan) drawRules(rng *rand.Rand) {
	for _, o := range p.orders {
		p.rules = append(p.rules, simulator.Rule{Prefix: o.name, Fault: simulator.MustFault(o.fault)})
	}
	if rng.IntN(5) < 2 {
		for _, text := range []string{"limits/503@0.15", "list/503@0.15", "list/truncated@0.1", "details/500@0.1", "list/429:none@0.05", "list/hang@0.03"} {
			rule, err := simulator.ParseRule(text)
			if err != nil {
				panic(err)
			}
			p.rules = append(p.rules, rule)
		}
	}
}

// plant is the foreign server of an order's name, false when it has none.
func (o order) plant(now time.Time) (simulator.VPS, bool) {
	v := simulator.VPS{
		Name: o.name, IsPayg: true, CreatedAt: now,
		Resources: simulator.Resources{CPUCores: o.cores, MemoryGB: o.memory, StorageGB: o.storage},
	}
	switch o.namesake {
	case "":
		return v, false
	case "older":
		v.CreatedAt = now.Add(-time.Hour)
	case "fixed-cycle":
		v.IsPayg = false
	case "other-size":
		v.Resources.StorageGB += 7
	case "cancelled":
		v.Status = "cancelled"
	}
	return v, true
}

// request is the body of the order's message. A deadline counts from now.
func (o order) request() []byte {
	request := map[string]any{
		"idempotencyKey": o.key, "name": o.name, "cpuCores": o.cores, "memoryGb": o.memory, "storageGb": o.storage, "region": "stockholm",
	}
	if o.deadline > 0 {
		request["deadline"] = time.Now().Add(o.deadline).Format(time.RFC3339Nano)
	}
	body, err := json.Marshal(request)
	if err != nil {
		panic(err)
	}
	return body
}

// String tells what was drawn, for the report of a violation.
func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "concurrency %d, inline wait %s, list lag %s, cap %d, breaker %d, unreadable messages at %v\n", p.concurrency, p.inlineWait, p.lag, p.cap, p.breaker, p.letters)
	for i, runs := range p.armed {
		fmt.Fprintf(&b, "worker %d armed: %s\n", i+1, strings.Join(runs, " | then "))
	}
	for _, m := range p.workerKills {
		fmt.Fprintf(&b, "worker %d killed at %s\n", m.slot+1, m.at)
	}
	for _, m := range p.brokerKills {
		fmt.Fprintf(&b, "broker killed at %s for %s\n", m.at, m.away)
	}
	for _, o := range p.orders {
		fmt.Fprintf(&b, "order %s name %s size %d/%d/%d fault %s (%s)", o.key, o.name, o.cores, o.memory, o.storage, o.fault, o.kind)
		if o.namesake != "" {
			fmt.Fprintf(&b, " namesake %s", o.namesake)
		}
		fmt.Fprintf(&b, " published at %v\n", o.published)
	}
	return b.String()
}
