package deploy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// ends runs a service to its end, which has to be a good one, and returns what it
// wrote.
func (c *composition) ends(name string, files ...testcontainers.ContainerFile) string {
	c.t.Helper()
	ctr := c.start(name, wait.ForExit(), files...)
	if end, err := ctr.State(c.t.Context()); err != nil || end.ExitCode != 0 {
		c.t.Fatalf("%s ended with %+v, %v\n%s", name, end, err, logs(ctr))
	}
	return logs(ctr)
}

// documented does what the comment at the top of the Compose file tells people to
// do: it places the order that stands there, as the user and in the way that
// stand there, and looks at what came of it.
func (c *composition) documented(address string) {
	c.t.Helper()
	head, _, _ := strings.Cut(shipped(c.t, "compose.yaml"), "\n\n")
	head = strings.ReplaceAll(head, " \\\n#", "")
	order := regexp.MustCompile(`(?m)^#   nats --user (\w+) --password (\w+) --inbox-prefix (\w+) +req (\S+) '(.*)'$`).FindStringSubmatch(head)
	looks := regexp.MustCompile(`(?m)^#   docker compose -f deploy/compose.yaml run --rm (\w+) (.*)$`).FindAllStringSubmatch(head, -1)
	if order == nil || len(looks) == 0 {
		c.t.Fatalf("the Compose file does not say how to use it:\n%s", head)
	}
	reader := connect(c.t, address, "reader", "reader", "_INBOX_reader")
	events, err := reader.SubscribeSync("deploy.provisioning")
	if err == nil {
		err = reader.Flush()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	stored, err := connect(c.t, address, order[1], order[2], order[3]).Request(order[4], []byte(order[5]), time.Minute)
	if err != nil || !strings.Contains(string(stored.Data), `"stream":"DEPLOY"`) {
		c.t.Fatalf("the order is not stored: %v, %v", stored, err)
	}
	m, err := events.NextMsg(time.Minute)
	if err != nil || !strings.Contains(string(m.Data), `"vpsId"`) {
		c.t.Errorf("the event: %v, %v", m, err)
	}
	for _, look := range looks {
		s := *c.file.Services[look[1]]
		s.Command = strings.Fields(look[2])
		c.file.Services["look"] = &s
		if out := c.ends("look"); !strings.Contains(out, "order-1") || !strings.Contains(out, "web-01") {
			c.t.Errorf("%s says\n%s", look[0], out)
		}
	}
}

func connect(t *testing.T, address, user, password, inbox string) *nats.Conn {
	t.Helper()
	closed := make(chan struct{})
	nc, err := nats.Connect(address, nats.Timeout(time.Minute), nats.UserInfo(user, password), nats.CustomInboxPrefix(inbox), nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatalf("connect as %s: %v", user, err)
	}
	t.Cleanup(func() { nc.Close(); <-closed })
	return nc
}

// trusts shows that the worker in the image, not being root, can read the CA
// bundle there: it meets a server over TLS whose certificate is known from
// nowhere else.
func (c *composition) trusts(certificate, key []byte) {
	c.t.Helper()
	in := func(name string, text []byte) testcontainers.ContainerFile {
		return testcontainers.ContainerFile{Reader: strings.NewReader(string(text)), ContainerFilePath: "/etc/nats/" + name, FileMode: 0o644}
	}
	c.file.Services["tls"] = &service{Image: "nats", Command: []string{"-c", "/etc/nats/tls.conf"}}
	c.start("tls", wait.ForLog("Server is ready"), in("cert.pem", certificate), in("key.pem", key), in("tls.conf", []byte(
		"jetstream { store_dir: /data }\ntls { cert_file: /etc/nats/cert.pem, key_file: /etc/nats/key.pem }\n")))
	s := *c.file.Services["setup"]
	s.Command, s.Environment = []string{"setup", "--dry-run"}, map[string]string{"NATS_URL": "tls://tls:4222"}
	c.file.Services["trusting"] = &s
	c.ends("trusting")
}

// selfSigned is a certificate of a host, which signs itself, and its key.
func selfSigned(t *testing.T, host string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}
