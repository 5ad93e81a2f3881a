// Package deploy has no code, only tests of what deploy/ ships: the container
// image, the Compose file, the systemd unit, the releases and their upgrades. The
// NATS files are tested in cmd/worker, with the worker and its operators at work.
//
// What needs more than Go runs only with -deploy, as `make deploy-check` does:
// then it must run. Everything else runs with the other tests.
package deploy
