package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/hostup/deploy-worker/internal/broker/brokertest"
	"github.com/hostup/deploy-worker/internal/simulator"
)

// replace puts a file in the place of another as operators and Kubernetes do: in
// one step.
func replace(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t}
	der, key := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true})
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = cert, key
	return a
}

// sign makes a key and a certificate for it, signed by a, or by itself if a has
// none yet.
func (a *authority) sign(template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// ca is the authority's own certificate.
func (a *authority) ca() []byte { return block("CERTIFICATE", a.cert.Raw) }

// issue writes a certificate and its key in place of those that are there.
func (a *authority) issue(cert, key string, use x509.ExtKeyUsage) {
	a.t.Helper()
	der, priv := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "nats"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use},
	})
	raw, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		a.t.Fatal(err)
	}
	replace(a.t, key, block("PRIVATE KEY", raw))
	replace(a.t, cert, block("CERTIFICATE", der))
}

// certificates are all files of a server with TLS and of one client.
type certificates struct {
	dir string
	env map[string]string // what deploy/nats-tls.conf wants
}

func (c *certificates) path(name string) string { return filepath.Join(c.dir, name) }

// issueAll writes certificates for everybody, signed by a, who is trusted by
// all; those who signed before are trusted no longer.
func (c *certificates) issueAll(a *authority) {
	a.t.Helper()
	replace(a.t, c.path("ca.pem"), a.ca())
	a.issue(c.path("server.pem"), c.path("server.key"), x509.ExtKeyUsageServerAuth)
	a.issue(c.path("client.pem"), c.path("client.key"), x509.ExtKeyUsageClientAuth)
}

func newCertificates(t *testing.T) *certificates {
	t.Helper()
	c := &certificates{dir: t.TempDir()}
	c.env = passwords()
	c.env["DEPLOY_NATS_CERT"], c.env["DEPLOY_NATS_KEY"], c.env["DEPLOY_NATS_CA"] = c.path("server.pem"), c.path("server.key"), c.path("ca.pem")
	c.issueAll(newAuthority(t, "first"))
	return c
}

// as are the options of a connection.
func (c *certificates) as(user string) []nats.Option {
	return append(as(user), nats.RootCAs(c.path("ca.pem")), nats.ClientCert(c.path("client.pem"), c.path("client.key")))
}

func (c *certificates) asEnv(user string) []string {
	return append(asEnv(user), "NATS_CA="+c.path("ca.pem"), "NATS_CERT="+c.path("client.pem"), "NATS_KEY="+c.path("client.key"))
}

// tlsConf is nats.conf as its comment says for TLS, with the files that we ship.
func tlsConf(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"nats.conf", "nats-accounts.conf", "nats-tls.conf"} {
		text, err := os.ReadFile(deployFile(name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "nats.conf" {
			text = append(text, "include nats-tls.conf\n"...)
		}
		replace(t, filepath.Join(dir, name), text)
	}
	return filepath.Join(dir, "nats.conf")
}

// tlsWorld is a world around a server with TLS, set up by its operator.
func tlsWorld(t *testing.T, cfg simulator.Config) (*world, *natsd, *certificates) {
	t.Helper()
	takeSlot(t)
	c := newCertificates(t)
	n := startNATS(t, tlsConf(t), c.env)
	w := newWorldAt(t, cfg, &brokertest.Server{URL: "tls://127.0.0.1:" + n.port}, c.as("operator")...)
	w.impatient()
	delete(w.env, "WORKER_PROVISION")
	if r := command(t, w.with(c.asEnv("operator")...), "setup"); r.code != exitDone {
		t.Fatalf("setup ended with %d: %s", r.code, r.err)
	}
	return w, n, c
}

// The doctor says what is wrong with TLS, and nobody comes in without a
// certificate.
func TestShippedTLS(t *testing.T) {
	t.Parallel()

	w, _, c := tlsWorld(t, simulator.Config{})
	doctored(t, w, c.asEnv("worker")...).only(t, "with a certificate", "durability")
	p := w.worker(c.asEnv("worker")...)
	w.place(order("k", "web-1"))
	w.created("k")
	w.permitted(p.err.String())
	d := doctored(t, w, append(asEnv("worker"), "NATS_CA="+c.path("ca.pem"))...)
	equal(t, "without a certificate of its own", d.checks["nats"].Status, checkFail)
	d = doctored(t, w, asEnv("worker")...)
	equal(t, "without the authority", d.checks["nats"].Status, checkFail)
}

// accountsText is deploy/nats-accounts.conf with passwords in it.
func accountsText(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(deployFile("nats-accounts.conf"))
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`\$DEPLOY_NATS_[A-Z]+`).ReplaceAllString(string(text), "secret")
}

