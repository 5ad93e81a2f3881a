package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/resource"
)

// startRecords sets the export of log records up if it is asked for.
func (t *Telemetry) startRecords(ctx context.Context, o Options, res *resource.Resource) error {
	if !o.Logs {
		return nil
	}
	records, err := autoexport.NewLogExporter(ctx)
	if err != nil {
		return fmt.Errorf("set up the log exporter of OTEL_LOGS_EXPORTER: %w", err)
	}
	if autoexport.IsNoneLogExporter(records) {
		return nil
	}
	loggers := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewBatchProcessor(records)), sdklog.WithResource(res))
	t.records = loggers
	t.shutdown = append(t.shutdown, loggers.Shutdown)
	return nil
}

// Log returns a logger that writes what l writes, and exports it as well if
// log records are exported.
func (t *Telemetry) Log(l *slog.Logger) *slog.Logger {
	if t.records == nil {
		return l
	}
	return slog.New(both{l.Handler(), otelslog.NewHandler(Scope, otelslog.WithLoggerProvider(t.records))})
}

// both writes a line and exports it. The written one decides the level.
type both struct{ written, exported slog.Handler }

func (b both) Enabled(ctx context.Context, l slog.Level) bool { return b.written.Enabled(ctx, l) }

func (b both) Handle(ctx context.Context, r slog.Record) error {
	return errors.Join(b.written.Handle(ctx, r.Clone()), b.exported.Handle(ctx, r))
}

func (b both) WithAttrs(as []slog.Attr) slog.Handler {
	return both{b.written.WithAttrs(as), b.exported.WithAttrs(as)}
}

func (b both) WithGroup(name string) slog.Handler {
	return both{b.written.WithGroup(name), b.exported.WithGroup(name)}
}

// complaintEvery is the time between two lines about an export that fails: a
// collector that is away fails every batch.
const complaintEvery = time.Minute

// ReportErrors makes the SDK tell l what it cannot export. The SDK has one such
// place in a process, so only the program itself calls it.
func ReportErrors(l *slog.Logger) {
	var last atomic.Int64
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		now := time.Now().UnixNano()
		before := last.Load()
		if now-before < int64(complaintEvery) || !last.CompareAndSwap(before, now) {
			return
		}
		l.Warn("OpenTelemetry reports a fault; the work goes on", "error", err)
	}))
}
