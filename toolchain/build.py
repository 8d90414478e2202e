"""The pipeline: one straight function that calls the stages in order, each cached by what it reads.

Heavy packages are imported inside the stages that run, so a build with nothing to do, and `toolchain plan`, load none.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from toolchain.engines import backend
from toolchain.errors import OnnxError, RecipeError
from toolchain.recipe.load import load_recipe, locate, resolved_yaml
from toolchain.recipe.schema import Engine, OnnxModel, Qat, Recipe, TeacherRecipe, TorchModel, Train
from toolchain.workdir import Stage, WorkDir, rank, sha256_file, sha256_tree, write_text

if TYPE_CHECKING:
    from torch import nn

    from toolchain.data import Dataset
    from toolchain.report.schema import Report

TRAINING_PACKAGES = ("torch", "accelerate")
ONNX_PACKAGES = ("onnx", "onnx-ir", "onnxscript")


def build(
    recipe: Recipe, work: WorkDir, base: Path, roots: Sequence[Path], imports: Sequence[Path] = ()
) -> Report | None:
    """Run every stage of `recipe` that `work` does not hold yet, and write the report.

    base: folder that the recipe's relative paths start from. roots: where datasets are looked up. imports: files with
    the user's own networks. Returns None when `work.dry` (only the stages are listed) and on the secondary ranks of a
    distributed run. Raises a ToolchainError, before anything is built where that can be known.
    """
    engines = choose_engines(recipe)
    if not work.dry and rank() == 0:
        work.out.mkdir(parents=True, exist_ok=True)
        write_text(work.out / "recipe.resolved.yaml", resolved_yaml(recipe))

    dataset, data = _data(recipe, work, roots)
    qat: Stage | None = None
    if isinstance(recipe.model, OnnxModel):
        float_onnx = _own_onnx(recipe, work, base, dataset, data)
    else:
        student = _student(recipe, work, base, dataset, data, imports)
        float_onnx = _export("export", recipe, work, student)
    ranges = _calibrate("calibrate", recipe, work, base, dataset, data, float_onnx)
    int8_onnx, int8_ranges = float_onnx, ranges
    if isinstance(recipe.quantize, Qat):
        qat = _qat(recipe, work, dataset, data, student, float_onnx, ranges)
        int8_onnx = _export("export_qat", recipe, work, qat)
        int8_ranges = _calibrate("calibrate_qat", recipe, work, base, dataset, data, int8_onnx, learned=qat)

    built: dict[str, Stage] = {}
    for name, engine in engines.items():
        source = (int8_onnx, int8_ranges) if engine.precision == "int8" else (float_onnx, None)
        model = _convert(recipe, work, engine, *source)
        built[name] = _engine(work, name, engine, model)
    measured = _measure(recipe, work, dataset, data, engines, built)
    if work.dry or rank() != 0:
        return None
    from toolchain.report.make import write_report

    return write_report(recipe, work, data, ranges, engines, built, measured)


def choose_engines(recipe: Recipe) -> dict[str, Engine]:
    """The recipe's engines by name ("int8.onnxruntime.cpu_x86"), or every precision of each installed runtime.

    Raises MissingPackage, EngineError or RecipeError for what cannot be built, before any work is done.
    """
    from toolchain.engines import default_engines

    chosen = recipe.engines if recipe.engines is not None else default_engines()
    if not chosen:
        raise RecipeError("engines: the list is empty; name at least one engine, or leave it out for the default")
    engines: dict[str, Engine] = {}
    for index, asked in enumerate(chosen):
        runtime = backend(asked.runtime)
        runtime.refuse(asked)
        engine = runtime.targets(asked)
        name = f"{engine.precision}.{engine.runtime}.{engine.target}"
        if name in engines:
            raise RecipeError(f"engines.{index}: {name} stands in the list twice; remove one")
        engines[name] = engine
    return engines


def _data(
    recipe: Recipe, work: WorkDir, roots: Sequence[Path], name: str = "data"
) -> tuple[Callable[[], Dataset], Stage]:
    """The dataset, loaded when first asked for, and the stage that records its split and preprocessing."""
    from toolchain.data import fingerprint

    @cache
    def dataset() -> Dataset:
        from toolchain.data import load_dataset

        return load_dataset(recipe.data, roots)

    def make(folder: Path) -> str:
        loaded = dataset()
        loaded.preprocess.save(folder / "preprocess.json")
        facts = {"name": loaded.name, "classes": list(loaded.classes), "split_sha256": loaded.split_sha256,
                 "train": len(loaded.train), "val": len(loaded.val), "test": len(loaded.test)}
        write_text(folder / "data.json", json.dumps(facts, indent=1))
        return f"{loaded.name}: {len(loaded.train)} train, {len(loaded.val)} val, {len(loaded.test)} test"

    section = [_plain(recipe.data, "workers", "memory_mb"), fingerprint(recipe.data, roots)]
    stage = work.stage(name, make, section=section, rooms=["data"], packages=["numpy", "pillow"])
    if name == "data":
        work.publish(stage.folder / "preprocess.json", "preprocess.json")
    return dataset, stage


def _student(
    recipe: Recipe, work: WorkDir, base: Path, dataset: Callable[[], Dataset], data: Stage, imports: Sequence[Path]
) -> Stage:
    """The float student: trained or distilled, then pruned."""
    assert isinstance(recipe.model, TorchModel)
    inputs, section, teacher = [data], [], None
    if recipe.distill:
        teacher = _teacher(recipe, work, base, dataset, data, imports)
        inputs.append(teacher)
        section = [_plain(recipe.distill)]

    def loss(cfg: Train) -> Any:
        if recipe.distill is None or teacher is None:
            return None
        from toolchain.distill import distillation_loss
        from toolchain.models.store import load_model

        return distillation_loss(recipe.distill, load_model(teacher.folder), cfg.label_smoothing)

    student = _train("train", recipe.model, recipe.train, recipe.seed, work, base, dataset, inputs, imports, section, loss)
    if recipe.prune is None:
        return student
    prune_cfg = recipe.prune

    def make(folder: Path) -> str:
        from toolchain.models.store import load_architecture, load_model, save_model
        from toolchain.prune import prune

        model, history = prune(load_model(student.folder), prune_cfg, recipe.data.image_size)
        cfg = prune_cfg.finetune
        summary = _fit(model, dataset(), cfg, folder, recipe.seed + 1, loss(cfg), "prune: fine-tune")
        if rank() == 0:
            save_model(folder, model, {**load_architecture(student.folder), "pruned": history})
        return summary

    return work.stage("prune", make, section=[_plain(recipe.prune), recipe.seed, recipe.data.image_size, section],
                      inputs=[student, *inputs], rooms=["prune", "train.py", "models", "data", "distill"],
                      packages=["torch-pruning", *TRAINING_PACKAGES], distributed=True)


def _teacher(
    recipe: Recipe, work: WorkDir, base: Path, dataset: Callable[[], Dataset], data: Stage, imports: Sequence[Path]
) -> Stage:
    """The teacher network: given inline, or the student that its own recipe describes (unpruned)."""
    assert recipe.distill is not None
    teacher = recipe.distill.teacher
    if not isinstance(teacher, TeacherRecipe):
        return _train("teacher", teacher.model, teacher.train, recipe.seed, work, base, dataset, [data], imports)
    path = locate(teacher.recipe, base, "distill.teacher.recipe")
    own = load_recipe(path)
    if isinstance(own.model, OnnxModel):
        raise RecipeError(f"{path}: a teacher needs model.arch, found model.onnx; use a recipe with model.arch")
    if own.distill is not None:
        raise RecipeError(f"{path}: a teacher that is distilled itself is not supported; remove its distill section")
    own_dataset, own_data = _data(own, work, roots, "teacher_data")
    return _train("teacher", own.model, own.train, own.seed, work, path.parent, own_dataset, [own_data], imports)


def _train(
    name: str, model: TorchModel, cfg: Train, seed: int, work: WorkDir, base: Path, dataset: Callable[[], Dataset],
    inputs: Sequence[Stage], imports: Sequence[Path], section: Sequence[Any] = (),
    loss: Callable[[Train], Any] = lambda cfg: None,
) -> Stage:
    weights = None
    if model.weights and model.weights != "torchvision":
        weights = locate(model.weights, base, "model.weights")
        model = model.model_copy(update={"weights": str(weights)})

    def make(folder: Path) -> str:
        import torch

        from toolchain.models import create_model
        from toolchain.models.store import save_model

        torch.manual_seed(seed)
        classes = len(dataset().classes)
        network = create_model(model, classes)
        summary = _fit(network, dataset(), cfg, folder, seed, loss(cfg), name)
        if rank() == 0:
            architecture = {"model": model.model_copy(update={"weights": None}).model_dump(mode="json"),
                            "num_classes": classes, "pruned": None, "folded": False}
            save_model(folder, network, architecture)
        return summary

    digests = [sha256_file(path) for path in [*([weights] if weights else []), *imports]]
    return work.stage(name, make, section=[_plain(model, "weights"), _plain(cfg), seed, digests, list(section)],
                      inputs=inputs, rooms=["train.py", "models", "data", "distill"],
                      packages=["torchvision", *TRAINING_PACKAGES], distributed=True)


def _fit(
    model: nn.Module, dataset: Dataset, cfg: Train, folder: Path, seed: int, loss: Any, title: str
) -> str:
    """Train in place, keep the history beside the model, and say how it went."""
    from toolchain.train import evaluate, fit

    history = fit(model, dataset, cfg, folder=folder, seed=seed, loss=loss, title=title)
    top1 = history[-1]["val_top1"] if history else evaluate(model, dataset.val, dataset.preprocess, cfg.batch_size)
    if rank() == 0:
        write_text(folder / "history.json", json.dumps(history, indent=1))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return f"{len(history)} epochs, val top-1 {top1:.2f} %"


def _qat(
    recipe: Recipe, work: WorkDir, dataset: Callable[[], Dataset], data: Stage, student: Stage, float_onnx: Stage,
    ranges: Stage,
) -> Stage:
    """The student fine-tuned with fake quantization: float weights, and the ranges it learned."""
    cfg = recipe.quantize
    assert isinstance(cfg, Qat)

    def make(folder: Path) -> str:
        from toolchain.models.fold import fold_batchnorm
        from toolchain.models.store import load_architecture, load_model, save_model
        from toolchain.quantize.calibrate import input_amax
        from toolchain.quantize.qat import qat
        from toolchain.ranges import Ranges

        start = input_amax(Ranges.load(ranges.folder / "ranges.json"), float_onnx.folder / "model.onnx")
        folded = fold_batchnorm(load_model(student.folder))
        model, learned, history = qat(folded, dataset(), cfg, start, folder=folder, seed=recipe.seed + 2)
        if rank() == 0:
            save_model(folder, model, {**load_architecture(student.folder), "folded": True})
            write_text(folder / "learned.json", json.dumps(learned, indent=1, sort_keys=True))
            write_text(folder / "history.json", json.dumps(history, indent=1))
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return f"{len(history)} epochs, {len(learned)} layers, val top-1 {history[-1]['val_top1']:.2f} % (fake-quantized)"

    return work.stage("qat", make, section=[_plain(cfg), recipe.seed], inputs=[student, data, float_onnx, ranges],
                      rooms=["quantize", "train.py", "models", "data"], packages=["nvidia-modelopt", *TRAINING_PACKAGES],
                      distributed=True)


def _export(name: str, recipe: Recipe, work: WorkDir, student: Stage) -> Stage:
    """The student as one clean float ONNX file, compared with PyTorch."""
    def make(folder: Path) -> str:
        from toolchain.export import export_onnx
        from toolchain.models.store import load_model

        gap = export_onnx(load_model(student.folder), folder / "model.onnx", recipe.export, recipe.data.image_size)
        write_text(folder / "gap.json", json.dumps(gap))
        return f"largest logit difference to PyTorch {gap['max_abs_diff']:.1e}"

    return work.stage(name, make, section=[_plain(recipe.export), recipe.data.image_size], inputs=[student],
                      rooms=["export.py", "graph", "models"], packages=["torch", *ONNX_PACKAGES])


def _own_onnx(recipe: Recipe, work: WorkDir, base: Path, dataset: Callable[[], Dataset], data: Stage) -> Stage:
    """The user's own ONNX file, checked, brought to our opset and cleaned; theirs is only read."""
    assert isinstance(recipe.model, OnnxModel)
    path = locate(recipe.model.onnx, base, "model.onnx")

    def make(folder: Path) -> str:
        from toolchain.graph.own import read_own_onnx

        info = read_own_onnx(path, folder / "model.onnx", recipe.export.opset)
        check_fits(path, info, recipe.data.image_size, len(dataset().classes))
        return f"{path.name}: {info['num_classes']} classes at {info['image_size']} pixels, batch {info['batch']}"

    return work.stage("import", make, section=[sha256_tree(path), recipe.export.opset, recipe.data.image_size],
                      inputs=[data], rooms=["graph"], packages=ONNX_PACKAGES)


