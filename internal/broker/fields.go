package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The settings that say who takes which subject.
const (
	fieldSubjects = "subjects"
	fieldFilter   = "filter_subject"
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
		"retention",
		func(c jetstream.StreamConfig) string { return c.Retention.String() },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.Retention = w.Retention },
	},
	{
		"discard",
		func(c jetstream.StreamConfig) string { return c.Discard.String() },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.Discard = w.Discard },
	},
	{
		"replicas",
		func(c jetstream.StreamConfig) string { return strconv.Itoa(c.Replicas) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.Replicas = w.Replicas },
	},
	{
		"max_age",
		func(c jetstream.StreamConfig) string { return duration(c.MaxAge) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.MaxAge = w.MaxAge },
	},
	{
		"max_msg_size",
		func(c jetstream.StreamConfig) string { return strconv.Itoa(int(c.MaxMsgSize)) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.MaxMsgSize = w.MaxMsgSize },
	},
	{
		"max_msgs_per_subject",
		func(c jetstream.StreamConfig) string { return strconv.FormatInt(c.MaxMsgsPerSubject, 10) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.MaxMsgsPerSubject = w.MaxMsgsPerSubject },
	},
	{
		"duplicate_window",
		func(c jetstream.StreamConfig) string { return duration(c.Duplicates) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.Duplicates = w.Duplicates },
	},
	{
		"allow_direct",
		func(c jetstream.StreamConfig) string { return strconv.FormatBool(c.AllowDirect) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.AllowDirect = w.AllowDirect },
	},
	{
		"allow_msg_ttl",
		func(c jetstream.StreamConfig) string { return strconv.FormatBool(c.AllowMsgTTL) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) { h.AllowMsgTTL = w.AllowMsgTTL },
	},
	{
		"subject_delete_marker_ttl",
		func(c jetstream.StreamConfig) string { return duration(c.SubjectDeleteMarkerTTL) },
		func(h *jetstream.StreamConfig, w jetstream.StreamConfig) {
			h.SubjectDeleteMarkerTTL, h.AllowRollup = w.SubjectDeleteMarkerTTL, w.AllowRollup
		},
	},
}

func streamFields(have, want jetstream.StreamConfig) []Field {
	var fs []Field
	exists := have.Name != ""
	for _, s := range streamSettings {
		h, w := "", s.show(want)
		if exists {
			h = s.show(have)
		}
		if h != w {
			fs = append(fs, Field{Name: s.name, Have: h, Want: w})
		}
	}
	return fs
}

func merged(have, want jetstream.StreamConfig) jetstream.StreamConfig {
	for _, s := range streamSettings {
		s.set(&have, want)
	}
	return have
}

func consumerFields(have, want jetstream.ConsumerConfig) []Field {
	show := func(c jetstream.ConsumerConfig) [][2]string {
		return [][2]string{
			{fieldFilter, c.FilterSubject},
			{"ack_policy", c.AckPolicy.String()},
			{"deliver_policy", c.DeliverPolicy.String()},
			{"ack_wait", duration(c.AckWait)},
			{"max_deliver", strconv.Itoa(c.MaxDeliver)},
			{"max_ack_pending", strconv.Itoa(c.MaxAckPending)},
			{"backoff", fmt.Sprint(c.BackOff)},
		}
	}
	var fs []Field
	exists := have.Durable != "" || have.Name != ""
	h := show(have)
	for i, w := range show(want) {
		if !exists {
			h[i][1] = ""
		}
		if h[i][1] != w[1] {
			fs = append(fs, Field{Name: w[0], Have: h[i][1], Want: w[1]})
		}
	}
	return fs
}

// mergedConsumer sets what the worker relies on and leaves the rest.
func mergedConsumer(have, want jetstream.ConsumerConfig) jetstream.ConsumerConfig {
	have.FilterSubject, have.FilterSubjects = want.FilterSubject, nil
	have.AckPolicy, have.DeliverPolicy = want.AckPolicy, want.DeliverPolicy
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
