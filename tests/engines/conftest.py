"""A small network in every form the runtimes read, made by hand with onnx.helper: it needs no other room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

SIZE, CLASSES = 16, 10
FLOAT = {"fp32": T.FLOAT, "fp16": T.FLOAT16, "bf16": T.BFLOAT16}
E4M3 = ml_dtypes.float8_e4m3fn
NUMPY = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def weights() -> dict[str, np.ndarray]:
    """conv 3->16, conv 16->32, linear 32->10."""
    rng = np.random.default_rng(0)
    return {"w0": (0.2 * rng.standard_normal((16, 3, 3, 3))).astype(np.float32), "b0": np.zeros(16, np.float32),
            "w1": (0.1 * rng.standard_normal((32, 16, 3, 3))).astype(np.float32), "b1": np.zeros(32, np.float32),
            "w2": (0.5 * rng.standard_normal((10, 32))).astype(np.float32), "b2": np.zeros(10, np.float32)}


def network(form: str, batch: int | str = "batch", op: str | None = None) -> onnx.ModelProto:
    """form: fp32; fp16, bf16 (computed in it, float32 in and out); fp16_storage, bf16_storage (weights only);
    int8 (S8 Q/DQ), int8_u8 (U8 activations), int8_u8_zero (the same with zero_point 0 throughout), int8_fp16 (S8 on an fp16 graph), and
    on fp16: int4 (weight-only linear), int8_weight_only, fp8 (E4M3), mixed (conv fp16, conv S8 Q/DQ, linear int4);
    on fp32: int8_weights, int4_weights (weight-only).
    op: put this operator in place of the first Relu."""
    on_fp16 = ("int8_fp16", "int4", "int8_weight_only", "fp8", "mixed")
    kind = "fp16" if form in on_fp16 else form if form in FLOAT else "fp32"
    float_type, dtype = FLOAT[kind], NUMPY[kind]
    nodes: list[onnx.NodeProto] = []
    initializers: dict[str, onnx.TensorProto] = {}

    def put(name: str, array: np.ndarray) -> str:
        initializers[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def add(kind_of_op: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind_of_op, inputs, [output], name=f"n_{output}", **attributes))
        return output

    def weight(name: str) -> str:
        value = weights()[name]
        if form.endswith("_storage"):
            return add("Cast", [put(f"{name}_half", value.astype(NUMPY[form[:4]]))], name, to=T.FLOAT)
        if form in ("int4", "mixed", "int4_weights") and name == "w2":
            scale = (np.abs(value).max(axis=1, keepdims=True) / 7).astype(dtype)
            four = np.clip(np.rint(value / scale.astype(np.float32)), -7, 7).astype(ml_dtypes.int4)
            return add("DequantizeLinear", [put("w2_q", four), put("w2_s", scale)], name, axis=1, block_size=32)
        if form == "fp8" and name != "w0":
            scale = np.asarray(np.abs(value).reshape(len(value), -1).max(axis=1) / 448, dtype)
            codes = (value / scale.astype(np.float32).reshape(-1, *[1] * (value.ndim - 1))).clip(-448, 448)
            return add("DequantizeLinear", [put(f"{name}_q", codes.astype(E4M3)), put(f"{name}_s", scale)], name, axis=0)
        if form.startswith("int8") or form == "mixed" and name == "w1":
            scale = np.abs(value).reshape(len(value), -1).max(axis=1) / 127
            eight = np.rint(value / scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8)
            names = [put(f"{name}_q", eight), put(f"{name}_s", scale.astype(dtype)),
                     put(f"{name}_z", np.zeros(len(scale), np.int8))]
            return add("DequantizeLinear", names, name, axis=0)
        return put(name, value.astype(dtype))

    def activation(name: str) -> str:
        quantized = {"fp8": ("p0", "f"), "mixed": ("p0",), "int8_weight_only": (), "int8_weights": ()}
        if name not in quantized.get(form, (name,) if form.startswith("int8") else ()):
            return name
        zero = E4M3(0) if form == "fp8" else np.uint8(128 if form == "int8_u8" and name == "images" else 0) if "u8" in form else np.int8(0)
        pair = [put(f"{name}_s", np.asarray(4 / 127, dtype)), put(f"{name}_z", np.asarray(zero))]
        return add("DequantizeLinear", [add("QuantizeLinear", [name, *pair], f"{name}_q"), *pair], f"{name}_dq")

    at = add("Cast", ["images"], "images_cast", to=float_type) if kind != "fp32" else "images"
    at = add("Conv", [activation(at), weight("w0"), put("b0", weights()["b0"].astype(dtype))], "c0", pads=[1] * 4)
    at = add(op or "Relu", [at], "r0")
    at = add("MaxPool", [at], "p0", kernel_shape=[2, 2], strides=[2, 2])
    at = add("Conv", [activation(at), weight("w1"), put("b1", weights()["b1"].astype(dtype))], "c1", pads=[1] * 4)
    at = add("Relu", [at], "r1")
    at = add("Flatten", [add("GlobalAveragePool", [at], "g")], "f")
    at = add("Gemm", [activation(at), weight("w2"), put("b2", weights()["b2"].astype(dtype))], "scores", transB=1)
    add("Cast" if kind != "fp32" else "Identity", [at], "logits", **({"to": T.FLOAT} if kind != "fp32" else {}))
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("images", T.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", T.FLOAT, [batch, CLASSES])], list(initializers.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@pytest.fixture
def make_onnx(tmp_path: Path) -> Callable[..., Path]:
    """make_onnx("int8") -> path of that form's ONNX file."""

    def make(form: str, batch: int | str = "batch", op: str | None = None) -> Path:
        path = tmp_path / f"{form}.{batch}.{op}.onnx"
        onnx.save(network(form, batch, op), path)
        return path

    return make


@pytest.fixture
def images() -> np.ndarray:
    """(7, 3, 16, 16) float32, standard normal."""
    return np.random.default_rng(1).standard_normal((7, 3, SIZE, SIZE)).astype(np.float32)
