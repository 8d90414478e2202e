"""Tiny networks, converted for every runtime and opened there, and faults put into the files they were made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from toolchain.contract import contract
from toolchain.contract.numbers import compared
from toolchain.engines import backend
from toolchain.engines.record import EngineRecord, write_record
from toolchain.files import sha256_file
from toolchain.graph.clean import drop_unused
from toolchain.graph.convert import convert
from toolchain.quantize.calibrate import calibrate
from toolchain.recipe.schema import MaxCalibrator, OpenVinoEngine, OrtEngine

WIDTH, CLASSES, SIZE = 0.125, 10, 32
NETWORKS = {"vgg": ("vgg11_bn", "cifar"), "resnet18": ("resnet18", "cifar"), "mobilenet_v2": ("mobilenet_v2", "cifar"),
            "squeezenet": ("squeezenet1_1", "imagenet"), "wider": ("mobilenet_v2", "cifar")}


@dataclass(frozen=True)
class Case:
    """One converted file. source: the float file. asked: layers of its info.json. probe: images (8, 3, S, S)."""

    onnx: Path
    source: Path
    asked: list[dict[str, Any]]
    probe: np.ndarray


@pytest.fixture(scope="session")
def converted(tmp_path_factory) -> Callable[..., Case]:
    """(network, precision, rules) -> Case; each network is exported and calibrated once."""
    folder, known = tmp_path_factory.mktemp("contract"), {}

    def source(name: str) -> tuple[Path, Any, np.ndarray]:
        import torch
        from torch import nn

        from toolchain.graph.own import read_own_onnx
        from toolchain.models import MODELS

        if name not in known:
            torch.manual_seed(0)
            arch, form = NETWORKS[name]
            size = SIZE if form == "cifar" else 2 * SIZE
            module = MODELS[arch](CLASSES, form, WIDTH * (2 if name == "wider" else 1)).eval()
            for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
                nn.init.normal_(norm.running_mean, 0, 0.2)
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, 0, 0.2)
            raw, path = folder / f"{name}.raw.onnx", folder / f"{name}.onnx"
            torch.onnx.export(module, (torch.zeros(2, 3, size, size),), raw, dynamo=False, opset_version=13,
                              input_names=["images"], output_names=["logits"],
                              dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}})
            read_own_onnx(raw, path)
            probe = np.random.default_rng(7).normal(size=(8, 3, size, size)).astype(np.float32)
            known[name] = path, calibrate(path, [probe], MaxCalibrator(method="max")), probe
        return known[name]

    def make(name: str, precision: str, rules: str) -> Case:
        path, ranges, probe = source(name)
        out = folder / f"{name}.{precision}.{rules}.onnx"
        if not out.exists():
            info = convert(path, out, precision, rules, ranges, probe=probe)
            out.with_suffix(".json").write_text(json.dumps(info))
        return Case(out, path, json.loads(out.with_suffix(".json").read_text())["layers"], probe)

    return make


@pytest.fixture
def held(tmp_path) -> Callable[..., dict[str, Any]]:
    """(case, runtime, precision, numbers) -> contract.json of the engine that the CPU runtime builds of the file."""

    def hold(case: Case, runtime: str, precision: str, numbers: bool = False) -> dict[str, Any]:
        section = OrtEngine if runtime == "onnxruntime" else OpenVinoEngine
        cfg = section(runtime=runtime, precision=precision, target="cpu_x86")
        folder = tmp_path / f"{case.onnx.stem}.{runtime}"
        folder.mkdir(exist_ok=True)
        backend(runtime).build(case.onnx, cfg, folder, {})
        found = compared(folder, case.onnx, case.source, case.probe) if numbers else None
        return contract(folder, case.onnx, case.asked, case.source, found)

    return hold


@pytest.fixture
def walked(tmp_path) -> Callable[..., dict[str, Any]]:
    """(case, precision, runtime, inspector's JSON) -> contract.json of an engine that TensorRT would build of the file.

    Its network is parsed and walked, as before every build; no engine is made.
    """
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    build, package = import_module("toolchain.engines.trt_build"), import_module("toolchain.engines.trt_package")

    def walk(case: Case, precision: str, runtime: str = "tensorrt_rtx", inspector: str | None = None) -> dict[str, Any]:
        log = package.make_logger(trt)
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        assert parser.parse(case.onnx.read_bytes()), log.errors
        folder = tmp_path / f"{case.onnx.stem}.{runtime}"
        folder.mkdir(exist_ok=True)
        record(folder, case, precision, runtime, build.walk(network))
        if inspector:
            (folder / build.INSPECTED).write_text(inspector)
        return contract(folder, case.onnx, case.asked, case.source)

    return walk


def record(folder: Path, case: Case, precision: str, runtime: str, layers: list[dict[str, Any]]) -> None:
    """engine.json of an engine that was never built."""
    compute = {"int4": "fp16"}.get(precision, precision)
    write_record(folder, EngineRecord(
        f"{precision}.{runtime}.sm86", precision, compute, runtime, "1.0", "sm86", sha256_file(case.onnx), "engine.trt",
        "0" * 64, 1, 1, "sm86", None, layers))


@pytest.fixture
def altered(tmp_path) -> Callable[..., Case]:
    """(case, edit) -> the case with `edit(graph)` made to a copy of its file, an onnx_ir graph."""

    def alter(case: Case, edit: Callable[[ir.Graph], None]) -> Case:
        model = ir.load(case.onnx)
        edit(model.graph)
        drop_unused(model)
        path = tmp_path / f"{case.onnx.stem}.altered.onnx"
        onnx.save(ir.to_proto(model), path)
        return Case(path, case.source, case.asked, case.probe)

    return alter
