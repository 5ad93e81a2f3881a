// Package telemetry sets up the OpenTelemetry SDK: metrics into a registry of
// its own for /metrics, always; spans, log records and pushed metrics through
// the standard exporters, only when the standard variables ask for them. Every
// other package uses the API only and is handed a tracer and a meter.
//
// It imports no other package of this module.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Scope is the instrumentation scope of everything the worker records.
const Scope = "github.com/hostup/deploy-worker"

// ServiceName is service.name unless OTEL_SERVICE_NAME says otherwise.
const ServiceName = "deploy-worker"

// Options chooses what is recorded.
type Options struct {
	Version string
	// Traces exports spans as the OTEL_* variables say. Without it there is no
	// tracer, and a request's trace context is passed on unchanged.
	Traces bool
	// Metrics exports what /metrics shows as the OTEL_* variables say, too.
	Metrics bool
	// Logs exports log records as the OTEL_* variables say.
	Logs bool
	// Spans, if set, is given every span as well, one by one as it ends.
	Spans sdktrace.SpanExporter
}

// Telemetry is the set-up. Shutdown flushes it.
type Telemetry struct {
	// Tracers is nil while nobody gets its spans, as Tracer is.
	Tracers trace.TracerProvider
	Meters  metric.MeterProvider

	registry *prometheus.Registry
	tracer   trace.Tracer
	records  log.LoggerProvider
	shutdown []func(context.Context) error
}

// Start sets everything up. It touches no global.
func Start(ctx context.Context, o Options) (*Telemetry, error) {
	res, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", ServiceName), attribute.String("service.version", o.Version)),
		resource.WithTelemetrySDK(), resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("describe this process for telemetry: %w", err)
	}
	t := &Telemetry{registry: prometheus.NewRegistry()}
	if err := errors.Join(t.startMetrics(ctx, o, res), t.startSpans(ctx, o, res), t.startRecords(ctx, o, res)); err != nil {
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	return t, nil
}

// startMetrics makes the meter: for /metrics, and for an exporter if there is
// to be one.
func (t *Telemetry) startMetrics(ctx context.Context, o Options, res *resource.Resource) error {
	t.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	scraped, err := otelprom.New(otelprom.WithRegisterer(t.registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return fmt.Errorf("set up the metrics registry: %w", err)
	}
	use := []sdkmetric.Option{sdkmetric.WithReader(scraped), sdkmetric.WithView(buckets), sdkmetric.WithResource(res)}
	if o.Metrics {
		pushed, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return fmt.Errorf("set up the metrics exporter of OTEL_METRICS_EXPORTER: %w", err)
		}
		if !autoexport.IsNoneMetricReader(pushed) {
			use = append(use, sdkmetric.WithReader(pushed))
		}
	}
	meters := sdkmetric.NewMeterProvider(use...)
	t.Meters = meters
	t.shutdown = append(t.shutdown, meters.Shutdown)
	return nil
}

// startSpans makes the tracer if anybody is to get its spans. The SDK reads
// the sampler and the limits from OTEL_* by itself.
func (t *Telemetry) startSpans(ctx context.Context, o Options, res *resource.Resource) error {
	use := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	if o.Spans != nil {
		use = append(use, sdktrace.WithSyncer(o.Spans))
	}
	if o.Traces {
		spans, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			return fmt.Errorf("set up the span exporter of OTEL_TRACES_EXPORTER: %w", err)
		}
		if !autoexport.IsNoneSpanExporter(spans) {
			use = append(use, sdktrace.WithBatcher(spans))
		}
	}
	if len(use) == 1 {
		return nil
	}
	tracers := sdktrace.NewTracerProvider(use...)
	t.Tracers, t.tracer = tracers, tracers.Tracer(Scope)
	t.shutdown = append(t.shutdown, tracers.Shutdown)
	return nil
}

// Tracer returns the worker's tracer, nil while nobody gets its spans: whoever
// makes spans then does not even begin to.
func (t *Telemetry) Tracer() trace.Tracer { return t.tracer }

// Meter returns the worker's meter.
func (t *Telemetry) Meter() metric.Meter { return t.Meters.Meter(Scope) }

// Handler serves the metrics, in the OpenMetrics format where it is asked for.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// Shutdown flushes what is not exported yet, until ctx ends.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	var errs []error
	for _, stop := range t.shutdown {
		errs = append(errs, stop(ctx))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("flush telemetry: %w", err)
	}
	return nil
}
