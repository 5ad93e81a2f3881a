package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/hostup"
	"github.com/hostup/deploy-worker/internal/ledger"
)

type doctorCmd struct {
	workerSettings
	outputFlag
}

// Help is printed below the flags' summary.
func (*doctorCmd) Help() string {
	return `Examples:
  worker doctor                 before the first worker run, and whenever something is odd
  worker doctor -o json         for a program

One line a check: ok, warning or failure, and what to do about it. Nothing is changed and nothing
is ordered. Exit code 1 when anything is a failure.`
}

// The three results of an examination.
const (
	checkOK   = "ok"
	checkWarn = "warning"
	checkFail = "failure"
)

// examination is one line of the doctor (contract section 5).
type examination struct {
	Check  string `json:"check"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Fix    string `json:"fix"`
}

// doctor collects what it finds.
type doctor struct {
	settings workerSettings
	found    []examination
}

func (d *doctor) say(check, status, detail, fix string) {
	d.found = append(d.found, examination{Check: check, Status: status, Detail: detail, Fix: fix})
}

// doctorTimeout bounds all examinations.
const doctorTimeout = time.Minute

// Run examines everything that run depends on.
func (c *doctorCmd) Run(ctx context.Context, t *terminal) error {
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	d := &doctor{settings: c.workerSettings}
	d.broker(ctx)
	d.api(ctx)
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return ctx.Err()
	}
	if err := c.print(t, d.found); err != nil {
		return err
	}
	for _, e := range d.found {
		if e.Status == checkFail {
			return quietError{errors.New("something is a failure")}
		}
	}
	return nil
}

func (c *doctorCmd) print(t *terminal, found []examination) error {
	return printAll(t.out, c.outputFlag, found, func() error {
		tab := newTable(t.out, []string{"STATUS", "CHECK", "DETAIL"}, "DETAIL")
		for _, e := range found {
			detail := e.Detail
			if e.Fix != "" {
				detail += "\n-> " + e.Fix
			}
			tab.row(e.Status, e.Check, detail)
		}
		return tab.print()
	})
}

// broker examines NATS.
func (d *doctor) broker(ctx context.Context) {
	nc, js, err := broker.Connect(d.settings.options())
	if err != nil {
		d.say("nats", checkFail, err.Error(), "start a server with `nats-server -js`, or set NATS_URL and the credentials")
		return
	}
	defer nc.Close()
	d.say("nats", checkOK, "connected to "+nc.ConnectedUrlRedacted(), "")
	d.version(nc)
	if _, err := js.AccountInfo(ctx); err != nil {
		d.say("jetstream", checkFail, err.Error(), "start the server with `nats-server -js`, or enable JetStream for this account")
		return
	}
	d.say("jetstream", checkOK, "on", "")
	d.topology(ctx, js)
	d.shared(ctx, js)
}

// oldestServer is the first nats-server with everything the ledger needs: time
// to live for single messages, with markers.
var oldestServer = [2]int{2, 11}

func (d *doctor) version(nc *nats.Conn) {
	have := nc.ConnectedServerVersion()
	var numbers [2]int
	for i, s := range strings.SplitN(have, ".", 3)[:2] {
		numbers[i], _ = strconv.Atoi(s)
	}
	if numbers[0] < oldestServer[0] || numbers[0] == oldestServer[0] && numbers[1] < oldestServer[1] {
		d.say("nats-version", checkFail, have+" is too old: the ledger needs a time to live for single messages", fmt.Sprintf("nats-server %d.%d or later", oldestServer[0], oldestServer[1]))
		return
	}
	d.say("nats-version", checkOK, have, "")
}

// topology examines streams, consumers and ledger.
func (d *doctor) topology(ctx context.Context, js jetstream.JetStream) {
	top := d.settings.topology()
	plan, err := top.Plan(ctx, js)
	if err != nil {
		d.say("streams", checkFail, err.Error(), "")
		return
	}
	for _, c := range plan {
		name := c.Kind + " " + c.Name
		switch {
		case c.Action == broker.Create && c.Name == top.BatchConsumer():
			d.say(name, checkWarn, "does not exist: orders on "+top.BatchSubject()+" are not taken", "worker setup")
		case c.Action == broker.Create:
			d.say(name, checkFail, "does not exist", "worker setup")
		case c.Action == broker.Update:
			var fields []string
			for _, f := range c.Fields {
				fields = append(fields, f.Name+" is "+f.Have+", wanted "+f.Want)
			}
			d.say(name, checkWarn, strings.Join(fields, "; "), "worker setup --dry-run, then worker setup")
		default:
			d.say(name, checkOK, "as the worker needs it", "")
		}
	}
	for _, want := range top.Streams() {
		if s, err := js.Stream(ctx, want.Name); err == nil {
			d.durability(s.CachedInfo())
			d.stream(s.CachedInfo())
		}
	}
	for _, want := range top.Consumers() {
		cons, err := js.Consumer(ctx, top.Stream, want.Durable)
		if err != nil {
			continue // said above
		}
		info := cons.CachedInfo()
		if waiting, most := info.NumAckPending, info.Config.MaxAckPending; most > 0 && waiting*10 >= most*9 {
			d.say("waiting "+want.Durable, checkWarn, fmt.Sprintf("%d requests are in work or wait, of %d that may: fresh ones will not be delivered", waiting, most), "find out what they wait for (worker_waiting_requests, the log at debug), or raise max_ack_pending")
		}
	}
}

// durability examines what a loss of power can take back.
func (d *doctor) durability(info *jetstream.StreamInfo) {
	check := "durability " + info.Config.Name
	if n := info.Config.Replicas; n < 3 {
		d.say(check, checkWarn, fmt.Sprintf("%d replica: a loss of power takes back what was confirmed since the last sync, up to sync_interval (2 min unless set)", n),
			"three servers on separate power and `worker setup --replicas 3`; or `jetstream { sync_interval: always }` on this one, which cannot be seen from here")
		return
	}
	if c := info.Cluster; c != nil {
		for _, p := range c.Replicas {
			if p.Offline || !p.Current {
				d.say(check, checkWarn, "the replica on "+p.Name+" is away or behind", "bring that server back: with one more lost, work stops until one returns")
				return
			}
		}
	}
	d.say(check, checkOK, fmt.Sprintf("%d replicas", info.Config.Replicas), "")
}

// stream examines what setup leaves to the operator.
func (d *doctor) stream(info *jetstream.StreamInfo) {
	s, have := d.settings, info.Config
	switch have.Name {
	case s.Stream:
		if have.Retention != jetstream.WorkQueuePolicy {
			d.say("retention "+have.Name, checkWarn, "retention is "+have.Retention.String()+": after a crash of a single broker, requests that were answered are delivered again", "harmless, each costs a read of the ledger; a stream made by worker setup does not have it")
		}
	case "KV_" + s.Ledger:
		if have.MaxAge > 0 && have.MaxAge <= s.Deadline {
			d.say("ledger-age", checkFail, fmt.Sprintf("records are kept for %s, but a request may wait for %s: a duplicate of it could buy again", have.MaxAge, s.Deadline), "WORKER_LEDGER_TTL above WORKER_DEADLINE, then worker setup")
		}
	}
}

// shared examines the rows that the fleet shares.
func (d *doctor) shared(ctx context.Context, js jetstream.JetStream) {
	if _, err := js.Stream(ctx, "KV_"+d.settings.Ledger); err != nil {
		return // said above
	}
	l := ledger.New(js, ledger.Config{Bucket: d.settings.Ledger})
	b, err := l.UpdateBrake(ctx, func(b admission.Brake) (admission.Brake, bool) { return b, false })
	switch {
	case err != nil:
		d.say("brake", checkFail, err.Error(), "")
	case b.On:
		d.say("brake", checkWarn, fmt.Sprintf("creates were paused by %s: %s", b.By, b.Reason), "worker resume --reason …")
	default:
		d.say("brake", checkOK, "off", "")
	}
	g, err := l.UpdateGate(ctx, func(g admission.Gate) (admission.Gate, bool) { return g, false })
	switch {
	case err != nil:
		d.say("gate", checkFail, err.Error(), "")
	case g.Shut(time.Until(g.Until)):
		d.say("gate", checkWarn, fmt.Sprintf("closed, it opens %s: %s, met by %s", ago(time.Now(), g.Until), g.Reason, g.Source), "it opens by itself")
	default:
		d.say("gate", checkOK, "open", "")
	}
}

// api examines HostUp and the key, by reading.
func (d *doctor) api(ctx context.Context) {
	tokens, err := d.settings.tokens()
	if err != nil {
		d.say("api-key", checkFail, err.Error(), "HOSTUP_API_TOKEN_FILE")
		return
	}
	client, err := hostup.New(hostup.Config{BaseURL: d.settings.APIURL, AllowHTTP: d.settings.AllowHTTP, Token: tokens, ReadTimeout: d.settings.ReadTimeout, UserAgent: "deploy-worker/" + version})
	if err != nil {
		d.say("api", checkFail, err.Error(), "HOSTUP_API_URL")
		return
	}
	defer client.Close()
	limits, err := client.Limits(ctx)
	if err != nil {
		fix := "is HOSTUP_API_URL right, and can this machine reach it?"
		if he, ok := errors.AsType[*hostup.Error](err); ok && he.Auth() {
			fix = "a key with the scopes read:vm and write:billing (cloud.hostup.se/api-management)"
		}
		d.say("api", checkFail, err.Error(), fix)
		return
	}
	d.say("api", checkOK, "the key may read the account's limits", "")
	room := limits.Remaining
	status, fix := checkOK, ""
	if room.Instances < 1 || room.CPUCores < 1 || room.MemoryGB < 1 {
		status, fix = checkWarn, "delete servers, or ask HostUp for higher limits; WORKER_LIMIT_POLICY=wait keeps orders meanwhile"
	}
	d.say("limits", status, fmt.Sprintf("left: %d servers, %d cores, %d GB memory, %d GB storage", room.Instances, room.CPUCores, room.MemoryGB, room.StorageGB), fix)
	o, err := client.Options(ctx)
	switch {
	case err != nil:
		d.say("deploy-gate", checkFail, err.Error(), "")
	case !o.CanDeploy:
		d.say("deploy-gate", checkWarn, "the account may not deploy: "+strings.Join(append([]string{o.Reason}, o.BlockerReasons...), ", "), "see the control panel")
	default:
		d.say("deploy-gate", checkOK, "the account may deploy", "")
	}
}
