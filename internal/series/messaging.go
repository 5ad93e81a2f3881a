package series

import (
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// System is the messaging.system of NATS; none is registered, and everybody uses
// this one.
var System = semconv.MessagingSystemKey.String("nats")

// Operation is what tells the series of the messaging conventions' metrics
// apart. What is empty is left out.
type Operation struct {
	// Name is "publish", "receive", "process", "ack" and so on.
	Name string
	// Type is what the conventions call it, where they measure its time.
	Type string
	// Consumer is the durable consumer, Destination the subject.
	Consumer, Destination string
	// Error is a class of errors, never a text that varies.
	Error string
}

// Operations returns the series of those metrics.
func Operations() *By[Operation] {
	return New(func(o Operation) []attribute.KeyValue {
		as := []attribute.KeyValue{System, semconv.MessagingOperationName(o.Name)}
		for key, value := range map[attribute.Key]string{
			semconv.MessagingOperationTypeKey:     o.Type,
			semconv.MessagingConsumerGroupNameKey: o.Consumer,
			semconv.MessagingDestinationNameKey:   o.Destination,
			semconv.ErrorTypeKey:                  o.Error,
		} {
			if value != "" {
				as = append(as, key.String(value))
			}
		}
		return as
	})
}
