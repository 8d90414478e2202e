"""TensorRT on a device, played by modules that have exactly the names that each version's bindings were seen to have.

tests/runner/surfaces/<version>.json: what `dir()` of the real Python bindings lists, class by class.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from toolchain.runner import cuda, making, probe, trt
from toolchain.runner.answers import Failed
from toolchain.runner.opened import open_engine
from toolchain.runner.place import Place

SURFACES = sorted((Path(__file__).parent / "surfaces").glob("*.json"), key=lambda path: [int(n) for n in path.stem.split(".")])
SUPPORTED = [path.stem for path in SURFACES if int(path.stem.split(".")[0]) >= 10]
ENGINE = {"name": "int8.tensorrt.local_gpu", "precision": "int8", "runtime": "tensorrt", "target": "local_gpu",
          "batch": {"min": 2, "opt": 2, "max": 4}}


def surface(version: str) -> dict[str, Any]:
    return json.loads(next(path for path in SURFACES if path.stem == version).read_text())


class Played:
    """What an object of TensorRT does here; only names that its version has can be used."""

    def __init__(self, kind: str, names: list[str], **does: Any) -> None:
        self.__dict__.update(kind=kind, names=set(names), does=does)

    def __getattr__(self, name: str) -> Any:
        if name not in self.names:
            raise AttributeError(f"{self.kind} of this version has no {name}")
        return self.does[name]

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in self.names, f"{self.kind} of this version has no {name}"
        self.does[name] = value


class Machine:
    """A TensorRT of some version: it "builds" the gain that an ONNX file holds as text, and "runs" it."""

    def __init__(self, version: str) -> None:
        self.version, self.classes = version, surface(version)
        self.log: Any = None
        self.known: bytes | None = None
        self.profile: dict[str, Any] = {}
        self.flags: list[tuple[str, str]] = []
        self.module = self._module()

    def play(self, kind: str, **does: Any) -> Played:
        assert set(does) <= set(self.classes[kind]), f"{set(does) - set(self.classes[kind])} of {kind} is not in {self.version}"
        return Played(kind, self.classes[kind], **does)

    def _module(self) -> Any:
        module = ModuleType("tensorrt")
        for kind, names in self.classes.items():
            setattr(module, kind, type(kind, (), {name: f"{kind}.{name}" for name in names if not name.startswith("__")}))
        module.__version__ = self.version  # type: ignore[attr-defined]
        module.float32 = "float32"  # type: ignore[attr-defined]
        flag = module.NetworkDefinitionCreationFlag
        flag.STRONGLY_TYPED = 1
        module.Builder = self._keeping_names(module.Builder, self._builder)
        module.OnnxParser = self._keeping_names(module.OnnxParser, self._parser)
        module.Runtime = self._keeping_names(module.Runtime, lambda log: self.play(
            "Runtime", deserialize_cuda_engine=self._engine))
        return module

    @staticmethod
    def _keeping_names(kind: Any, make: Any) -> Any:
        """A callable with the class's attributes."""
        return type(kind.__name__, (), {**{n: getattr(kind, n) for n in dir(kind) if not n.startswith("__")},
                                        "__new__": staticmethod(lambda _, *words: make(*words))})

    def _builder(self, log: Any) -> Played:
        self.log = log
        config = self.play("IBuilderConfig", clear_flag=lambda flag: self.flags.append(("clear", flag)),
                           set_flag=lambda flag: self.flags.append(("set", flag)), set_memory_pool_limit=lambda pool, size: None,
                           add_optimization_profile=lambda profile: 0, create_timing_cache=self._cache,
                           set_timing_cache=lambda cache, ignore: True, progress_monitor=None,
                           get_timing_cache=lambda: self.play("ITimingCache", serialize=lambda: (self.known or b"") + b"+"))
        profile = self.play("IOptimizationProfile", set_shape=lambda name, *shapes: self.profile.update({name: shapes}))
        return self.play("Builder", create_network=self._network, create_builder_config=lambda: config,
                         create_optimization_profile=lambda: profile,
                         build_serialized_network=lambda network, config: self._built(config))

    def _cache(self, known: bytes) -> str | None:
        self.known = known
        return "cache" if known != b"damaged" else None

    def _network(self, flags: int) -> Played:
        assert flags == 1 << 1, "strongly typed, whatever the default of this version is"
        output = SimpleNamespace(dtype=SimpleNamespace(name="INT8"), shape=(-1, 2))
        layer = SimpleNamespace(name="conv", type=SimpleNamespace(name="CONVOLUTION"), get_output=lambda i: output)
        given = SimpleNamespace(name="images", shape=(-1, 1, 2, 2))
        return self.play("INetworkDefinition", num_inputs=1, num_outputs=1, num_layers=1, get_input=lambda i: given,
                         get_layer=lambda i: layer)

    def _parser(self, network: Any, log: Any) -> Played:
        error = self.play("ParserError", desc=lambda: "no such operator", node_name=lambda: "n7", node_operator=lambda: "Spin")

        def parse(content: bytes) -> bool:
            self.gain = content
            if content == b"uint8":
                log.log(self.module.ILogger.WARNING, "uint8 zero point: Defaulting to INT8")
            return content != b"unknown"

        return self.play("OnnxParser", parse=parse, num_errors=1, get_error=lambda i: error)

    def _built(self, config: Any) -> bytes | None:
        monitor = config.progress_monitor
        monitor.phase_start("all", None, 4)
        for step in range(4):
            assert monitor.step_complete("all", step)
        monitor.phase_finish("all")
        if self.gain == b"too big":
            self.log.log(self.module.ILogger.ERROR, "no implementation\nfor conv")
            return None
        return self.gain

    def _engine(self, content: bytes) -> Played | None:
        if not content.replace(b".", b"").isdigit():
            return None
        shape, addresses = {}, {}

        def execute(stream: int) -> bool:
            n = int(np.prod(shape["images"]))
            given = np.ctypeslib.as_array((ctypes.c_float * n).from_address(addresses["images"])).reshape(shape["images"])
            made = np.ctypeslib.as_array((ctypes.c_float * (2 * len(given))).from_address(addresses["logits"]))
            made[:] = np.repeat(float(content) * given.mean(axis=(1, 2, 3)), 2) * np.tile([1, 2], len(given))
            return True

        context = self.play("IExecutionContext", set_tensor_address=lambda name, at: addresses.update({name: at}),
                            set_input_shape=lambda name, asked: bool(shape.update({name: asked}) or 2 <= asked[0] <= 4),
                            get_tensor_shape=lambda name: (shape["images"][0], 2), execute_async_v3=execute)
        sizes = {name: 1000 for name in trt.NAMES["device_memory_bytes"] if name in self.classes["ICudaEngine"]}
        mode = self.module.TensorIOMode
        return self.play(
            "ICudaEngine", num_io_tensors=2, get_tensor_name=lambda i: ("logits", "images")[i],
            get_tensor_mode=lambda name: mode.INPUT if name == "images" else mode.OUTPUT,
            get_tensor_dtype=lambda name: "float32", create_execution_context=lambda: context,
            get_tensor_shape=lambda name: (-1, 1, 2, 2) if name == "images" else (-1, 2),
            get_tensor_profile_shape=lambda name, profile: [(2, 1, 2, 2), (2, 1, 2, 2), (4, 1, 2, 2)], **sizes)


