package hostup

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

func problemBody(status int, code string) string {
	return fmt.Sprintf(`{"type":"https://developer.hostup.se/errors/%s","title":"T","status":%d,"detail":"D","code":%q,"requestId":"req_1"}`, code, status, code)
}

// TestJudgeEveryStatus walks all statuses with and without a problem document.
func TestJudgeEveryStatus(t *testing.T) {
	t.Parallel()
	bodies := map[string]func(status int) string{
		"problem":  func(s int) string { return problemBody(s, "internal_error") },
		"upstream": func(s int) string { return problemBody(s, "upstream_failed") },
		"legacy": func(int) string {
			return `{"error":"E","message":"M","code":"FAILED","requestId":"7b0c","timestamp":"2026-04-27T12:34:56Z"}`
		},
		"bare":    func(int) string { return "<html><body>Sorry</body></html>" },
		"empty":   func(int) string { return "" },
		"created": func(int) string { return createdBody },
	}
	for kind, body := range bodies {
		for status := 100; status <= 599; status++ {
			raw := body(status)
			a := judge(observation{status: status, header: http.Header{}, body: []byte(raw), sent: true})
			want := provision.Answer{Status: status}
			switch {
			case status >= 200 && status <= 299 && kind == "created":
				want.Verdict = provision.VerdictCreated
			case status == 429:
				want.Verdict = provision.VerdictThrottled
			case status == 408 || status == 425:
				want.Verdict = provision.VerdictUnknown
			case status >= 400 && status <= 499:
				want.Verdict, want.Refusal = provision.VerdictRefused, provision.RefusalFinal
				fromAPI := kind == "problem" || kind == "upstream" || kind == "legacy"
				if status == 401 || (status == 403 && !fromAPI) {
					want.Refusal = provision.RefusalAuth
				}
			default:
				want.Verdict = provision.VerdictUnknown
				want.Answered = status >= 500 && kind == "problem"
			}
			if a.Verdict != want.Verdict || a.Refusal != want.Refusal || a.Answered != want.Answered || a.Status != status {
				t.Errorf("%d %s: %s/%s/%v, want %s/%s/%v", status, kind,
					a.Verdict, a.Refusal, a.Answered, want.Verdict, want.Refusal, want.Answered)
			}
			if a.Verdict != provision.VerdictCreated && !json.Valid(a.Problem) {
				t.Errorf("%d %s: problem %s", status, kind, a.Problem)
			}
			if kind == "problem" && string(a.Problem) != raw {
				t.Errorf("%d: the problem was changed: %s", status, a.Problem)
			}
			if a.Verdict == provision.VerdictUnknown && kind == "created" && a.VPSID != "vps_01hxa3b4" {
				t.Errorf("%d: the id in the body was not kept", status)
			}
			if a.Detail == "" || strings.ContainsAny(a.Detail, "\r\n") {
				t.Errorf("%d %s: detail %q", status, kind, a.Detail)
			}
		}
	}
}

func TestJudgeSilence(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"dns":        &net.DNSError{Err: "no such host", Name: "cloud.hostup.se"},
		"refused":    &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED},
		"tls":        x509.UnknownAuthorityError{},
		"timeout":    context.DeadlineExceeded,
		"cancelled":  context.Canceled,
		"io timeout": os.ErrDeadlineExceeded,
		"reset":      &net.OpError{Op: "read", Err: syscall.ECONNRESET},
		"pipe":       &net.OpError{Op: "write", Err: syscall.EPIPE},
		"eof":        io.EOF,
		"garbage":    errors.New("malformed HTTP response"),
	} {
		for _, sent := range []bool{false, true} {
			a := judge(observation{err: err, sent: sent})
			want := provision.VerdictNeverSent
			if sent {
				want = provision.VerdictUnknown
			}
			if a.Verdict != want || a.Status != 0 || a.Problem != nil || a.Answered || !strings.Contains(a.Detail, err.Error()) {
				t.Errorf("%s, sent %v: %+v", name, sent, a)
			}
		}
	}
}

