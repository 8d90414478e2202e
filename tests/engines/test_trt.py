from types import SimpleNamespace

import pytest

from toolchain.engines import trt
from toolchain.engines.gpu import Gpu
from toolchain.engines.trt_build import open_timing_cache, unsigned_nodes
from toolchain.engines.trt_package import Package, import_package, make_logger
from toolchain.engines.trt_sparse import sparse_in, with_tactics
from toolchain.errors import EngineError, MissingPackage
from toolchain.recipe.schema import TrtEngine

T4 = Gpu("Tesla T4", 75, "570")


def cfg(precision="fp32"):
    return TrtEngine(runtime="tensorrt", precision=precision)


def test_without_a_gpu_it_is_refused_with_what_to_use_instead(monkeypatch):
    monkeypatch.setattr(trt, "find_spec", lambda name: object())
    monkeypatch.setattr(trt, "gpus", lambda: ())
    assert "no GPU" in trt.missing()
    with pytest.raises(EngineError, match="no GPU here; build on the device, or use runtime tensorrt_rtx"):
        trt.refuse(cfg())
    assert trt.not_runnable(cfg()) == "no GPU"


def test_without_the_package_the_install_line_is_given(monkeypatch):
    monkeypatch.setattr(trt, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"\.\[tensorrt\]"):
        trt.refuse(cfg())


def test_bf16_is_refused_on_turing_and_not_among_its_defaults(monkeypatch):
    monkeypatch.setattr(trt, "find_spec", lambda name: object())
    monkeypatch.setattr(trt, "gpus", lambda: (T4,))
    with pytest.raises(EngineError, match=r"bf16, which Tesla T4 \(sm75\) lacks"):
        trt.refuse(cfg("bf16"))
    assert [engine["precision"] for engine in trt.default_engines()] == ["fp32", "fp16", "int8", "int4"]


def test_the_timing_cache_is_named_after_version_and_device(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(trt, "version", lambda name: "10.16.1")
    path = trt.timing_cache(T4)
    assert path == tmp_path / "toolchain" / "tensorrt" / "10.16.1.Tesla-T4.sm75.timing.cache"
    assert path.parent.is_dir()


def test_a_cache_folder_that_cannot_be_made_means_no_timing_cache(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert trt.timing_cache(T4) is None


def test_capabilities_are_read_off_the_module(monkeypatch):
    """As tech tables say: RTX has compute capabilities and a timing cache that does nothing; 10.x and 11.x the reverse."""
    full = SimpleNamespace(IBuilderConfig=SimpleNamespace(create_timing_cache=None))
    rtx = SimpleNamespace(IBuilderConfig=SimpleNamespace(create_timing_cache=None), ComputeCapability=None)
    for module, expected in ((full, (False, True)), (rtx, (True, False))):
        monkeypatch.setattr("toolchain.engines.trt_package.import_module", lambda name, module=module: module)
        package = import_package("tensorrt")
        assert (package.has_cc_api, package.has_timing_cache) == expected


def test_a_placeholder_package_is_a_missing_one(monkeypatch):
    monkeypatch.setattr("toolchain.engines.trt_package.import_module", lambda name: SimpleNamespace())
    with pytest.raises(MissingPackage, match="cannot be imported"):
        import_package("tensorrt")


def test_the_timing_cache_of_earlier_builds_is_given_to_the_builder(tmp_path):
    class Config:
        def create_timing_cache(self, content):
            return ["cache", content]

        def set_timing_cache(self, cache, ignore_mismatch):
            self.given = (cache, ignore_mismatch)

    config, package = Config(), Package(None, has_cc_api=False, has_timing_cache=True)
    assert open_timing_cache(package, str(tmp_path / "absent"), config) == ["cache", b""]
    (tmp_path / "c").write_bytes(b"timings")
    assert open_timing_cache(package, str(tmp_path / "c"), config) == ["cache", b"timings"]
    assert config.given == (["cache", b"timings"], False)
    assert open_timing_cache(Package(None, True, False), str(tmp_path / "c"), config) is None


def test_uint8_zero_points_are_found_in_the_file_itself(make_onnx, tmp_path):
    assert unsigned_nodes(make_onnx("int8_u8_zero")) != []
    assert unsigned_nodes(make_onnx("int8")) == []
    (tmp_path / "broken.onnx").write_bytes(b"\xff" * 10)
    assert unsigned_nodes(tmp_path / "broken.onnx") == []


def test_what_the_builder_tells_of_sparse_layers_is_kept_and_logged(capsys):
    class Logger:
        INTERNAL_ERROR, ERROR, WARNING, INFO = range(4)

        def __init__(self) -> None: ...

    log = make_logger(SimpleNamespace(ILogger=Logger))
    log.log(Logger.INFO, "(Sparsity) Found 12 layer(s) eligible to use sparse tactics: a, b")
    log.log(Logger.INFO, "(Sparsity) Chose 3 layer(s) using sparse tactics: a")
    log.log(Logger.INFO, "Chose 9 layer(s)")
    assert log.sparse == {"Found": 12, "Chose": 3}
    sparse = with_tactics({"layers": 14, "in_file": 13}, {"eligible": 12, "chosen": 3})
    assert sparse == {"layers": 14, "in_file": 13, "eligible": 12, "chosen": 3}
    assert "13 of 14 layers; TensorRT found 12 eligible and runs 3 sparse" in capsys.readouterr().err
    assert with_tactics(None, {"eligible": None, "chosen": None}) is None and capsys.readouterr().err == ""


def test_a_file_that_cannot_be_read_is_not_called_sparse(tmp_path, make_onnx):
    (tmp_path / "broken.onnx").write_bytes(b"x")
    assert sparse_in(tmp_path / "broken.onnx") is None and sparse_in(make_onnx("fp32")) is None
