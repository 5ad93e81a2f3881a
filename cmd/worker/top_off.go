//go:build notop

package main

import "errors"

type topCmd struct{}

// Run says that there is nothing to show: the screen and what it needs are not
// in this build.
func (topCmd) Run() error {
	return usageError{errors.New("this binary was built without worker top (-tags notop); use worker list, worker explain KEY and worker events")}
}