def check_fits(path: Path, info: dict[str, Any], image_size: int, classes: int) -> None:
    """Refuse a network that does not fit the data. Raises OnnxError."""
    if info["image_size"] not in (None, image_size):
        raise OnnxError(f"{path}: its input is {info['image_size']} pixels, but data.image_size is {image_size}; "
                        f"set data.image_size: {info['image_size']}")
    if info["num_classes"] not in (None, classes):
        raise OnnxError(f"{path}: it has {info['num_classes']} outputs, but the dataset has {classes} classes; "
                        "use the dataset it was trained on")


def _calibrate(
    name: str, recipe: Recipe, work: WorkDir, base: Path, dataset: Callable[[], Dataset], data: Stage, model: Stage,
    learned: Stage | None = None,
) -> Stage:
    """Ranges of every tensor that a target may quantize; QAT's learned ones, where given, lie on top."""
    cfg = recipe.quantize
    wanted = cfg.calibration
    chosen = locate(wanted.set, base, "quantize.calibration.set") if wanted.set else None

    def make(folder: Path) -> str:
        from toolchain.data.calibration import calibration_images
        from toolchain.quantize.calibrate import calibrate, overlay

        images, source = calibration_images(dataset(), wanted.images, recipe.seed, chosen)
        onnx = model.folder / "model.onnx"
        normalized = (dataset().preprocess.normalize(images[i : i + 1]) for i in range(len(images)))
        ranges = calibrate(onnx, normalized, cfg.calibrator, len(images))
        if learned:
            ranges = overlay(ranges, json.loads((learned.folder / "learned.json").read_text()), onnx)
        ranges.save(folder / "ranges.json")
        write_text(folder / "calibration.json", json.dumps({"source": source, "images": len(images)}))
        return f"{len(images)} images ({source}), {len(ranges.activations)} tensors, {cfg.calibrator.method}"

    section = [_plain(cfg.calibrator), wanted.images, recipe.seed, sha256_tree(chosen) if chosen else None]
    return work.stage(name, make, section=section, inputs=[data, model, *([learned] if learned else [])],
                      rooms=["quantize", "data", "ranges.py"], packages=["onnxruntime-gpu", "onnxruntime"])


