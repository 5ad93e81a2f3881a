package hostup

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/hostup/deploy-worker/internal/admission"
)

// Options is the answer of GET /vps/payg/deployments: what the account may
// deploy.
type Options struct {
	// CanDeploy is actions.canDeploy.allowed; absent is false.
	CanDeploy bool
	// Reason and BlockerReasons are HostUp's words for why not.
	Reason         string
	BlockerReasons []string
	// Regions lists the ids that a create may name. It is empty when HostUp
	// lists none, or in a form that is not known: then none is forbidden.
	Regions       []string
	DefaultRegion string
	Prices        admission.Prices
}

// Options reads GET /vps/payg/deployments. Errors are *Error.
func (c *Client) Options(ctx context.Context) (Options, error) {
	o, err := c.getObject(ctx, "GET /vps/payg/deployments", "actions", "vps", "payg", "deployments")
	if err != nil {
		return Options{}, err
	}
	return optionsOf(o), nil
}

func optionsOf(o object) Options {
	gate, access := o.object("actions").object("canDeploy"), o.object("access")
	allowed, _ := gate.boolean("allowed")
	region := o.object("defaults").text("regionId")
	return Options{
		CanDeploy:      allowed,
		Reason:         firstOf(gate.text("reason"), o.text("reason"), access.text("reason")),
		BlockerReasons: append(access.blockers(), o.blockers()...),
		Regions:        regionsOf(o["regions"], region),
		DefaultRegion:  region,
		Prices:         pricesOf(o.object("pricing")),
	}
}

// regionsOf reads a list whose form is not documented: strings, objects with
// an id, or an object keyed by id. One entry that cannot be read makes the
// whole list unusable, because a region that is missing from it is refused for
// good.
func regionsOf(raw json.RawMessage, usual string) []string {
	if byID, ok := parseObject(raw); ok {
		if len(byID) == 1 {
			for _, name := range []string{"data", "items"} {
				if _, ok := byID.array(name); ok {
					return regionsOf(byID[name], usual)
				}
			}
		}
		return slices.Sorted(maps.Keys(byID))
	}
	entries, _ := object{"regions": raw}.array("regions")
	member := idMember(entries, usual)
	var ids []string
	for _, entry := range entries {
		id := textOf(entry)
		if o, ok := parseObject(entry); ok {
			id = firstOf(o.text(member), o.text("id"), o.text("regionId"), o.text("slug"), o.text("code"))
		}
		if id == "" {
			return nil
		}
		ids = append(ids, id)
	}
	return ids
}

// idMember returns the member under which the usual region has the form that a
// create takes, since an object may name itself in several ways.
func idMember(entries []json.RawMessage, usual string) string {
	for _, entry := range entries {
		o, _ := parseObject(entry)
		for _, member := range []string{"id", "regionId", "slug", "code"} {
			if usual != "" && o.text(member) == usual {
				return member
			}
		}
	}
	return "id"
}
