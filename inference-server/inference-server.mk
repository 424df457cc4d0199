# Benchmarks of the inference server. The dev profile is the one that images are built with; another would be a second build.
.PHONY: bench
bench: onnxruntime ## served rate against the model in process and a bare HTTP echo, in one run
	cargo bench --quiet --profile dev -p millrace-inference-server --bench served_rate
