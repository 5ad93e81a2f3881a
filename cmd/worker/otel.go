package main

import (
	"slices"
	"strings"

	"github.com/hostup/deploy-worker/internal/telemetry"
)

// exports tells what the standard variables ask to be exported. The exporters'
// own default would be a collector on this machine. Metrics are on /metrics and
// logs on stderr already, so the address of a collector alone asks for spans
// only.
func exports(lookup func(string) (string, bool)) (o telemetry.Options) {
	set := func(names ...string) bool {
		for _, name := range names {
			if v, _ := lookup(name); v != "" {
				return true
			}
		}
		return false
	}
	if v, _ := lookup("OTEL_SDK_DISABLED"); strings.EqualFold(v, "true") {
		return o
	}
	o.Traces = set("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
	o.Metrics = set("OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
	o.Logs = set("OTEL_LOGS_EXPORTER", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")
	return o
}

// unread names the standard variables that are set and that the worker does not
// follow: the trace context on the wire is the contract's, W3C's alone, and
// there is no reader of OpenTelemetry's configuration file.
func unread(lookup func(string) (string, bool)) (names []string) {
	propagators, _ := lookup("OTEL_PROPAGATORS")
	for name := range strings.SplitSeq(propagators, ",") {
		switch strings.TrimSpace(name) {
		case "", "tracecontext", "baggage":
		default:
			names = append(names, "OTEL_PROPAGATORS")
		}
	}
	if v, _ := lookup("OTEL_CONFIG_FILE"); v != "" {
		names = append(names, "OTEL_CONFIG_FILE")
	}
	return slices.Compact(names)
}
