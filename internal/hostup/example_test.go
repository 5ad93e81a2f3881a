package hostup_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/hostup/deploy-worker/internal/hostup"
	"github.com/hostup/deploy-worker/internal/provision"
)

func Example() {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"status":"provisioning","vpsId":"vps_01hxa3b4","orderId":"ord_01hxa3b4","invoiceId":"inv_01hxa3b4"}`)
	}))
	defer api.Close()

	key, err := hostup.StaticToken("my-api-key")
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := hostup.New(hostup.Config{BaseURL: api.URL + "/api/v2", Token: key})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	// The deadline is the moment after which no create can be in flight.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	answer := client.Create(ctx, provision.Request{Name: "web-01", CPUCores: 2, MemoryGB: 4, StorageGB: 80, Region: "stockholm"})
	fmt.Println(answer.Verdict, answer.VPSID)
	// Output: created vps_01hxa3b4
}
