"""The flow of running a TensorRT engine, with the GPU played by host memory; tests/gpu runs it on a real one."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")

from toolchain.engines import cuda_memory, trt_run
from toolchain.engines.record import EngineRecord
from toolchain.errors import EngineError

INPUT, OUTPUT, FLOAT = "INPUT", "OUTPUT", "float32"
RECORD = EngineRecord("fp16.tensorrt.local_gpu", "fp16", "fp16", "tensorrt", "10", "local_gpu", "0", "engine.trt", "0", 1,
                      1, "a GPU", None, [])


class FakeBuffer:
    """Host memory in place of device memory."""

    alive = 0

    def __init__(self, size):
        self.memory = ctypes.create_string_buffer(size)
        self.size, self.pointer = size, ctypes.addressof(self.memory)
        FakeBuffer.alive += 1

    def free(self):
        FakeBuffer.alive -= 1


class FakeContext:
    """Doubles the mean of each image, for each of two classes; takes batches of 2 to 4."""

    def __init__(self):
        self.addresses, self.shape, self.runs = {}, None, 0

    def set_tensor_address(self, name, pointer):
        self.addresses[name] = pointer

    def set_input_shape(self, name, shape):
        assert 2 <= shape[0] <= 4, "outside the profile"
        self.shape = shape
        return True

    def get_tensor_shape(self, name):
        return (self.shape[0], 2)

    def execute_async_v3(self, stream):
        n = int(np.prod(self.shape))
        images = np.ctypeslib.as_array((ctypes.c_float * n).from_address(self.addresses["images"])).reshape(self.shape)
        logits = np.ctypeslib.as_array((ctypes.c_float * (2 * len(images))).from_address(self.addresses["logits"]))
        logits[:] = np.repeat(2 * images.mean(axis=(1, 2, 3)), 2)
        self.runs += 1
        return True


class FakeEngine:
    num_io_tensors = 2
    context = None

    def get_tensor_name(self, i):
        return ("logits", "images")[i]

    def get_tensor_mode(self, name):
        return INPUT if name == "images" else OUTPUT

    def get_tensor_dtype(self, name):
        return FLOAT

    def get_tensor_shape(self, name):
        return (-1, 1, 2, 2) if name == "images" else (-1, 2)

    def get_tensor_profile_shape(self, name, profile):
        return [(2, 1, 2, 2), (2, 1, 2, 2), (4, 1, 2, 2)]

    def create_execution_context(self):
        FakeEngine.context = FakeContext()
        return FakeEngine.context


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """A module that plays tensorrt; the engine file's content decides whether it opens."""
    trt = SimpleNamespace(
        float32=FLOAT, TensorIOMode=SimpleNamespace(INPUT=INPUT), __version__="10",
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda b: FakeEngine() if b == b"good" else None))
    log = SimpleNamespace(errors=["magicTag assertion"], warnings=[])
    monkeypatch.setattr(trt_run, "import_package", lambda name: SimpleNamespace(trt=trt))
    monkeypatch.setattr(trt_run, "make_logger", lambda module: log)
    monkeypatch.setattr(cuda_memory, "Buffer", FakeBuffer)
    monkeypatch.setattr(cuda_memory, "copy_in", lambda b, a, s: ctypes.memmove(b.pointer, a.ctypes.data, a.nbytes))
    monkeypatch.setattr(cuda_memory, "copy_out", lambda a, b, s: ctypes.memmove(a.ctypes.data, b.pointer, a.nbytes))
    monkeypatch.setattr(cuda_memory, "create_stream", lambda: 0)
    monkeypatch.setattr(cuda_memory, "destroy_stream", lambda stream: None)
    monkeypatch.setattr(cuda_memory, "synchronize", lambda stream: None)
    free = iter([1000, 400])
    monkeypatch.setattr(cuda_memory, "free_bytes", lambda: next(free))
    clock = SimpleNamespace(start=lambda: None, stop_ms=lambda: 0.5, close=lambda: None)
    monkeypatch.setattr(cuda_memory, "Stopwatch", lambda stream: clock)
    (tmp_path / "engine.trt").write_bytes(b"good")
    return tmp_path / "engine.trt"


def test_images_go_through_in_the_profiles_batches_and_come_back_in_order(fakes):
    images = np.arange(9, dtype=np.float32).repeat(4).reshape(9, 1, 2, 2)  # 4 + 4 + 1, the last padded to 2
    with trt_run.open_engine(RECORD, fakes) as engine:
        assert engine.batches == (2, 4) and engine.input_shape == (-1, 1, 2, 2)
        assert engine.infer(images).tolist() == [[2.0 * i, 2.0 * i] for i in range(9)]
    assert FakeEngine.context.runs == 3
    assert FakeBuffer.alive == 0


def test_each_timed_run_is_one_execution_between_two_events(fakes):
    with trt_run.open_engine(RECORD, fakes) as engine:
        images = np.ones((2, 1, 2, 2), np.float32)
        assert engine.time_ms(images, 5).tolist() == [0.5] * 5
        assert FakeEngine.context.runs == 6  # and one before, which brings the images to the GPU
        assert engine.transfer_ms(images, 3).tolist() == [[0.5, 0.5]] * 3
        with pytest.raises(EngineError, match="found batch 1, expected 2 to 4"):
            engine.time_ms(images[:1], 1)
        assert engine.device_bytes() == 600


def test_an_engine_that_does_not_open_says_why(fakes):
    fakes.write_bytes(b"bad")
    with pytest.raises(EngineError, match=r"cannot open it \(built by 10 for a GPU\): magicTag assertion"):
        trt_run.TrtEngine(RECORD, fakes)


def test_a_cuda_call_that_fails_is_named():
    error = cuda_memory.cudart.cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(EngineError, match="CUDA: allocating 16 bytes failed with cudaErrorMemoryAllocation"):
        cuda_memory.check((error, None), "allocating 16 bytes")
    fine = cuda_memory.cudart.cudaError_t.cudaSuccess
    assert cuda_memory.check((fine, 7), "x") == 7 and cuda_memory.check((fine, 7, 9), "x") == [7, 9]
