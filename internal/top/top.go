// Package top is the full-screen view of the fleet behind `worker top`: queue,
// requests by state, what they wait for, gate, brake, limits, held requests and
// the last outcomes, and the story of one request.
//
// It reads through the functions of Sources and changes nothing. It knows no
// broker, no ledger and no HTTP: it imports provision and admission for their
// words, and bubbletea for the terminal. Only cmd/worker imports it.
package top

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"
)

// Config is what the screen needs of its surroundings.
type Config struct {
	// In and Out are the terminal.
	In  io.Reader
	Out io.Writer
	// Environ tells what the terminal can do: TERM, NO_COLOR and so on.
	Environ []string
	// Title names what is looked at.
	Title string
	// LimitsEvery is how often the account is read; zero is 10 seconds.
	LimitsEvery time.Duration
	// NoLimits says why Sources.Limits is nil, where it is.
	NoLimits string

	Sources Sources
}

// framesPerSecond is enough for figures that change once a second, and for keys.
const framesPerSecond = 20

// Show shows the screen until the person quits, and returns nil then. When ctx
// ends first it returns the error of ctx. The terminal is as it was before in
// either case.
func Show(ctx context.Context, c Config) error {
	ctx, stop := context.WithCancelCause(ctx)
	p := tea.NewProgram(newModel(ctx, c, time.Now),
		tea.WithInput(c.In), tea.WithOutput(c.Out), tea.WithEnvironment(c.Environ),
		// Signals end ctx; a second reader of them would race with that.
		tea.WithoutSignalHandler(), tea.WithFPS(framesPerSecond))

	f := &feed{sources: c.Sources, limitsEvery: c.LimitsEvery, now: time.Now, tell: p.Send, broke: func(err error) { stop(err) }}
	var beside sync.WaitGroup
	beside.Go(func() { f.run(ctx) })
	// The end of a context given to the program would kill it, and then it does
	// not wait for who reads the terminal.
	beside.Go(func() { <-ctx.Done(); p.Quit() })
	_, err := p.Run()
	cause := context.Cause(ctx)
	stop(nil)
	beside.Wait()
	switch {
	case errors.Is(err, tea.ErrProgramPanic):
		return fmt.Errorf("the screen broke: %w", err)
	case err != nil:
		return fmt.Errorf("draw on the terminal: %w", err)
	}
	return cause
}
