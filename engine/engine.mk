# ONNX Runtime for tests and benchmarks on this machine.
onnxruntime_library := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millrace/lib/libonnxruntime.so

.PHONY: onnxruntime
onnxruntime: $(onnxruntime_library) ## get ONNX Runtime's shared library into the cache

$(onnxruntime_library):
	@mkdir -p $(@D)
	ln -sf "$$(deploy/images/fetch-onnxruntime)" $@
