package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"

	"github.com/hostup/deploy-worker/internal/telemetry"
)

// spanFile is what --trace-file names; nil without it.
type spanFile struct {
	*bufio.Writer

	file *os.File
}

// createSpanFile opens the file before the work begins. What a demo wrote that
// failed is kept.
func createSpanFile(path string) (*spanFile, error) {
	if path == "" {
		return nil, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("--trace-file: %w", err)
	}
	return &spanFile{Writer: bufio.NewWriter(f), file: f}, nil
}

// into makes the spans go to the file.
func (s *spanFile) into(o telemetry.Options) telemetry.Options {
	if s != nil {
		o.Spans = telemetry.SpanLines(s)
	}
	return o
}

// close says whether all was written.
func (s *spanFile) close() error {
	if s == nil {
		return nil
	}
	if err := errors.Join(s.Flush(), s.file.Close()); err != nil {
		return fmt.Errorf("--trace-file: %w", err)
	}
	return nil
}
