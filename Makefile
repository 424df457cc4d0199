# Everything is started from here: `make help` lists it. Set-up is part of each target; caches are in ~/.cache/millrace.
SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millrace
export CARGO_TARGET_DIR ?= $(CACHE)/target
STAGE := e2e/stage

.DEFAULT_GOAL := help
.PHONY: help
help: ## list what can be made
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

include e2e/cluster/cluster.mk

.PHONY: demo
demo: ## the whole loop on a real local Kubernetes, under live traffic (cold about 45 minutes, warm about 8)
	@e2e/demo/run

.PHONY: test
test: check test-rust test-cluster ## everything: static checks, Rust tests on a real API server, the demo's acts on a real cluster
	@echo "all tests passed; stages and times are above"

.PHONY: check
check: ## formatting, lints, licences, generated files, chart
	@$(STAGE) "format" cargo fmt --all --check
	@$(STAGE) "clippy" cargo clippy --workspace --all-targets -- -D warnings
	@$(STAGE) "licences and sources" e2e/deny
	@$(STAGE) "programs of the cluster" e2e/cluster/tools-build
	@$(STAGE) "chart" e2e/chart-test

.PHONY: test-rust
test-rust: ## unit tests and tests on a real kube-apiserver and etcd
	@$(STAGE) "programs of the cluster" e2e/cluster/tools-build
	@$(STAGE) "ONNX Runtime and S3 server" bash -c 'deploy/images/fetch-onnxruntime && deploy/images/fetch-seaweedfs'
	@$(STAGE) "Rust tests" e2e/rust-tests

.PHONY: test-cluster
test-cluster: ## the cluster's own tests, the samples and the demo's acts, on a cluster of their own
	@$(STAGE) "the local cluster" e2e/cluster/tests/run
	@$(STAGE) "scenarios on a real cluster" e2e/scenarios/run

.PHONY: crds
crds: ## generate the CustomResourceDefinitions from crds/src
	@cargo run --quiet -p millrace-crds --bin crdgen
	@cp crds/manifests/*.yaml charts/millrace/files/crds/

.PHONY: bench
bench: ## served rate beside in-process ONNX Runtime and a bare HTTP echo, in one run
	@deploy/images/fetch-onnxruntime >/dev/null
	@cargo bench -p millrace-inference-server --profile dev

.PHONY: fmt
fmt: ## format the code
	@cargo fmt --all

.PHONY: onnxruntime
onnxruntime: ## fetch libonnxruntime.so into the cache
	@deploy/images/fetch-onnxruntime
