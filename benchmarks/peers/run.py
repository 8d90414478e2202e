"""INT8 by post-training quantization: this project against onnxruntime, Olive, NNCF and ModelOpt.

    python benchmarks/peers/install.py ENVS
    python benchmarks/peers/run.py ENVS --data-root DATA --network vgg11 --out benchmarks/results/peers.md

Every tool gets the same FP32 ONNX file and the same 512 images, in a process of its own, in its own environment, with
several settings each; the best of them counts. Results are kept in build/peers/NETWORK/result.json, and the page
holds every network that has one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from judge import FLOAT, OURS, judge, table, verdicts  # noqa: E402
from networks import NAMES, PHOTOS, Subject, subject  # noqa: E402

TOOLS = ("ours", "onnxruntime", "olive", "nncf", "modelopt")
PACKAGES = {"onnxruntime": ("onnxruntime",), "olive": ("olive-ai", "onnxruntime"), "nncf": ("nncf", "onnxruntime"),
            "modelopt": ("nvidia-modelopt", "onnxruntime")}
MINE = f"{OURS}, entropy"  # what a recipe gets when it says nothing
TIMEOUT_S = 3600
NOTHING: dict[str, Any] = {"costs": {}, "failed": {}, "versions": {}, "repeats": {}}


def settings(tool: str, network: str) -> list[str]:
    """Names of a tool's settings; what would hold 30 GB of activations for 512 photos is left out."""
    module = importlib.import_module(f"by_{tool}")
    heavy = getattr(module, "KEEPS_ACTIVATIONS", ()) if network == PHOTOS else ()
    return [name for name in module.SETTINGS if name not in heavy]