func TestJudgeSuccessBodies(t *testing.T) {
	t.Parallel()
	type result struct {
		Verdict             provision.Verdict
		VPS, Order, Invoice string
	}
	for name, tc := range map[string]struct {
		body string
		err  error
		want result
	}{
		"bare":            {body: createdBody, want: result{provision.VerdictCreated, "vps_01hxa3b4", "ord_01hxa3b4", "inv_01hxa3b4"}},
		"wrapped":         {body: `{"data":` + createdBody + `}`, want: result{provision.VerdictCreated, "vps_01hxa3b4", "ord_01hxa3b4", "inv_01hxa3b4"}},
		"only the id":     {body: `{"vpsId":"vps_1"}`, want: result{provision.VerdictCreated, "vps_1", "", ""}},
		"odd ids":         {body: `{"vpsId":"a.b:c/1","orderId":5,"invoiceId":null}`, want: result{provision.VerdictCreated, "a.b:c/1", "", ""}},
		"empty id":        {body: `{"vpsId":""}`, want: result{provision.VerdictUnknown, "", "", ""}},
		"null id":         {body: `{"vpsId":null}`, want: result{provision.VerdictUnknown, "", "", ""}},
		"numeric id":      {body: `{"vpsId":17}`, want: result{provision.VerdictUnknown, "", "", ""}},
		"blank id":        {body: `{"vpsId":"  "}`, want: result{provision.VerdictUnknown, "", "", ""}},
		"other case":      {body: `{"vpsid":"vps_1"}`, want: result{provision.VerdictUnknown, "", "", ""}},
		"array":           {body: `[` + createdBody + `]`, want: result{provision.VerdictUnknown, "vps_01hxa3b4", "", ""}},
		"null":            {body: `null`, want: result{provision.VerdictUnknown, "", "", ""}},
		"more behind":     {body: createdBody + "<!-- cached -->", want: result{provision.VerdictUnknown, "vps_01hxa3b4", "", ""}},
		"broke off late":  {body: createdBody, err: io.ErrUnexpectedEOF, want: result{provision.VerdictUnknown, "vps_01hxa3b4", "", ""}},
		"broke off early": {body: `{"vpsId" : "vps_1","ord`, err: io.ErrUnexpectedEOF, want: result{provision.VerdictUnknown, "vps_1", "", ""}},
		"half an id":      {body: `{"vpsId":"vps_`, err: io.ErrUnexpectedEOF, want: result{provision.VerdictUnknown, "", "", ""}},
		"accepted":        {body: `{"operation":{"status":"queued","jobId":"j"}}`, want: result{provision.VerdictUnknown, "", "", ""}},
	} {
		a := judge(observation{status: 201, body: []byte(tc.body), bodyErr: tc.err, sent: true})
		got := result{a.Verdict, a.VPSID, a.OrderID, a.InvoiceID}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestJudgeRefusals(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status int
		body   string
		want   provision.Refusal
	}{
		"blocker at the top":   {403, `{"type":"t","code":"forbidden","blockerReasons":["no_card_on_file","cpu_limit_exceeded"]}`, provision.RefusalLimit},
		"blocker in extension": {403, `{"type":"t","code":"forbidden","extensions":{"blockerReasons":["instance_limit_exceeded"]}}`, provision.RefusalLimit},
		"blocker objects":      {409, `{"type":"t","blockerReasons":[{"code":"storage_limit_exceeded"}]}`, provision.RefusalLimit},
		"code":                 {403, `{"type":"t","code":"payg_limit_exceeded"}`, provision.RefusalLimit},
		"code in extension":    {422, `{"type":"t","extensions":{"code":"memory_limit_exceeded"}}`, provision.RefusalLimit},
		"legacy code":          {403, `{"error":"E","message":"M","code":"CPU_LIMIT_EXCEEDED"}`, provision.RefusalLimit},
		"eligibility":          {403, `{"type":"t","code":"forbidden","blockerReasons":["no_card_on_file"]}`, provision.RefusalFinal},
		"rate limit elsewhere": {403, `{"type":"t","code":"rate_limit_exceeded"}`, provision.RefusalFinal},
		"blockers no array":    {403, `{"type":"t","blockerReasons":"cpu_limit_exceeded"}`, provision.RefusalFinal},
		"401 with a limit":     {401, `{"type":"t","code":"cpu_limit_exceeded"}`, provision.RefusalAuth},
		"403 of a gateway":     {403, `{"message":"Forbidden"}`, provision.RefusalAuth},
		"403 cut off":          {403, `{"type":"t","code":"cpu_limit_exc`, provision.RefusalAuth},
		"400":                  {400, problemBody(400, "invalid_request"), provision.RefusalFinal},
	} {
		a := judge(observation{status: tc.status, header: http.Header{}, body: []byte(tc.body), sent: true})
		if a.Verdict != provision.VerdictRefused || a.Refusal != tc.want {
			t.Errorf("%s: %s/%s, want refused/%s", name, a.Verdict, a.Refusal, tc.want)
		}
	}
}
