package main

import (
	"errors"
	"io"
	"log/slog"

	"github.com/hostup/deploy-worker/internal/telemetry"
)

type logSettings struct {
	LogLevel  string `name:"log-level" env:"WORKER_LOG_LEVEL" default:"info" group:"Log" help:"debug, info, warn or error."`
	LogFormat string `name:"log-format" env:"WORKER_LOG_FORMAT" default:"" placeholder:"FORMAT" group:"Log" help:"json or text; text on a terminal and json elsewhere unless set."`
}

func (s logSettings) validate() error {
	errs := []error{oneOf("WORKER_LOG_LEVEL", s.LogLevel, "debug", "info", "warn", "error")}
	if s.LogFormat != "" {
		errs = append(errs, oneOf("WORKER_LOG_FORMAT", s.LogFormat, "json", "text"))
	}
	return errors.Join(errs...)
}

// logger writes to w. The settings must be valid.
func (s logSettings) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(s.LogLevel)) // validated
	opts := &slog.HandlerOptions{Level: level}
	format := s.LogFormat
	if format == "" {
		format = "json"
		if isTerminal(w) {
			format = "text"
		}
	}
	if format == "text" {
		return slog.New(telemetry.LogHandler(slog.NewTextHandler(w, opts)))
	}
	return slog.New(telemetry.LogHandler(slog.NewJSONHandler(w, opts)))
}
