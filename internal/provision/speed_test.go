package provision_test

import (
	"testing"

	"github.com/hostup/deploy-worker/internal/provision"
)

func BenchmarkFaults(b *testing.B) {
	sound := order("order-1001").Request
	wrong := sound
	wrong.Name, wrong.CPUCores, wrong.Region = "web_01", 64, ""
	for name, r := range map[string]provision.Request{"sound": sound, "wrong": wrong} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if (r.Faults() == nil) != (name == "sound") {
					b.Fatal(r.Faults())
				}
			}
		})
	}
}

// There is no fingerprint of a request: two that carry one key are compared.
func BenchmarkSame(b *testing.B) {
	one, two := order("order-1001").Request, order("order-1001").Request
	b.ReportAllocs()
	for b.Loop() {
		if !one.Same(two) {
			b.Fatal("they are the same")
		}
	}
}
