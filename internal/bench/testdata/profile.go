// This file is no part of the worker: internal/bench builds it in for -profile.

package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"syscall"
)

func init() {
	dir := os.Getenv("BENCH_PROFILE")
	if dir == "" || len(os.Args) < 2 || os.Args[1] != "run" {
		return
	}
	name := func(kind string) string {
		return filepath.Join(dir, fmt.Sprintf("%s-c%s-%d.pprof", kind, os.Getenv("WORKER_CONCURRENCY"), os.Getpid()))
	}
	runtime.SetMutexProfileFraction(100)
	runtime.SetBlockProfileRate(1_000_000) // ns
	cpu, err := os.Create(name("cpu"))
	if err != nil {
		panic(err)
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		panic(err)
	}
	enough := make(chan os.Signal, 1)
	signal.Notify(enough, syscall.SIGUSR1)
	go func() {
		<-enough
		pprof.StopCPUProfile()
		_ = cpu.Close()
		for _, kind := range []string{"allocs", "mutex", "block"} {
			if f, err := os.Create(name(kind)); err == nil {
				_ = pprof.Lookup(kind).WriteTo(f, 0)
				_ = f.Close()
			}
		}
		fmt.Fprintln(os.Stderr, `{"profiled":true}`)
	}()
}
