package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/broker"
	"github.com/hostup/deploy-worker/internal/ledger"
)

// topology examines streams, consumers and ledger.
func (d *doctor) topology(ctx context.Context, js jetstream.JetStream, denied map[string]bool) {
	top := d.settings.topology()
	ctx, cancel := context.WithTimeout(ctx, 2*stepTimeout)
	defer cancel()
	for _, c := range top.Survey(ctx, js, denied) {
		d.object(top, c)
	}
	streams := make(map[string]*jetstream.StreamInfo)
	for _, want := range top.Streams() {
		if denied[broker.StreamInfo(want.Name)] {
			continue
		}
		if s, err := js.Stream(ctx, want.Name); err == nil {
			streams[want.Name] = s.CachedInfo()
			d.durability(s.CachedInfo())
		}
	}
	d.remembering(streams[top.Stream], streams["KV_"+top.Bucket])
	for _, want := range top.Consumers() {
		if denied[broker.ConsumerInfo(top.Stream, want.Durable)] {
			continue
		}
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

// object compares one of them with what the worker needs. A difference is a
// failure when an order may be lost, bought twice or never taken because of it.
func (d *doctor) object(top broker.Topology, c broker.Change) {
	name := c.Kind + " " + c.Name
	switch {
	case c.Err != nil:
		d.say(name, checkFail, c.Err.Error(), "`nats stream info` shows whether it has a leader")
	case c.Action == broker.Create && c.Name == top.BatchConsumer():
		d.say(name, checkWarn, "does not exist: orders on "+top.BatchSubject()+" are not taken", "worker setup")
	case c.Action == broker.Create:
		d.say(name, checkFail, "does not exist", "worker setup")
	case c.Action == broker.Update:
		status := checkWarn
		var fields, fixes []string
		movable := false
		for _, f := range c.Fields {
			fields = append(fields, fmt.Sprintf("%s is %s, wanted %s: %s", f.Name, f.Have, f.Want, f.Why))
			if f.Unsafe {
				status = checkFail
			}
			if f.Fixed != "" {
				fixes = append(fixes, f.Name+": "+f.Fixed)
			}
			movable = movable || f.Fixed == ""
		}
		if movable {
			fixes = append([]string{"worker setup --dry-run, then worker setup"}, fixes...)
		}
		d.say(name, status, strings.Join(fields, "\n"), strings.Join(fixes, "; "))
	default:
		d.okf(name, "as the worker needs it")
	}
}

// durability examines what a loss of power can take back.
func (d *doctor) durability(info *jetstream.StreamInfo) {
	check := "durability " + info.Config.Name
	if n := info.Config.Replicas; n < enoughReplicas {
		if d.synced {
			d.okf(check, "replicas: %d, and every server writes to the disk at once", n)
			return
		}
		d.say(check, checkWarn, fmt.Sprintf("replicas: %d; a loss of power takes back what was confirmed since the last sync (sync_interval, 2 min unless set)", n),
			"`worker setup --replicas 3` on three servers with separate power; or sync_interval: always, which the doctor sees with --nats-monitor")
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
	d.okf(check, "%d replicas", info.Config.Replicas)
}

// remembering examines whether the ledger outlives what may come again.
func (d *doctor) remembering(requests, records *jetstream.StreamInfo) {
	if records == nil {
		return // said above
	}
	const check, fix = "ledger-age", "WORKER_LEDGER_TTL above WORKER_DEADLINE and the request stream's max_age, then worker setup"
	kept, s := records.Config.MaxAge, d.settings
	age := kept.String()
	if kept == 0 {
		age = "ever"
	}
	switch {
	case kept > 0 && kept <= s.Deadline:
		d.say(check, checkFail, fmt.Sprintf("records are kept for %s, but a request may wait for %s: a duplicate of it could buy again", age, s.Deadline), fix)
	case kept == 0 || requests == nil || requests.Config.Retention == jetstream.WorkQueuePolicy:
		d.okf(check, "records are kept for %s, a request waits for %s at most", age, s.Deadline)
	case requests.Config.MaxAge == 0:
		d.say(check, checkWarn, fmt.Sprintf("records are kept for %s, but requests stay in the stream for ever: a consumer that is made anew would buy again what is older", age), "give the stream a max_age below that, or work-queue retention; and never remove the consumer")
	case requests.Config.MaxAge >= kept:
		d.say(check, checkFail, fmt.Sprintf("records are kept for %s, but requests stay in the stream for %s: one that is delivered again late could buy again", age, requests.Config.MaxAge), fix)
	default:
		d.okf(check, "records are kept for %s, requests for %s", age, requests.Config.MaxAge)
	}
}

// shared examines the rows that the fleet shares.
func (d *doctor) shared(ctx context.Context, js jetstream.JetStream, denied map[string]bool) {
	bucket := "KV_" + d.settings.Ledger
	if denied[jetstream.DefaultAPIPrefix+"STREAM.MSG.GET."+bucket] {
		return // said above
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if !denied[broker.StreamInfo(bucket)] {
		if _, err := js.Stream(ctx, bucket); err != nil {
			return // said above
		}
	}
	const unreadable = "see the ledger's stream: `nats stream info " // + its name
	l := ledger.New(js, ledger.Config{Bucket: d.settings.Ledger})
	b, err := l.UpdateBrake(ctx, func(b admission.Brake) (admission.Brake, bool) { return b, false })
	switch {
	case err != nil:
		d.say("brake", checkFail, err.Error(), unreadable+bucket+"`")
	case b.On:
		d.say("brake", checkWarn, fmt.Sprintf("creates were paused %s by %s: %s", ago(time.Now(), b.At), b.By, b.Reason), "worker resume --reason …")
	default:
		d.okf("brake", "off")
	}
	g, err := l.UpdateGate(ctx, func(g admission.Gate) (admission.Gate, bool) { return g, false })
	switch {
	case err != nil:
		d.say("gate", checkFail, err.Error(), unreadable+bucket+"`")
	case g.Shut(time.Until(g.Until)):
		d.say("gate", checkWarn, fmt.Sprintf("closed, it opens %s: %s, met by %s", ago(time.Now(), g.Until), g.Reason, g.Source), "it opens by itself")
	default:
		d.okf("gate", "open")
	}
}
