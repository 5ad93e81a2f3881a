package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
)

// beNATS as the value of beTheWorker makes this test binary nats-server, with
// its flags, its configuration files and its signals.
const beNATS = "nats-server"

// natsMain is what the program nats-server does.
func natsMain() {
	fs := flag.NewFlagSet(beNATS, flag.ExitOnError)
	opts, err := server.ConfigureOptions(fs, os.Args[1:], server.PrintServerAndExit, fs.Usage, server.PrintTLSHelpAndDie)
	if err != nil {
		server.PrintAndDie(err.Error())
	}
	s, err := server.NewServer(opts)
	if err != nil {
		server.PrintAndDie(err.Error())
	}
	s.ConfigureLogger()
	if err := server.Run(s); err != nil {
		server.PrintAndDie(err.Error())
	}
	s.WaitForShutdown()
}

// natsd is a nats-server process with a configuration file of ours.
type natsd struct {
	*process

	t    *testing.T
	conf string
	env  map[string]string
	args []string
	dir  string
	port string
}

// passwords are what deploy/nats-accounts.conf wants in the environment.
func passwords() map[string]string {
	return map[string]string{
		"DEPLOY_NATS_WORKER": "w-secret", "DEPLOY_NATS_PUBLISHER": "p-secret", "DEPLOY_NATS_READER": "r-secret",
		"DEPLOY_NATS_OPERATOR": "o-secret", "DEPLOY_NATS_SYSTEM": "s-secret",
	}
}

// deployFile is a file that we ship.
func deployFile(name string) string { return filepath.Join("..", "..", "deploy", name) }

// startNATS runs nats-server with exactly this file, but for where it listens
// and stores.
func startNATS(t *testing.T, conf string, env map[string]string, args ...string) *natsd {
	t.Helper()
	brokertest.NeedsProcess(t)
	n := &natsd{t: t, conf: conf, env: env, args: args, dir: t.TempDir(), port: "-1"}
	n.start()
	return n
}

// start runs it, on the port that it had before.
func (n *natsd) start() {
	n.t.Helper()
	args := append([]string{
		"-c", n.conf, "-a", "127.0.0.1", "-p", n.port, "-m", "-1",
		"--ports_file_dir", n.dir,
	}, n.args...)
	env := map[string]string{beTheWorker: beNATS, "DEPLOY_NATS_STORE": filepath.Join(n.dir, "store")}
	maps.Copy(env, n.env)
	n.process = start(n.t, env, args...)
	eventually(n.t, "nats-server listens", func() bool {
		if !n.running() {
			// Somebody may have been given the port meanwhile, and gives it back.
			if !strings.Contains(n.err.String(), "address already in use") {
				n.t.Fatalf("nats-server ended with %d", n.code)
			}
			n.process = start(n.t, env, args...)
		}
		file := filepath.Join(n.dir, fmt.Sprintf("%s_%d.ports", filepath.Base(n.cmd.Path), n.cmd.Process.Pid))
		var ports struct {
			NATS []string `json:"nats"`
		}
		text, err := os.ReadFile(file)
		if err != nil || json.Unmarshal(text, &ports) != nil || len(ports.NATS) == 0 {
			return false
		}
		u, err := url.Parse(ports.NATS[0])
		if err != nil {
			n.t.Fatal(err)
		}
		n.port = u.Port()
		return true
	})
}

// restart ends it as an operator does, and starts it again.
func (n *natsd) restart() {
	n.t.Helper()
	n.signal(syscall.SIGTERM)
	n.exit()
	n.start()
}

// reload makes it read its configuration and its certificates again.
func (n *natsd) reload() {
	n.t.Helper()
	n.signal(syscall.SIGHUP)
}

// at is it as a broker of a test.
func (n *natsd) at() *brokertest.Server {
	return &brokertest.Server{URL: "nats://127.0.0.1:" + n.port}
}

// as are the options of a connection as one of the users of nats-accounts.conf.
func as(user string) []nats.Option {
	return []nats.Option{nats.UserInfo(user, user[:1]+"-secret"), nats.CustomInboxPrefix("_INBOX_" + user)}
}

// asEnv are the same for the program.
func asEnv(user string) []string {
	return []string{"NATS_USER=" + user, "NATS_PASSWORD=" + user[:1] + "-secret", "NATS_INBOX_PREFIX=_INBOX_" + user}
}
