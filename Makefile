# Everything is started from here: `make help` lists it.
SHELL := /bin/bash
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millrace/target

.PHONY: help
help: ## list what can be made
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

-include e2e/cluster/cluster.mk
-include engine/engine.mk inference-server/inference-server.mk
