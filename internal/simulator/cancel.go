package simulator

import (
	"slices"
	"strings"
)

// cancel ends a server: at once, or with end_of_period only on paper. Its
// invoice stays.
func (x *exchange) cancel() answer {
	cancelType, refusal := parseCancel(x.body)
	if refusal.status != 0 {
		return refusal
	}
	s := x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	v, found := s.account.visible(x.r.PathValue("id"), now)
	if !found {
		return notFound()
	}
	result := cancelAnswer{ID: v.ID, Status: "scheduled", CancelType: cancelType}
	if cancelType == cancelNow {
		s.account.cancel(v)
		result.Status, result.CancelledAt = "completed", new(iso(now))
	}
	return success(result)
}

const (
	cancelTypeField = "cancelType"
	cancelNow       = "immediate"
	cancelLater     = "end_of_period"
)

// parseCancel checks the body, all of whose members are optional. What an
// absent cancelType means is not documented; here it is immediate.
func parseCancel(body []byte) (cancelType string, refusal answer) {
	if len(body) == 0 {
		return cancelNow, answer{}
	}
	b, isObject := parseObject(body)
	if !isObject {
		return "", invalid(invalidField("", "The body must be a JSON object."))
	}
	cancelType = cancelNow
	for _, name := range []string{"reason", "otherReason", cancelTypeField} {
		if _, given := b.members[name]; !given {
			continue
		}
		text := b.text(name)
		if len(text) > 500 {
			b.fail(name, "`"+name+"` must be at most 500 characters.")
		}
		if name == cancelTypeField {
			cancelType = text
		}
	}
	if types := []string{cancelNow, cancelLater}; !b.failed[cancelTypeField] && !slices.Contains(types, cancelType) {
		b.fail(cancelTypeField, "`cancelType` must be one of: "+strings.Join(types, ", ")+".")
	}
	b.rejectRest()
	if len(b.errs) > 0 {
		return "", invalid(b.errs...)
	}
	return cancelType, answer{}
}
