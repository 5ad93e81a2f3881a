package broker

import (
	"cmp"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// role is what a stream is for; it decides which of its settings matter.
type role int

const (
	roleRequests role = iota
	roleOutput        // events and dead letters
	roleLedger
)

func (t Topology) role(stream string) role {
	switch stream {
	case t.Stream:
		return roleRequests
	case "KV_" + t.Bucket:
		return roleLedger
	default:
		return roleOutput
	}
}

// reason is why a setting is wanted as it is. It is unsafe to go without when an
// order could be lost, bought twice or never taken.
type reason struct {
	why    string
	unsafe bool
}

// streamReasons hold for every stream, roleReasons where the role says more.
var streamReasons = map[string]reason{
	fieldSubjects:  {"what is published on these subjects is not stored", true},
	fieldRetention: {"what was read once is gone", true},
	fieldReplicas:  {"a server that is lost takes with it what it alone has", false},
	fieldStorage:   {"memory forgets everything when the server restarts", true},
	fieldMaxAge:    {"what was not read by then is dropped, and nobody is told", true},
	fieldMsgSize:   {"what is larger is refused, and the worker tries in vain to store it", true},
	fieldPerSubj:   {"messages are dropped for newer ones, or refused", true},
	fieldWindow:    {"what is published again later than this is stored twice", false},
	fieldDirect:    {"a replica that has not seen the last write may answer a read", false},
	fieldMsgTTL:    {"single messages have no time to live", false},
	fieldMarker:    {"whoever follows the stream is not told of what expired", false},
}

var roleReasons = map[role]map[string]reason{
	roleRequests: {
		fieldRetention: {"after a crash of the broker orders that were answered come again; each costs a read of the ledger and nothing else", false},
		fieldDiscard:   {"a full stream drops an order that nobody has answered, where it must refuse its publisher", true},
		fieldStorage:   {"a restart of the broker loses every order that was not answered", true},
		fieldMsgSize:   {"a message must fit into a dead letter together with its headers, and an order of 64 KiB into a message", false},
	},
	roleOutput: {
		fieldDiscard: {"a full stream drops what nobody may have read, where it must refuse the worker, which then keeps the order", true},
	},
	roleLedger: {
		fieldDiscard: {"a full ledger forgets a request, and a duplicate of it buys again, where it must refuse the worker", true},
		fieldStorage: {"a restart of the broker forgets every request, and a duplicate of one buys again", true},
		fieldMaxAge:  {"so long is a duplicate recognised", false},
		fieldPerSubj: {"only the newest value of a key is read", false},
		fieldMsgTTL:  {"the broker refuses what the worker stores with a time to live", true},
		fieldMarker:  {"replicas are not told that a name has expired, and count its server for longer", false},
	},
}

func streamReason(r role, setting string) reason {
	if why, ok := roleReasons[r][setting]; ok {
		return why
	}
	return streamReasons[setting]
}

// consumerReasons are those of the consumers of orders, and of readers.
var consumerReasons = map[role]map[string]reason{
	roleRequests: {
		fieldFilter:     {"the orders on that subject are not taken", true},
		fieldAckPolicy:  {"orders count as answered before they are", true},
		fieldDeliver:    {"orders that are older than the consumer are not taken", true},
		fieldAckWait:    {"a message in work is kept alive three times in the wait that is set", false},
		fieldMaxDeliver: {"an order that waited often enough is never delivered again", true},
		fieldAckPending: {"orders that wait occupy these, and the others are not delivered meanwhile", false},
		fieldBackoff:    {"it replaces ack_wait and the pauses that the worker asks for", true},
	},
	roleOutput: {
		fieldFilter:     {"the events on other subjects are not given", false},
		fieldAckPolicy:  {"events count as read before they are", false},
		fieldDeliver:    {"events that are older than the consumer are not given", false},
		fieldAckWait:    {"so long after it was given an event that was not acked comes again", false},
		fieldMaxDeliver: {"an event that was given often enough is never given again, read or not", false},
		fieldAckPending: {"so many events may be given before the first is acked", false},
		fieldBackoff:    {"it replaces ack_wait", false},
	},
}

// weakerStream says what is lost when a setting of a stream goes from have to
// want; "" when nothing is.
func weakerStream(r role, setting string, have, want jetstream.StreamConfig) string {
	switch {
	case setting == fieldReplicas && want.Replicas < have.Replicas:
		return "fewer servers may be lost before everything in it is"
	case setting == fieldMaxAge && shorter(want.MaxAge, have.MaxAge):
		if r == roleLedger {
			return "requests are forgotten earlier: a duplicate that comes later than this buys again"
		}
		return "what nobody has read in this time is dropped"
	case setting == fieldWindow && want.Duplicates < have.Duplicates:
		return "a message that is published again later than this is stored twice"
	case setting == fieldDiscard && want.Discard == jetstream.DiscardOld:
		return "a full stream drops what is in it instead of refusing what is new"
	}
	return ""
}

// shorter compares ages, of which 0 is for ever.
func shorter(a, b time.Duration) bool {
	const forever = time.Duration(1<<63 - 1)
	return cmp.Or(a, forever) < cmp.Or(b, forever)
}

// weakerConsumer is weakerStream for a consumer.
func weakerConsumer(setting string, have, want jetstream.ConsumerConfig) string {
	switch {
	case setting == fieldFilter && have.FilterSubject != "" && want.FilterSubject != "" && !covers(have.FilterSubject, want.FilterSubject):
		return "orders on " + have.FilterSubject + " are not taken any more, also those that are in the stream already"
	case setting == fieldMaxDeliver && want.MaxDeliver > 0 && (have.MaxDeliver < 1 || want.MaxDeliver < have.MaxDeliver):
		return "an order is given up after fewer deliveries"
	case setting == fieldAckPending && fewer(want.MaxAckPending, have.MaxAckPending):
		return "fewer orders may wait before the others are not delivered"
	}
	return ""
}

// fewer compares bounds, of which a negative one is none.
func fewer(a, b int) bool { return a >= 0 && (b < 0 || a < b) }

// fixedStream says what to do about a setting that JetStream does not change on
// a stream that exists; "" when it does.
func fixedStream(r role, setting string, have, want jetstream.StreamConfig) string {
	queue := jetstream.WorkQueuePolicy
	switch {
	case setting == fieldStorage,
		setting == fieldRetention && (have.Retention == queue) != (want.Retention == queue):
	default:
		return ""
	}
	if r == roleRequests {
		return "let the workers empty it, stop them, `nats stream rm " + have.Name + "`, and run setup again"
	}
	if r == roleLedger {
		return "stop everybody who may repeat an order, then the workers, `nats stream rm " + have.Name + "`, and run setup again: what it knows of finished orders is gone then"
	}
	return "keep a copy with `nats stream backup " + have.Name + " DIR`, `nats stream rm " + have.Name + "`, and run setup again"
}

// fixedConsumer is fixedStream for a consumer.
func fixedConsumer(r role, setting string, have jetstream.ConsumerConfig) string {
	if setting != fieldAckPolicy && setting != fieldDeliver {
		return ""
	}
	if r == roleOutput {
		return "`nats consumer rm` it (" + have.Durable + "), and run setup again: it begins with the oldest stored event then"
	}
	return "stop the workers, `nats consumer rm` it (" + have.Durable + "), and run setup again; a stream that keeps what was acked delivers it once more, which costs reads only"
}
