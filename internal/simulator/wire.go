package simulator

import "time"

// Header names in the form that net/http gives them on the wire anyway; the
// documentation spells them X-RateLimit-… and X-Request-Id.
const (
	headerRetryAfter    = "Retry-After"
	headerRateLimit     = "X-Ratelimit-Limit"
	headerRateRemaining = "X-Ratelimit-Remaining"
	headerRateReset     = "X-Ratelimit-Reset"
	headerRequestID     = "X-Request-ID"
	headerContentType   = "Content-Type"
	headerContentLength = "Content-Length"
	headerLocation      = "Location"
	contentTypeJSON     = "application/json"
	contentTypeProblem  = "application/problem+json"
	contentTypeHTML     = "text/html; charset=utf-8"
)

// isoMillis is how the documented examples write a time.
const isoMillis = "2006-01-02T15:04:05.000Z"

func iso(t time.Time) string { return t.UTC().Format(isoMillis) }

// The documented answers. A pointer is a member that may be null.
type (
	createdAnswer struct {
		Status     string           `json:"status"`
		VPSID      string           `json:"vpsId"`
		OrderID    string           `json:"orderId"`
		InvoiceID  string           `json:"invoiceId"`
		Deployment deploymentAnswer `json:"deployment"`
	}
	deploymentAnswer struct {
		Name      string    `json:"name"`
		Region    string    `json:"region"`
		Resources Resources `json:"resources"`
	}

	limitsAnswer struct {
		Current            Limits     `json:"current"`
		Max                Limits     `json:"max"`
		Remaining          Limits     `json:"remaining"`
		Billing            Prices     `json:"billing"`
		HasPendingRequests bool       `json:"hasPendingRequests"`
		PendingRequests    []struct{} `json:"pendingRequests"`
	}

	optionsAnswer struct {
		Available bool          `json:"available"`
		Reason    *string       `json:"reason"`
		Access    accessAnswer  `json:"access"`
		Actions   actionsAnswer `json:"actions"`
		Pricing   Prices        `json:"pricing"`
		Defaults  struct {
			RegionID  string    `json:"regionId"`
			Resources Resources `json:"resources"`
		} `json:"defaults"`
		// The documentation that could be read stops before these two.
		Limits  sizeBounds     `json:"limits"`
		Regions []regionAnswer `json:"regions"`
	}
	accessAnswer struct {
		Available               bool     `json:"available"`
		Reason                  *string  `json:"reason"`
		CountryCode             string   `json:"countryCode"`
		CountryPaymentAvailable bool     `json:"countryPaymentAvailable"`
		RequiresCard            bool     `json:"requiresCard"`
		HasCard                 bool     `json:"hasCard"`
		Verified                bool     `json:"verified"`
		CloudAccessEnabled      bool     `json:"cloudAccessEnabled"`
		BlockerReasons          []string `json:"blockerReasons"`
	}
	actionsAnswer struct {
		CanDeploy struct {
			Allowed bool    `json:"allowed"`
			Reason  *string `json:"reason"`
		} `json:"canDeploy"`
	}
	sizeBounds struct {
		CPUCores  bounds `json:"cpuCores"`
		MemoryGB  bounds `json:"memoryGb"`
		StorageGB bounds `json:"storageGb"`
	}
	bounds struct {
		Min int `json:"min"`
		Max int `json:"max"`
	}
	regionAnswer struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}

	listAnswer struct {
		Data       []serverAnswer `json:"data"`
		HasMore    bool           `json:"hasMore"`
		NextCursor *string        `json:"nextCursor"`
	}
	serverAnswer struct {
		*maintenanceAnswer

		ID              string        `json:"id"`
		Name            string        `json:"name"`
		PrimaryIP       *string       `json:"primaryIp"`
		ServiceStatus   string        `json:"serviceStatus"`
		PowerState      string        `json:"powerState"`
		OperatingSystem *systemAnswer `json:"operatingSystem"`
		Billing         billingAnswer `json:"billing"`
		Resources       Resources     `json:"resources"`
	}
	// maintenanceAnswer is what include=pendingMaintenance adds.
	maintenanceAnswer struct {
		PendingMaintenance            *struct{} `json:"pendingMaintenance"`
		PendingMaintenanceHasDeadline bool      `json:"pendingMaintenanceHasDeadline"`
	}
	systemAnswer struct {
		DisplayName string  `json:"displayName"`
		Family      string  `json:"family"`
		Version     string  `json:"version"`
		Variant     *string `json:"variant"`
	}
	billingAnswer struct {
		Amount       float64 `json:"amount"`
		CurrencyCode string  `json:"currencyCode"`
		BillingCycle string  `json:"billingCycle"`
		IsPayg       bool    `json:"isPayg"`
	}

	detailsAnswer struct {
		Resources

		ID              string        `json:"id"`
		ProductName     *string       `json:"productName"`
		Hostname        string        `json:"hostname"`
		ServiceStatus   string        `json:"serviceStatus"`
		CreatedAt       string        `json:"createdAt"`
		NextDueAt       *string       `json:"nextDueAt"`
		Billing         billingAnswer `json:"billing"`
		BackupsIncluded bool          `json:"backupsIncluded"`
		Bandwidth       struct {
			UsedGB       float64 `json:"usedGb"`
			LimitGB      float64 `json:"limitGb"`
			InboundGB    float64 `json:"inboundGb"`
			OutboundGB   float64 `json:"outboundGb"`
			UsagePercent float64 `json:"usagePercent"`
		} `json:"bandwidth"`
	}

	statusAnswer struct {
		ID              string      `json:"id"`
		PowerState      string      `json:"powerState"`
		UptimeSeconds   *int        `json:"uptimeSeconds"`
		CPUUsagePercent float64     `json:"cpuUsagePercent"`
		CPUCores        int         `json:"cpuCores"`
		Memory          usageAnswer `json:"memory"`
		Storage         usageAnswer `json:"storage"`
		Network         struct {
			InboundGB  float64 `json:"inboundGb"`
			OutboundGB float64 `json:"outboundGb"`
			TotalGB    float64 `json:"totalGb"`
		} `json:"network"`
		PendingTasks []struct{} `json:"pendingTasks"`
	}
	usageAnswer struct {
		UsedGB       float64 `json:"usedGb"`
		TotalGB      int     `json:"totalGb"`
		UsagePercent float64 `json:"usagePercent"`
	}

	cancelAnswer struct {
		ID                        string  `json:"id"`
		Status                    string  `json:"status"`
		CancelType                string  `json:"cancelType"`
		CancelledAt               *string `json:"cancelledAt"`
		CancellationLookupPending bool    `json:"cancellationLookupPending"`
	}
)