// nkey makes a pair of keys for a user, and a file with the seed.
func nkey(t *testing.T) (public, seedFile string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err = pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return public, file(t, "user.nk", string(seed))
}

func seedOption(t *testing.T, seedFile string) nats.Option {
	t.Helper()
	o, err := nats.NkeyOptionFromSeed(seedFile)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// With nkeys in place of the passwords the same lists are in force.
func TestShippedWithNKeys(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	dir := t.TempDir()
	text := accountsText(t)
	seeds := make(map[string]string)
	for _, user := range []string{"worker", "publisher", "reader", "operator"} {
		public, seed := nkey(t)
		seeds[user] = seed
		with := strings.Replace(text, "user: "+user+", password: secret", "nkey: "+public, 1)
		if with == text {
			t.Fatalf("%s is not in the file", user)
		}
		text = with
	}
	server, err := os.ReadFile(deployFile("nats.conf"))
	if err != nil {
		t.Fatal(err)
	}
	replace(t, filepath.Join(dir, "nats.conf"), server)
	replace(t, filepath.Join(dir, "nats-accounts.conf"), []byte(text))
	n := startNATS(t, filepath.Join(dir, "nats.conf"), nil)
	w := newWorldAt(t, simulator.Config{}, n.at(), seedOption(t, seeds["operator"]), nats.CustomInboxPrefix("_INBOX_operator"))
	works(t, w, func(user string) []string {
		return []string{"NATS_NKEY=" + seeds[user], "NATS_INBOX_PREFIX=_INBOX_" + user}
	}, func(user string) []nats.Option {
		return []nats.Option{seedOption(t, seeds[user]), nats.CustomInboxPrefix("_INBOX_" + user)}
	})
}

// works sets a broker up, asks the doctor, places an order, has a worker do it,
// each with its own rights, and a reader see it.
func works(t *testing.T, w *world, as func(user string) []string, options func(user string) []nats.Option) {
	t.Helper()
	delete(w.env, "WORKER_PROVISION")
	run := func(user string, args ...string) string {
		t.Helper()
		r := command(t, w.with(as(user)...), args...)
		equal(t, fmt.Sprintf("exit code of %v as %s", args, user), r.code, exitDone)
		w.permitted(r.err)
		return r.out
	}
	run("operator", "setup", "--reader", "reader")
	doctored(t, w, as("worker")...).only(t, "the doctor", "durability")
	p := w.worker(as("worker")...)
	_, orders := brokertest.Connect(t, w.srv, options("publisher")...)
	if ack, err := orders.Publish(t.Context(), "deploy.requested", jsonOf(t, order("k", "web-1"))); err != nil || ack.Stream != "DEPLOY" {
		t.Fatalf("an order by the publisher: %v, %v", ack, err)
	}
	w.created("k")
	w.permitted(p.err.String())
	if out := run("reader", "events", "--reader", "reader", "--count", "1"); !strings.Contains(out, "provisioning") {
		t.Errorf("the reader sees %s", out)
	}
	refuses(t, w.srv, "reader", options("reader"), []string{"$KV.deploy-ledger.ctl.brake", "deploy.requested"}, []string{"_INBOX_worker.>"})
}
