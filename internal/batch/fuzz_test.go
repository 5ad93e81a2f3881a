package batch

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Whatever the bytes are: reading ends, says either what is wrong or gives
// orders that keep every rule, and gives the same ones in a second reading and
// when they are written in another format.
func FuzzLoad(f *testing.F) {
	for _, text := range []string{
		threeOrders, strings.ReplaceAll(threeOrders, ",", ";"),
		`{"name":"web-01","cpuCores":2,"memoryGb":4,"storageGb":80,"region":"stockholm","metadata":{"a":"b"},"deadline":"2026-12-01T12:00:00Z"}` + "\n{}",
		"[{\"name\":\"web-01\",\"cpu_cores\":2,\"memory_gb\":4,\"storage_gb\":80,\"region\":\"stockholm\"}]",
		"\xef\xbb\xbfname,cpuCores,memoryGb,storageGb,region,metadata,metadata.x\r\nweb-01,2,4,80,\"stock\r\nholm\",{},y\r\n", "[", "{", "\"", "[{]", "\xff\xfe",
	} {
		for _, format := range []Format{Auto, NDJSON, JSON, CSV} {
			f.Add(text, string(format))
		}
	}
	f.Fuzz(func(t *testing.T, text, format string) {
		b, err := load(t, "x", text, Options{Format: Format(format), KeyPrefix: "p-"})
		if err != nil {
			if invalid, is := errors.AsType[*InvalidError](err); !is || invalid.Total == 0 || len(invalid.Faults) == 0 {
				t.Fatalf("%v", err)
			}
			return
		}
		first := requests(t, b)
		if len(first) != b.Len() || len(first) == 0 {
			t.Fatalf("%d rows, then %d", b.Len(), len(first))
		}
		var lines strings.Builder
		for _, r := range first {
			if faults := r.Faults(); len(faults) > 0 || !provision.ValidKey(r.Key) {
				t.Fatalf("%+v breaks %v", r, faults)
			}
			line, err := json.Marshal(struct {
				Key string `json:"idempotencyKey"`
				provision.Request
			}{r.Key, r})
			if err != nil {
				t.Fatal(err)
			}
			lines.Write(append(line, '\n'))
		}
		again := sound(t, "x.ndjson", lines.String())
		if diff := cmp.Diff(first, requests(t, again)); diff != "" {
			t.Fatalf("written as NDJSON:\n%s", diff)
		}
		if again.Counts() != b.Counts() {
			t.Fatalf("counts are %+v, then %+v", b.Counts(), again.Counts())
		}
	})
}

// FuzzReadJournal: no bytes make a row count that has no valid line.
func FuzzReadJournal(f *testing.F) {
	f.Add([]byte("12 00000000\n"))
	f.Add([]byte("1 "))
	j := &Journal{Heading: Heading{Submission: "MARK", Rows: 100}}
	f.Add([]byte(j.line(5) + j.line(99)))
	f.Fuzz(func(t *testing.T, tail []byte) {
		row, ok := j.parse(tail)
		if ok && (row < 0 || row >= j.Rows || string(tail) != j.line(row)) {
			t.Fatalf("%q is row %d", tail, row)
		}
	})
}
