"""Writes models that must be refused, into the folder `hostile` beside this script; tests/it/hostile.rs names the reason of each.

Run with Python's `onnx` and `numpy` installed:  python3 hostile.py
None does harm by being read; each would by being loaded without a look into it, or is a trick to get past such a look.
"""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

HERE = Path(__file__).parent / "hostile"
OPSET = [h.make_opsetid("", 20), h.make_opsetid("ai.onnx.ml", 3)]


def write(name, data):
    (HERE / f"{name}.onnx").write_bytes(data)


def model(nodes=None, weights=(), inputs=None, outputs=None, functions=(), opsets=()):
    nodes = nodes or [h.make_node("Identity", ["X"], ["Y"])]
    inputs = inputs or [h.make_tensor_value_info("X", T.FLOAT, [None])]
    outputs = outputs or [h.make_tensor_value_info("Y", T.FLOAT, None)]
    graph = h.make_graph(nodes, "hostile", inputs, outputs, list(weights))
    opsets = OPSET + [h.make_opsetid(domain, 1) for domain in opsets]
    return h.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def save(name, made):
    write(name, made.SerializeToString())


def tensor(name="w", kind=T.FLOAT, dims=(2,), **fields):
    made = T(name=name, data_type=kind, dims=dims)
    for key, value in fields.items():
        if isinstance(value, list):
            getattr(made, key).extend(value)
        else:
            setattr(made, key, value)
    return made


def outside(location, name="w", dims=(2,), **more):
    made = tensor(name, dims=dims)
    made.data_location = T.EXTERNAL
    for key, value in {"location": location, **more}.items():
        made.external_data.add(key=key, value=value)
    return made


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def field(number, inner):
    return varint(number << 3 | 2) + varint(len(inner)) + inner


def no_model():
    whole = model(weights=[nh.from_array(np.ones(64, np.float32), "w")]).SerializeToString()
    write("empty", b"")
    write("html", b"<html><body>404 not found</body></html>")
    write("truncated", whole[:-7])
    write("no_graph", ModelProto(ir_version=10).SerializeToString())
    # Protobuf merges the two: what each holds alone is harmless.
    write("two_graphs", whole + field(7, model().graph.SerializeToString()))
    write("group", whole + b"\x0b\x0c")
    write("long_number", whole + b"\x08" + b"\xff" * 10 + b"\x01")
    # ONNX Runtime takes a file with these four bytes at this place for its own format, which nobody has looked into.
    write("ort_format", field(2, b"\0\0ORTM") + whole)


def archives():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../etc/cron.d/evil", b"* * * * * root true\n")
    write("zip", packed.getvalue())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        link = tarfile.TarInfo("model.onnx")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(link)
        device = tarfile.TarInfo("disk")
        device.type, device.devmajor, device.devminor = tarfile.BLKTYPE, 8, 0
        archive.addfile(device)
    write("tar", packed.getvalue())
    write("gzip_bomb", gzip.compress(b"\0" * (16 << 20), 9, mtime=0))


def files():
    save("external_parent", model(weights=[outside("../../../../etc/passwd")]))
    save("external_absolute", model(weights=[outside("/etc/passwd")]))
    # ONNX Runtime's own mark of an address in memory.
    save("external_memory", model(weights=[outside("*/_ORT_MEM_ADDR_/*", offset="4198400", length="8")]))
    branch = h.make_graph(
        [h.make_node("Constant", [], ["c"], value=outside("/proc/self/environ", name="deep"))],
        "branch",
        [],
        [h.make_tensor_value_info("c", T.FLOAT, [2])],
    )
    yes = h.make_node("Constant", [], ["yes"], value=h.make_tensor("yes", T.BOOL, [], [True]))
    save("external_in_branch", model([yes, h.make_node("If", ["yes"], ["Y"], then_branch=branch, else_branch=branch)]))
    # Half of the external tensor in each of two: protobuf makes one of them.
    attribute = field(1, b"value") + field(5, tensor("c", raw_data=b"\0" * 8).SerializeToString())
    attribute += field(5, b"\x70\x01") + b"\xa0\x01\x04"
    node = field(2, b"Y") + field(4, b"Constant") + field(5, attribute)
    made = model()
    del made.graph.node[:]
    split = made.SerializeToString()
    made.ClearField("graph")
    write("external_split", made.SerializeToString() + field(7, field(1, node) + ModelProto.FromString(split).graph.SerializeToString()))


def operators():
    save("custom_domain", model([h.make_node("Shell", ["X"], ["Y"], domain="org.example.shell", command="id")], opsets=["org.example.shell"]))
    context = h.make_node("EPContext", ["X"], ["Y"], domain="com.microsoft", embed_mode=0, ep_cache_context="/tmp/engine.so")
    save("ep_context", model([context], opsets=["com.microsoft"]))
    missing = h.make_node("NoSuchOperator", ["X"], ["Y"])
    save("unknown_operator", model([missing]))
    save("cycle", model([h.make_node("Add", ["X", "b"], ["a"]), h.make_node("Identity", ["a"], ["b"]), h.make_node("Identity", ["b"], ["Y"])]))
    double = lambda name, inner: h.make_function(
        "local", name, ["x"], ["y"], [h.make_node(inner, ["x"], ["m"], domain="local" if inner.startswith("F") else ""),
                                      h.make_node(inner, ["m"], ["y"], domain="local" if inner.startswith("F") else "")], OPSET + [h.make_opsetid("local", 1)])
    laughs = [double("F0", "Neg")] + [double(f"F{level}", f"F{level - 1}") for level in range(1, 40)]
    save("function_bomb", model([h.make_node("F39", ["X"], ["Y"], domain="local")], functions=laughs, opsets=["local"]))
    itself = h.make_function("local", "F", ["x"], ["y"], [h.make_node("F", ["x"], ["y"], domain="local")], OPSET + [h.make_opsetid("local", 1)])
    save("function_recursive", model([h.make_node("F", ["X"], ["Y"], domain="local")], functions=[itself], opsets=["local"]))


