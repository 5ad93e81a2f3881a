package batch

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// metadataColumn begins the names of columns that are entries of the metadata.
const metadataColumn = FieldMetadata + "."

// table reads a CSV whose first line names the fields.
type table struct {
	in      *bounded
	r       *csv.Reader
	header  []string
	columns []column
	// behind is the last line of the last row that was read.
	behind int
}

// column is what the cells of a column are: a field, or an entry of the
// metadata.
type column struct{ field, meta string }

func newTable(r io.Reader, head []byte) table {
	t := table{in: &bounded{r: r}}
	t.r = csv.NewReader(t.in)
	t.r.Comma, t.r.FieldsPerRecord, t.r.ReuseRecord = separator(head), -1, true
	return t
}

// comma is what stands between the columns, 0 where there are none.
func (t *table) comma() rune {
	if t.r == nil {
		return 0
	}
	return t.r.Comma
}

// separator finds out what stands between the columns: spreadsheets of half the
// world write semicolons.
func separator(head []byte) rune {
	first, _, _ := bytes.Cut(head, []byte("\n"))
	quoted := false
	for _, c := range string(first) {
		switch {
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == ';' || c == '\t'):
			return c
		}
	}
	return ','
}

func (t *table) next() (Row, error) {
	for {
		cells, err := t.read()
		if err != nil {
			return Row{}, err
		}
		if t.header == nil {
			if err := t.begin(cells); err != nil {
				return Row{}, err
			}
			continue
		}
		// Spreadsheets leave rows of nothing behind the last one.
		if slices.ContainsFunc(cells, func(c string) bool { return c != "" }) {
			return t.row(cells), nil
		}
	}
}

func (t *table) read() ([]string, error) {
	t.in.left = MaxRow
	cells, err := t.r.Read()
	parse, is := errors.AsType[*csv.ParseError](err)
	switch {
	case is:
		return nil, BrokenError{{Line: parse.StartLine, Column: parse.Column, Detail: fmt.Sprintf("%v: a quote is not closed, or stands in a field that does not begin with one", parse.Err)}}
	case errors.Is(err, errTooLong):
		return nil, BrokenError{{Line: t.behind + 1, Detail: err.Error() + ": a quote may not be closed"}}
	case err == nil:
		last := len(cells) - 1
		t.behind, _ = t.r.FieldPos(last)
		t.behind += strings.Count(cells[last], "\n")
	}
	return cells, err
}

// begin reads the header.
func (t *table) begin(cells []string) error {
	var bad BrokenError
	seen := make(map[string]bool)
	for i, name := range cells {
		line, at := t.r.FieldPos(i)
		c := column{field: fields[name]}
		if meta, is := strings.CutPrefix(name, metadataColumn); is && meta != "" {
			c = column{meta: meta}
		}
		switch id := c.field + metadataColumn + c.meta; {
		case !utf8.ValidString(name):
			bad = append(bad, Fault{Line: line, Column: at, Detail: "the header is not UTF-8"})
		case name == "":
			bad = append(bad, Fault{Line: line, Column: at, Detail: "a column without a name"})
		case c == column{}:
			bad = append(bad, Fault{Line: line, Column: at, Detail: unknownField(name)})
		case seen[id]:
			bad = append(bad, Fault{Line: line, Column: at, Field: name, Detail: "this column is there twice"})
		default:
			seen[id] = true
		}
		t.columns = append(t.columns, c)
	}
	for _, field := range required {
		if !seen[field+metadataColumn] {
			bad = append(bad, Fault{Line: 1, Detail: fmt.Sprintf("there is no column `%s`; the first line names the columns", field)})
		}
	}
	t.header = slices.Clone(cells)
	if len(bad) > 0 {
		return bad
	}
	return nil
}

// row reads the cells of one row; empty ones are absent.
func (t *table) row(cells []string) Row {
	line, _ := t.r.FieldPos(0)
	r := Row{Line: line, Cells: cells, place: t.place(line, len(cells))}
	if len(cells) != len(t.columns) {
		r.place = nil
		r.faultf("", "%d fields, but the header has %d", len(cells), len(t.columns))
		return r
	}
	var unread []string
	for i, cell := range cells {
		if cell == "" {
			continue
		}
		c := t.columns[i]
		if !r.cell(c, t.header[i], cell) {
			unread = append(unread, c.field)
		}
	}
	r.judge(unread)
	return r
}

func (r *Row) cell(c column, header, text string) (read bool) {
	if !utf8.ValidString(text) {
		r.faultf(header, "not UTF-8: %s", quoted(text))
		return false
	}
	switch c.field {
	case "":
		r.meta(header, c.meta, text)
	case FieldKey:
		r.Request.Key = text
	case FieldName:
		r.Request.Name = text
	case FieldRegion:
		r.Request.Region = text
	case FieldMetadata:
		return r.metadata([]byte(text))
	case FieldDeadline:
		return r.deadline(text)
	default:
		return r.size(c.field, text, quoted(text))
	}
	return true
}

// place finds a field, or a column by its header.
func (t *table) place(row, cells int) func(string) (line, column int, spelled string) {
	return func(field string) (int, int, string) {
		for i, c := range t.columns[:min(cells, len(t.columns))] {
			if c.field == field && field != "" || t.header[i] == field {
				line, at := t.r.FieldPos(i)
				return line, at, t.header[i]
			}
		}
		return row, 0, field
	}
}