class HostStream:
    """Host memory in place of a GPU's."""

    number = 7

    def copy_in(self, buffer: Any, array: np.ndarray) -> None:
        ctypes.memmove(buffer.pointer, array.ctypes.data, array.nbytes)

    def copy_out(self, array: np.ndarray, buffer: Any) -> None:
        ctypes.memmove(array.ctypes.data, buffer.pointer, array.nbytes)

    def stop_ms(self) -> float:
        return 0.25

    def start(self) -> None: ...
    def synchronize(self) -> None: ...
    def close(self) -> None: ...


class HostBuffer:
    alive = 0

    def __init__(self, size: int) -> None:
        self.memory = ctypes.create_string_buffer(size)
        self.pointer = ctypes.addressof(self.memory)
        HostBuffer.alive += 1

    def free(self) -> None:
        HostBuffer.alive -= 1


@pytest.fixture(params=SUPPORTED)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A device with an Orin's GPU and this version of TensorRT."""
    played = Machine(request.param)
    monkeypatch.setattr(cuda, "begin", lambda: None)
    monkeypatch.setattr(cuda, "Stream", HostStream)
    monkeypatch.setattr(cuda, "Buffer", HostBuffer)
    monkeypatch.setattr(making, "gpu", lambda: {"name": "Orin", "sm": 87})
    monkeypatch.setattr(making, "runtime", lambda name: played.module)
    monkeypatch.setattr("toolchain.runner.opened.runtime", lambda name: played.module)
    return played


