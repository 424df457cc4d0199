# The local cluster and the images. CLUSTER=current takes the cluster of the current kubectl context instead, with the images
# pushed to IMAGE_PREFIX; CLUSTER_NAME names one of several local clusters.

export CLUSTER ?= local
export CLUSTER_NAME ?= millrace

MILLRACE_IMAGES := operator router worker inference-server seaweedfs trainer-sklearn

.PHONY: cluster
cluster: packages-all ## bring the local Kubernetes up (CLUSTER=current checks the current context)
	@e2e/cluster/up

.PHONY: cluster-down
cluster-down: ## stop the local Kubernetes and leave nothing behind
	@e2e/cluster/down

.PHONY: cluster-tools
cluster-tools: packages ## build the programs of the cluster into the cache
	@e2e/cluster/tools-build

.PHONY: images
images: packages-all ## build the images whose inputs changed, and bring them to the cluster; with CLUSTER=current in the release profile (PROFILE=dev: quicker)
	@PROFILE=$(or $(PROFILE),$(if $(filter current,$(CLUSTER)),release,dev)) e2e/cluster/images $(MILLRACE_IMAGES)

.PHONY: cluster-test
cluster-test: packages-all ## test that the cluster starts, works, restarts and leaves nothing
	@e2e/cluster/tests/run
