package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hostup/deploy-worker/internal/broker"
)

// nats examines the broker and what is on it.
func (d *doctor) nats(ctx context.Context) {
	nc, js, err := broker.Connect(d.settings.options())
	if err != nil {
		d.say("nats", checkFail, err.Error(), d.connectFix(err))
		return
	}
	defer nc.Close()
	d.okf("nats", "connected to %s", nc.ConnectedUrlRedacted())
	d.version(nc)
	denied, silent := d.permissions(ctx, nc)
	if silent {
		return // nothing else would be answered either
	}
	if !d.jetstream(ctx, js, denied) {
		return
	}
	d.synced = d.disks(ctx, d.monitor)
	d.topology(ctx, js, denied)
	d.shared(ctx, js, denied)
}

// connectFix says what to do about a connection that was not made.
func (d *doctor) connectFix(err error) string {
	s := d.settings
	var used []string
	for _, v := range []struct{ variable, value string }{
		{"NATS_CONTEXT", s.NATSContext},
		{"NATS_CREDS", s.NATSCreds},
		{"NATS_NKEY", s.NATSNKey},
		{"NATS_USER", s.NATSUser},
		{"NATS_CERT", s.NATSCert},
	} {
		if v.value != "" {
			used = append(used, v.variable)
		}
	}
	from := "none are given: set NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, or NATS_CONTEXT"
	if len(used) > 0 {
		from = "they come from " + strings.Join(used, ", ")
	}
	var unknownCA x509.UnknownAuthorityError
	var wrongHost x509.HostnameError
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return "let " + strings.Join(used, ", ") + " or NATS_CA name files that the worker may read"
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return "the server wants other credentials; " + from
	case errors.As(err, &unknownCA):
		return "let NATS_CA name the certificate authority of the servers"
	case errors.As(err, &wrongHost):
		return "use a host name in NATS_URL that is in the server's certificate"
	case errors.Is(err, nats.ErrSecureConnRequired):
		return "the server wants TLS: NATS_URL=tls://… and NATS_CA"
	case s.NATSContext != "":
		return "see `nats context info " + s.NATSContext + "`; is that server up, and can this machine reach it?"
	default:
		return "start a server with `nats-server -js`, or set NATS_URL and the credentials"
	}
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
	d.okf("nats-version", "%s", have)
}

// permissions tries what run does on the broker. It returns the subjects that
// are denied, and whether no answer can be received at all.
func (d *doctor) permissions(ctx context.Context, nc *nats.Conn) (denied map[string]bool, silent bool) {
	denied = make(map[string]bool)
	needs := d.settings.topology().Needs()
	silent = true
	fine := 0
	var lines []examination
	for i, err := range broker.Try(ctx, nc, needs) {
		n := needs[i]
		if err == nil {
			fine++
			silent = false
			continue
		}
		denied[n.Subject] = true
		line := examination{Check: "permission " + n.Subject, Status: checkFail, Detail: "may not " + n.What + ": " + err.Error(), Fix: fmt.Sprintf("allow this user to publish on %q", n.Subject)}
		if n.Optional {
			line.Status, line.Detail = checkWarn, line.Detail+"; run does without, the doctor sees less"
		}
		if !errors.Is(err, broker.ErrDenied) {
			line.Fix = "is JetStream on for this account, and has the stream a leader? `nats server report jetstream`"
		}
		lines = append(lines, line)
	}
	if silent {
		s := d.settings
		d.say("permissions", checkFail, "nothing that run does on the broker is answered; the first: "+lines[0].Detail,
			fmt.Sprintf("allow this user to subscribe to %s, and to publish on $JS.API.>, $JS.ACK.>, %s.> and $KV.%s.>", inboxes(s.NATSInbox), s.SubjectPrefix, s.Ledger))
		return denied, true
	}
	d.okf("permissions", "%d of %d things that run does on the broker were tried and are permitted", fine, len(needs))
	d.found = append(d.found, lines...)
	return denied, false
}

// inboxes are the subjects on which answers are received.
func inboxes(prefix string) string {
	if prefix == "" {
		return "_INBOX.> (or give it one that it may: NATS_INBOX_PREFIX)"
	}
	return prefix + ".>"
}

// jetstream reports whether JetStream is there, as far as it may be asked.
func (d *doctor) jetstream(ctx context.Context, js jetstream.JetStream, denied map[string]bool) bool {
	if denied[jetstream.DefaultAPIPrefix+"INFO"] {
		return true // said above
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	info, err := js.AccountInfo(ctx)
	if err != nil {
		d.say("jetstream", checkFail, err.Error(), "start the server with `nats-server -js`, or enable JetStream for this account")
		return false
	}
	if used, most := info.Store, info.Limits.MaxStore; most > 0 && float64(used) >= 0.9*float64(most) {
		d.say("jetstream", checkWarn, fmt.Sprintf("%d of %d bytes of storage are used: at the end nothing can be stored, and work stops", used, most), "give the account more, or its old streams a max_age")
		return true
	}
	d.okf("jetstream", "on")
	return true
}
