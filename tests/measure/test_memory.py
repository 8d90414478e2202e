import mmap
import sys

import pytest

from toolchain.engines import ort
from toolchain.measure.memory import peak_memory_bytes, resident_bytes
from toolchain.recipe.schema import OrtEngine

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@linux
def test_an_engine_takes_some_megabytes_and_not_the_runtimes_hundreds(tmp_path, make_onnx):
    ort.build(make_onnx("fp32"), OrtEngine(runtime="onnxruntime", precision="fp32"), tmp_path, {})
    peak, reason = peak_memory_bytes(tmp_path, batch=1, threads=1)
    assert reason is None and 100_000 < peak < 100_000_000


def test_what_cannot_be_measured_is_null_with_a_reason(tmp_path):
    peak, reason = peak_memory_bytes(tmp_path, batch=1, threads=1)
    assert peak is None and "holds no engine.json" in reason


@linux
def test_resident_memory_grows_by_what_is_touched():
    before = resident_bytes("VmRSS")
    with mmap.mmap(-1, 40_000_000) as block:  # fresh pages: numpy might be given some that this process had before
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        grown = resident_bytes("VmRSS") - before
    assert 30_000_000 < grown < 60_000_000


def test_resident_memory_is_read_in_kilobytes(tmp_path):
    file = tmp_path / "status"
    file.write_text("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
    assert (resident_bytes("VmHWM", file), resident_bytes("VmRSS", file)) == (2 << 20, 1 << 20)
