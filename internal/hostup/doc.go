// Package hostup speaks to the HostUp Cloud API, version 2.
//
// It has two channels. Reads (limits, options, servers) go through a pooled
// client and may be repeated by anybody. Creates go through a channel of their
// own that cannot send a request twice: every call opens one connection,
// writes at most one request to it and counts the bytes, so that "nothing was
// sent" is something it knows and not something it hopes. What a create call
// proved is decided by one pure function, judge; whatever that function does
// not recognise is unknown.
//
// Nothing here retries. The core does, and it is the only layer that does.
//
// The API key never leaves the package: it cannot be printed, it is added to a
// request below the tracing layer, and it is cut out of whatever a server
// echoes, before anything else looks at the answer.
//
// The package implements provision.API and provision.Account. It imports
// provision and admission for their types, and nothing else of this module.
package hostup
