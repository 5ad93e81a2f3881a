package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
	"github.com/hostup/deploy-worker/internal/hostup"
)

// What the two clocks may differ by. Beyond farApart the worker's own rules for
// whose server it is do not hold.
const (
	drifting = 30 * time.Second
	farApart = 2 * time.Minute
)

// keys is where an API key comes from.
const keys = "cloud.hostup.se/api-management"

// api examines HostUp and the key, by reading.
func (d *doctor) api(ctx context.Context) {
	tokens, err := d.settings.tokens()
	if err != nil {
		d.say("api-key", checkFail, err.Error(), "HOSTUP_API_TOKEN_FILE, with a key of "+keys)
		return
	}
	var apart []time.Duration
	client, err := hostup.New(hostup.Config{
		BaseURL: d.settings.APIURL, AllowHTTP: d.settings.AllowHTTP, Token: tokens, ReadTimeout: d.settings.ReadTimeout,
		UserAgent: "deploy-worker/" + version, OnClock: func(ahead time.Duration) { apart = append(apart, ahead) },
	})
	if err != nil {
		d.say("api", checkFail, err.Error(), "HOSTUP_API_URL")
		return
	}
	defer client.Close()
	limits, err := client.Limits(ctx)
	if he, ok := errors.AsType[*hostup.Error](err); ok && he.StatusCode == 0 {
		d.say("api", checkFail, err.Error(), "is HOSTUP_API_URL right, and can this machine reach it? no proxy is used")
		return
	}
	d.okf("api", "%s answers", d.settings.APIURL)
	d.clock(apart)
	if he, ok := errors.AsType[*hostup.Error](err); ok && he.Auth() {
		d.say("api-key", checkFail, err.Error(), "a key of "+keys+" with the scopes read:vm and write:billing, whose IP restriction, if it has one, names this machine")
		return
	}
	d.okf("api-key", "accepted")
	refused := d.read("limits", err)
	if err == nil {
		d.room(limits)
		d.prices(limits.Prices)
	}
	o, err := client.Options(ctx)
	refused = d.read("deploy-gate", err) || refused
	if err == nil {
		d.mayDeploy(o)
	}
	trial, err := client.TryNames(ctx)
	refused = d.read("look-up", err) || refused
	if err == nil {
		d.lookUp(trial)
	}
	if refused {
		d.say("scope read:vm", checkFail, "a read was answered 403", "give the key the scope read:vm at "+keys)
	} else {
		d.okf("scope read:vm", "limits, options and servers were asked for, none was refused")
	}
	d.okf("scope write:billing", "not tried: only an order would prove it. Without it the first one fails as refused, and nothing is bought")
}

// read says why a read failed, and returns whether the key was refused for it.
func (d *doctor) read(check string, err error) (refused bool) {
	he, ok := errors.AsType[*hostup.Error](err)
	switch {
	case err == nil:
		return false
	case ok && he.StatusCode == http.StatusForbidden:
		d.say(check, checkFail, err.Error(), "give the key the scope read:vm at "+keys)
		return true
	case ok && he.Throttled():
		d.say(check, checkWarn, err.Error(), "run the doctor again when the rate limit has room; workers wait by themselves")
	default:
		d.say(check, checkFail, err.Error(), "run the doctor again; if it stays, ask HostUp, with the request id")
	}
	return false
}

// clock compares HostUp's clock with this machine's. Each answer tells it to the
// second; the first one may have taken long.
func (d *doctor) clock(apart []time.Duration) {
	if len(apart) == 0 {
		d.say("clock", checkWarn, "HostUp's answers have no Date to compare with", "see that this machine's clock is kept right: timedatectl status")
		return
	}
	by := apart[len(apart)-1].Round(time.Second)
	detail := fmt.Sprintf("HostUp's clock and this machine's differ by %s", by.Abs())
	switch {
	case by.Abs() >= farApart:
		d.say("clock", checkFail, detail+": a server that was bought is dated by HostUp, and with two minutes or more one's own cannot be told from others", "set this machine's clock: timedatectl set-ntp true")
	case by.Abs() >= drifting:
		d.say("clock", checkWarn, detail+"; from 2m on a server's date proves nothing", "set this machine's clock: timedatectl set-ntp true")
	default:
		d.okf("clock", "%s", detail)
	}
}

