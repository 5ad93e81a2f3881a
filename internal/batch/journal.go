package batch

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Heading is the first line of a journal: what was sent from what. Everything
// that decides what is sent for a row is in it.
type Heading struct {
	Version int `json:"workerSubmitJournal"`
	// Submission marks all messages of one submission, the resumed ones too.
	Submission string `json:"submission"`
	// Sum is that of the input, Rows how many it has.
	Sum       string    `json:"sha256"`
	Rows      int       `json:"rows"`
	KeyPrefix string    `json:"keyPrefix"`
	Subject   string    `json:"subject"`
	StartedAt time.Time `json:"startedAt"`
}

const journalVersion = 1

// headingBegin tells a heading that was cut off from somebody else's file.
const headingBegin = `{"workerSubmitJournal":`

// Journal remembers which rows the broker has confirmed. It only grows: a
// heading, then a line for each confirmed row with a checksum, so that a line
// that was cut off by a crash or is damaged counts for nothing. What it forgets
// is sent again, which is harmless.
type Journal struct {
	Heading

	path      string
	file      *os.File
	confirmed []uint64 // a bit for each row
	count     int
	// whole is how many bytes of the file are good.
	whole int64
}

// ReadJournal returns the journal at a path, nil when there is none. One that
// ends within its heading is none: nothing was sent when it was written.
func ReadJournal(path string) (*Journal, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was read only
	j := &Journal{path: path}
	text := bufio.NewReader(f)
	line, err := text.ReadBytes('\n')
	if errors.Is(err, io.EOF) && strings.HasPrefix(headingBegin, string(line[:min(len(line), len(headingBegin))])) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(line, &j.Heading)
	}
	if err != nil || j.Version != journalVersion || j.Rows < 0 {
		return nil, fmt.Errorf("%s is no journal of worker submit that this version can read", path)
	}
	j.whole = int64(len(line))
	j.confirmed = make([]uint64, (j.Rows+63)/64)
	for {
		line, err := text.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return j, nil
		}
		row, ok := j.parse(line)
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, fmt.Errorf("read the journal %s: %w", path, err)
		}
		if !ok {
			// Behind damage nothing is believed.
			return j, nil
		}
		j.mark(row)
		j.whole += int64(len(line))
	}
}

// CreateJournal begins a journal; there must be none. It is on the disk when
// CreateJournal returns.
func CreateJournal(path string, h Heading) (*Journal, error) {
	h.Version = journalVersion
	j := &Journal{Heading: h, path: path, confirmed: make([]uint64, (h.Rows+63)/64)}
	line, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode the journal: %w", err)
	}
	// What ReadJournal takes for none may lie there.
	j.file, err = os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	line = append(line, '\n')
	if _, err = j.file.Write(line); err == nil {
		err = j.file.Sync()
	}
	if err == nil {
		err = syncDirectory(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write the journal: %w", err), j.Close())
	}
	j.whole = int64(len(line))
	return j, nil
}

// Continue opens a journal that was read for more.
func (j *Journal) Continue() error {
	f, err := os.OpenFile(j.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	// A line that was cut off would spoil the next one.
	if err = f.Truncate(j.whole); err == nil {
		_, err = f.Seek(j.whole, io.SeekStart)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("continue the journal: %w", err), f.Close())
	}
	j.file = f
	return nil
}

// Differs says what of a submission is not that of the journal, "" when it can
// go on.
func (j *Journal) Differs(h Heading) string {
	switch {
	case j.Sum != h.Sum || j.Rows != h.Rows:
		return "the input has changed since"
	case j.KeyPrefix != h.KeyPrefix:
		return fmt.Sprintf("it was begun with --key-prefix %q", j.KeyPrefix)
	case j.Subject != h.Subject:
		return "its orders went to " + j.Subject
	default:
		return ""
	}
}

// Path is where the journal lies.
func (j *Journal) Path() string { return j.path }

// Count is how many rows are confirmed.
func (j *Journal) Count() int { return j.count }

// Confirmed reports whether the broker is known to have row i.
func (j *Journal) Confirmed(i int) bool { return j.confirmed[i/64]&(1<<(i%64)) != 0 }

// Confirm notes that the broker has row i. It survives the end of the process,
// but not always a loss of power.
func (j *Journal) Confirm(i int) error {
	if _, err := j.file.WriteString(j.line(i)); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	j.mark(i)
	return nil
}

func (j *Journal) mark(i int) {
	if !j.Confirmed(i) {
		j.confirmed[i/64] |= 1 << (i % 64)
		j.count++
	}
}

// line is what is written for a row. The checksum is one over the submission,
// too: no other file's bytes pass for it.
func (j *Journal) line(i int) string {
	return fmt.Sprintf("%d %08x\n", i, crc32.ChecksumIEEE(fmt.Appendf(nil, "%s %d", j.Submission, i)))
}

func (j *Journal) parse(line []byte) (row int, ok bool) {
	if _, err := fmt.Sscanf(string(line), "%d ", &row); err != nil || row < 0 || row >= j.Rows {
		return 0, false
	}
	return row, string(line) == j.line(row)
}

// Close closes the journal and leaves it.
func (j *Journal) Close() error {
	if j.file == nil {
		return nil
	}
	err := errors.Join(j.file.Sync(), j.file.Close())
	j.file = nil
	return err
}

// Remove closes the journal and removes it: there is nothing to resume.
func (j *Journal) Remove() error { return errors.Join(j.Close(), os.Remove(j.path)) }

// syncDirectory makes a new name in a directory last.
func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	// Not every system can do it.
	_ = d.Sync()
	return d.Close()
}