def quantized(tool: str, setting: str, envs: Path, given: Subject, out: Path) -> dict[str, Any]:
    """Make one file; what it took and the exit status. Its output goes to a log beside it."""
    python = sys.executable if tool == "ours" else str(envs / tool / "bin" / "python")
    env = {**os.environ, "PYTHONPATH": str(HERE.parents[1]) if tool == "ours" else ""}
    out.unlink(missing_ok=True)
    with out.with_suffix(".log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-S", str(HERE / "timed.py"), python, str(HERE / f"by_{tool}.py"), str(given.float_onnx),
             str(given.calib), str(out), setting], stdout=subprocess.PIPE, stderr=log, env=env, text=True,
            timeout=TIMEOUT_S, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def contest(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Quantize with every tool and setting, judge the files: the content of result.json."""
    given = subject(args.network, [args.data_root], folder, args.cache, args.onnx)
    files, costs, failed = {FLOAT: given.float_onnx}, {}, {}
    last = json.loads((folder / "result.json").read_text()) if args.keep else NOTHING
    for name, cost in last["costs"].items():
        if not _of(name, args.tools):
            costs[name], files[name] = cost, folder / _file(name)
    failed |= {name: why for name, why in last["failed"].items() if not _of(name, args.tools)}
    for turn in range(args.repeats):
        for tool in args.tools:
            for setting in settings(tool, args.network):
                name = f"{OURS if tool == 'ours' else tool}, {setting}"
                out = folder / _file(name)
                cost = quantized(tool, setting, args.envs, given, out)
                print(f"{name}: {cost}", flush=True)
                if cost["status"] or not out.is_file():
                    failed[name] = f"ended with {cost['status']}; see {out.with_suffix('.log').name}"
                    continue
                files[name] = out
                costs[name] = cost if not turn else {key: min(cost[key], costs[name][key]) for key in cost}
    judged = judge(files, given.images[: args.test_images], given.labels[: args.test_images], args.threads, args.rounds)
    return {"network": args.network, "judged": judged, "costs": costs, "failed": failed,
            "repeats": last["repeats"] | dict.fromkeys(args.tools, args.repeats),
            "load_average": list(os.getloadavg()), "versions": last["versions"] | _versions(args),
            "rounds": args.rounds}


def _of(name: str, tools: list[str]) -> bool:
    """Whether a file's name is that of one of the tools."""
    return any(name.startswith(f"{OURS if tool == 'ours' else tool}, ") for tool in tools)


def _file(name: str) -> str:
    return name.replace(" ", "_").replace(",", "") + ".onnx"


def _versions(args: argparse.Namespace) -> dict[str, list[str]]:
    code = "import sys, importlib.metadata as m; print(' '.join(m.version(p) for p in sys.argv[1:]))"
    found = {}
    for tool in args.tools:
        if tool in PACKAGES:
            told = subprocess.run([str(args.envs / tool / "bin" / "python"), "-c", code, *PACKAGES[tool]],
                                  stdout=subprocess.PIPE, text=True, check=True).stdout.split()
            found[tool] = [f"{p} {v}" for p, v in zip(PACKAGES[tool], told, strict=True)]
    return found


def section(result: dict[str, Any]) -> list[str]:
    """One network's part of the page."""
    judged, costs = result["judged"], result["costs"]
    peers = [name for name in costs if not name.startswith(OURS)]
    n = len(judged[MINE]["right"])
    return [f"## {result['network']}", "", *verdicts(judged, costs, MINE, peers), "",
            *table(judged, costs, MINE), "", f"{n:,} test images; load average {result['load_average'][0]:.1f}; "
            f"{result['rounds']} rounds; costs: the least of "
            + ", ".join(f"{runs} ({tool})" for tool, runs in result["repeats"].items()) + " runs.",
            *(f"- {name}: {why}" for name, why in result["failed"].items()), ""]


def page(build: Path) -> str:
    """All networks that have a result."""
    from toolchain.doctor import machine
    from toolchain.workdir import package_version

    results = [json.loads((build / name / "result.json").read_text()) for name in NAMES
               if (build / name / "result.json").is_file()]
    facts = machine()
    runtimes = {p: package_version(p) for p in ("onnxruntime-gpu", "onnxruntime")}
    ours = next(f"{p} {version}" for p, version in runtimes.items() if version != "absent")
    versions = {tool: each for result in results for tool, each in result["versions"].items()}
    return "\n".join([
        "# INT8 by post-training quantization, against public tools", "",
        "The same FP32 ONNX file and the same 512 images for all; ours is the entropy calibrator, what a recipe gets "
        "when it says nothing. Files are judged by ONNX Runtime on a CPU with one set of session options: batch 1, "
        "interleaved rounds, a ratio above 1 means slower than ours. Seconds and memory: the whole process, "
        "imports and all. Of every tool the best setting counts, in each question anew.", "",
        f"{facts['cpu']}, {facts['usable_cores']} cores ({', '.join(facts['instruction_sets'])}); judged by {ours}; "
        + "; ".join(f"{tool}: {', '.join(each)}" for tool, each in versions.items())
        + f"; Python {platform.python_version()}.", "",
        "Made by `python benchmarks/peers/run.py ENVS --data-root DATA --network NAME --out "
        "benchmarks/results/peers.md`.",
        "", *(line for result in results for line in section(result))]).rstrip() + "\n"


def main() -> None:
    """Run one network's contest and print its part of the page; write the page to --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("envs", type=Path, help="the folder that install.py filled")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--network", choices=NAMES, required=True)
    parser.add_argument("--onnx", type=Path, help="an FP32 file of that network to use instead of training one")
    parser.add_argument("--cache", type=Path, help="a build's cache of stages")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS)
    parser.add_argument("--keep", action="store_true", help="of the other tools, the last run's files and costs")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=1, help="how often each tool runs; the least cost counts")
    parser.add_argument("--test-images", type=int, default=10_000)
    parser.add_argument("--build", type=Path, default=Path("build/peers"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = args.build / args.network
    result = contest(args, folder)
    (folder / "result.json").write_text(json.dumps(result))
    print("\n".join(section(result)))
    if args.out:
        args.out.write_text(page(args.build))


if __name__ == "__main__":
    main()
