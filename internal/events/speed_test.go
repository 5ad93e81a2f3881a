package events

import (
	"maps"
	"testing"

	"github.com/hostup/deploy-worker/internal/provision"
)

func BenchmarkDecode(b *testing.B) {
	for _, enc := range []provision.Encoding{provision.JSON, provision.Protobuf} {
		h, data, err := EncodeRequest(contractRequestDecoded(), enc)
		if err != nil {
			b.Fatal(err)
		}
		maps.Copy(h, headers("ce-id", "evt-1", "Nats-Msg-Id", "m-1", "traceparent", traceparent))
		b.Run(string(enc), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if m := Decode(h, data); m.Request.Key == "" {
					b.Fatal(m.Defect, m.Faults)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	for name, e := range map[string]provision.Event{"provisioning": provisioningEvent(), "failed": failedEvent()} {
		for _, e.Encoding = range []provision.Encoding{provision.JSON, provision.Protobuf} {
			b.Run(name+"/"+string(e.Encoding), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Encode("deploy", e); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
