package broker

import "github.com/nats-io/nats.go/jetstream"

// Respecting is respecting.
var Respecting = respecting

// StreamFields is streamFields for the stream that want names.
func (t Topology) StreamFields(have, want jetstream.StreamConfig) []Field {
	return streamFields(t.role(want.Name), have, want)
}

// ConsumerFields is consumerFields.
var ConsumerFields = consumerFields
