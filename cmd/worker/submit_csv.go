package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostup/deploy-worker/internal/batch"
)

// orderColumns are those of an order that did not come from a CSV,
// outcomeColumns what a result adds to either.
var (
	orderColumns   = []string{batch.FieldKey, batch.FieldName, batch.FieldCPU, batch.FieldMemory, batch.FieldStorage, batch.FieldRegion, batch.FieldMetadata, batch.FieldDeadline}
	outcomeColumns = []string{"state", "vpsId", "orderId", "invoiceId", "reason", "billed", "detail"}
)

// writeCSV writes the input with the outcomes, in the order of the input. A key
// that was derived has a column of its own.
func (s *submission) writeCSV(to io.Writer) error {
	w := csv.NewWriter(to)
	header := s.batch.Header()
	keyed := slices.ContainsFunc(header, batch.IsKey)
	if header == nil {
		header, keyed = orderColumns, true
	} else {
		w.Comma = s.batch.Comma()
	}
	header = slices.Clone(header)
	if !keyed {
		header = append(header, batch.FieldKey)
	}
	err := w.Write(append(header, outcomeColumns...))
	if err == nil {
		err = s.results(func(r batch.Row, o submittedOrder) error {
			cells := slices.Clone(r.Cells)
			if cells == nil {
				cells = orderCells(r)
			}
			for i, name := range header[:len(cells)] {
				if batch.IsKey(name) {
					cells[i] = o.Key // derived, where a row had none
				}
			}
			if !keyed {
				cells = append(cells, o.Key)
			}
			detail := o.remark(func(at time.Time) string { return at.UTC().Format(time.RFC3339) })
			return w.Write(append(cells, string(o.State), inert(o.VPSID), inert(o.OrderID), inert(o.InvoiceID), o.Reason, o.Billed, inert(detail)))
		})
	}
	w.Flush()
	if err = errors.Join(err, w.Error()); err != nil {
		return fmt.Errorf("write the CSV: %w", err)
	}
	return nil
}

// inert keeps what the API says from being a formula in a spreadsheet.
func inert(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}

func orderCells(r batch.Row) []string {
	q := r.Request
	metadata, deadline := "", ""
	if len(q.Metadata) > 0 {
		text, err := json.Marshal(q.Metadata)
		if err != nil {
			text = nil // strings always encode
		}
		metadata = string(text)
	}
	if !q.Deadline.IsZero() {
		deadline = q.Deadline.Format(time.RFC3339Nano)
	}
	number := func(n int32) string { return strconv.Itoa(int(n)) }
	return []string{q.Key, q.Name, number(q.CPUCores), number(q.MemoryGB), number(q.StorageGB), q.Region, metadata, deadline}
}

// createCSV makes sure that the result can be written before anything is sent.
func createCSV(path string, input *batch.Input) (*wholeFile, error) {
	if there, err := os.Stat(path); err == nil {
		if f := input.File(); f != nil {
			if read, err := f.Stat(); err == nil && os.SameFile(read, there) {
				return nil, fmt.Errorf("--csv-out: %s is the file that the orders are read from", path)
			}
		}
	}
	return createWhole("--csv-out", path)
}