def onnx(folder: Path, content: str) -> Path:
    (folder / "model.onnx").write_text(content)
    return folder / "model.onnx"


def test_the_recorded_versions_are_those_of_jetpack_6_and_7() -> None:
    assert {version.split(".")[0] for version in SUPPORTED} == {"10", "11"}
    assert any(version.startswith("10.3.") for version in SUPPORTED) and len(SUPPORTED) >= 3


def test_all_that_is_called_is_there(machine: Machine) -> None:
    assert trt.usable(machine.module) is machine.module
    for kind, names in trt.NEEDED.items():
        assert set(names) <= set(machine.classes[kind]), kind
    assert any(name in machine.classes["ICudaEngine"] for name in trt.NAMES["device_memory_bytes"])


def test_an_engine_is_built_kept_and_run(machine: Machine, tmp_path: Path) -> None:
    place, file = Place(tmp_path), onnx(tmp_path, "3.5")
    record = making.make_engine(place, ENGINE, file, tmp_path / "engine")
    assert record["runtime_version"] == machine.version and record["device"] == "Orin (sm87)"
    assert record["layers"] == [{"name": "conv", "op": "CONVOLUTION", "dtype": "INT8", "shape": [-1, 2]}]
    assert machine.profile == {"images": ((2, 1, 2, 2), (2, 1, 2, 2), (4, 1, 2, 2))}
    assert machine.flags == [("clear", "BuilderFlag.TF32")]
    cache = tmp_path / f"timing.{machine.version}.sm87.cache"
    assert machine.known == b"" and cache.read_bytes() == b"+"

    images = np.arange(9, dtype=np.float32).repeat(4).reshape(9, 1, 2, 2)  # 4 + 4 + 1, the last one padded to 2
    with open_engine(ENGINE, tmp_path / "engine/engine.trt") as engine:
        assert engine.batches == (2, 4) and engine.on_gpu
        assert engine.infer(images).tolist() == [[3.5 * i, 7.0 * i] for i in range(9)]
        assert engine.time_ms(images[:2], 3).tolist() == [0.25] * 3
        assert engine.session.device_memory_bytes() == 1000
        with pytest.raises(Failed, match="takes batches of 2 to 4, found 1"):
            engine.time_ms(images[:1], 3)
    assert HostBuffer.alive == 0

    machine.gain = b"not asked"
    assert making.make_engine(place, ENGINE, file, tmp_path / "engine") == record and machine.gain == b"not asked"
    sparse = {**ENGINE, "sparse": True}  # asked otherwise: built anew, with the timings known by now
    making.make_engine(place, sparse, file, tmp_path / "engine")
    assert machine.known == b"+" and cache.read_bytes() == b"++" and machine.flags[-1] == ("set", "BuilderFlag.SPARSE_WEIGHTS")


def test_timings_that_cannot_be_read_are_forgotten(machine: Machine, tmp_path: Path) -> None:
    cache = tmp_path / f"timing.{machine.version}.sm87.cache"
    cache.write_bytes(b"damaged")
    making.make_engine(Place(tmp_path), ENGINE, onnx(tmp_path, "2"), tmp_path / "engine")
    assert machine.known == b"" and cache.read_bytes() == b"+"