func (d *doctor) room(l hostup.Limits) {
	left := func(remaining, most int64) string {
		if remaining >= hostup.Unlimited/2 {
			return "any number of"
		}
		return fmt.Sprintf("%d of %d", remaining, most)
	}
	detail := fmt.Sprintf("left: %s servers, %s cores, %s GB memory, %s GB storage", left(l.Remaining.Instances, l.Max.Instances),
		left(l.Remaining.CPUCores, l.Max.CPUCores), left(l.Remaining.MemoryGB, l.Max.MemoryGB), left(l.Remaining.StorageGB, l.Max.StorageGB))
	if r := l.Remaining; r.Instances < 1 || r.CPUCores < 1 || r.MemoryGB < 1 || r.StorageGB < 50 {
		d.say("limits", checkWarn, detail+": the smallest server does not fit", "delete servers, or ask HostUp for higher limits; WORKER_LIMIT_POLICY=wait keeps orders meanwhile")
		return
	}
	d.okf("limits", "%s", detail)
}

func (d *doctor) prices(p admission.Prices) {
	example := p.PerHour(admission.Resources{CPUCores: 2, MemoryGB: 4, StorageGB: 80, Instances: 1})
	switch {
	case example > 0 && p.CurrencyCode != "":
		d.okf("prices", "a server of 2 cores, 4 GB and 80 GB costs %.4g %s per hour", example, p.CurrencyCode)
	case d.settings.MaxHourlyCost > 0:
		d.say("prices", checkFail, "HostUp tells no prices, so WORKER_MAX_HOURLY_COST stops nothing", "WORKER_MAX_CREATES_PER_HOUR needs no prices")
	default:
		d.say("prices", checkWarn, "HostUp tells no prices: what an order costs cannot be said beforehand", "see the control panel")
	}
}

func (d *doctor) mayDeploy(o hostup.Options) {
	if o.CanDeploy {
		detail := "the account may deploy"
		if len(o.Regions) > 0 {
			detail += " in " + strings.Join(o.Regions, ", ")
		}
		d.okf("deploy-gate", "%s", detail)
		return
	}
	why := o.BlockerReasons
	if o.Reason != "" {
		why = append([]string{o.Reason}, why...)
	}
	if len(why) == 0 {
		why = []string{"no reason is given"}
	}
	d.say("deploy-gate", checkWarn, "the account may not deploy: "+strings.Join(why, ", "), "see the control panel: orders fail with limit-exceeded until then, or wait with WORKER_LIMIT_POLICY=wait")
}

// lookUp judges whether a server is found by its name: what decides after an
// answer that was lost.
func (d *doctor) lookUp(t hostup.Trial) {
	const unsafe = ": after a lost answer a server could be bought again"
	const stop = "stop the workers (worker pause) and ask HostUp about GET /vps?name="
	switch {
	case t.Server.ID != "" && !t.Found:
		d.say("look-up", checkFail, fmt.Sprintf("%s exists and is not found by its name %q", t.Server.ID, t.Server.Name)+unsafe, stop)
	case t.Server.ID != "" && !t.Dated:
		d.say("look-up", checkWarn, t.Server.ID+" has no creation time in its details: what was bought cannot be told from what was there, and is held for a person", "ask HostUp about GET /vps/{id}/details")
	case t.Foreign > 0:
		d.say("look-up", checkWarn, fmt.Sprintf("%d servers were listed for a name that none has: the filter does not filter, and each look-up reads the whole account", t.Foreign), "ask HostUp about GET /vps?name=")
	case t.Server.ID == "":
		d.okf("look-up", "a name that no server has gives none; there is no server to look for")
	default:
		d.okf("look-up", "a name that no server has gives none, and %s is found by its name", t.Server.ID)
	}
}
