package batch

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/hostup/deploy-worker/internal/provision"
)

// Format is what input is written in.
type Format string

// The formats. Auto goes by the first byte, and by the name's extension where
// that says nothing.
const (
	Auto   Format = "auto"
	NDJSON Format = "ndjson"
	JSON   Format = "json"
	CSV    Format = "csv"
)

// MaxRow is how many bytes a row may have; a message may have a quarter of it.
const MaxRow = 256 << 10

// Input is what orders are read from, as often as needed.
type Input struct {
	name   string
	file   *os.File
	remove string
	single *provision.Request
}

// Open opens a file. What cannot be read twice, like a pipe, is copied to a
// temporary file first.
func Open(path string) (*Input, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = &os.PathError{Op: "read", Path: path, Err: errors.New("is a directory")}
	case !info.Mode().IsRegular():
		in, err := Spool(path, f)
		return in, errors.Join(err, f.Close())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Input{name: path, file: f}, nil
}

// Spool copies r to a temporary file, which is gone with Close or with the
// process.
func Spool(name string, r io.Reader) (*Input, error) {
	in := &Input{name: name}
	var err error
	if in.file, in.remove, err = temporary(); err != nil {
		return nil, err
	}
	if _, err := io.Copy(in.file, r); err != nil {
		return nil, errors.Join(fmt.Errorf("copy %s: %w", name, err), in.Close())
	}
	return in, nil
}

// temporary returns a file that nobody else finds. Where a file that is open
// cannot be removed, its path is returned, for later.
func temporary() (f *os.File, path string, err error) {
	f, err = os.CreateTemp("", "worker-submit-*")
	if err != nil {
		return nil, "", fmt.Errorf("make a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return f, f.Name(), nil //nolint:nilerr // Close removes it
	}
	return f, "", nil
}

// Single is an input of one order.
func Single(r provision.Request) *Input { return &Input{name: "the order", single: &r} }

// File is the file that is read, nil of an input that is none.
func (in *Input) File() *os.File { return in.file }

// Close closes the input and removes what Spool made.
func (in *Input) Close() error {
	if in.file == nil {
		return nil
	}
	err := in.file.Close()
	if in.remove != "" {
		err = errors.Join(err, os.Remove(in.remove))
	}
	return err
}

// rows is one reading of an input.
type rows struct {
	next  func() (Row, error)
	table table // of a CSV
	bytes io.Reader
	hash  hash.Hash
}

// sum reads what is left and returns a hash over everything.
func (r *rows) sum() string {
	if r.bytes != nil {
		_, _ = io.Copy(io.Discard, r.bytes) // at its end already
	}
	return hex.EncodeToString(r.hash.Sum(nil))
}

// rows begins a reading.
func (in *Input) rows(as Format) (*rows, error) {
	r := &rows{hash: sha256.New()}
	if in.single != nil {
		r.next = once(*in.single)
		return r, nil
	}
	r.bytes = io.TeeReader(io.NewSectionReader(in.file, 0, math.MaxInt64), r.hash)
	text := bufio.NewReader(r.bytes)
	head, err := text.Peek(text.Size())
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if bytes.HasPrefix(head, []byte{0xff, 0xfe}) || bytes.HasPrefix(head, []byte{0xfe, 0xff}) {
		return nil, BrokenError{{Line: 1, Detail: "it is UTF-16; save it as UTF-8"}}
	}
	if bom := []byte("\xef\xbb\xbf"); bytes.HasPrefix(head, bom) {
		_, _ = text.Discard(len(bom)) // it was peeked at
		head = head[len(bom):]
	}
	if as == Auto || as == "" {
		as = guess(in.name, head)
	}
	switch as {
	case NDJSON:
		r.next = newLines(text).next
	case JSON:
		r.next = newArray(text).next
	default:
		r.table = newTable(text, head)
		r.next = r.table.next
	}
	return r, nil
}

// guess finds the format. No header of a CSV begins as JSON does.
func guess(name string, head []byte) Format {
	switch head = bytes.TrimLeft(head, " \t\r\n"); {
	case len(head) > 0 && head[0] == '[':
		return JSON
	case len(head) > 0 && head[0] == '{':
		return NDJSON
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".json", ".ndjson", ".jsonl":
		return NDJSON
	default:
		return CSV
	}
}

// once gives one row.
func once(request provision.Request) func() (Row, error) {
	given := false
	return func() (Row, error) {
		if given {
			return Row{}, io.EOF
		}
		given = true
		r := Row{Request: request}
		r.judge(nil)
		return r, nil
	}
}

// errTooLong ends the reading of a row that has no end.
var errTooLong = fmt.Errorf("a row has more than %d bytes", MaxRow)

// bounded refuses to read more than is left, so that a quote or a bracket that
// is never closed does not fill the memory.
type bounded struct {
	r    io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.r.Read(p)
	b.left -= n
	return n, err
}