def sizes():
    save("negative_dimension", model(weights=[tensor(dims=(-1, 4))]))
    save("overflowing_shape", model(weights=[tensor(dims=(1 << 62, 1 << 62))]))
    save("terabyte_of_nothing", model(weights=[tensor(dims=(1 << 38,))]))
    save("short_data", model(weights=[tensor(dims=(4,), raw_data=b"\0" * 12)]))
    save("long_data", model(weights=[tensor(dims=(4,), float_data=[0.0] * 5)]))
    save("many_dimensions", model(weights=[tensor(dims=(1,) * 100, raw_data=b"\0" * 4)]))
    save("unknown_type", model(weights=[tensor(kind=99, raw_data=b"\0" * 8)]))
    save("raw_text", model(weights=[tensor(kind=T.STRING, raw_data=b"\0" * 8)]))
    shape = nh.from_array(np.array([1 << 20, 1 << 20], np.int64), "shape")
    save("constant_of_shape", model([h.make_node("ConstantOfShape", ["shape"], ["Y"])], weights=[shape]))
    inner = h.make_node("Constant", [], ["shape"], value=shape)
    save("expand", model([inner, h.make_node("Expand", ["X", "shape"], ["Y"])]))
    sparse = h.make_sparse_tensor(nh.from_array(np.ones(1, np.float32), "w"), nh.from_array(np.zeros(1, np.int64), "i"), [1 << 40])
    made = model()
    made.graph.sparse_initializer.append(sparse)
    save("sparse_bomb", made)
    graph = b""
    for _ in range(40):
        graph = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph)))
    write("deep", b"\x08\x0a" + field(7, graph))


def boundaries():
    floats = h.make_tensor_type_proto(T.FLOAT, [None])
    nested = h.make_sequence_type_proto(h.make_sequence_type_proto(floats))
    save("sequence_of_sequences", model(outputs=[h.make_value_info("Y", nested)]))
    deep = floats
    for _ in range(30):
        deep = h.make_sequence_type_proto(deep)
    save("deep_type", model(outputs=[h.make_value_info("Y", deep)]))
    save("map_output", model(outputs=[h.make_value_info("Y", h.make_map_type_proto(T.INT64, floats))]))
    save("sequence_input", model(inputs=[h.make_value_info("X", h.make_sequence_type_proto(floats))]))
    opaque = h.make_tensor_value_info("Y", T.FLOAT, None)
    opaque.type.Clear()
    opaque.type.opaque_type.name = "secret" if hasattr(opaque.type, "opaque_type") else ""
    save("opaque_output", model(outputs=[opaque])) if hasattr(opaque.type, "opaque_type") else write(
        "opaque_output", opaque_output())
    save("sparse_input", model(inputs=[h.make_value_info("X", h.make_sparse_tensor_type_proto(T.FLOAT, [4]))]))
    save("complex_input", model(inputs=[h.make_tensor_value_info("X", T.COMPLEX64, [None])]))
    # ONNX Runtime would call it a scalar, and end the process when the transform gets one.
    transform = h.make_node("DFT", ["X", "", "axis"], ["Y"], inverse=1)
    inputs = [h.make_tensor_value_info("X", T.FLOAT, None), h.make_tensor_value_info("axis", T.INT64, [])]
    save("shapeless_input", model([transform], inputs=inputs))
    save("huge_input", model(inputs=[h.make_tensor_value_info("X", T.FLOAT, [1 << 40, 1 << 40])]))
    two = [h.make_tensor_value_info("Y", T.FLOAT, None)] * 2
    save("two_outputs_of_one_name", model(outputs=two))
    save("nul_in_name", model([h.make_node("Identity", ["X"], ["Y\0Z"])], outputs=[h.make_tensor_value_info("Y\0Z", T.FLOAT, None)]))
    save("nameless_output", model(outputs=[h.make_tensor_value_info("", T.FLOAT, None)]))
    save("wrong_types", model([h.make_node("MatMul", ["X", "w"], ["Y"])], weights=[nh.from_array(np.ones(3, np.int64), "w")]))


def opaque_output():
    """Python's protobuf has no opaque type; the format does."""
    made = model()
    value = field(1, b"Y") + field(2, field(7, field(2, b"secret")))
    del made.graph.output[:]
    graph = made.graph.SerializeToString() + field(12, value)
    made.ClearField("graph")
    return made.SerializeToString() + field(7, graph)


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for make in (no_model, archives, files, operators, sizes, boundaries):
        make()
