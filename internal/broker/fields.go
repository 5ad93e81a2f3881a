package broker

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Names of settings, as the nats command line writes them.
const (
	fieldSubjects  = "subjects"
	fieldRetention = "retention"
	fieldStorage   = "storage"
	fieldDiscard   = "discard"
	fieldReplicas  = "replicas"
	fieldMaxAge    = "max_age"
	fieldMsgSize   = "max_msg_size"
	fieldPerSubj   = "max_msgs_per_subject"
	fieldWindow    = "duplicate_window"
	fieldDirect    = "allow_direct"
	fieldMsgTTL    = "allow_msg_ttl"
	fieldMarker    = "subject_delete_marker_ttl"

	fieldFilter     = "filter_subject"
	fieldAckPolicy  = "ack_policy"
	fieldDeliver    = "deliver_policy"
	fieldAckWait    = "ack_wait"
	fieldMaxDeliver = "max_deliver"
	fieldAckPending = "max_ack_pending"
	fieldBackoff    = "backoff"
)

// streamSettings are the settings of a stream that the worker relies on, and
// no others: what else an operator has set stays as it is.
var streamSettings = []struct {
	name string
	show func(jetstream.StreamConfig) string
	set  func(have *jetstream.StreamConfig, want jetstream.StreamConfig)
}{
	{
		fieldSubjects,
		func(c jetstream.StreamConfig) string {
			return strings.Join(slices.Sorted(slices.Values(c.Subjects)), " ")
		},
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.Subjects = w.Subjects },
	},
	{
		fieldRetention,
		func(c jetstream.StreamConfig) string { return c.Retention.String() },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.Retention = w.Retention },
	},
	{
		fieldStorage,
		func(c jetstream.StreamConfig) string { return c.Storage.String() },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.Storage = w.Storage },
	},
	{
		fieldDiscard,
		func(c jetstream.StreamConfig) string { return c.Discard.String() },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.Discard = w.Discard },
	},
	{
		fieldReplicas,
		func(c jetstream.StreamConfig) string { return strconv.Itoa(c.Replicas) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.Replicas = w.Replicas },
	},
	{
		fieldMaxAge,
		func(c jetstream.StreamConfig) string { return duration(c.MaxAge) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.MaxAge = w.MaxAge },
	},
	{
		fieldMsgSize,
		func(c jetstream.StreamConfig) string { return strconv.Itoa(int(c.MaxMsgSize)) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.MaxMsgSize = w.MaxMsgSize },
	},
	{
		fieldPerSubj,
		func(c jetstream.StreamConfig) string { return strconv.FormatInt(c.MaxMsgsPerSubject, 10) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.MaxMsgsPerSubject = w.MaxMsgsPerSubject },
	},
	{
		fieldWindow,
		func(c jetstream.StreamConfig) string { return duration(c.Duplicates) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.Duplicates = w.Duplicates },
	},
	{
		fieldDirect,
		func(c jetstream.StreamConfig) string { return strconv.FormatBool(c.AllowDirect) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.AllowDirect = w.AllowDirect },
	},
	{
		fieldMsgTTL,
		func(c jetstream.StreamConfig) string { return strconv.FormatBool(c.AllowMsgTTL) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.AllowMsgTTL = w.AllowMsgTTL },
	},
	{
		fieldMarker,
		func(c jetstream.StreamConfig) string { return duration(c.SubjectDeleteMarkerTTL) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) {
			h.SubjectDeleteMarkerTTL, h.AllowRollup = w.SubjectDeleteMarkerTTL, w.AllowRollup
		},
	},
}

// streamFields lists what differs; of a stream that does not exist, everything.
func streamFields(r role, have, want jetstream.StreamConfig) []Field {
	var fs []Field
	for _, s := range streamSettings {
		f := Field{Name: s.name, Have: s.show(have), Want: s.show(want)}
		switch {
		case have.Name == "":
			f.Have = ""
		case f.Have == f.Want:
			continue
		default:
			why := streamReason(r, s.name)
			f.Why, f.Unsafe = why.why, why.unsafe
			f.Weakens, f.Fixed = weakerStream(r, s.name, have, want), fixedStream(r, s.name, have, want)
		}
		fs = append(fs, f)
	}
	return fs
}

// merged sets what the worker relies on, as far as it can be changed, and
// leaves the rest.
func merged(r role, have, want jetstream.StreamConfig) jetstream.StreamConfig {
	next := have
	for _, s := range streamSettings {
		if fixedStream(r, s.name, have, want) == "" || s.show(have) == s.show(want) {
			s.set(&next, want)
		}
	}
	return next
}

func consumerFields(r role, have, want jetstream.ConsumerConfig) []Field {
	show := func(c jetstream.ConsumerConfig) [][2]string {
		return [][2]string{
			{fieldFilter, cmp.Or(c.FilterSubject, "none")},
			{fieldAckPolicy, c.AckPolicy.String()},
			{fieldDeliver, c.DeliverPolicy.String()},
			{fieldAckWait, duration(c.AckWait)},
			{fieldMaxDeliver, strconv.Itoa(c.MaxDeliver)},
			{fieldAckPending, strconv.Itoa(c.MaxAckPending)},
			{fieldBackoff, fmt.Sprint(c.BackOff)},
		}
	}
	var fs []Field
	exists := have.Durable != "" || have.Name != ""
	h := show(have)
	for i, w := range show(want) {
		f := Field{Name: w[0], Have: h[i][1], Want: w[1]}
		switch {
		case !exists:
			f.Have = ""
		case f.Have == f.Want:
			continue
		default:
			why := consumerReasons[r][f.Name]
			f.Why, f.Unsafe = why.why, why.unsafe
			f.Weakens, f.Fixed = weakerConsumer(f.Name, have, want), fixedConsumer(r, f.Name, have)
		}
		fs = append(fs, f)
	}
	return fs
}

// mergedConsumer sets what the worker relies on, as far as it can be changed,
// and leaves the rest. How messages are acked and where delivery began is fixed.
func mergedConsumer(have, want jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	have.FilterSubject, have.FilterSubjects = want.FilterSubject, nil
	have.AckWait, have.BackOff = want.AckWait, nil
	have.MaxDeliver, have.MaxAckPending = want.MaxDeliver, want.MaxAckPending
	return have
}

func duration(d time.Duration) string {
	if d == 0 {
		return "none"
	}
	return d.String()
}
