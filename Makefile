# Needs Go, git, make, for the race detector a C compiler, and for deploy-check
# promtool. Everything else is built from the Go module proxy into .bin/ at the
# version given here.
# `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BUF_VERSION := v1.75.0
GOLANGCI_LINT_VERSION := v2.15.0
ACTIONLINT_VERSION := v1.7.12
# Only for `make bench-compare`.
BENCHSTAT_VERSION := v0.0.0-20260908200009-22c9c6c9d4da

# Only for `make deploy-check-k8s`: together they take minutes to build.
HELM_VERSION := v3.22.0
KUBECTL_VALIDATE_VERSION := v0.0.4
KUBE_SCORE_VERSION := v1.20.0
KUSTOMIZE_VERSION := v5.8.1

# testcontainers would otherwise take a container it runs in for its host, and
# want an image that is only to be had from a registry.
export TESTCONTAINERS_HOST_OVERRIDE ?= 127.0.0.1
export TESTCONTAINERS_RYUK_DISABLED ?= true

# One configuration for whatever compiles, the one of the worker that ships, so
# that each package is compiled once. The race detector needs another one.
export CGO_ENABLED := 0
export GOFLAGS := $(filter-out -trimpath,$(GOFLAGS)) -trimpath

# What `make test` and the container lane give to go test.
RACE ?= -race
TESTFLAGS ?= $(RACE) -shuffle=on -count=1 -timeout=25m

# The packages whose tests use a broker, as far as they exist.
CONTAINER_PACKAGES := $(patsubst %,./%/...,$(wildcard \
	internal/broker internal/consumer internal/events internal/ledger cmd/worker))

# How often `make fuzz` runs each fuzz test, or how long. A time that ends may fail a
# test in which nothing was found (Go issue 75804, mended in Go 1.27).
FUZZTIME ?= 30000x

# `make crash` draws SEED when it is 0, and then runs ROUNDS rounds from number
# FIRST on; only a run of 500 or more has to reach every failpoint. More flags, as
# -race-worker for workers with the race detector, go into CRASH_FLAGS.
SEED ?= 0
FIRST ?= 1
ROUNDS ?= 500
CRASH_FLAGS ?=

# For `make cluster`: -scenarios=leader,cut and -seed=N among others.
CLUSTER_FLAGS ?=

COMMIT := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# With REQUIRE_BROWSER=1 a machine without a browser fails `make report-check`.
REQUIRE_BROWSER ?=

# `make fleet` and `make bench` run all scenarios, or those of SCENARIO, separated
# by commas.
SCENARIO ?= all

# For `make bench`: -concurrency=1,64, -latency=0s, -reps=5, -length=5s, -judge or
# -profile=DIR among others.
BENCH_FLAGS ?=

# For `make bench-compare`: the commit, which benchmarks, how often, and for how
# long each time.
BASE ?=
BENCH ?=
COUNT ?= 10
BENCHTIME ?= 100ms

# `make release` builds for these. The bytes depend on the sources, on the version
# and on the Go toolchain, and on nothing else of the machine.
RELEASE_PLATFORMS ?= linux/amd64 linux/arm64
RELEASE_ENV := CGO_ENABLED=0 GOFLAGS= GOEXPERIMENT= GOAMD64=v1 GOARM64=v8.0 GOWORK=off

# More flags for the checks of deploy/: -thorough builds releases for every
# platform, the second time without a cache.
DEPLOY_FLAGS ?=

# All of what CI runs, in this order: what fails fast comes first.
CHECKS := tools tidy-check vet lint proto-check generate-check build deploy-check test crash-short fleet-short test-container cluster-short fuzz demo report-check

# Sums over the files that git knows or would add, to see what a command changed.
TREE := git ls-files -z --cached --others --exclude-standard | sort -zu | xargs -0 sha256sum 2>/dev/null || true

##@ First commands

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z][a-z0-9-]*:.*## / { printf "  %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## Build the worker and watch it deploy a batch against simulated services
	bin/worker demo

# What takes longest and needs least to be compiled comes first.
.PHONY: test
test: need-cc ## Run all tests, with a NATS server inside the test processes
	@CGO_ENABLED=$(if $(RACE),1,0) TEST_NATS=process go test -json $(TESTFLAGS) ./internal/provision ./... | awk -v lane=process -v need=1 -f .ci/lane.awk