@pytest.mark.parametrize(("content", "told"), [
    ("uint8", "has symmetric INT8 only"), ("unknown", r"cannot read it: no such operator at Spin \(node 'n7'\)"),
    ("too big", "could not build it: no implementation for conv"),
])
def test_what_cannot_be_built_is_told(machine: Machine, content: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(Failed, match=told):
        making.make_engine(Place(tmp_path), ENGINE, onnx(tmp_path, content), tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_an_engine_of_another_version_is_told(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "engine.trt").write_bytes(b"made elsewhere")
    with pytest.raises(Failed, match=f"tensorrt {machine.version} cannot open it: it gave no reason"):  # noqa: SIM117
        with open_engine(ENGINE, tmp_path / "engine.trt"):
            pass


def test_a_version_that_is_too_old_is_told_and_what_it_lacks() -> None:
    module = Machine(SUPPORTED[0]).module
    del module.IProgressMonitor
    module.__version__ = "8.5.2"
    with pytest.raises(Failed, match="tensorrt 8.5.2 is not one .* lacks IProgressMonitor; expected 10.3 to 11.x"):
        trt.usable(module)
    with pytest.raises(Failed, match=r"tensorrt \? is not one"):
        trt.usable(ModuleType("tensorrt"))  # a placeholder package


def test_without_a_gpu_nothing_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(making, "gpu", lambda: None)
    monkeypatch.setattr(making, "runtime", lambda name: Machine(SUPPORTED[0]).module)
    with pytest.raises(Failed, match="there is no NVIDIA GPU on this device"):
        making.make_engine(Place(tmp_path), ENGINE, onnx(tmp_path, "1"), tmp_path / "engine")


@pytest.mark.parametrize(("text", "expected"), [
    ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64", ("36.4.3", "6")),
    ("# R38 (release), REVISION: 2.0, GCID: 1", ("38.2.0", "7")), ("# R99 (release), REVISION: 1.0", ("99.1.0", None)), ("", None),
])
def test_a_jetson_says_which_jetpack_it_has(text: str, expected: Any, tmp_path: Path) -> None:
    (tmp_path / "nv_tegra_release").write_text(text)
    assert probe.l4t(tmp_path / "nv_tegra_release") == expected


@pytest.fixture(scope="module")
def real() -> Any:
    """The builder and parser of TensorRT-RTX, which share these calls and need no GPU where one is named."""
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")

    class Builder(rtx.Builder):
        def create_builder_config(self) -> Any:
            config = super().create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(rtx.ComputeCapability.SM86, 0)
            return config

    module = ModuleType("tensorrt")
    module.__dict__.update({**rtx.__dict__, "Builder": Builder})
    return module


@pytest.mark.parametrize("form", ["fp32", "int8"])
def test_a_real_builder_takes_these_calls(form: str, real: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = Path(__file__).parents[1] / "engines" / "conftest.py"
    spec = importlib.util.spec_from_file_location("engine_networks", place)
    assert spec and spec.loader
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    monkeypatch.setattr(cuda, "begin", lambda: None)
    (tmp_path / "m.onnx").write_bytes(networks.network(form).SerializeToString())
    told: list[float] = []
    engine = {"name": "e", "batch": {"min": 1, "opt": 2, "max": 4}, "workspace_mb": 256, "sparse": True}
    made = trt.build(real, tmp_path / "m.onnx", tmp_path / "e.trt", engine, tmp_path / "cache", told.append)
    kinds = [layer["op"] for layer in made["layers"]]
    assert kinds.count("CONVOLUTION") == 2 and ("QUANTIZE" in kinds) == (form == "int8")
    assert (tmp_path / "e.trt").stat().st_size > 1000 and told and told == sorted(told) and 0 < told[-1] <= 1


@pytest.mark.parametrize(("content", "told"), [(b"no network", "cannot read it: .*Failed to parse the ONNX model"), (b"", "found 0 inputs and 0 outputs")])
def test_a_real_parser_says_why(content: bytes, told: str, real: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cuda, "begin", lambda: None)
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(Failed, match=told):
        trt.build(real, tmp_path / "m.onnx", tmp_path / "e.trt", {"name": "e"}, tmp_path / "cache", lambda share: None)
