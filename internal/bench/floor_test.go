package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// floorTask is what a floor is told.
type floorTask struct {
	NATS        string `json:"nats"`
	API         string `json:"api"`
	Concurrency int    `json:"concurrency"`
	// Fresh opens a connection for each call.
	Fresh bool `json:"fresh"`
}

// floor is the chain that nobody can do with less of, without any safety: it
// buys twice as soon as anything goes wrong, and ends when it does.
type floor struct {
	js     jetstream.JetStream
	ledger jetstream.KeyValue
	client *http.Client
	url    string
}

// order is a request as the floor reads it.
type order struct {
	Key       string `json:"idempotencyKey,omitempty"`
	Name      string `json:"name"`
	CPUCores  int    `json:"cpuCores"`
	MemoryGB  int    `json:"memoryGb"`
	StorageGB int    `json:"storageGb"`
	Region    string `json:"region"`
}

// floorRecord is what the floor keeps of a request.
type floorRecord struct {
	Order   order           `json:"order"`
	State   string          `json:"state"`
	At      time.Time       `json:"at"`
	Outcome json.RawMessage `json:"outcome,omitempty"`
}

// floorEvent is what the floor tells of one.
type floorEvent struct {
	Key     string          `json:"idempotencyKey"`
	Status  string          `json:"status"`
	Outcome json.RawMessage `json:"outcome"`
	At      time.Time       `json:"occurredAt"`
}

// floorUsage is what a floor says of itself at its end.
type floorUsage struct {
	Mallocs uint64 `json:"mallocs"`
	Bytes   uint64 `json:"bytes"`
}

func beFloor(ctx context.Context, task string) error {
	var t floorTask
	if err := json.Unmarshal([]byte(task), &t); err != nil {
		return err
	}
	nc, err := nats.Connect(t.NATS)
	if err != nil {
		return err
	}
	defer nc.Close()
	f := &floor{url: t.API + "/vps/payg/deployments"}
	f.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: t.Fresh, DisableCompression: true, MaxIdleConnsPerHost: t.Concurrency,
	}}
	if f.js, err = jetstream.New(nc); err != nil {
		return err
	}
	if f.ledger, err = f.js.KeyValue(ctx, ledgerName); err != nil {
		return err
	}
	consumer, err := f.js.Consumer(ctx, requestStream, consumerName)
	if err != nil {
		return err
	}
	var working sync.WaitGroup
	slots := make(chan struct{}, t.Concurrency)
	following, err := consumer.Consume(func(m jetstream.Msg) {
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			if err := f.chain(context.Background(), m); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		})
	}, jetstream.PullMaxMessages(2*t.Concurrency), jetstream.PullExpiry(5*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return err
	}
	<-ctx.Done()
	following.Drain()
	<-following.Closed()
	working.Wait()
	if err := nc.Flush(); err != nil {
		return err
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return json.NewEncoder(os.Stdout).Encode(floorUsage{Mallocs: m.Mallocs, Bytes: m.TotalAlloc})
}

// chain does one request: KV create, POST, KV update, publish, ack.
func (f *floor) chain(ctx context.Context, m jetstream.Msg) error {
	r := floorRecord{State: "creating", At: time.Now()}
	if err := json.Unmarshal(m.Data(), &r.Order); err != nil {
		return err
	}
	key := "rec." + r.Order.Key
	intent, err := json.Marshal(r)
	if err != nil {
		return err
	}
	revision, err := f.ledger.Create(ctx, key, intent)
	if err != nil {
		return fmt.Errorf("store the intent: %w", err)
	}
	if r.Outcome, err = f.create(ctx, r.Order); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	r.State, r.At = "created", time.Now()
	result, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err = f.ledger.Update(ctx, key, result, revision); err != nil {
		return fmt.Errorf("store the result: %w", err)
	}
	event := nats.NewMsg(outcomeSubject)
	event.Header[nats.MsgIdHdr] = []string{r.Order.Key}
	event.Data, err = json.Marshal(floorEvent{Key: r.Order.Key, Status: "provisioning", Outcome: r.Outcome, At: r.At})
	if err != nil {
		return err
	}
	if _, err = f.js.PublishMsg(ctx, event); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return m.Ack()
}

func (f *floor) create(ctx context.Context, o order) (json.RawMessage, error) {
	o.Key = ""
	body, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusCreated {
		return nil, fmt.Errorf("%s %w", resp.Status, err)
	}
	var created struct {
		VPSID string `json:"vpsId"`
	}
	if err := json.Unmarshal(answer, &created); err != nil || created.VPSID == "" {
		return nil, fmt.Errorf("no vpsId: %w", err)
	}
	return answer, nil
}
