package broker

import "github.com/nats-io/nats.go/jetstream"

// Respecting is respecting.
var Respecting = respecting

// StreamFields is streamFields for the stream that want names.
func (t Topology) StreamFields(have, want jetstream.StreamConfig) []Field {
	return streamFields(t.role(want.Name), have, want)
}

// ConsumerFields is consumerFields for a consumer of orders, ReaderFields for
// one of events.
func ConsumerFields(have, want jetstream.ConsumerConfig) []Field {
	return consumerFields(roleRequests, have, want)
}

// ReaderFields is consumerFields for a consumer of events.
func ReaderFields(have, want jetstream.ConsumerConfig) []Field {
	return consumerFields(roleOutput, have, want)
}
