# Everything a person types. `make up` and `make test` need nothing but Debian 12, Go and root.

SHELL := /bin/bash
GO ?= go
BINARIES := init apiserver scheduler controller agent ctl
export CGO_ENABLED := 0

# kubectl's part of ctl reports the version of these variables; pkg/component has the servers'.
VERSION := v1.36.0+skiff
VERSION_PACKAGE := k8s.io/component-base/version
LDFLAGS := -s -w -X $(VERSION_PACKAGE).gitVersion=$(VERSION) -X $(VERSION_PACKAGE).gitMajor=1 -X $(VERSION_PACKAGE).gitMinor=36

.PHONY: help deps build images up down test unit node clients machines fault soak lint bench clean

help:
	@echo "make up      deps, build, a one-node cluster, and manifests/hello.yaml served by it"
	@echo "make down    delete that cluster"
	@echo "make test    all that CI runs: lint, and the tests of every tier"
	@echo "make unit | node | clients | machines | fault | lint | bench    one part of it"
	@echo "make soak    the faults in random order, for SOAK=1h"
	@echo "make deps    install the missing programs (Debian)"
	@echo "make build   build the binaries into bin/"

deps:
	@hack/deps

# One invocation: the linker's work is shared out, and unchanged binaries are left alone.
build:
	@mkdir -p bin
	$(GO) build -ldflags "$(LDFLAGS)" -o bin/ $(addprefix ./cmd/,$(BINARIES))

# Images that need no registry, for the examples and the tests.
images: bin/images/hello.tar bin/images/hello2.tar bin/images/leader.tar

bin/images/hello: $(wildcard test/images/hello/*.go)
	@mkdir -p bin/images
	$(GO) build -ldflags "-s -w" -o $@ ./test/images/hello

bin/images/hello.tar: TAG := 1
bin/images/hello2.tar: TAG := 2
bin/images/hello.tar bin/images/hello2.tar: bin/images/hello $(wildcard hack/image/*.go)
	$(GO) run ./hack/image -name skiff.local/hello:$(TAG) -busybox -add bin/images/hello:/hello -entrypoint /hello -o $@

bin/images/leader.tar: $(wildcard test/images/leader/*.go hack/image/*.go pkg/election/*.go)
	@mkdir -p bin/images
	$(GO) build -ldflags "-s -w" -o bin/images/leader ./test/images/leader
	$(GO) run ./hack/image -name skiff.local/leader:1 -add bin/images/leader:/leader -entrypoint /leader -o $@

up: deps build images
	@hack/up

down:
	@bin/ctl cluster delete skiff

test: deps lint unit node clients machines fault

# Pure logic, and one real apiserver and etcd.
unit:
	$(GO) test ./pkg/... ./cmd/... ./hack/... ./test/house/... ./test/fault/record/... ./test/differential

# Whole clusters with real containers.
node: build images
	$(GO) test -count=1 -timeout 30m ./test/node/...

# Programs that others have written for Kubernetes: a module of its own, for Helm and
# controller-runtime stay out of what Skiff is built from.
clients: build images
	cd test/clients && $(GO) test -count=1 -timeout 10m ./...

# docs/operations.md, followed to the letter on machines of the test's own.
machines: build images
	$(GO) test -count=1 -timeout 10m ./test/machines

# A highly available cluster, and all that may happen to it.
fault: build images
	$(GO) test -count=1 -timeout 30m -v ./test/fault

soak: SOAK ?= 1h
soak: build images
	SOAK=$(SOAK) $(GO) test -count=1 -timeout 0 -v -run TestSoak ./test/fault

lint:
	@test -z "$$(gofmt -l cmd pkg hack test)" || { gofmt -l cmd pkg hack test; echo "gofmt these files"; exit 1; }
	for module in . test/clients; do \
	  (cd $$module && $(GO) vet ./... && $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...) || exit 1; \
	done

bench: deps build images
	$(GO) run ./hack/bench

clean:
	rm -rf bin
