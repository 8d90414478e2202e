"""After each engine: what was asked of every layer against what the engine runs (contract.json beside engine.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolchain.engines import backend
from toolchain.files import write_text
from toolchain.recipe.schema import Engine
from toolchain.steps.job import ORT_PACKAGES, Job
from toolchain.workdir import Stage

FILE = "contract.json"


def contracted(job: Job, name: str, engine: Engine, model: Stage, source: Stage, built: Stage) -> Stage:
    """contract.json of the engine in `built`.

    model: its ONNX file, with info.json. source: the float file which that was converted from. Where the engine can
    run, its logits on the probe images are compared too.
    """
    runtime = backend(engine.runtime)
    hindrance = runtime.not_runnable(engine)

    def make(folder: Path) -> str:
        import numpy as np

        from toolchain.contract import contract
        from toolchain.contract.numbers import compared

        asked = json.loads((model.folder / "info.json").read_text())["layers"]
        onnx, floats = model.folder / "model.onnx", source.folder / "model.onnx"
        numbers = None
        if hindrance is None:
            probe = np.load(job.data.folder / "probe.npy", allow_pickle=False)
            numbers = compared(built.folder, onnx, floats, probe)
        found = contract(built.folder, onnx, asked, floats, numbers)
        write_text(folder / FILE, json.dumps(found, indent=1) + "\n")
        return told(found)

    stage = job.work.stage(f"contract_{name}", make, section=[hindrance], inputs=[job.data, model, source, built],
                           rooms=["contract", "graph", "engines"],
                           packages=list(dict.fromkeys(["onnx", "onnx-ir", *ORT_PACKAGES, *runtime.PACKAGES])))
    job.work.publish(stage.folder / FILE, f"engines/{name}/{FILE}")
    return stage


def shortened(found: dict[str, Any]) -> dict[str, Any]:
    """What the report holds of contract.json: the layers that did not keep it alone."""
    layers = [layer for layer in found["layers"] if layer["verdict"] != "kept"]
    kept = ("share", "arithmetic", "kept_share", "undecidable_share", "numbers")
    return {key: found[key] for key in kept} | {"layers": layers}


def told(found: dict[str, Any]) -> str:
    """One line for the log: the share of multiply-adds that keeps the contract, and the first layer that breaks it."""
    hidden = f", {found['undecidable_share']:.0%} cannot be told" if found["undecidable_share"] else ""
    broken = [layer for layer in found["layers"] if layer["verdict"] == "broken"]
    first = f"; {len(broken)} broken, first {broken[0]['name']}: {broken[0]['why']}" if broken else ""
    wrong = f"; {found['numbers']['why']}" if found["numbers"] and found["numbers"]["why"] else ""
    return f"{found['kept_share']:.0%} of multiply-adds as asked{hidden}{first}{wrong}"
