// Package deploytest has no code, only tests of the files in deploy: whether what
// they name exists and what they refer to is there. It is a module of its own, so
// that the parsers of Prometheus and of Compose stay out of the worker's.
package deploytest
