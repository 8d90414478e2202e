"""Peak memory of one engine, in a process of its own: `python -m toolchain.measure.memory FOLDER BATCH [THREADS]`.

On a CPU: the peak resident memory of loading the engine and inferring once, less what the process held with the
runtime already imported. On a GPU: the device memory taken.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

TIMEOUT_S = 600


def peak_memory_bytes(folder: Path, batch: int, threads: int | None) -> tuple[int | None, str | None]:
    """(bytes, None), or (None, why it could not be measured). Never raises: one missing figure spoils no build."""
    command = [sys.executable, "-m", "toolchain.measure.memory", str(folder), str(batch), str(threads or 0)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"the measuring process could not be run: {error}"
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        return None, f"the measuring process ended with {done.returncode}: {last[:200]}"
    return json.loads(done.stdout.splitlines()[-1])["peak_bytes"], None


def resident_bytes(field: str, status: Path = Path("/proc/self/status")) -> int:
    """VmRSS (now) or VmHWM (peak) of this process. Raises OSError where there is no /proc."""
    found = re.search(rf"^{field}:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    if not found:
        raise OSError(f"{status}: it has no {field}")
    return 1024 * int(found.group(1))


def reset_peak() -> None:
    """Let VmHWM start again from the present, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)
    except OSError:
        pass


def import_runtime(runtime: str) -> None:
    """Load the runtime's own library, which belongs to the base and not to the engine."""
    from importlib import import_module

    import_module({"onnxruntime": "toolchain.engines.ort_session",
                   "openvino": "toolchain.engines.openvino_session"}.get(runtime, "toolchain.engines.trt_run"))


def measure(folder: Path, batch: int, threads: int | None) -> int:
    """Bytes that loading the engine in `folder` and inferring one batch take in this process (or on its GPU)."""
    import numpy as np

    from toolchain.engines import load_engine
    from toolchain.engines.record import read_record

    import_runtime(read_record(folder).runtime)
    reset_peak()
    before = resident_bytes("VmRSS")
    with load_engine(folder, threads) as engine:
        smallest, largest = engine.batches
        size = max(smallest, min(batch, largest or batch))
        engine.infer(np.zeros((size, *engine.input_shape[1:]), np.float32))
        on_device = engine.device_bytes()
        return on_device if on_device is not None else max(0, resident_bytes("VmHWM") - before)


if __name__ == "__main__":
    print(json.dumps({"peak_bytes": measure(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) or None)}))
