package main

import (
	"context"
	"encoding/json"
	"net"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hostup/deploy-worker/internal/ledger"
	"github.com/hostup/deploy-worker/internal/provision"
)

// readerCommands put things on the broker for the readers to find:
//
//	record FILE          stores every line as a record of the ledger
//	row NAME JSON        stores a row that the fleet shares
//	publish SUBJECT JSON [HEADER=VALUE]…
//	freeport NAME        sets the variable to an address where nobody listens
func readerCommands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"freeport": func(ts *testscript.TestScript, _ bool, args []string) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			ts.Check(err)
			ts.Setenv(args[0], l.Addr().String())
			ts.Check(l.Close())
		},
		"record": func(ts *testscript.TestScript, _ bool, args []string) {
			onBroker(ts, func(ctx context.Context, js jetstream.JetStream) {
				l := ledger.New(js, ledger.Config{Bucket: "deploy-ledger"})
				for line := range strings.Lines(ts.ReadFile(args[0])) {
					var r provision.Record
					ts.Check(json.Unmarshal([]byte(line), &r))
					ts.Check(l.Store(ctx, &r))
				}
			})
		},
		"row": func(ts *testscript.TestScript, _ bool, args []string) {
			onBroker(ts, func(ctx context.Context, js jetstream.JetStream) {
				_, err := js.Publish(ctx, "$KV.deploy-ledger.ctl."+args[0], []byte(args[1]))
				ts.Check(err)
			})
		},
		"publish": func(ts *testscript.TestScript, _ bool, args []string) {
			m := nats.NewMsg(args[0])
			m.Data = []byte(args[1])
			for _, h := range args[2:] {
				name, value, _ := strings.Cut(h, "=")
				m.Header[name] = []string{value}
			}
			onBroker(ts, func(ctx context.Context, js jetstream.JetStream) {
				_, err := js.PublishMsg(ctx, m)
				ts.Check(err)
			})
		},
	}
}

// onBroker works on the script's broker.
func onBroker(ts *testscript.TestScript, work func(context.Context, jetstream.JetStream)) {
	nc, err := nats.Connect(ts.Getenv("NATS_URL"), nats.Timeout(patience))
	ts.Check(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	work(ctx, js)
}
