// Package provision is the core of the worker: it turns one request into
// exactly one server and exactly one outcome event, whatever is redelivered,
// duplicated, cut off or restarted on the way.
//
// The create call costs money and has no idempotency key, so everything here
// serves one order of effects:
//
//	ledger read ──> admission (brake, gate, limits, caps)
//	  ──> 1 intent      compare-and-set: creating, with the name row
//	  ──> 2 POST        one attempt, ended by a hard deadline
//	  ──> 3 result      compare-and-set: created | failed | unknown | accepted
//	  ──> 4 event       published under an id derived from the key
//	  ──> 5 done        compare-and-set, not waited for
//	  ──> 6 ack         by the caller, on Disposition Done
//
// Nothing is published before 3 is stored and nothing is acked before 4 is
// confirmed. A process that dies between any two steps leaves a record from
// which any other process goes on; see ARCHITECTURE.md for the table.
//
// The package declares the ports it needs (ports.go) and knows neither HTTP
// nor NATS nor protobuf. It imports admission and nothing else of this module.
package provision