##@ Build

.PHONY: build
build: ## Build bin/worker, static and without paths of this machine
	CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/worker ./cmd/worker

.PHONY: release
release: ## Build dist/: the worker for RELEASE_PLATFORMS, bills of materials, SHA256SUMS
	@rm -rf dist && mkdir dist
	@for platform in $(RELEASE_PLATFORMS); do \
		name=worker-$${platform/\//-}; \
		$(RELEASE_ENV) GOOS=$${platform%/*} GOARCH=$${platform#*/} \
			go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o "dist/$$name" ./cmd/worker; \
	done
	@$(RELEASE_ENV) go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o dist/.self ./cmd/worker
	@for program in dist/worker-*; do dist/.self version --sbom --of "$$program" >"$$program.cdx.json"; done
	@rm dist/.self
	@cd dist && sha256sum worker-* >SHA256SUMS && cat SHA256SUMS

.PHONY: generate
generate: tools ## Regenerate everything that is generated
	.bin/buf generate
	go generate ./...

.PHONY: deploy-render
deploy-render: ## Render the Kustomize files from the Helm chart, and give it the alert rules
	cd deploy/charttest && go test -count=1 -run Rendered . -update

.PHONY: fmt
fmt: tools ## Format Go and proto files, and mend what the linters can mend
	.bin/buf format -w
	.bin/golangci-lint fmt ./...
	.bin/golangci-lint run --fix ./... || true

.PHONY: clean
clean: ## Remove binaries and tools
	rm -rf bin dist .bin

##@ Checks

.PHONY: check
check: ## Run all of what CI runs
	@for target in $(CHECKS); do echo "==> $$target"; $(MAKE) $$target; done

# The race detector has seen all of this in `make test`.
.PHONY: test-container
test-container: ## Run the tests that use a broker against a NATS container
	@allow='needs a process of its own'; need=1; \
	if [[ "$${REQUIRE_DOCKER:-}" != 1 ]]; then allow="$$allow|no Docker engine answers"; need=0; fi; \
	TEST_NATS=container go test -json $(filter-out -race,$(TESTFLAGS)) -p 1 $(CONTAINER_PACKAGES) | \
		awk -v lane=container -v need=$$need -v allow="$$allow" -f .ci/lane.awk

# PKG and TIMES of `make test-busy`.
PKG ?= ./...
TIMES ?= 3

.PHONY: test-busy
test-busy: ## Run the tests of PKG (all) TIMES (3) times beside busy loops, to find those that are in a hurry
	@trap 'kill $$(jobs -p)' EXIT; \
	for i in 1 2 3; do while :; do :; done & done; \
	go test -shuffle=on -count=$(TIMES) -timeout=0 $(PKG)

# With the tag, tests that start a broker are left out: nobody wants it
# instrumented.
.PHONY: fuzz
fuzz: ## Run every fuzz test FUZZTIME (30000x) times, or for 10m, say
	@found=0; \
	while IFS=: read -r file name; do \
		found=$$((found + 1)); \
		echo "$$name in $${file%/*}"; \
		go test -tags=fuzz -run='^$$' -fuzz="^$$name\$$" -fuzztime=$(FUZZTIME) "$${file%/*}"; \
	done < <(grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's/:func /:/' | sort -u); \
	echo "$$found fuzz tests ran, $(FUZZTIME) each"

.PHONY: crash
crash: ## Kill and stop real workers at every step, ROUNDS (500) times from SEED (drawn)
	go test -v -count=1 -timeout=0 ./internal/crash -seed=$(SEED) -first=$(FIRST) -rounds=$(ROUNDS) \
		$(shell [ $(ROUNDS) -lt 500 ] || echo -coverage -blind=10) $(CRASH_FLAGS)

.PHONY: crash-short
crash-short: ## Run a few rounds of the crash suite, and show that it can fail
	go test -v -count=1 -timeout=0 ./internal/crash -rounds=20 -at-once=8 -blind=3 $(CRASH_FLAGS)

.PHONY: fleet
fleet: ## Measure whether several workers behave as one careful client; SCENARIO= runs some
	go test -v -count=1 -timeout=0 ./internal/fleet -scenario=$(SCENARIO)

.PHONY: fleet-short
fleet-short: ## Run a few scenarios of the fleet suite in a short form
	go test -v -count=1 -timeout=0 -short ./internal/fleet -scenario=$(SCENARIO)

.PHONY: bench
bench: ## Measure the worker beside the raw chain of writes it cannot do without; SCENARIO= runs some
	go test -v -count=1 -timeout=0 ./internal/bench -scenario=$(SCENARIO) $(BENCH_FLAGS)

.PHONY: bench-million
bench-million: ## Drain a backlog of a million requests, and work on a ledger of a million records
	go test -v -count=1 -timeout=0 ./internal/bench -scenario=million $(BENCH_FLAGS)

.PHONY: bench-short
bench-short: ## Run a small form of the benchmark, which judges what was done and not how fast
	go test -v -count=1 -timeout=0 -short ./internal/bench -scenario=$(SCENARIO) $(BENCH_FLAGS)

.PHONY: bench-compare
bench-compare: .bin/benchstat@$(BENCHSTAT_VERSION) ## Compare decoding, judging and encoding with the last commit, or with BASE
	BENCH='$(BENCH)' COUNT=$(COUNT) BENCHTIME=$(BENCHTIME) internal/bench/compare.sh .bin/benchstat $(BASE)

.PHONY: submit-10k
submit-10k: ## Order 10 000 servers from a file with worker submit, against worker run --dev
	go test -run "^$$" -bench Submit10k -benchtime 1x ./cmd/worker

.PHONY: cluster
cluster: ## Cut off, kill, pause and restart the nodes of a NATS cluster in containers, under load
	go test -v -count=1 -timeout=0 ./internal/crash -cluster $(CLUSTER_FLAGS)

.PHONY: cluster-short
cluster-short: ## Kill a leader, cut off a node and stop two of three, once each
	go test -v -count=1 -timeout=0 ./internal/crash -cluster -short $(CLUSTER_FLAGS)

.PHONY: report-check
report-check: build ## Open the demo's report in headless Chromium; skips where there is none
	go vet -tags browser ./internal/runreport
	@dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT; \
	bin/worker demo --report "$$dir/report.html" >"$$dir/said" 2>&1 || { cat "$$dir/said"; exit 1; }; \
	go test -tags browser -v -count=1 -run '^TestBrowser$$' ./internal/runreport -page="$$dir/report.html" \
		$(if $(filter 1,$(REQUIRE_BROWSER)),-require)

.PHONY: deploy-check-host
deploy-check-host: .bin/actionlint@$(ACTIONLINT_VERSION) ## Check image, Compose file, unit, releases, upgrades and workflow; DEPLOY_FLAGS=-thorough for all platforms
	.bin/actionlint -shellcheck= -pyflakes=
	go test -v -count=1 -timeout=30m ./internal/deploy -deploy $(DEPLOY_FLAGS)

.PHONY: lint
lint: tools ## Run golangci-lint, gofumpt and gci among others
	.bin/golangci-lint config verify
	.bin/golangci-lint run ./...

.PHONY: vet
vet: ## Run gofmt and go vet
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard -- '*.go')); \
	if [[ -n "$$unformatted" ]]; then echo "gofmt: not formatted:"; echo "$$unformatted"; exit 1; fi
	go vet ./...

