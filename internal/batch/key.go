package batch

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/hostup/deploy-worker/internal/provision"
)

// MaxKeyPrefix is how long a prefix may be, so that every derived key is valid.
const MaxKeyPrefix = provision.MaxKeyLength - provision.MaxNameLength - 1 - 2*derivedBytes

const derivedBytes = 8

// DeriveKey returns the key of an order that has none: the prefix, the name, a
// hyphen, and 16 hex digits of a hash over name, cores, memory, storage and
// region. That is what makes two requests the same for the worker: metadata and
// deadline do not count, so that correcting them orders nothing again. The key
// of an order never changes between versions.
func DeriveKey(prefix string, r provision.Request) string {
	var sum [derivedBytes]byte
	binary.BigEndian.PutUint64(sum[:], sameSum(r))
	return prefix + r.Name + "-" + hex.EncodeToString(sum[:])
}

// fill gives a row its key.
func (o Options) fill(r *Row) {
	if r.Request.Key == "" {
		r.Request.Key = DeriveKey(o.KeyPrefix, r.Request)
	}
}

// sameSum is a hash over what makes two requests the same. Neither a name nor a
// region can have a line break in it.
func sameSum(r provision.Request) uint64 {
	text := fmt.Sprintf("deploy-worker order 1\n%s\n%d\n%d\n%d\n%s\n", r.Name, r.CPUCores, r.MemoryGB, r.StorageGB, r.Region)
	sum := sha256.Sum256([]byte(text))
	return binary.BigEndian.Uint64(sum[:])
}

// fullSum is a hash over all of a request.
func fullSum(r provision.Request) uint64 {
	h := sha256.New()
	text := func(s string) { _, _ = fmt.Fprintf(h, "%d:%s", len(s), s) } // a hash takes everything
	text(r.Key)
	text(strconv.FormatUint(sameSum(r), 16))
	if !r.Deadline.IsZero() {
		text(r.Deadline.UTC().String())
	}
	for _, k := range slices.Sorted(maps.Keys(r.Metadata)) {
		text(k)
		text(r.Metadata[k])
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}
