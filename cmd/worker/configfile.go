package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// fileValues are the settings of a configuration file, by flag name, as they
// were written: 0777 stays 0777.
type fileValues map[string]string

// checkValues reads the configuration file and looks at every value that the
// environment or the file gives to a flag of the chosen command, so that all
// mistakes are reported at once; kong alone stops at the first. It fills the
// file's values in for the parser, and takes unreadable ones away from it, so
// that what can be read is judged too.
func checkValues(parser *kong.Kong, args []string, file fileValues) error {
	trace, err := kong.Trace(parser, args)
	if err != nil {
		return err
	}
	if err := readFile(parser, configPath(trace), file); err != nil {
		return err
	}
	node := trace.Selected()
	if node == nil {
		return nil
	}
	given := make(map[string]bool)
	for _, p := range trace.Path {
		if p.Flag != nil {
			given[p.Flag.Name] = true
		}
	}
	var errs []error
	for _, group := range node.AllFlags(false) {
		for _, f := range group {
			if given[f.Name] {
				continue
			}
			if err := checkValue(f, file); err != nil {
				errs = append(errs, err)
				delete(file, f.Name)
				for _, env := range f.Envs {
					errs = append(errs, os.Unsetenv(env))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func checkValue(f *kong.Flag, file fileValues) error {
	source, value, set := "", "", false
	if v, ok := file[f.Name]; ok {
		source, value, set = "in the configuration file, ", v, true
	}
	for _, env := range f.Envs {
		if v, ok := os.LookupEnv(env); ok {
			source, value, set = "", v, true
		}
	}
	if !set {
		return nil
	}
	scratch := reflect.New(f.Target.Type()).Elem()
	probe := *f.Value
	if err := probe.Parse(kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: value}), scratch); err != nil {
		return fmt.Errorf("%s%s=%q: %s", source, variable(f), value, reason(err))
	}
	return nil
}

// reason drops kong's own prefix, which names the flag again.
func reason(err error) string {
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err.Error()
}

// variable is the name of a flag that people are told.
func variable(f *kong.Flag) string {
	if len(f.Envs) > 0 {
		return f.Envs[0]
	}
	return "--" + f.Name
}

// configPath finds the configuration file before anything is parsed.
func configPath(trace *kong.Context) string {
	for _, p := range trace.Path {
		if p.Flag != nil && p.Flag.Name == "config-file" {
			if path, ok := trace.FlagValue(p.Flag).(string); ok {
				return path
			}
		}
	}
	return os.Getenv("WORKER_CONFIG_FILE")
}

// readFile reads a configuration file into values; no path gives none. A key
// may be the name of a flag or of its variable.
func readFile(parser *kong.Kong, path string, values fileValues) error {
	if path == "" {
		return nil
	}
	raw, err := os.ReadFile(path) //nolint:gosec // the caller names the file; that is what the setting is for
	if err != nil {
		return fmt.Errorf("WORKER_CONFIG_FILE: %w", err)
	}
	var given map[string]yaml.Node
	// A file of comments is an empty one.
	if err := yaml.NewDecoder(bytes.NewReader(raw)).Decode(&given); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("WORKER_CONFIG_FILE=%q: %w", path, err)
	}
	names := flagNames(parser)
	var unknown []string
	var errs []error
	for key, v := range given {
		name, ok := names[key]
		_, twice := values[name]
		switch {
		case !ok:
			unknown = append(unknown, key)
		case v.Kind != yaml.ScalarNode:
			errs = append(errs, fmt.Errorf("WORKER_CONFIG_FILE=%q: %s: one value is wanted, not a list or a mapping", path, key))
		case twice:
			errs = append(errs, fmt.Errorf("WORKER_CONFIG_FILE=%q: --%s is set twice, by its name and by its variable", path, name))
		default:
			values[name] = v.Value
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		errs = append(errs, fmt.Errorf("WORKER_CONFIG_FILE=%q: unknown keys: %s; a key is the name of a flag or of its variable", path, strings.Join(unknown, ", ")))
	}
	return errors.Join(errs...)
}

// flagNames maps every flag and variable of the program to the flag.
func flagNames(parser *kong.Kong) map[string]string {
	names := make(map[string]string)
	for _, leaf := range parser.Model.Leaves(true) {
		for _, group := range leaf.AllFlags(false) {
			for _, f := range group {
				names[f.Name] = f.Name
				for _, env := range f.Envs {
					names[env] = f.Name
				}
			}
		}
	}
	return names
}

// Validate implements kong.Resolver; readFile has done it.
func (fileValues) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver. Kong would let the file win over the
// environment, so it gives way where a variable is set.
func (v fileValues) Resolve(_ *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
	for _, env := range f.Envs {
		if _, ok := os.LookupEnv(env); ok {
			return nil, nil //nolint:nilnil // kong's way to say "not here"
		}
	}
	if value, ok := v[f.Name]; ok {
		return value, nil
	}
	return nil, nil //nolint:nilnil // as above
}
