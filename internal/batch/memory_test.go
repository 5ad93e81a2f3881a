package batch

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/hostup/deploy-worker/internal/provision"
)

func TestBytesPerRow(t *testing.T) {
	t.Parallel()
	if got := int(unsafe.Sizeof(entry{}) + unsafe.Sizeof(uint32(0))); got != BytesPerRow {
		t.Errorf("a row takes %d bytes, BytesPerRow says %d", got, BytesPerRow)
	}
}

// heapChild tells this test binary to measure a heap of its own; the others'
// tests would disturb it.
const heapChild = "BATCH_TEST_HEAP"

// measured is what a child finds: the heap that is in use with so many rows
// read, sent and answered, and the most that it saw on the way.
type measured struct {
	Held uint64 `json:"held"`
	Peak uint64 `json:"peak"`
}

// The memory of a submission grows by BytesPerRow a row and nothing else.
func TestMemory(t *testing.T) {
	t.Parallel()
	compareHeaps(t, 500, 10_000)
}

// BenchmarkMemory is TestMemory with more rows.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		compareHeaps(b, 1_000, 100_000)
	}
}

// compareHeaps compares the heaps of two processes. The rows have 300 bytes
// each, of which nothing may stay.
func compareHeaps(t testing.TB, few, many int) {
	t.Helper()
	at := make(map[int]measured)
	for _, rows := range []int{few, many} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHeapOfABatch$", "-test.count=1")
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", heapChild, rows), "GOGC=50")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var m measured
		line, _, _ := strings.Cut(string(out), "\n")
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		at[rows] = m
	}
	perRow := (float64(at[many].Held) - float64(at[few].Held)) / float64(many-few)
	peak := (float64(at[many].Peak) - float64(at[few].Peak)) / float64(many-few)
	t.Logf("%d rows: %+v, %d rows: %+v; %.1f bytes a row, %.1f at the peak", few, at[few], many, at[many], perRow, peak)
	// Growing a slice leaves a quarter of it unused.
	if perRow > 1.5*BytesPerRow {
		t.Errorf("%.1f bytes of heap a row, want %d or a little more", perRow, BytesPerRow)
	}
	// While it grows the old one is there, too, and half of all is garbage.
	if peak > 4*BytesPerRow {
		t.Errorf("%.1f bytes of heap a row at the peak", peak)
	}
}

// TestHeapOfABatch is run by TestMemory, in a process of its own.
func TestHeapOfABatch(t *testing.T) { //nolint:paralleltest // it is alone in its process
	var rows int
	if _, err := fmt.Sscan(os.Getenv(heapChild), &rows); err != nil {
		if os.Getenv(heapChild) == "" {
			return // TestMemory asks for it
		}
		t.Fatal(err)
	}
	var m measured
	peak := func() uint64 {
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		m.Peak = max(m.Peak, s.HeapAlloc)
		return s.HeapAlloc
	}
	in, err := Spool("x.ndjson", &manyOrders{left: rows})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	b, err := Load(in, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Each(func(i int, r Row) error {
		b.Sending(i, "00000000000000aa")
		b.Sent(i)
		if i%(rows/20) == 0 {
			peak()
		}
		return b.Answer(provision.Event{Kind: provision.KindProvisioning, Key: r.Request.Key, Request: r.Request, VPSID: "vps_01hxa"})
	}); err != nil {
		t.Fatal(err)
	}
	peak()
	runtime.GC()
	m.Held = peak()
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(string(text)) //nolint:forbidigo // for the parent
	runtime.KeepAlive(b)
}

// manyOrders is an input of so many orders.
type manyOrders struct {
	n, left int
	rest    []byte
}

func (m *manyOrders) Read(p []byte) (int, error) {
	if len(m.rest) == 0 {
		if m.left == 0 {
			return 0, io.EOF
		}
		m.left--
		m.n++
		m.rest = fmt.Appendf(nil, `{"name":"web-%d","cpuCores":2,"memoryGb":4,"storageGb":80,"region":"stockholm","metadata":{"text":"%s"}}`+"\n", m.n, strings.Repeat("x", 200))
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	return n, nil
}
