package batch

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostup/deploy-worker/internal/provision"
)

// input is a text that is read like stdin.
func input(t testing.TB, name, text string) *Input {
	t.Helper()
	in, err := Spool(name, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() })
	return in
}

func load(t testing.TB, name, text string, opt Options) (*Batch, error) {
	t.Helper()
	b, err := Load(input(t, name, text), opt)
	if err == nil {
		t.Cleanup(func() { _ = b.Close() })
	}
	return b, err
}

func sound(t testing.TB, name, text string) *Batch {
	t.Helper()
	b, err := load(t, name, text, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func requests(t testing.TB, b *Batch) []provision.Request {
	t.Helper()
	var all []provision.Request
	if err := b.Each(func(_ int, r Row) error {
		all = append(all, r.Request)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// The same orders in every format and spelling.
func TestFormats(t *testing.T) {
	t.Parallel()
	want := []provision.Request{
		{
			Key: "order-1", Name: "web-01", CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm",
			Metadata: map[string]string{"customer": "c-17", "note": "two\nlines, \"quoted\""}, Deadline: time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC),
		},
		{Key: "web-02-97c62e9a6a9c3e1f", Name: "web-02", CPUCores: 32, MemoryGB: 256, StorageGB: 2000, Region: "stockholm"},
	}
	want[1].Key = DeriveKey("", want[1])
	const first = `{"idempotencyKey":"order-1","name":"web-01","cpuCores":2,"memoryGb":4,"storageGb":80,"region":"stockholm","metadata":{"customer":"c-17","note":"two\nlines, \"quoted\"","gone":null},"deadline":"2026-12-01t13:00:00+01:00"}`
	const second = `{"name":"web-02","cpu_cores":3.2e1,"memory_gb":256.0,"storage_gb":2000,"region":"stockholm","idempotency_key":null}`
	const rest = `web-01,2,4,80,stockholm,c-17,"two` + "\n" + `lines, ""quoted""",2026-12-01T12:00:00Z` + "\n,web-02,32,256,2000,stockholm,,,\n"
	const snake = "idempotency_key,name,cpu_cores,memory_gb,storage_gb,region,metadata.customer,metadata.note,deadline\norder-1,"
	for name, text := range map[string]string{
		"a.ndjson":           first + "\n" + second,
		"blank.ndjson":       "\n" + first + "\r\n\r\n  \n" + second + "\r\n",
		"bom.jsonl":          "\xef\xbb\xbf" + first + "\n" + second + "\n",
		"noextension":        first + "\n" + second + "\n",
		"a.json":             "[" + first + "," + second + "]",
		"pretty.json":        " [\n" + first + "\n,\n\t" + second + "\n]\n",
		"bom.json":           "\xef\xbb\xbf[" + first + "," + second + "]",
		"a.csv":              snake + rest,
		"bom.csv":            "\xef\xbb\xbf" + snake + rest,
		"crlf.csv":           strings.ReplaceAll(snake+rest, "\n", "\r\n"),
		"camel.csv":          strings.NewReplacer("idempotency_key", "idempotencyKey", "cpu_cores", "cpuCores", "memory_gb", "memoryGb", "storage_gb", "storageGb").Replace(snake) + rest,
		"rows of nothing":    snake + rest + ",,,,,,,,\n\n,,,,,,,,\n",
		"semicolons.csv":     "idempotencyKey;name;cpuCores;memoryGb;storageGb;region;metadata.customer;metadata.note;deadline\norder-1;web-01;2;4;80;stockholm;c-17;\"two\nlines, \"\"quoted\"\"\";2026-12-01T12:00:00Z\n;web-02;32;256;2000;stockholm;;;\n",
		"tabs.tsv":           "name\tidempotencyKey\tcpuCores\tmemoryGb\tstorageGb\tregion\tmetadata\tdeadline\nweb-01\torder-1\t2\t4\t80\tstockholm\t\"{\"\"customer\"\":\"\"c-17\"\",\"\"note\"\":\"\"two\\nlines, \\\"\"quoted\\\"\"\"\"}\"\t2026-12-01T12:00:00Z\nweb-02\t\t32.0\t256\t2e3\tstockholm\t\t\n",
		"both metadata.csv":  "name,idempotencyKey,cpuCores,memoryGb,storageGb,region,metadata,metadata.customer,deadline\nweb-01,order-1,2,4,80,stockholm,\"{\"\"note\"\":\"\"two\\nlines, \\\"\"quoted\\\"\"\"\"}\",c-17,2026-12-01T12:00:00Z\nweb-02,,32,256,2000,stockholm,,,\n",
		"json that is .csv":  "[" + first + "," + second + "]",
		"ndjson that is.csv": first + "\n" + second,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := sound(t, name, text)
			if diff := cmp.Diff(want, requests(t, b)); diff != "" {
				t.Errorf("want -, have +:\n%s", diff)
			}
			if c := b.Counts(); c.Orders != 2 || c.Repeated != 0 {
				t.Errorf("counts are %+v", c)
			}
		})
	}
}

// Every fault is told with its place.
func TestFaults(t *testing.T) {
	t.Parallel()
	const header = "name,cpu_cores,memory_gb,storage_gb,region\n"
	const object = `{"name":"web-01","cpuCores":2,"memoryGb":4,"storageGb":80,"region":"stockholm"`
	for name, tc := range map[string]struct{ text, want string }{
		"empty":             {"", "x: there is no order in it"},
		"a header":          {header, "x: there is no order in it"},
		"an empty array":    {"[]", "x: there is no order in it"},
		"UTF-16":            {"\xff\xfen\x00a\x00", "x:1: it is UTF-16; save it as UTF-8"},
		"unknown columns":   {"name,cpus,memory_gb,storage_gb,region,Colour\n", "x:1: there is no column `cpuCores`; the first line names the columns\nx:1:6: there is no field \"cpus\"; do you mean `cpuCores`?\nx:1:39: there is no field \"Colour\"; there are idempotencyKey, name, cpuCores, memoryGb, storageGb, region, deadline and metadata (in a CSV metadata.<name>)"},
		"a column twice":    {"name,cpu_cores,cpuCores,memory_gb,storage_gb,region,metadata.a,metadata.a\n", "x:1:16: cpuCores: this column is there twice\nx:1:64: metadata.a: this column is there twice"},
		"a nameless column": {header[:len(header)-1] + ",\n", "x:1:44: a column without a name"},
		"cells": {
			header + "a b,99,x,,stockholm\n\nweb-02,2,4,80\n",
			"x:2:1: `name` must be 3 to 63 ASCII letters, digits and hyphens\nx:2:5: cpu_cores: `cpuCores` must be from 1 to 32, not 99\nx:2:8: memory_gb: `memoryGb` must be a whole number from 1 to 256, not \"x\"\nx:2:10: storage_gb: `storageGb` is required: a whole number from 50 to 2000\nx:4: 4 fields, but the header has 5",
		},
		"numbers that only Go knows": {header + "web-01,0x10,1_0,inf,stockholm\n", "x:2:8: cpu_cores: `cpuCores` must be a whole number from 1 to 32, not \"0x10\"\nx:2:13: memory_gb: `memoryGb` must be a whole number from 1 to 256, not \"1_0\"\nx:2:17: storage_gb: `storageGb` must be a whole number from 50 to 2000, not \"inf\""},
		"0 is there":                 {header + "web-01,0,-0,1e99,stockholm\n", "x:2:8: cpu_cores: `cpuCores` must be a whole number from 1 to 32, not \"0\"\nx:2:10: memory_gb: `memoryGb` must be a whole number from 1 to 256, not \"-0\"\nx:2:13: storage_gb: `storageGb` must be a whole number from 50 to 2000, not \"1e99\""},
		"an open quote":              {header + "web-01,2,4,80,\"stock\nholm\n", "x:2:6: extraneous or missing \" in quoted-field: a quote is not closed, or stands in a field that does not begin with one"},
		"a quote within":             {header + "web\"01,2,4,80,stockholm\n", "x:2:4: bare \" in non-quoted-field: a quote is not closed, or stands in a field that does not begin with one"},
		"an endless quote":           {header + "web-01,2,4,80,\"" + strings.Repeat("a\n", 2*MaxRow), "x:2: a row has more than 262144 bytes: a quote may not be closed"},
		"metadata of a CSV":          {"metadata.a,metadata,name,cpu_cores,memory_gb,storage_gb,region,deadline\nx,\"{\"\"a\"\":\"\"y\"\"}\",web-01,2,4,80,stockholm,tomorrow\n,[],web-02,2,4,80,stockholm,\n", "x:2:3: metadata: metadata has \"a\" twice\nx:2:43: `deadline` must be an RFC 3339 time like 2026-12-01T12:00:00Z, not \"tomorrow\"\nx:3:2: `metadata` must be an object of strings: an object is wanted, not an array"},
		"not UTF-8":                  {"name,cpu_cores,memory_gb,storage_gb,region,metadata.a\nweb-01,2,4,80,stockholm,\xe5\n", "x:2:25: metadata.a: not UTF-8: \"�\""},
		"a name that acts":           {"name,cpu_cores,memory_gb,storage_gb,region,metadata.\x1b[2J\nweb-01,2,4,80,stockholm,\xe5\n", `x:2:25: "metadata.\x1b[2J": not UTF-8: "�"`},
		"a key that is none":         {"idempotencyKey," + header + "nøkkel,web-01,2,4,80,stockholm\n", "x:2:1: `idempotencyKey` must be 1 to 255 printable ASCII characters, not \"nøkkel\""},
		"NDJSON": {
			object + "}\n" + object + `,"colour":1,"region":"x","cpu_cores":1}` + "\n{\"name\":\"web-02\"\n[1]\n{} {}\n" + object + `,"metadata":{"a":1,"b":"x","b":"y"},"idempotencyKey":"","deadline":5}` + "\n",
			"x:2: there is no field \"colour\"; there are idempotencyKey, name, cpuCores, memoryGb, storageGb, region, deadline and metadata (in a CSV metadata.<name>)\nx:2: `region` is there twice\nx:2: cpu_cores: `cpuCores` is there twice\n" +
				"x:3: the JSON object does not end; NDJSON has one object on each line, as `jq -c` writes it\nx:4: an object is wanted, not an array; NDJSON has one object on each line, as `jq -c` writes it\nx:5: there is something behind the object; NDJSON has one object on each line, as `jq -c` writes it\n" +
				"x:6: values of `metadata` must be strings, \"a\" is 1\nx:6: metadata: metadata has \"b\" twice\nx:6: `idempotencyKey` is empty; leave it out to have one derived\nx:6: `deadline` must be a string, not 5",
		},
		"other types": {
			`{"name":"web-01","cpuCores":"2","memoryGb":4.5,"storageGb":true,"region":7}`,
			"x:1: `cpuCores` must be a whole number from 1 to 32, not the string \"2\"\nx:1: `memoryGb` must be a whole number from 1 to 256, not 4.5\nx:1: `storageGb` must be a whole number from 50 to 2000, not true\nx:1: `region` must be a string, not 7",
		},
		"an endless line": {object + "}\n{\"name\":\"" + strings.Repeat("a", 2*MaxRow) + "\"}\n" + object + `,"x":1}`, "x:2: a row has more than 262144 bytes\nx:3: there is no field \"x\"; there are idempotencyKey, name, cpuCores, memoryGb, storageGb, region, deadline and metadata (in a CSV metadata.<name>)"},
		"an array": {
			"[\n" + object + "},\n\n\n" + object + `,"key":"x"},` + "\n5]",
			"x:5: there is no field \"key\"; do you mean `idempotencyKey`?\nx:6: an object is wanted, not 5; an array of objects is wanted",
		},
		"an array that is cut off":  {"[\n" + object + "},\n" + object, "x:3: the array does not end: the file may be cut off"},
		"an array without an end":   {"[\n" + object + "}\n", "x:3: the array does not end: the file may be cut off"},
		"an array with more":        {"[\n" + object + "}\n]\n{}", "x:4: there is something behind the array"},
		"an array that breaks":      {"[\n" + object + "},\n\n{nope}]", "x:4: invalid character 'n' looking for beginning of object key string; it cannot be read on from here"},
		"an array without a comma":  {"[\n" + object + "}\n" + object + "}]", "x:3: expected comma after array element; it cannot be read on from here"},
		"an endless array":          {"[\n{\"name\":\"" + strings.Repeat("a", 4*MaxRow), "x:2: a row has more than 262144 bytes: a bracket or a quote may not be closed"},
		"one key, two orders":       {"idempotencyKey," + header + "k,web-01,2,4,80,stockholm\nj,web-02,2,4,80,stockholm\nk,web-03,2,4,80,stockholm\n", "x:4: `idempotencyKey` is that of line 2, for another order"},
		"the same but for metadata": {"metadata.a," + header + "1,web-01,2,4,80,stockholm\n2,web-01,2,4,80,stockholm\n", "x:3: idempotencyKey: the same order as in line 2, but for metadata or deadline, which make no other order: give the rows keys of their own"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, "x", tc.text, Options{})
			invalid, is := errors.AsType[*InvalidError](err)
			if !is {
				t.Fatalf("want an InvalidError, have %v", err)
			}
			got := strings.Split(err.Error(), "\n")
			if diff := cmp.Diff(strings.Split(tc.want, "\n"), got[:len(got)-1]); diff != "" {
				t.Errorf("want -, have +:\n%s", diff)
			}
			if invalid.Total != len(invalid.Faults) {
				t.Errorf("%d of %d faults are listed", len(invalid.Faults), invalid.Total)
			}
		})
	}
}

