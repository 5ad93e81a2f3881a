package crash

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/hostup/deploy-worker/internal/simulator"
)

// api is the witness's view of a simulated API in another process: what it was
// asked for and what it sold.
type api struct {
	url    string
	client *http.Client
}

func (a *api) creates(ctx context.Context) (all []simulator.Create, err error) {
	err = getJSON(ctx, a.client, a.url+"/_sim/creates", &all)
	return all, err
}

func (a *api) invoices(ctx context.Context) (all []simulator.Invoice, err error) {
	err = getJSON(ctx, a.client, a.url+"/_sim/invoices", &all)
	return all, err
}

// misbehave says what goes wrong from now on.
func (a *api) misbehave(ctx context.Context, rules []simulator.Rule) error {
	body, err := json.Marshal(map[string]any{"faults": rules})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+"/_sim/config", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	return nil
}
