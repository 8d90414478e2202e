"""What this machine is, what it can build and run, and how to get the rest.

Facts come from the operating system, the GPU's driver and package metadata: no runtime is imported, so this takes a
fraction of a second. Reports carry the same facts as their `environment`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from toolchain.engines.cpu import cpu_name, default_threads
from toolchain.engines.gpu import gpus
from toolchain.engines.openvino import COMPUTE as VINO
from toolchain.engines.ort import COMPUTE
from toolchain.engines.rtx_support import SUPPORT
from toolchain.engines.trt import FIRST_SM
from toolchain.recipe.schema import PRECISIONS, RTX_SMS

if TYPE_CHECKING:
    from rich.console import Console

PACKAGES = ("toolchain", "numpy", "torch", "torchvision", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt",
            "tensorrt-rtx", "openvino", "nvidia-modelopt", "torch-pruning")
# /proc/cpuinfo's flag -> the name we print, for what decides the speed of low precision
INSTRUCTION_SETS = {
    "avx2": "avx2", "avx512f": "avx512f", "avx512_vnni": "avx512_vnni", "avx_vnni": "avx_vnni",
    "avx512_bf16": "avx512_bf16", "avx512_fp16": "avx512_fp16", "amx_int8": "amx_int8", "amx_bf16": "amx_bf16",
    "neon": "neon", "asimd": "neon", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16",
}
FAST_INT8 = {"avx512_vnni", "avx_vnni", "amx_int8", "dotprod", "i8mm"}
FAST_BF16 = {"avx512_bf16", "amx_bf16"}
PLAIN_WIDTH = 120
RUNS, STORED, BUILDS = "runs", "as fp32", "builds"
CPUS = {"cpu_x86": "x86", "cpu_arm": "64-bit ARM"}


class Ability(NamedTuple):
    """What one runtime can do for one target here: precision -> RUNS, STORED or BUILDS; absent: it cannot."""

    runtime: str
    target: str
    precisions: dict[str, str]
    missing: str | None = None


class Advice(NamedTuple):
    """One line of advice: what, its state ("ready", "builds only", "missing", "slow", …) and how to get the rest."""

    what: str
    state: str
    how: str


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """The instruction sets of interest that the kernel reports, in INSTRUCTION_SETS' order; empty where it does not."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return []
    told = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    flags = set(told.partition(":")[2].split())
    return list(dict.fromkeys(name for flag, name in INSTRUCTION_SETS.items() if flag in flags))


