"""The scans of a network, layer by layer, as stages; and `toolchain sensitivity`, which makes them of a recipe."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import RecipeError
from toolchain.files import sha256_file
from toolchain.recipe.load import locate
from toolchain.recipe.prune import Scan
from toolchain.recipe.schema import OnnxModel, Recipe
from toolchain.sensitivity.file import KINDS, PRECISIONS, Kind, Sensitivity, read_sensitivity, write_sensitivity
from toolchain.steps.graphs import calibrated, exported, imported
from toolchain.steps.job import ONNX_PACKAGES, Job, open_job
from toolchain.workdir import Stage, WorkDir

if TYPE_CHECKING:
    from torch import nn

    from toolchain.sensitivity.scan import Network, Setting

RESULT = "sensitivity.json"
ROOMS = ("sensitivity/file.py", "sensitivity/scan.py", "sensitivity/images.py", "data")


def scanned(job: Job, student: Stage, kind: Kind, scan: Scan, jobs: int | None = None) -> Stage:
    """The scan of a float student's "weights" or "channels" as sensitivity.json, or the one in `scan.file`, checked.

    jobs: processes; None: as many as are worth it. Raises RecipeError (scan.file), TrainError.
    """
    if scan.file is not None:
        return given(job, student, kind, locate(scan.file, job.base, "prune.scan.file"))

    def opened(folder: Path) -> Callable[[], Network]:
        from toolchain.sensitivity import networks

        return partial(networks.open_weights if kind == "weights" else networks.open_channels, student.folder, folder,
                       tuple(job.imports))

    return _scan(job, kind, scan, scan.ratios, opened, [student], jobs,
                 rooms=["sensitivity/networks.py", "prune", "models"], packages=["torch", "torch-pruning"])


def check_scan_file(job: Job, cfg: Scan, kind: Kind, network: nn.Module) -> None:
    """Refuse a `scan.file` that is missing, damaged, of another kind or of another network; without a file do nothing.

    network: the student that will be pruned, trained or not; it is left as it is. Nothing is trained or written.
    Raises RecipeError naming the file; TrainError when the network's channels cannot be followed.
    """
    if cfg.file is None:
        return
    from toolchain.sensitivity.same_network import check_same_network

    path = locate(cfg.file, job.base, "prune.scan.file")
    check_same_network(path, read_sensitivity(path, kind), network, job.recipe.data.image_size)


def scanned_quantized(job: Job, onnx: Stage, ranges: Stage, scan: Scan, jobs: int | None = None) -> Stage:
    """The scan of a float ONNX file, each layer in INT8 and in INT4, as sensitivity.json. PyTorch is not needed."""
    block = job.recipe.quantize.int4.block

    def opened(folder: Path) -> Callable[[], Network]:
        from toolchain.sensitivity.quantized import open_quantized

        return partial(open_quantized, onnx.folder / "model.onnx", ranges.folder / "ranges.json", block, folder)

    return _scan(job, "quantize", scan, PRECISIONS, opened, [onnx, ranges], jobs, section=block,
                 rooms=["sensitivity/quantized.py", "graph", "ranges.py"],
                 packages=["onnxruntime-gpu", "onnxruntime", *ONNX_PACKAGES])


def scan_recipe(
    recipe: Recipe, kinds: Sequence[Kind], scan: Scan, work: WorkDir, base: Path, roots: Sequence[Path],
    imports: Sequence[Path] = (), jobs: int | None = None,
) -> dict[Kind, Sensitivity]:
    """Train the recipe's student, or take it from `work`, without its pruning, and scan it.

    kinds: may be empty: all that the network allows. base, roots, imports: as for `build`. Leaves
    sensitivity/sensitivity_<kind>.json in `work`. Raises RecipeError for kinds that the network does not allow.
    """
    kinds = kinds or (("quantize",) if isinstance(recipe.model, OnnxModel) else KINDS)
    if isinstance(recipe.model, OnnxModel) and (others := [kind for kind in kinds if kind != "quantize"]):
        raise RecipeError(f"--of {','.join(others)}: model.onnx is an ONNX file, whose weights and channels are not "
                          "scanned; use --of quantize")
    measure = recipe.measure.model_copy(update={"fidelity": None})  # its teacher is not needed
    job = open_job(recipe.model_copy(update={"prune": None, "measure": measure}), work, base, roots, imports)
    if isinstance(recipe.model, OnnxModel):
        onnx = imported(job)
    else:
        from toolchain.steps.student import float_student, teacher

        student = float_student(job, teacher(job))
        onnx = exported("export", job, student) if "quantize" in kinds else student
    found = {}
    for kind in kinds:
        stage = (scanned_quantized(job, onnx, calibrated("calibrate", job, onnx), scan, jobs) if kind == "quantize"
                 else scanned(job, student, kind, scan, jobs))
        work.publish(stage.folder / RESULT, f"sensitivity/sensitivity_{kind}.json", beside=True)
        found[kind] = read_sensitivity(stage.folder / RESULT, kind)
    return found


def _scan(
    job: Job, kind: Kind, scan: Scan, settings: Sequence[Setting], opened: Callable[[Path], Callable[[], Network]],
    inputs: Sequence[Stage], jobs: int | None, rooms: Sequence[str], packages: Sequence[str], section: Any = None,
) -> Stage:
    seed = job.recipe.seed

    def make(folder: Path) -> str:
        from toolchain.sensitivity.images import clear_images, draw_images
        from toolchain.sensitivity.scan import clear_points
        from toolchain.sensitivity.scan import scan as scan_layers

        draw_images(job.dataset(), scan.images, seed, folder)
        found = scan_layers(opened(folder), kind, settings, folder, jobs)
        write_sensitivity(folder / RESULT, found)
        clear_images(folder)
        clear_points(folder)
        return (f"{len(found.layers)} {'groups' if kind == 'channels' else 'layers'} x {len(settings)} settings on "
                f"{found.images} images of val")

    return job.work.stage(
        f"sensitivity_{kind}", make, section=[list(settings), scan.images, seed, section],
        inputs=[*inputs, job.data], rooms=[*ROOMS, *rooms], packages=["numpy", *packages])


def given(job: Job, student: Stage, kind: Kind, path: Path) -> Stage:
    """A finished scan, copied beside the other stages. Raises RecipeError when it is not one of `kind`."""
    if not job.work.dry:
        read_sensitivity(path, kind)

    def make(folder: Path) -> str:
        shutil.copyfile(path, folder / RESULT)
        return str(path)

    return job.work.stage(f"sensitivity_{kind}", make, section=["file", kind, sha256_file(path)], inputs=[student],
                          rooms=["sensitivity/file.py"])