.PHONY: tidy-check
tidy-check: ## Check that go.mod and go.sum are complete and no more
	go mod tidy -diff

.PHONY: proto-check
proto-check: tools ## Lint the events, and compare them with what has been published
	.bin/buf lint
	.bin/buf format -d --exit-code
	.bin/buf breaking --against proto/baseline.binpb

# promtool is in the Debian package prometheus, of which nothing else is needed.
PROMTOOL ?= $(firstword $(wildcard .bin/promtool) $(shell command -v promtool))

.PHONY: deploy-check
deploy-check: deploy-check-metrics deploy-check-host deploy-check-k8s-short ## Check what deploy/ ships, as far as that needs no cluster; deploy-check-k8s is longer

.PHONY: deploy-check-metrics
deploy-check-metrics: ## Check the alert rules, the dashboard, the runbook and the compose file
	@[[ -n "$(PROMTOOL)" ]] || { echo "promtool is missing: install Prometheus, or put its promtool into .bin/" >&2; exit 1; }
	$(PROMTOOL) check config deploy/prometheus/prometheus.yaml
	$(PROMTOOL) test rules deploy/prometheus/rules_test.yaml
	cd deploy/deploytest && go mod tidy -diff && go vet ./... && go test -count=1 ./...

.PHONY: deploy-check-k8s
deploy-check-k8s: deploy-check-k8s-tests k8s-tools ## Check chart and Kustomize files, also with helm, kubectl-validate, kube-score and kustomize
	cd deploy/charttest && go vet ./...
	go test -count=1 -run '^Test(Pod|NACK|Chart)' ./cmd/worker
	deploy/charttest/check.sh

