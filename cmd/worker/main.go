// Command worker turns deploy requests from NATS JetStream into exactly one
// HostUp server and one outcome event each. See README.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		stop() // first: finish what is in hand
		<-signals
		os.Exit(exitInterrupted) // second: now
	}()
	os.Exit(run(ctx, os.Args[1:], &terminal{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}
