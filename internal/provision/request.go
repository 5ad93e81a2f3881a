package provision

import (
	"fmt"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/admission"
)

// Bounds of a request (contract section 3; the sizes are those of POST
// /vps/payg/deployments).
const (
	MaxKeyLength       = 255
	MinNameLength      = 3
	MaxNameLength      = 63
	MinCPUCores        = 1
	MaxCPUCores        = 32
	MinMemoryGB        = 1
	MaxMemoryGB        = 256
	MinStorageGB       = 50
	MaxStorageGB       = 2000
	MaxMetadataEntries = 32
	MaxMetadataBytes   = 4096
)

// Request is one order for one server. The JSON names are those of the
// ledger and the command line.
type Request struct {
	Key       string            `json:"-"`
	Name      string            `json:"name,omitempty"`
	CPUCores  int32             `json:"cpuCores,omitempty"`
	MemoryGB  int32             `json:"memoryGb,omitempty"`
	StorageGB int32             `json:"storageGb,omitempty"`
	Region    string            `json:"region,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	// Deadline is the requester's own; zero when there is none.
	Deadline time.Time `json:"deadline,omitzero"`

	// Newer is what a newer version wrote beside this; the ledger writes it back.
	Newer string `json:"-"`
}

// Same reports whether two requests ask for the same thing: metadata and
// deadline do not count.
func (r Request) Same(o Request) bool {
	return r.Name == o.Name && r.CPUCores == o.CPUCores && r.MemoryGB == o.MemoryGB &&
		r.StorageGB == o.StorageGB && r.Region == o.Region
}

// Resources is what the request takes out of the account's limits.
func (r Request) Resources() admission.Resources {
	return admission.Resources{
		CPUCores: int64(r.CPUCores), MemoryGB: int64(r.MemoryGB), StorageGB: int64(r.StorageGB), Instances: 1,
	}
}

// Fault is one thing wrong with a request, in the form of HostUp's own
// errors[] members. Pointer is a JSON pointer relative to the request object.
type Fault struct {
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
	Code    string `json:"code"`
}

// Codes of faults. They are HostUp's own where HostUp has one.
const (
	FaultMissing = "missing_required"
	FaultInvalid = "invalid_request"
)

// Faults returns everything that breaks the rules, in the order of the
// fields; nil when the request is sound. The key is judged by ValidKey.
func (r Request) Faults() []Fault {
	var fs []Fault
	fault := func(pointer, code, format string, args ...any) {
		fs = append(fs, Fault{Pointer: pointer, Code: code, Detail: fmt.Sprintf(format, args...)})
	}
	switch {
	case r.Name == "":
		fault("/name", FaultMissing, "`name` is required")
	case len(r.Name) < MinNameLength || len(r.Name) > MaxNameLength || !onlyNameBytes(r.Name):
		fault("/name", FaultInvalid, "`name` must be %d to %d ASCII letters, digits and hyphens", MinNameLength, MaxNameLength)
	}
	sizes := []struct {
		pointer   string
		got       int32
		low, high int32
	}{
		{"/cpuCores", r.CPUCores, MinCPUCores, MaxCPUCores},
		{"/memoryGb", r.MemoryGB, MinMemoryGB, MaxMemoryGB},
		{"/storageGb", r.StorageGB, MinStorageGB, MaxStorageGB},
	}
	for _, s := range sizes {
		switch {
		case s.got == 0:
			fault(s.pointer, FaultMissing, "`%s` is required: a whole number from %d to %d", s.pointer[1:], s.low, s.high)
		case s.got < s.low || s.got > s.high:
			fault(s.pointer, FaultInvalid, "`%s` must be from %d to %d, not %d", s.pointer[1:], s.low, s.high, s.got)
		}
	}
	switch {
	case r.Region == "":
		fault("/region", FaultMissing, "`region` is required")
	case !printable(r.Region):
		fault("/region", FaultInvalid, "`region` must be printable ASCII")
	}
	if n := len(r.Metadata); n > MaxMetadataEntries {
		fault("/metadata", FaultInvalid, "`metadata` has %d entries; at most %d are allowed", n, MaxMetadataEntries)
	}
	bytes := 0
	for k, v := range r.Metadata {
		bytes += len(k) + len(v)
	}
	if bytes > MaxMetadataBytes {
		fault("/metadata", FaultInvalid, "`metadata` has %d bytes of keys and values; at most %d are allowed", bytes, MaxMetadataBytes)
	}
	return fs
}

// RegionFault says that the account does not offer the region.
func RegionFault(region string, offered []string) Fault {
	return Fault{
		Pointer: "/region", Code: FaultInvalid,
		Detail: fmt.Sprintf("`region` %q is not offered to this account; it offers %s", region, strings.Join(offered, ", ")),
	}
}

// ValidKey reports whether s can be an idempotency key: 1 to 255 printable
// ASCII characters.
func ValidKey(s string) bool {
	return s != "" && len(s) <= MaxKeyLength && printable(s)
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

func onlyNameBytes(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}
