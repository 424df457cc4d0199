# Everything is started from here: `make help` lists it. Set-up is part of each target; caches are in ~/.cache/millrace.
SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millrace
export CARGO_TARGET_DIR ?= $(CACHE)/target
STAGE := e2e/stage
# ONNX Runtime would send telemetry from tests and benchmarks, too.
export ORT_DISABLE_TELEMETRY := 1

# Cargo is told --workspace, never one package: dependencies would be built anew with the features of that package alone.

.DEFAULT_GOAL := help
.PHONY: help
help: ## list what can be made
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

include e2e/cluster/cluster.mk

.PHONY: packages
packages: ## install the Debian packages that building and testing need, those that are missing
	@e2e/cluster/packages build

# The same before anything that ends with a cluster: a package that cannot be had is told before half an hour of building.
.PHONY: packages-all
packages-all:
	@e2e/cluster/packages all

.PHONY: demo
demo: packages-all ## the whole loop on a real local Kubernetes, under live traffic (on two cores about 30 minutes cold, 5 warm)
	@e2e/demo/run

.PHONY: test
test: packages-all ahead check test-rust test-cluster ## everything: static checks, Rust tests on a real API server, the demo's acts on a real cluster
	@echo "all tests passed; stages and times are above"

# Downloads, and Go's programs, beside the checks. Tests measure times: they begin when it has ended.
.PHONY: ahead
ahead: packages-all
	@e2e/ahead start

.PHONY: check
check: packages ## formatting, lints, licences, generated files, chart
	@$(STAGE) "format" cargo fmt --all --check
	@$(STAGE) "clippy" cargo clippy --workspace --all-targets -- -D warnings
	@$(STAGE) "licences and sources" e2e/deny
	@$(STAGE) "programs of the cluster" e2e/cluster/tools-build
	@$(STAGE) "chart" e2e/chart-test

.PHONY: test-rust
test-rust: packages ## unit tests and tests on a real kube-apiserver and etcd
	@$(STAGE) "programs of the cluster" e2e/cluster/tools-build
	@$(STAGE) "what was begun ahead" e2e/ahead wait
	@$(STAGE) "ONNX Runtime and S3 server" bash -c 'deploy/images/fetch-onnxruntime && deploy/images/fetch-seaweedfs'
	@$(STAGE) "Rust tests" e2e/rust-tests
	@$(STAGE) "conformance of the server" e2e/conformance/run cases clients bugs nodes
	@$(STAGE) "the CUDA build without a GPU" e2e/cuda-without-gpu

.PHONY: test-cluster
test-cluster: packages-all ## the cluster's own tests, the samples and the demo's acts, on a cluster of their own
	@$(STAGE) "the local cluster" e2e/cluster/tests/run
	@$(STAGE) "scenarios on a real cluster" e2e/scenarios/run

.PHONY: crds
crds: packages ## generate the CustomResourceDefinitions from crds/src
	@cargo build --quiet --workspace --bin crdgen
	@$(CARGO_TARGET_DIR)/debug/crdgen
	@cp crds/manifests/*.yaml charts/millrace/files/crds/

.PHONY: crds-released
crds-released: packages ## record what the CustomResourceDefinitions have now: from then on it may not be taken away
	@cargo build --quiet --workspace --bin crdgen
	@$(CARGO_TARGET_DIR)/debug/crdgen --released

.PHONY: bench
bench: packages ## the server beside in-process ONNX Runtime and a bare echo, in one run of some 6 minutes; ONLY="tiny idle", STRICT=1
	@deploy/images/fetch-onnxruntime >/dev/null
	@STRICT=$(STRICT) cargo bench --workspace --bench served_rate --profile $(or $(PROFILE),dev) -- $(ONLY)

.PHONY: conformance
conformance: packages ## the protocol's clauses over REST, binary and gRPC, on our server or on any: URL=http://host:port [GRPC=host:port]
	@e2e/conformance/run $(if $(URL),--url $(URL) $(if $(GRPC),--grpc $(GRPC)))

.PHONY: conformance-nodes
conformance-nodes: packages ## the node tests of the onnx package through every wire of our server, beside ONNX Runtime in process
	@e2e/conformance/run nodes

.PHONY: bench-peers
bench-peers: packages ## our server beside MLServer, KServe, LitServe, BentoML, Ray Serve, FastAPI and furnace-server, on one core each
	@e2e/bench/peers/run

.PHONY: soak
soak: ## a million requests over 200 events on a real cluster, none may fail (about an hour); NAIVE=1: a careless configuration, which must fail
	@e2e/soak/run $(if $(NAIVE),--naive,--long)

.PHONY: fuzz
fuzz: packages ## millions of wrong requests, headers, messages and models; FUZZ_CASES of each form, then FUZZ_SECONDS over sockets
	@e2e/bench/fuzz

.PHONY: bench-router
bench-router: packages-all ## the router beside nginx, Envoy and Traefik doing the same split, on one core each, in one run; 5,000 services; plans followed
	@e2e/bench/router
	@cargo build --quiet --workspace --bin router --example many_services
	@$(CARGO_TARGET_DIR)/debug/examples/many_services
	@e2e/bench/plans

.PHONY: fmt
fmt: ## format the code
	@cargo fmt --all

.PHONY: onnxruntime
onnxruntime: packages ## fetch libonnxruntime.so into the cache
	@deploy/images/fetch-onnxruntime
