package batch

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hostup/deploy-worker/internal/provision"
)

// The fields of an order.
const (
	FieldKey      = "idempotencyKey"
	FieldName     = "name"
	FieldCPU      = "cpuCores"
	FieldMemory   = "memoryGb"
	FieldStorage  = "storageGb"
	FieldRegion   = "region"
	FieldMetadata = "metadata"
	FieldDeadline = "deadline"
)

// required are the fields without which nothing is an order.
var required = []string{FieldName, FieldCPU, FieldMemory, FieldStorage, FieldRegion}

// fields maps every spelling of a field to its name.
var fields = map[string]string{
	FieldKey: FieldKey, "idempotency_key": FieldKey,
	FieldName: FieldName,
	FieldCPU:  FieldCPU, "cpu_cores": FieldCPU,
	FieldMemory: FieldMemory, "memory_gb": FieldMemory,
	FieldStorage: FieldStorage, "storage_gb": FieldStorage,
	FieldRegion:   FieldRegion,
	FieldMetadata: FieldMetadata,
	FieldDeadline: FieldDeadline,
}

// IsKey reports whether a column is that of the idempotency key.
func IsKey(column string) bool { return fields[column] == FieldKey }

// meant are other words that people use for a field, in small letters and
// without separators.
var meant = map[string]string{
	"key": FieldKey, "id": FieldKey, "idempotencykey": FieldKey,
	"hostname": FieldName, "server": FieldName, "servername": FieldName, "name": FieldName,
	"cpu": FieldCPU, "cpus": FieldCPU, "vcpu": FieldCPU, "vcpus": FieldCPU, "cores": FieldCPU, "cpucores": FieldCPU, "cpucore": FieldCPU,
	"memory": FieldMemory, "mem": FieldMemory, "ram": FieldMemory, "memorygb": FieldMemory, "ramgb": FieldMemory, "memgb": FieldMemory,
	"storage": FieldStorage, "disk": FieldStorage, "diskgb": FieldStorage, "storagegb": FieldStorage,
	"region": FieldRegion, "location": FieldRegion, "regionid": FieldRegion,
	"metadata": FieldMetadata, "meta": FieldMetadata, "deadline": FieldDeadline,
}

// unknownField says what to do about a field that does not exist.
func unknownField(name string) string {
	plain := strings.NewReplacer("_", "", "-", "", " ", "", ".", "").Replace(strings.ToLower(name))
	if field, ok := meant[plain]; ok {
		return fmt.Sprintf("there is no field %s; do you mean `%s`?", quoted(name), field)
	}
	return fmt.Sprintf("there is no field %s; there are %s, %s, %s and metadata (in a CSV metadata.<name>)", quoted(name), FieldKey, strings.Join(required, ", "), FieldDeadline)
}

// Row is one order of the input.
type Row struct {
	// Line is the row's first line, from 1.
	Line    int
	Request provision.Request
	// Cells is a row of a CSV as it was read, nil in other formats.
	Cells []string

	faults []Fault
	// place tells where a field stands and how it is spelled there; nil is
	// everywhere the row itself.
	place func(field string) (line, column int, spelled string)
}

func (r *Row) faultf(field, format string, args ...any) {
	f := Fault{Line: r.Line, Field: field, Detail: fmt.Sprintf(format, args...)}
	if r.place != nil {
		f.Line, f.Column, f.Field = r.place(field)
	}
	r.faults = append(r.faults, f)
}

// judge adds the rules that the row breaks, of fields that could be read. The
// rules are provision's.
func (r *Row) judge(unread []string) {
	if key := r.Request.Key; key != "" && !provision.ValidKey(key) {
		r.faultf(FieldKey, "`%s` must be 1 to %d printable ASCII characters, not %s", FieldKey, provision.MaxKeyLength, quoted(key))
	}
	for _, f := range r.Request.Faults() {
		field := strings.TrimPrefix(f.Pointer, "/")
		if !slices.Contains(unread, field) {
			r.faultf(field, "%s", f.Detail)
		}
	}
}

// sizeOf returns the whole number that a text is; 2.0 is one. Bounds are
// judged later, with the other rules.
func sizeOf(text string) (int32, error) {
	if strings.Trim(text, "0123456789+-.eE") != "" {
		return 0, errSize // what only Go reads as a number
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || math.Abs(f) > math.MaxInt32 {
		return 0, errSize
	}
	return int32(f), nil
}

var errSize = errors.New("no whole number")

// size reads one of the three sizes.
func (r *Row) size(field, text, shown string) (read bool) {
	to, low, high := &r.Request.CPUCores, provision.MinCPUCores, provision.MaxCPUCores
	switch field {
	case FieldMemory:
		to, low, high = &r.Request.MemoryGB, provision.MinMemoryGB, provision.MaxMemoryGB
	case FieldStorage:
		to, low, high = &r.Request.StorageGB, provision.MinStorageGB, provision.MaxStorageGB
	}
	n, err := sizeOf(text)
	// 0 means absent to the rules, and this is not.
	if err != nil || n == 0 {
		r.faultf(field, "`%s` must be a whole number from %d to %d, not %s", field, low, high, shown)
		return false
	}
	*to = n
	return true
}

// deadline reads an RFC 3339 time.
func (r *Row) deadline(text string) (read bool) {
	var t time.Time
	// RFC 3339 allows small letters, the time package does not.
	if err := t.UnmarshalText([]byte(strings.ToUpper(text))); err != nil || t.UTC().Year() < 1 || t.UTC().Year() > 9999 || t.IsZero() {
		r.faultf(FieldDeadline, "`%s` must be an RFC 3339 time like 2026-12-01T12:00:00Z, not %s", FieldDeadline, quoted(text))
		return false
	}
	r.Request.Deadline = t.UTC()
	return true
}

// meta adds one entry of the metadata.
func (r *Row) meta(field, name, value string) {
	if _, twice := r.Request.Metadata[name]; twice {
		r.faultf(field, "metadata has %s twice", quoted(name))
		return
	}
	if r.Request.Metadata == nil {
		r.Request.Metadata = make(map[string]string)
	}
	r.Request.Metadata[name] = value
}

// quotedBytes is how much of a foreign text is repeated in a detail.
const quotedBytes = 64

// quoted renders a foreign text for a detail: printable, on one line, short.
func quoted(s string) string {
	if len(s) <= quotedBytes {
		return strconv.Quote(strings.ToValidUTF8(s, string(utf8.RuneError)))
	}
	return strconv.Quote(strings.ToValidUTF8(s[:quotedBytes], "")) + fmt.Sprintf("... (%d bytes)", len(s))
}
