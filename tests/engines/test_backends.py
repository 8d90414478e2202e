import json
import subprocess
import sys
from typing import get_args

import pytest

from toolchain.engines import BACKENDS, backend, default_engines, load_engine, openvino, ort, rtx
from toolchain.errors import EngineError, RecipeError
from toolchain.recipe.schema import PRECISIONS, Engine

TARGET_SIDE = ("toolchain.engines", "toolchain.measure", "toolchain.report", "toolchain.recipe")


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_runtimes_a_recipe_allows_are_the_keys_of_the_registry():
    union = get_args(Engine)[0]
    allowed = {get_args(section.model_fields["runtime"].annotation)[0] for section in get_args(union)}
    assert allowed == set(BACKENDS)


def test_an_unknown_runtime_is_named_with_the_nearest_spelling():
    with pytest.raises(RecipeError, match="found runtime 'onnx_runtime', expected .*did you mean 'onnxruntime'"):
        backend("onnx_runtime")


def test_every_backend_offers_the_whole_contract():
    names = ("PACKAGES", "missing", "not_runnable", "refuse", "targets", "rules", "default_engines", "build", "load")
    for runtime in BACKENDS:
        assert [name for name in names if not hasattr(backend(runtime), name)] == []


def test_every_precision_is_offered_by_some_runtime_and_each_runtime_says_what_it_computes_in():
    offered = {"onnxruntime": {*ort.COMPUTE["cpu_x86"]}, "tensorrt_rtx": {*rtx.COMPUTE}, "openvino": {*openvino.COMPUTE}}
    assert offered["tensorrt_rtx"] == set(PRECISIONS)
    assert offered["onnxruntime"] == offered["openvino"] == set(PRECISIONS) - {"fp8"}
    assert ort.COMPUTE["cpu_x86"] == ort.COMPUTE["cpu_arm"]


def test_default_engines_hold_five_precisions_of_onnxruntime_and_tensorrt_rtx():
    for runtime in ("onnxruntime", "tensorrt_rtx"):
        found = [engine.precision for engine in default_engines() if engine.runtime == runtime]
        assert found == ["fp32", "fp16", "bf16", "int8", "int4"]


def test_default_engines_leave_out_a_runtime_that_is_missing(monkeypatch):
    monkeypatch.setattr("toolchain.engines.openvino.missing", lambda: "not installed")
    monkeypatch.setattr("toolchain.engines.rtx.missing", lambda: "not installed")
    monkeypatch.setattr("toolchain.engines.trt.missing", lambda: "not installed")
    assert {engine.runtime for engine in default_engines()} == {"onnxruntime"}


def test_a_folder_without_a_record_is_no_engine(tmp_path):
    with pytest.raises(EngineError, match="holds no engine.json"):
        load_engine(tmp_path)


def test_choosing_backends_imports_no_runtime_and_not_even_numpy():
    heavy = json.loads(run_python("""
import json, sys
from toolchain.engines import BACKENDS, backend
for runtime in BACKENDS:
    backend(runtime).missing()
heavy = ("torch", "numpy", "onnx", "onnxruntime", "tensorrt_rtx", "openvino", "cuda")
print(json.dumps([name for name in heavy if name in sys.modules]))"""))
    assert heavy == []


def test_the_target_side_imports_with_torch_absent():
    """Every module, leaves included, in a process where importing torch fails."""
    count = run_python(f"""
import importlib, importlib.util, pkgutil, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, NoTorch())
absent = {{"openvino": "toolchain.engines.openvino_session", "onnxruntime": "toolchain.engines.ort_session",
           "cuda": "toolchain.engines.cuda_memory"}}
skip = {{module for package, module in absent.items() if importlib.util.find_spec(package) is None}}
if "toolchain.engines.cuda_memory" in skip:
    skip.add("toolchain.engines.trt_run")
seen = 0
for room in {TARGET_SIDE!r}:
    package = importlib.import_module(room)
    for module in pkgutil.iter_modules(package.__path__, room + "."):
        if module.name not in skip:
            importlib.import_module(module.name)
            seen += 1
assert "torch" not in sys.modules
print(seen)""")
    assert int(count) > 20