// Of many faults some are listed and all are counted.
func TestManyFaults(t *testing.T) {
	t.Parallel()
	_, err := load(t, "x", strings.Repeat("{\"colour\":1}\n", 1000), Options{MaxFaults: 7})
	if err == nil || !strings.HasSuffix(err.Error(), "\nand 5993 more\n6000 faults in x: nothing was sent") || strings.Count(err.Error(), "\n") != 8 {
		t.Errorf("have %v", err)
	}
}

func TestSingle(t *testing.T) {
	t.Parallel()
	r := provision.Request{Name: "web-01", CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm"}
	b, err := Load(Single(r), Options{KeyPrefix: "shop/"})
	if err != nil {
		t.Fatal(err)
	}
	r.Key = "shop/web-01-8f5c0a120b487520"
	if diff := cmp.Diff([]provision.Request{r}, requests(t, b)); diff != "" {
		t.Error(diff)
	}
	r.CPUCores = 64
	if _, err := Load(Single(r), Options{}); err == nil || err.Error() != "the order: `cpuCores` must be from 1 to 32, not 64\n1 fault in the order: nothing was sent" {
		t.Errorf("have %v", err)
	}
}

// Keys are a promise: a file that was sent with one version may be sent again
// with another.
func TestDeriveKey(t *testing.T) {
	t.Parallel()
	r := provision.Request{Name: "web-01", CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm"}
	const want = "web-01-8f5c0a120b487520"
	if got := DeriveKey("", r); got != want {
		t.Errorf("the key is %s, want %s", got, want)
	}
	seen := map[string]bool{want: true}
	for name, change := range map[string]func(*provision.Request){
		"name": func(r *provision.Request) { r.Name = "web-02" }, "case": func(r *provision.Request) { r.Name = "Web-01" },
		"cores": func(r *provision.Request) { r.CPUCores = 3 }, "memory": func(r *provision.Request) { r.MemoryGB = 3 },
		"storage": func(r *provision.Request) { r.StorageGB = 90 }, "region": func(r *provision.Request) { r.Region = "oslo" },
	} {
		other := r
		change(&other)
		if key := DeriveKey("", other); seen[key] {
			t.Errorf("%s does not count", name)
		} else {
			seen[key] = true
		}
	}
	r.Metadata, r.Deadline, r.Key = map[string]string{"a": "b"}, time.Now(), "x"
	if got := DeriveKey("", r); got != want {
		t.Errorf("metadata, deadline or key count: %s", got)
	}
	longest := provision.Request{Name: strings.Repeat("a", provision.MaxNameLength)}
	if key := DeriveKey(strings.Repeat("p", MaxKeyPrefix), longest); !provision.ValidKey(key) || len(key) != provision.MaxKeyLength {
		t.Errorf("a key of %d bytes with the longest prefix", len(key))
	}
}

// A row that is there twice is one order, wherever it stands.
func TestRepeats(t *testing.T) {
	t.Parallel()
	b := sound(t, "x", "idempotencyKey,name,cpu_cores,memory_gb,storage_gb,region,metadata.a\n"+
		",web-01,2,4,80,stockholm,x\n,web-02,2,4,80,stockholm,x\n,web-01,2,4,80,stockholm,x\nk,web-01,2,4,80,stockholm,x\n,web-01,2.0,4,80,stockholm,x\nk,web-01,2,4,80,stockholm,x\n")
	if c := b.Counts(); c.Orders != 3 || c.Repeated != 3 {
		t.Errorf("counts are %+v", c)
	}
	for i, want := range []int{0, 0, 2, 0, 2, 5} {
		line, repeated := b.Repeated(i)
		if line != want || repeated != (want > 0) {
			t.Errorf("row %d repeats line %d (%t), want %d", i, line, repeated, want)
		}
	}
}

// A file that is written to between the two readings is noticed.
func TestChangedInput(t *testing.T) {
	t.Parallel()
	const before = "{\"name\":\"web-01\",\"cpuCores\":2,\"memoryGb\":4,\"storageGb\":80,\"region\":\"stockholm\"}\n"
	for name, after := range map[string]string{
		"another order": strings.Replace(before, "web-01", "web-02", 1), "one more": before + before, "none": "", "a fault": "{}\n", "cut off": before[:40],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "orders.ndjson")
			write := func(text string) {
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(before)
			in, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			b, err := Load(in, Options{})
			if err != nil {
				t.Fatal(err)
			}
			write(after)
			if err := b.Each(func(int, Row) error { return nil }); !errors.Is(err, errChanged) {
				t.Errorf("have %v", err)
			}
		})
	}
}

// What is spooled can be read again and lies in no directory.
func TestSpool(t *testing.T) {
	t.Parallel()
	in := input(t, "stdin", "text")
	if _, err := os.Stat(in.File().Name()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary file can be found: %v", err)
	}
	for range 2 {
		if got, err := io.ReadAll(io.NewSectionReader(in.File(), 0, 100)); err != nil || string(got) != "text" {
			t.Errorf("read %q: %v", got, err)
		}
	}
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("a directory was opened")
	}
	if _, err := Spool("x", io.MultiReader(strings.NewReader("a"), failing{})); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("have %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }
