# ropes: two commands for a fresh Debian or Ubuntu machine.
#   make up     installs what is missing, builds, brings up the lab, says what to do next
#   make test   everything, live clusters included
# The rest: build check bench bench-dataplane clean help

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The Go that builds this: the machine's where it is new enough, else one from the
# module proxy, see .build/install-deps.
GO_VERSION := 1.26.8
export PATH := $(CURDIR)/.cache/go/bin:/usr/local/go/bin:$(PATH)
export CGO_ENABLED := 0
export GOFLAGS := -buildvcs=false

KUBERNETES := v1.36.3
ISTIO      := 1.31
VERSION    ?= 0.1.0
COMMIT     := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)

MODULE  := github.com/ropes-dev/ropes
OUT     := .cache/payload
KLD     := -X k8s.io/component-base/version.gitVersion=$(KUBERNETES) -X k8s.io/component-base/version.gitMajor=1 \
           -X k8s.io/component-base/version.gitMinor=36 -X k8s.io/client-go/pkg/version.gitVersion=$(KUBERNETES)
ILD     := -X istio.io/istio/pkg/version.buildVersion=$(ISTIO) -X istio.io/istio/pkg/version.buildHub=ropes.local/istio
LD      := -s -w
BLD     := $(LD) $(KLD) $(ILD) -X $(MODULE)/cmd/internal/command.version=$(VERSION) -X $(MODULE)/cmd/internal/command.commit=$(COMMIT)
modver   = $(shell go list -m -f '{{.Version}}' $(1) 2>/dev/null)

VERSIONS = kubernetes=$(KUBERNETES) istio=$(ISTIO) etcd=$(call modver,go.etcd.io/etcd/server/v3) \
           containerd=$(call modver,github.com/containerd/containerd/v2) runc=$(call modver,github.com/opencontainers/runc) \
           cni-plugins=$(call modver,github.com/containernetworking/plugins) coredns=$(call modver,github.com/coredns/coredns) \
           metrics-server=$(call modver,sigs.k8s.io/metrics-server)

.PHONY: help deps payload build dist up test test-kind conformance-gateway check bench bench-dataplane clean
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -ts $$'\t'

deps: ## install what the build needs (Debian packages, Go)
	@.build/install-deps $(GO_VERSION)

# Each program is always handed to go build, which does nothing where nothing changed.
payload: deps
	@.build/payload "$(OUT)" "$(LD) $(KLD)" "$(LD) $(ILD)"
	@go run ./cmd/internal/pack -dir $(OUT) -out bootstrap/payload/payload $(addprefix -version ,$(VERSIONS))

build: payload ## build bin/ropes with its payload
	@go build -tags payload -o bin/ropes -ldflags '$(BLD)' ./cmd/ropes
	@ls -sh bin/ropes

dist: payload ## the program for every system, into dist/, each with the Linux payload of its processor
	@PAYLOAD_KUBE="$(LD) $(KLD)" PAYLOAD_ISTIO="$(LD) $(ILD)" .build/dist '$(BLD)' '$(VERSIONS)'

up: build ## build and bring up the lab
	@bin/ropes up

clean: ## remove what make built here
	rm -rf bin .cache bootstrap/payload/payload.tar.zst bootstrap/payload/payload.json

# Runs the live suites: after thousands of lines it says again what failed and why.
GOTESTSUM := mkdir -p .cache/tools && cd .tools && go build -o ../.cache/tools/ gotest.tools/gotestsum

GO_TEST_FLAGS ?=
test: build ## everything: unit tests, then the live suite on clusters of its own
	@echo "== unit tests"
	@go test -vet=off -timeout 20m $(GO_TEST_FLAGS) ./... # make check vets
	@echo "== live suite (root, embedded provider)"
	@$(GOTESTSUM)
	@ROPES_BIN=$(CURDIR)/bin/ropes .cache/tools/gotestsum --format standard-verbose -- -tags live -count=1 -timeout 45m ./cmd/ropes/live

test-kind: build ## kind clusters on a Docker daemon of its own, without a network: labs, bundles, mishaps
	@$(GOTESTSUM)
	@.build/test-kind '$(LD) $(KLD)'

conformance-gateway: build ## the Gateway API's conformance suite against a cluster of its own
	@mkdir -p .cache
	@ROPES_BIN=$(CURDIR)/bin/ropes go test -tags conformance -count=1 -timeout 60m -v ./cmd/ropes/conformance 2>&1 \
	  | tee .cache/conformance-gateway.log \
	  | { grep -E '^(    )?--- |^ +[^ ]+_test\.go:|^(passed|failed|skipped) |^[0-9]+ passed|^(ok|FAIL|panic)' || true; }

check: ## format, vet, lint with the import rules, tidy, generated files, clean tree
	@.build/check

bench: build ## medians: up cold and warm by phase, reset, verdict, memory, bytes downloaded
	@go run ./cmd/internal/labbench -bin bin/ropes -n $(or $(N),3)

bench-dataplane: deps ## requests per second and latency: direct, through nginx, through one and two of our proxies
	@.build/install-bench
	@go build -o "$(OUT)/bin/ropes-proxy" -ldflags "$(LD) $(ILD)" ./cmd/ropes-proxy
	@PATH=$$PATH:/usr/sbin go run ./cmd/internal/proxybench -envoy "$(OUT)/bin/ropes-proxy" -rounds $(or $(N),5)
