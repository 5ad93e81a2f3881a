package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// signed is a server whose accounts are signed, as nsc makes them, with the
// lists, exports and imports of nats-accounts.conf.
type signed struct {
	t        *testing.T
	dir      string
	shipped  shippedAccounts
	accounts map[string]*jwt.AccountClaims
	account  *jwt.AccountClaims // DEPLOY, of the worker
	pairs    map[string]nkeys.KeyPair
	op       nkeys.KeyPair
	opToken  string
	lists    map[string]jwt.UserPermissionLimits
}

// shippedAccounts are the accounts of nats-accounts.conf, by their names.
type shippedAccounts map[string]struct {
	Users []struct {
		User        string
		Permissions struct{ Publish, Subscribe struct{ Allow []string } }
	}
	Exports []struct {
		Service, Stream string
		ResponseType    string `json:"response_type"`
	}
	Imports []struct {
		Service, Stream struct{ Account, Subject string }
	}
}

func accountsShipped(t *testing.T) (all shippedAccounts) {
	t.Helper()
	parsed, err := conf.Parse(accountsText(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(jsonOf(t, parsed["accounts"]), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func newSigned(t *testing.T) *signed {
	t.Helper()
	s := &signed{
		t: t, dir: t.TempDir(), shipped: accountsShipped(t), accounts: make(map[string]*jwt.AccountClaims),
		pairs: make(map[string]nkeys.KeyPair), lists: make(map[string]jwt.UserPermissionLimits),
	}
	var public string
	s.op, public = s.keys(nkeys.PrefixByteOperator)
	operator := jwt.NewOperatorClaims(public)
	for name := range s.shipped {
		var public string
		s.pairs[name], public = s.keys(nkeys.PrefixByteAccount)
		s.accounts[name] = jwt.NewAccountClaims(public)
	}
	s.account = s.accounts["DEPLOY"]
	s.account.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1}
	operator.SystemAccount = s.accounts["SYS"].Subject
	s.opToken = s.encode(operator, s.op)
	for name := range s.shipped {
		s.share(name)
	}
	s.write()
	return s
}

// share takes over what an account exports and imports, and what its users may.
func (s *signed) share(name string) {
	s.t.Helper()
	account := s.accounts[name]
	for _, e := range s.shipped[name].Exports {
		export := &jwt.Export{Subject: jwt.Subject(e.Stream), Type: jwt.Stream}
		if e.Service != "" {
			export = &jwt.Export{Subject: jwt.Subject(e.Service), Type: jwt.Service}
		}
		if e.ResponseType == "stream" {
			export.ResponseType = jwt.ResponseTypeStream
		}
		account.Exports.Add(export)
	}
	for _, i := range s.shipped[name].Imports {
		from, kind := i.Stream, jwt.Stream
		if i.Service.Subject != "" {
			from, kind = i.Service, jwt.Service
		}
		account.Imports.Add(&jwt.Import{Account: s.accounts[from.Account].Subject, Subject: jwt.Subject(from.Subject), Type: kind})
	}
	for _, u := range s.shipped[name].Users {
		var limits jwt.UserPermissionLimits
		limits.Limits = jwt.Limits{UserLimits: jwt.UserLimits{}, NatsLimits: jwt.NatsLimits{Subs: jwt.NoLimit, Data: jwt.NoLimit, Payload: jwt.NoLimit}}
		limits.Pub.Allow = u.Permissions.Publish.Allow
		limits.Sub.Allow = u.Permissions.Subscribe.Allow
		s.lists[u.User] = limits
	}
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

func (s *signed) conf() string { return filepath.Join(s.dir, "nats.conf") }

// write writes the configuration of the server with the account as it is now.
func (s *signed) write() {
	s.t.Helper()
	text, err := os.ReadFile(deployFile("nats.conf"))
	if err != nil {
		s.t.Fatal(err)
	}
	replace(s.t, s.conf(), text)
	accounts := fmt.Appendf(nil, "operator: %s\nresolver: MEMORY\nresolver_preload: {\n", s.opToken)
	for _, account := range s.accounts {
		accounts = fmt.Appendf(accounts, "  %s: %s\n", account.Subject, s.encode(account, s.op))
	}
	replace(s.t, filepath.Join(s.dir, "nats-accounts.conf"), append(accounts, "}\n"...))
}

// creds makes a user with the rights of one of the lists, and returns its public
// key and its credentials.
func (s *signed) creds(user string) (public string, text []byte) {
	s.t.Helper()
	var account nkeys.KeyPair
	for name, a := range s.shipped {
		for _, u := range a.Users {
			if u.User == user {
				account = s.pairs[name]
			}
		}
	}
	pair, public := s.keys(nkeys.PrefixByteUser)
	claims := jwt.NewUserClaims(public)
	claims.Name, claims.UserPermissionLimits = user, s.lists[user]
	seed, err := pair.Seed()
	if err != nil {
		s.t.Fatal(err)
	}
	text, err = jwt.FormatUserConfig(s.encode(claims, account), seed)
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
