package hostup

import (
	"net/http"
	"testing"

	"github.com/hostup/deploy-worker/internal/provision"
)

func BenchmarkJudge(b *testing.B) {
	for name, o := range map[string]observation{
		"created":   {status: 201, body: []byte(createdBody), sent: true},
		"refused":   {status: 422, header: http.Header{"Content-Type": {"application/problem+json"}}, body: []byte(problemBody(422, "invalid_request")), sent: true},
		"throttled": {status: 429, header: http.Header{"Content-Type": {"application/problem+json"}}, body: []byte(problemBody(429, "rate_limited")), sent: true},
		"unknown":   {err: http.ErrHandlerTimeout, sent: true},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if a := judge(o); a.Verdict != provision.Verdict(name) {
					b.Fatal(a.Verdict)
				}
			}
		})
	}
}
