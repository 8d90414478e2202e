"""The sections of the PyTorch side: model and train; prune stands in its own file."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from toolchain.recipe.section import Section, method_name

ARCHITECTURES = (
    "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
    "resnet18", "resnet34", "resnet50", "mobilenet_v2", "squeezenet1_0", "squeezenet1_1", "studentnet",
)

Fraction = Annotated[float, Field(ge=0, lt=1)]
# YAML reads a bare `no` as false
MixedPrecision = Annotated[
    Literal["auto", "no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)]


class TorchModel(Section):
    """A network we construct: a listed architecture, or one added by --import."""

    arch: str = Field(description="one of: " + ", ".join(ARCHITECTURES) + ", or a name added by --import")
    form: Literal["cifar", "imagenet"] = Field(
        "cifar", description="cifar: 3x3 stem, no early pooling, Linear(512, C) head; imagenet: torchvision's own")
    width: float = Field(1.0, gt=0, le=4, description="multiplies every channel count")
    weights: str | None = Field(
        None, description="a .safetensors or .pth state dict, 'torchvision' (downloaded), or null: random")

    @field_validator("arch")
    @classmethod
    def _arch_is_known(cls, arch: str, info: ValidationInfo) -> str:
        imported = (info.context or {}).get("architectures", ())
        if arch not in ARCHITECTURES and arch not in imported:
            raise ValueError(f"expected {', '.join([*ARCHITECTURES, *imported])}")
        return arch


class OnnxModel(Section):
    """The user's own network: PTQ, engines and measurement, no PyTorch side."""

    onnx: str = Field(description="path of the ONNX file, relative to the recipe; it is read, never written")


def _model_kind(value: Any) -> str:
    keys = value if isinstance(value, dict) else vars(value) if isinstance(value, BaseModel) else {}
    return "_onnx" if "onnx" in keys else "_torch"


Model = Annotated[
    Union[Annotated[TorchModel, Tag("_torch")], Annotated[OnnxModel, Tag("_onnx")]], Discriminator(_model_kind)]


class Sgd(Section):
    """Stochastic gradient descent with Nesterov momentum."""

    method: Literal["sgd"]
    lr: float = Field(0.02, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)


class AdamW(Section):
    """Adam with decoupled weight decay."""

    method: Literal["adamw"]
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)


Optimizer = Annotated[Union[Sgd, AdamW], Field(discriminator="method"), BeforeValidator(method_name)]


class Train(Section):
    """One training run; fine-tuning after pruning and QAT use the same fields with other defaults."""

    epochs: int = Field(8, ge=0)
    batch_size: int = Field(64, ge=1)
    optimizer: Optimizer = Sgd(method="sgd")
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    label_smoothing: Fraction = 0.0
    label_smoothing_mode: Literal["uniform", "off_target"] = Field(
        "uniform", description="uniform: the share is spread over all classes; off_target: over the wrong ones only")
    clip_norm: float | None = Field(5.0, gt=0, description="largest gradient norm; null: no clipping")
    early_stopping: int | None = Field(None, ge=1, description="stop after this many epochs without a better val top-1")
    mixed_precision: MixedPrecision = Field("auto", description="auto: bf16 where it is native")
    channels_last: bool = True


class FineTune(Train):
    """A short run at a low learning rate."""

    epochs: int = Field(4, ge=0)
    optimizer: Optimizer = Sgd(method="sgd", lr=0.01)
    schedule: Literal["one_cycle", "cosine", "constant"] = "cosine"
