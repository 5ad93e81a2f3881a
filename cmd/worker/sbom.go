package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
)

// bill is a bill of materials as CycloneDX 1.6 has it: what a program is made
// of, as the Go toolchain has written into it. It depends on nothing but the
// program's bytes.
type bill struct {
	Format       string         `json:"bomFormat"`
	Spec         string         `json:"specVersion"`
	Serial       string         `json:"serialNumber"`
	Version      int            `json:"version"`
	Metadata     billMetadata   `json:"metadata"`
	Components   []component    `json:"components"`
	Dependencies []dependencies `json:"dependencies"`
}

type billMetadata struct {
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Hashes     []digest   `json:"hashes,omitempty"`
	PURL       string     `json:"purl"`
	Properties []property `json:"properties,omitempty"`
}

type digest struct {
	Alg     string `json:"alg"`
	Content string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependencies struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// billOf reads a program.
func billOf(path string) (bill, error) {
	f, err := os.Open(path)
	if err != nil {
		return bill{}, err
	}
	defer func() { _ = f.Close() }()
	info, err := buildinfo.Read(f)
	if err != nil {
		return bill{}, fmt.Errorf("read what %s is made of: %w", path, err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return bill{}, fmt.Errorf("read %s: %w", path, err)
	}
	return newBill(info, sum.Sum(nil)), nil
}

// newBill lists the modules of a program. Its own version is that of the one that
// runs: what the linker was told is not among what the toolchain notes.
func newBill(info *debug.BuildInfo, sum []byte) bill {
	b := bill{Format: "CycloneDX", Spec: "1.6", Version: 1, Serial: serial(sum)}
	self := module("application", info.Main.Path, version)
	self.Hashes = []digest{{"SHA-256", hex.EncodeToString(sum)}}
	for _, s := range info.Settings {
		if strings.HasPrefix(s.Key, "GO") || s.Key == "-tags" {
			self.Properties = append(self.Properties, property{"build:" + s.Key, s.Value})
		}
	}
	b.Metadata.Component = self
	b.Components = append(b.Components, module("library", "std", strings.TrimPrefix(info.GoVersion, "go")))
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		b.Components = append(b.Components, module("library", d.Path, d.Version))
	}
	all := dependencies{Ref: self.Ref}
	for _, c := range b.Components {
		all.DependsOn = append(all.DependsOn, c.Ref)
	}
	b.Dependencies = []dependencies{all}
	return b
}

func module(kind, path, version string) component {
	purl := "pkg:golang/" + path + "@" + version
	return component{Type: kind, Ref: purl, Name: path, Version: version, PURL: purl}
}

// serial is a UUID made of a program's sum (RFC 9562, version 8).
func serial(sum []byte) string {
	u := append([]byte(nil), sum[:16]...)
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
