// Package simulator is the HostUp API as far as the worker uses it, on an
// account that costs nothing: the documented answers, limits, scopes and rate
// limits, and every way to go wrong that a client has to survive.
//
// It keeps a ledger of invoices that does not depend on what any client was
// told, so a test can ask the only question that matters: how many servers
// were paid for? The log of creates tells how many POSTs it took.
//
// A request passes these steps, and the first that objects answers:
//
//	latency, token (401), scope (403), rate (429), syntax (400), fault before,
//	gate and limits (403), the server is created and billed, fault after, answer
//
// # Faults
//
//	RULE   [target][:][name-prefix*]/FAULT[@probability]
//	       target: creates (default), reads, limits, options, list, get, details, status, cancel
//	FAULT  kind[-bare|-limit][-before|-after][:option,…][*N]
//	       -before: nothing was created (default)   -after: created and billed, then the fault
//	       a request that is refused anyway gets its refusal instead of an -after fault
//	       -bare: HTML instead of a problem document   -limit: blockerReasons instance_limit_exceeded
//	       *N: only the first N times, per server name (reads: per endpoint); reads know no phase
//	NAME   a server named fault-FAULT-anything gets that fault: - for : = and , and xN for *N,
//	       as in fault-cut-after-x1-web01, fault-429-retry-after-3-web, fault-slow-2s-web
//	kind         default  what happens
//	  none       before   no fault: exempts what it matches from later rules
//	  300…599    before   this status with a problem document (307 points back to the same URL)
//	  cut        before   the connection is reset without one byte of an answer
//	  hang       before   no answer until the client gives up or the simulator is closed
//	  truncated  after    the good answer, cut off after the vpsId (reads: half way)
//	  garbage    after    the good status with a body that is not JSON
//	  empty      after    the good status without a body
//	  slow=D     after    nothing wrong, but D later (before: the effect itself is late)
//	option           for           meaning
//	  delay=D        all but hang  misbehave only after this time; a create goes on although its client left
//	  code=C         300…599       code of the problem document
//	  blocker=R      300…599       blockerReasons of the problem document
//	  extensions     300…599       blockerReasons below extensions, as older pages have them
//	  legacy         300…599       the legacy envelope instead of a problem document
//	  retry-after=V  300…599       header Retry-After: V, whatever V is
//	  date=D         300…599       header Retry-After: an HTTP date D from now
//	  reset=D        300…599       header X-RateLimit-Reset: an ISO timestamp D from now
//	  epoch=D        300…599       header X-RateLimit-Reset: Unix seconds D from now
//	  none           300…599       no rate limit headers at all
//	  fin            cut           close politely instead of a reset
//	  at=N           truncated     keep N bytes of the body
//
// # Control
//
// The same things are reachable over HTTP for other processes, below /_sim,
// without a token and untouched by faults: GET invoices, creates, servers,
// windows, stats and config; POST config (a JSON patch of what GET config shows) and
// POST servers (a server that nobody bought: name, cpuCores, memoryGb,
// storageGb, region, isPayg, createdAt, status). The listener must therefore be
// on loopback.
//
// The package imports only the standard library; it deliberately shares no code
// with the client it tests.
package simulator
