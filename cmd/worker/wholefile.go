package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// wholeFile is a file that takes the place of its path when it is complete:
// nobody reads half of one, and what was there stays until then.
type wholeFile struct {
	path string
	file *os.File
}

// createWhole makes sure that the file can be written before the work begins
// that it is to tell of. The flag is named in the error.
func createWhole(flag, path string) (*wholeFile, error) {
	if there, err := os.Stat(path); err == nil && !there.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %s is no file", flag, path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return &wholeFile{path: path, file: f}, nil
}

// keep puts the file in its place.
func (c *wholeFile) keep() error {
	name := c.file.Name()
	err := c.file.Chmod(0o644)
	err = errors.Join(err, c.file.Close())
	c.file = nil
	if err == nil {
		err = os.Rename(name, c.path)
	}
	return err
}

// discard removes what was not kept.
func (c *wholeFile) discard() {
	if c.file != nil {
		_ = c.file.Close()
		_ = os.Remove(c.file.Name())
	}
}