.PHONY: deploy-check-k8s-short
deploy-check-k8s-short: deploy-check-k8s-tests ## Check chart and Kustomize files with the libraries of Helm, Kustomize and Kubernetes
	@echo "NOT RUN here: kubectl-validate, kube-score and the programs helm and kustomize (make deploy-check-k8s), and the pod and NACK's objects beside the worker (make test)"

.PHONY: deploy-check-k8s-tests
deploy-check-k8s-tests:
	cd deploy/charttest && go mod tidy -diff && go test -count=1 ./...

.PHONY: generate-check
generate-check: tools ## Check that regenerating changes nothing
	@before=$$($(TREE)); $(MAKE) generate; after=$$($(TREE)); \
	diff <(echo "$$before") <(echo "$$after") || { echo "generated files were out of date; commit the new ones" >&2; exit 1; }

##@ Tools

.PHONY: tools
tools: .bin/buf@$(BUF_VERSION) .bin/golangci-lint@$(GOLANGCI_LINT_VERSION) ## Build the pinned tools into .bin/ unless they are there

.bin/buf@%:
	$(call install,buf,github.com/bufbuild/buf,/cmd/buf,$*)

.bin/golangci-lint@%:
	$(call install,golangci-lint,github.com/golangci/golangci-lint/v2,/cmd/golangci-lint,$*)

.PHONY: k8s-tools
k8s-tools: .bin/helm@$(HELM_VERSION) .bin/kubectl-validate@$(KUBECTL_VALIDATE_VERSION) .bin/kube-score@$(KUBE_SCORE_VERSION) .bin/kustomize@$(KUSTOMIZE_VERSION)

.bin/helm@%:
	$(call install,helm,helm.sh/helm/v3,/cmd/helm,$*)

.bin/kubectl-validate@%:
	$(call install,kubectl-validate,sigs.k8s.io/kubectl-validate,,$*)

.bin/kube-score@%:
	$(call install,kube-score,github.com/zegl/kube-score,/cmd/kube-score,$*)

.bin/kustomize@%:
	$(call install,kustomize,sigs.k8s.io/kustomize/kustomize/v5,,$*)

.bin/benchstat@%:
	$(call install,benchstat,golang.org/x/perf,/cmd/benchstat,$*)

.bin/actionlint@%:
	$(call install,actionlint,github.com/rhysd/actionlint,/cmd/actionlint,$*)

# install NAME MODULE PACKAGE VERSION. The stamp carries the version, so another
# one is installed as soon as it is named above; a binary that already is that
# version is kept.
define install
@mkdir -p .bin
@go version -m .bin/$1 2>/dev/null | grep -qE "^[[:space:]]+mod[[:space:]]+$2[[:space:]]+$4([[:space:]]|$$)" || \
	{ echo "building $1 $4"; GOBIN="$(CURDIR)/.bin" GOFLAGS=-trimpath go install $2$3@$4; }
@rm -f .bin/$1@* && touch $@
endef

.PHONY: need-cc
need-cc:
	@[[ -z "$(RACE)" ]] || command -v "$$(go env CC)" >/dev/null || \
		{ echo "the race detector needs a C compiler; install gcc, or run without it: make $(MAKECMDGOALS) RACE=" >&2; exit 1; }

.PHONY: print-checks
print-checks:
	@echo $(CHECKS)
