import ctypes

from toolchain.engines import cpu, gpu


def test_a_container_quota_of_two_cpus_is_read(tmp_path):
    file = tmp_path / "cpu.max"
    file.write_text("200000 100000\n")
    assert cpu.cpu_quota(file) == 2.0
    file.write_text("max 100000\n")
    assert cpu.cpu_quota(file) is None
    assert cpu.cpu_quota(tmp_path / "absent") is None


def test_half_a_cpu_still_gives_one_thread(tmp_path):
    file = tmp_path / "cpu.max"
    file.write_text("50000 100000\n")
    assert cpu.cpu_quota(file) == 1.0


def test_default_threads_are_the_least_of_cores_affinity_and_quota(monkeypatch):
    monkeypatch.setattr(cpu.psutil, "cpu_count", lambda logical: 8)
    monkeypatch.setattr(cpu.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4}, raising=False)
    monkeypatch.setattr(cpu, "cpu_quota", lambda: None)
    assert cpu.default_threads() == 5
    monkeypatch.setattr(cpu, "cpu_quota", lambda: 2.5)
    assert cpu.default_threads() == 2


def test_no_driver_means_no_gpus(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert gpu.gpus.__wrapped__() == ()


def test_a_driver_that_does_not_start_means_no_gpus(monkeypatch):
    class Driver:
        def cuInit(self, flags):
            return 100  # CUDA_ERROR_NO_DEVICE

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert gpu.gpus.__wrapped__() == ()


def test_gpus_are_described_by_name_sm_and_driver(monkeypatch):
    def pointed(reference):  # ctypes.byref keeps the object
        return reference._obj

    class Driver:
        def cuInit(self, flags):
            return 0

        def cuDeviceGetCount(self, count):
            pointed(count).value = 2
            return 0

        def cuDriverGetVersion(self, version):
            pointed(version).value = 13020

        def cuDeviceGet(self, device, ordinal):
            pointed(device).value = ordinal

        def cuDeviceGetName(self, name, size, device):
            name.value = b"GPU %d" % device.value

        def cuDeviceGetAttribute(self, value, attribute, device):
            pointed(value).value = {75: 8, 76: 6 + 3 * device.value}[attribute]

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    monkeypatch.setattr(gpu, "_driver_version", lambda: None)
    assert gpu.gpus.__wrapped__() == (gpu.Gpu("GPU 0", 86, "CUDA 13.2"), gpu.Gpu("GPU 1", 89, "CUDA 13.2"))


def test_the_driver_version_is_read_from_its_file(tmp_path):
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 2025\nGCC version: 12.2.0\n")
    assert gpu._driver_version(file) == "570.124.06"
    assert gpu._driver_version(tmp_path / "absent") is None
