// Package deployv1 holds the messages of the wire, generated from events.proto
// beside it. It has no code of its own and imports nothing of this module.
package deployv1