def versions(names: Iterable[str] = PACKAGES) -> dict[str, str | None]:
    """Distribution -> installed version, None where it is not installed. Imports none of them."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _no_gpu_reason() -> str:
    return "the NVIDIA driver shows no GPU" if Path("/proc/driver/nvidia/version").exists() else "no NVIDIA driver"


def machine() -> dict[str, Any]:
    """What decides a measurement and stays the same from run to run: CPU, cores, instruction sets, GPUs and driver."""
    return {
        "cpu": cpu_name(), "physical_cores": psutil.cpu_count(logical=False), "logical_cores": psutil.cpu_count(),
        "usable_cores": default_threads(), "instruction_sets": instruction_sets(),
        "gpus": [{"name": gpu.name, "sm": gpu.sm, "driver": gpu.driver} for gpu in gpus()],
    }


def examine() -> dict[str, Any]:
    """Every fact, JSON-able, in the form of `environment` in report.json."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    facts = machine()
    return {
        "python": platform.python_version(), "platform": platform.platform(), **facts,
        "gpu_reason": None if facts["gpus"] else _no_gpu_reason(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": [round(x, 2) for x in load] if load else None, "packages": versions(),
    }


def _rtx(facts: dict[str, Any]) -> dict[str, str]:
    """Every precision is built here; RUNS where it can be built for the SM of a GPU here."""
    here = {gpu["sm"] for gpu in facts["gpus"]}
    return {p: RUNS if here & set(sms) else BUILDS for p, sms in SUPPORT.items()}


def _trt(facts: dict[str, Any]) -> dict[str, str]:
    """TensorRT builds on, and for, the first GPU; nothing without one."""
    sm = facts["gpus"][0]["sm"] if facts["gpus"] else 0
    return {p: RUNS for p in PRECISIONS if sm and sm >= FIRST_SM.get(p, 0)}


def _vino(facts: dict[str, Any]) -> dict[str, str]:
    """FP8 is emulated and so left out; BF16 needs a CPU that has it."""
    lacks = set() if FAST_BF16 & set(facts["instruction_sets"]) else {"bf16"}
    return {p: STORED if computed == "fp32" != p else RUNS for p, computed in VINO.items() if p not in lacks}


def abilities(facts: dict[str, Any]) -> list[Ability]:
    """What every runtime and target can build and run on the machine of `facts`."""
    packages, has_gpu = facts["packages"], bool(facts["gpus"])
    ort = packages.get("onnxruntime-gpu") or packages.get("onnxruntime")
    x86 = "neon" not in facts["instruction_sets"]
    here, other = ("cpu_x86", "cpu_arm") if x86 else ("cpu_arm", "cpu_x86")
    cpu = {p: RUNS if computed == p else STORED for p, computed in COMPUTE[here].items()}
    cuda = {p: RUNS if has_gpu else BUILDS for p in COMPUTE["cuda"]}
    return [
        Ability("onnxruntime", here, cpu if ort else {}, None if ort else "pip install onnxruntime"),
        *([Ability("onnxruntime", other, dict.fromkeys(COMPUTE[other], BUILDS))] if ort else []),
        Ability("onnxruntime", "cuda", cuda if packages.get("onnxruntime-gpu") else {},
                None if packages.get("onnxruntime-gpu") else "pip uninstall onnxruntime; pip install onnxruntime-gpu"),
        Ability("tensorrt_rtx", f"sm{RTX_SMS[0]} to sm{RTX_SMS[-1]}",
                _rtx(facts) if packages.get("tensorrt-rtx") else {},
                None if packages.get("tensorrt-rtx") else "pip install 'tensorrt-rtx>=1.7,<1.8' (x86-64 only)"),
        Ability("tensorrt", "local_gpu", _trt(facts) if packages.get("tensorrt") else {},
                None if packages.get("tensorrt") else "pip install -e '.[tensorrt]'"),
        Ability("openvino", "cpu_x86", _vino(facts) if packages.get("openvino") and x86 else {},
                None if packages.get("openvino") else "pip install -e '.[openvino]'"),
    ]


def _engine_advice(ability: Ability, facts: dict[str, Any]) -> Advice:
    what = f"{ability.runtime} {ability.target}"
    reason = facts.get("gpu_reason") or "no GPU that it supports"
    if ability.missing:
        return Advice(what, "missing", ability.missing)
    if not ability.precisions:
        needs_gpu = f"{reason}: it builds on the GPU that it is for"
        return Advice(what, "cannot build", needs_gpu if ability.runtime == "tensorrt" else "only for x86 CPUs")
    run = [p for p, state in ability.precisions.items() if state != BUILDS]
    only = [p for p, state in ability.precisions.items() if state == BUILDS]
    if not run and ability.target in CPUS:
        return Advice(what, "builds only", f"this CPU is another: measure on {CPUS[ability.target]}")
    if not run:
        return Advice(what, "builds only", f"{reason}: measure {', '.join(only)} on a machine that has one")
    return Advice(what, "ready", f"builds and runs {', '.join(run)}" + (f"; builds {', '.join(only)}" if only else ""))


def advice(facts: dict[str, Any] | None = None) -> list[Advice]:
    """What this machine can do, runtime by runtime and for training, and the install line of what it lacks."""
    facts = facts or examine()
    packages = facts["packages"]
    lines = [_engine_advice(ability, facts) for ability in abilities(facts)]
    if packages.get("onnxruntime") and packages.get("onnxruntime-gpu"):
        lines.append(Advice("onnxruntime, twice", "conflict", "onnxruntime and onnxruntime-gpu overwrite each other: "
                            "pip uninstall both, then install one"))
    if facts["instruction_sets"] and not FAST_INT8 & set(facts["instruction_sets"]):
        lines.append(Advice("INT8 on this CPU", "slow",
                            "no VNNI, AMX or dot-product instructions: INT8 saves bytes, little time"))
    trains = bool(packages.get("torch") and packages.get("torchvision"))
    where = "on the GPU" if facts["gpus"] else f"on {facts['usable_cores']} CPU cores"
    lines.append(Advice("training, PTQ and export", "ready" if trains else "missing",
                        where if trains else "pip install torch torchvision"))
    lines.append(Advice("QAT", "ready", "fake quantization by nvidia-modelopt") if packages.get("nvidia-modelopt") else
                 Advice("QAT", "missing", "pip install 'nvidia-modelopt>=0.47,<0.48'"))
    load = (facts.get("load_average") or [0.0])[0]
    if load > 0.5 * (facts.get("logical_cores") or 1):
        lines.append(Advice("measuring now", "noisy", f"load average {load:.2f}: stop other work for steady latencies"))
    return lines


def render_doctor(facts: dict[str, Any], console: Console | None = None) -> None:
    """Print the machine, a table of runtimes × precisions and the advice to `console` (null: stdout)."""
    from rich import box  # rich is no requirement of the target side
    from rich.console import Console as RichConsole
    from rich.table import Table
    from rich.text import Text

    console = console or RichConsole(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    lines = None if not console.is_terminal else box.ROUNDED
    colours = {RUNS: "green", STORED: "green", BUILDS: "yellow", "ready": "green", "builds only": "yellow",
               "missing": "red", "cannot build": "red", "conflict": "red", "slow": "yellow", "noisy": "yellow"}
    about = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    cards = "; ".join(f"{g['name']} (sm{g['sm']}), driver {g['driver']}" for g in facts["gpus"])
    load = facts.get("load_average")
    for what, value in (
        ("CPU", f"{facts['cpu']}, {facts['physical_cores']} cores, {facts['logical_cores']} threads"),
        ("Instructions", ", ".join(facts["instruction_sets"]) or "unknown"),
        ("Memory", f"{facts['memory_bytes'] / 1e9:.1f} GB" + (f", load {load[0]:.2f}" if load else "")),
        ("GPU", cards or f"none: {facts['gpu_reason']}"),
        ("Python", f"{facts['python']} on {facts['platform']}"),
        ("Packages", ", ".join(f"{n} {v}" for n, v in facts["packages"].items() if v)),
    ):
        about.add_row(Text(what, style="bold"), value)
    titles = [p.upper().replace("_", " ") for p in PRECISIONS]  # spaces, so that a narrow page can wrap them
    engines = Table("Engines", "Target", *titles, box=lines, border_style="bright_black")
    for a in abilities(facts):
        cells = [Text(s := a.precisions.get(p, "-"), style=colours.get(s, "dim")) for p in PRECISIONS]
        engines.add_row(a.runtime, a.target, *cells)
    told = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for line in advice(facts):
        told.add_row(line.what, Text(line.state, style=colours.get(line.state, "")), line.how)
    for part in (about, engines, told):
        console.print(part, markup=False)
        console.print()