def _convert(recipe: Recipe, work: WorkDir, engine: Engine, model: Stage, ranges: Stage | None) -> Stage:
    """The ONNX file of one precision by one target's rules; engines that need the same file share it."""
    precision, rules = engine.precision, backend(engine.runtime).rules(engine)
    cfg = recipe.quantize
    name = f"onnx_{precision}_{rules}"
    made = next((stage for stage in work.stages if stage.name == name), None)
    if made:
        return made

    def make(folder: Path) -> str:
        from toolchain.graph.convert import convert
        from toolchain.ranges import Ranges

        known = Ranges.load(ranges.folder / "ranges.json") if ranges else None
        info = convert(model.folder / "model.onnx", folder / "model.onnx", precision, rules, known, cfg.int8, cfg.int4)
        write_text(folder / "info.json", json.dumps(info, indent=1))
        return f"{info['weight_bytes'] / 1e6:.2f} MB of weights"

    section = [precision, rules, _plain(cfg.int8), _plain(cfg.int4)]
    stage = work.stage(name, make, section=section, inputs=[model, *([ranges] if ranges else [])],
                       rooms=["graph", "ranges.py"], packages=ONNX_PACKAGES)
    work.publish(stage.folder / "model.onnx", f"onnx/model.{precision}.{rules}.onnx")
    return stage


