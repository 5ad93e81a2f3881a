// Package events is the wire: it reads deploy.requested messages into
// provision.Message and writes provision.Event as deploy.provisioning,
// deploy.failed and deploy.held messages, in JSON and in binary protobuf, as
// CloudEvents over NATS (binding 1.0.3-wip: binary mode in and out, structured
// JSON mode in).
//
// Reading never fails: whatever is wrong with a message is part of what was
// read, because each defect has an answer of its own. It is also the only
// place that knows header names. What the rules of a request are is not
// decided here but in provision.
//
// It imports provision and the generated protobuf package and nothing else of
// this module.
package events
