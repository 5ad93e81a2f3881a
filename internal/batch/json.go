package batch

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// lines reads NDJSON: an object on each line.
type lines struct {
	text *bufio.Reader
	line int
}

func newLines(r io.Reader) *lines { return &lines{text: bufio.NewReaderSize(r, MaxRow)} }

func (l *lines) next() (Row, error) {
	for {
		l.line++
		raw, err := l.text.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			row := Row{Line: l.line}
			row.faultf("", "%v", errTooLong)
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = l.text.ReadSlice('\n')
			}
			if err == nil || errors.Is(err, io.EOF) {
				return row, nil
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return Row{}, err
		}
		if raw = bytes.TrimSpace(raw); len(raw) > 0 {
			return objectRow(l.line, raw, "NDJSON has one object on each line, as `jq -c` writes it"), nil
		}
		if err != nil {
			return Row{}, err
		}
	}
}

// array reads a JSON array of objects, one by one.
type array struct {
	in    *bounded
	lines *lineCount
	d     *json.Decoder
	begun bool
}

func newArray(r io.Reader) *array {
	a := &array{in: &bounded{r: r}}
	a.lines = &lineCount{r: a.in}
	a.d = json.NewDecoder(a.lines)
	return a
}

func (a *array) next() (Row, error) {
	a.in.left = MaxRow
	if !a.begun {
		if t, err := a.d.Token(); err != nil || t != json.Delim('[') {
			return Row{}, a.fatal(err, "a JSON array of objects is wanted")
		}
		a.begun = true
	}
	if !a.d.More() {
		if _, err := a.d.Token(); err != nil {
			return Row{}, a.fatal(err, "the array does not end: the file may be cut off")
		}
		if _, err := a.d.Token(); !errors.Is(err, io.EOF) {
			return Row{}, a.fatal(err, "there is something behind the array")
		}
		return Row{}, io.EOF
	}
	var raw json.RawMessage
	if err := a.d.Decode(&raw); err != nil {
		return Row{}, a.fatal(err, "it cannot be read on from here")
	}
	return objectRow(a.lines.at(a.d.InputOffset()-int64(len(raw))), raw, "an array of objects is wanted"), nil
}

// fatal tells why the array cannot be read on, unless reading itself failed.
func (a *array) fatal(err error, why string) error {
	// Where the value begins that cannot be read; the offset in the error counts
	// something else.
	rest, _ := io.ReadAll(a.d.Buffered()) // it is in memory
	line := a.lines.at(a.d.InputOffset() + int64(len(rest)-len(bytes.TrimLeft(rest, " \t\r\n,"))))
	_, syntax := errors.AsType[*json.SyntaxError](err)
	switch {
	case syntax:
		why = err.Error() + "; " + why
	case errors.Is(err, errTooLong):
		why = err.Error() + ": a bracket or a quote may not be closed"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		why = "the array does not end: the file may be cut off"
	case err != nil:
		return err
	}
	return BrokenError{{Line: line, Detail: why}}
}

// lineCount tells in which line a byte was that has been read.
type lineCount struct {
	r    io.Reader
	read int64
	// line is that of the last question, breaks the line breaks after it.
	line   int
	breaks []int64
}

func (c *lineCount) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	for i, b := range p[:n] {
		if b == '\n' {
			c.breaks = append(c.breaks, c.read+int64(i))
		}
	}
	c.read += int64(n)
	return n, err
}

// at returns the line of a byte; questions must not go backwards.
func (c *lineCount) at(offset int64) int {
	n := 0
	for n < len(c.breaks) && c.breaks[n] < offset {
		n++
	}
	c.line += n
	c.breaks = slices.Delete(c.breaks, 0, n)
	return c.line + 1
}

// objectRow reads a row from a JSON object.
func objectRow(line int, raw []byte, wanted string) Row {
	r := Row{Line: line}
	members, err := membersOf(raw)
	if err != nil {
		r.faultf("", "%v; %s", err, wanted)
		return r
	}
	r.judge(r.members(members))
	return r
}

// members reads the fields and returns those that could not be read.
func (r *Row) members(members []member) (unread []string) {
	seen := make(map[string]bool)
	for _, m := range members {
		field, known := fields[m.name]
		switch {
		case !known:
			r.faultf("", "%s", unknownField(m.name))
			continue
		case seen[field]:
			r.faultf(m.name, "`%s` is there twice", field)
			unread = append(unread, field)
			continue
		case m.value[0] == 'n': // null: absent
			continue
		}
		seen[field] = true
		if !r.member(field, m.value) {
			unread = append(unread, field)
		}
	}
	return unread
}

// member reads one field.
func (r *Row) member(field string, value json.RawMessage) (read bool) {
	switch field {
	case FieldCPU, FieldMemory, FieldStorage:
		return r.size(field, string(value), shown(value))
	case FieldMetadata:
		return r.metadata(value)
	}
	if value[0] != '"' {
		r.faultf(field, "`%s` must be a string, not %s", field, shown(value))
		return false
	}
	var text string
	_ = json.Unmarshal(value, &text) // membersOf has read it
	switch field {
	case FieldKey:
		if text == "" {
			r.faultf(field, "`%s` is empty; leave it out to have one derived", field)
			return false
		}
		r.Request.Key = text
	case FieldName:
		r.Request.Name = text
	case FieldRegion:
		r.Request.Region = text
	case FieldDeadline:
		return r.deadline(text)
	}
	return true
}

// metadata reads an object of strings.
func (r *Row) metadata(raw []byte) (read bool) {
	entries, err := membersOf(raw)
	if err != nil {
		r.faultf(FieldMetadata, "`%s` must be an object of strings: %v", FieldMetadata, err)
		return false
	}
	read = true
	for _, m := range entries {
		switch m.value[0] {
		case '"':
			var text string
			_ = json.Unmarshal(m.value, &text) // membersOf has read it
			r.meta(FieldMetadata, m.name, text)
		case 'n': // null: absent
		default:
			r.faultf(FieldMetadata, "values of `%s` must be strings, %s is %s", FieldMetadata, quoted(m.name), shown(m.value))
			read = false
		}
	}
	return read
}

// member is one of a JSON object, in the order of the text.
type member struct {
	name  string
	value json.RawMessage
}

// membersOf takes a JSON object apart. A name that comes twice comes twice.
func membersOf(raw []byte) ([]member, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	begin, err := d.Token()
	if err != nil {
		return nil, broken(err)
	}
	if begin != json.Delim('{') {
		return nil, fmt.Errorf("an object is wanted, not %s", shown(bytes.TrimSpace(raw)))
	}
	var found []member
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, broken(err)
		}
		m := member{name: fmt.Sprint(name)} // the decoder takes nothing but a string for a name
		if err := d.Decode(&m.value); err != nil {
			return nil, broken(err)
		}
		found = append(found, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, broken(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something behind the object")
	}
	return found, nil
}

// broken tells a syntax error to people.
func broken(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON object does not end")
	}
	if syntax, is := errors.AsType[*json.SyntaxError](err); is {
		return fmt.Errorf("not JSON: %w at byte %d", err, syntax.Offset)
	}
	return fmt.Errorf("not JSON: %w", err)
}

// shown renders a JSON value in a detail.
func shown(raw []byte) string {
	switch raw[0] {
	case '"':
		var text string
		_ = json.Unmarshal(raw, &text) // what cannot be read is shown empty
		return "the string " + quoted(text)
	case '{':
		return "an object"
	case '[':
		return "an array"
	}
	if len(raw) > quotedBytes {
		raw = raw[:quotedBytes]
	}
	return string(raw)
}