def _engine(work: WorkDir, name: str, engine: Engine, model: Stage) -> Stage:
    """One engine and its engine.json."""
    runtime = backend(engine.runtime)

    def make(folder: Path) -> str:
        info = json.loads((model.folder / "info.json").read_text())
        path = runtime.build(model.folder / "model.onnx", engine, folder, info)
        return f"{path.stat().st_size / 1e6:.2f} MB"

    stage = work.stage(f"engine_{name}", make, section=_plain(engine), inputs=[model],
                       rooms=["engines"], packages=runtime.PACKAGES)
    if stage.folder.is_dir():
        for file in sorted(stage.folder.iterdir()):
            if file.name != "stage.json":
                work.publish(file, f"engines/{name}/{file.name}")
    return stage


def _measure(
    recipe: Recipe, work: WorkDir, dataset: Callable[[], Dataset], data: Stage, engines: dict[str, Engine],
    built: dict[str, Stage],
) -> Stage:
    """Accuracy, latency, memory of every engine that can run here; the reason for the others."""
    reasons = {name: backend(engine.runtime).not_runnable(engine) for name, engine in engines.items()}

    def make(folder: Path) -> str:
        from toolchain.data import batches
        from toolchain.measure import measure_engines

        loaded = dataset()
        size = recipe.measure.accuracy_batch
        measure_engines({name: stage.folder for name, stage in built.items()}, reasons,
                        lambda: batches(loaded.test, loaded.preprocess, size), loaded.test.labels, recipe.measure, folder,
                        recipe.seed)
        return f"{sum(r is None for r in reasons.values())} of {len(reasons)} engines"

    from toolchain.doctor import machine

    packages = sorted({p for engine in engines.values() for p in backend(engine.runtime).PACKAGES})
    return work.stage("measure", make, section=[_plain(recipe.measure), recipe.seed, reasons, machine()],
                      inputs=[data, *built.values()], rooms=["measure", "engines"], packages=packages)


def _plain(section: BaseModel, *left_out: str) -> dict[str, Any]:
    """A section as JSON-able data, without fields that cannot change the result."""
    return section.model_dump(mode="json", exclude=set(left_out))
