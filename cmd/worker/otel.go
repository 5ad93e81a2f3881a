package main

import "strings"

// exports reports whether the standard variables ask for an export of spans,
// and of log records. The exporters' own default would be a collector on this
// machine. Logs are on stdout already, so an endpoint alone does not ask for
// them.
func exports(lookup func(string) (string, bool)) (traces, logs bool) {
	set := func(names ...string) bool {
		for _, name := range names {
			if v, _ := lookup(name); v != "" {
				return true
			}
		}
		return false
	}
	if v, _ := lookup("OTEL_SDK_DISABLED"); strings.EqualFold(v, "true") {
		return false, false
	}
	return set("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), set("OTEL_LOGS_EXPORTER")
}
