package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// signed is a server whose accounts are signed, as nsc makes them, with the
// lists of nats-accounts.conf.
type signed struct {
	t       *testing.T
	dir     string
	account *jwt.AccountClaims
	orders  *jwt.AccountClaims       // of who orders
	pairs   map[string]nkeys.KeyPair // of the accounts, by the list of a user
	op      nkeys.KeyPair
	opToken string
	system  *jwt.AccountClaims
	lists   map[string]jwt.UserPermissionLimits
}

func newSigned(t *testing.T) *signed {
	t.Helper()
	s := &signed{t: t, dir: t.TempDir(), lists: make(map[string]jwt.UserPermissionLimits)}
	var public string
	s.op, public = s.keys(nkeys.PrefixByteOperator)
	operator := jwt.NewOperatorClaims(public)
	var system string
	_, system = s.keys(nkeys.PrefixByteAccount)
	s.system = jwt.NewAccountClaims(system)
	operator.SystemAccount = system
	s.opToken = s.encode(operator, s.op)
	pair, public := s.keys(nkeys.PrefixByteAccount)
	s.account = jwt.NewAccountClaims(public)
	s.account.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1}
	s.readLists()
	s.pairs = map[string]nkeys.KeyPair{"worker": pair, "reader": pair, "operator": pair}
	s.pairs["publisher"], public = s.keys(nkeys.PrefixByteAccount)
	s.orders = jwt.NewAccountClaims(public)
	for _, subject := range s.lists["publisher"].Pub.Allow {
		s.account.Exports.Add(&jwt.Export{Subject: jwt.Subject(subject), Type: jwt.Service})
		s.orders.Imports.Add(&jwt.Import{Account: s.account.Subject, Subject: jwt.Subject(subject), Type: jwt.Service})
	}
	s.write()
	return s
}

func (s *signed) keys(prefix nkeys.PrefixByte) (nkeys.KeyPair, string) {
	s.t.Helper()
	pair, err := nkeys.CreatePair(prefix)
	if err != nil {
		s.t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		s.t.Fatal(err)
	}
	return pair, public
}

func (s *signed) encode(c jwt.Claims, by nkeys.KeyPair) string {
	s.t.Helper()
	token, err := c.Encode(by)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// readLists takes the lists out of the file that we ship.
func (s *signed) readLists() {
	s.t.Helper()
	parsed, err := conf.Parse(accountsText(s.t))
	if err != nil {
		s.t.Fatal(err)
	}
	in := func(v any, path ...string) any {
		for _, p := range path {
			m, ok := v.(map[string]any)
			if !ok {
				s.t.Fatalf("no %v in %v", path, v)
			}
			v = m[p]
		}
		return v
	}
	words := func(v any) (list jwt.StringList) {
		for _, word := range v.([]any) {
			list.Add(fmt.Sprint(word))
		}
		return list
	}
	users := slices.Concat(in(parsed, "accounts", "DEPLOY", "users").([]any), in(parsed, "accounts", "ORDERS", "users").([]any))
	for _, user := range users {
		var limits jwt.UserPermissionLimits
		limits.Limits = jwt.Limits{UserLimits: jwt.UserLimits{}, NatsLimits: jwt.NatsLimits{Subs: jwt.NoLimit, Data: jwt.NoLimit, Payload: jwt.NoLimit}}
		limits.Pub.Allow = words(in(user, "permissions", "publish", "allow"))
		limits.Sub.Allow = words(in(user, "permissions", "subscribe", "allow"))
		s.lists[fmt.Sprint(in(user, "user"))] = limits
	}
	if len(s.lists) != 4 {
		s.t.Fatalf("%d users: %v", len(s.lists), s.lists)
	}
}

func (s *signed) conf() string { return filepath.Join(s.dir, "nats.conf") }

// write writes the configuration of the server with the account as it is now.
func (s *signed) write() {
	s.t.Helper()
	text, err := os.ReadFile(deployFile("nats.conf"))
	if err != nil {
		s.t.Fatal(err)
	}
	replace(s.t, s.conf(), text)
	replace(s.t, filepath.Join(s.dir, "nats-accounts.conf"), fmt.Appendf(nil,
		"operator: %s\nresolver: MEMORY\nresolver_preload: {\n  %s: %s\n  %s: %s\n  %s: %s\n}\n", s.opToken,
		s.orders.Subject, s.encode(s.orders, s.op), s.account.Subject, s.encode(s.account, s.op), s.system.Subject, s.encode(s.system, s.op)))
}

// creds makes a user with the rights of one of the lists, and returns its public
// key and its credentials.
func (s *signed) creds(user string) (public string, text []byte) {
	s.t.Helper()
	pair, public := s.keys(nkeys.PrefixByteUser)
	claims := jwt.NewUserClaims(public)
	claims.Name, claims.UserPermissionLimits = user, s.lists[user]
	seed, err := pair.Seed()
	if err != nil {
		s.t.Fatal(err)
	}
	text, err = jwt.FormatUserConfig(s.encode(claims, s.pairs[user]), seed)
	if err != nil {
		s.t.Fatal(err)
	}
	return public, text
}

// The same with signed accounts and credentials files.
func TestShippedWithCredentials(t *testing.T) {
	t.Parallel()

	takeSlot(t)
	s := newSigned(t)
	files := make(map[string]string)
	for user := range s.lists {
		_, text := s.creds(user)
		files[user] = file(t, "user.creds", string(text))
	}
	n := startNATS(t, s.conf(), nil)
	w := newWorldAt(t, simulator.Config{}, n.at(), nats.UserCredentials(files["operator"]), nats.CustomInboxPrefix("_INBOX_operator"))
	works(t, w, func(user string) []string {
		return []string{"NATS_CREDS=" + files[user], "NATS_INBOX_PREFIX=_INBOX_" + user}
	}, func(user string) []nats.Option {
		return []nats.Option{nats.UserCredentials(files[user]), nats.CustomInboxPrefix("_INBOX_" + user)}
	})
}
