"""The distill section: who teaches, by which method, and for how long."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from toolchain.recipe.network import TorchModel, Train
from toolchain.recipe.section import Section

Triple = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]
Spread = tuple[Positive, Positive, Positive]
Weight = Annotated[float, Field(ge=0)]
Temperature = Annotated[float, Field(gt=0)]


class TeacherInline(Section):
    """A teacher trained on this recipe's data, with this recipe's seed."""

    model: TorchModel
    train: Train = Train()


class TeacherRecipe(Section):
    """A teacher that has its own recipe (its seed, data, model and train sections are used)."""

    recipe: str = Field(description="path of the teacher's recipe, relative to this one")


class TeacherCheckpoint(Section):
    """A trained teacher: the `student` folder of a finished build, or a state dict and the network it belongs to."""

    checkpoint: str = Field(description="a folder with model.safetensors and architecture.json, or a .safetensors/.pth")
    model: TorchModel | None = Field(None, description="needed for a state dict, which does not name its network")
    mean: Triple | None = Field(None, description="its normalisation; null: its build's, or else this recipe's")
    std: Spread | None = Field(None, description="its normalisation; null: its build's, or else this recipe's")


class TeacherOnnx(Section):
    """A teacher from anywhere, as an ONNX file: it gives logits, so only methods that compare logits can use it."""

    onnx: str = Field(description="path of the ONNX file, relative to this recipe; it is read, never written")
    mean: Triple | None = Field(None, description="the teacher's own normalisation; null: this recipe's")
    std: Spread | None = Field(None, description="the teacher's own normalisation; null: this recipe's")


def _teacher_kind(value: Any) -> str:
    keys = value if isinstance(value, dict) else vars(value) if isinstance(value, BaseModel) else {}
    return next((f"_{kind}" for kind in ("recipe", "checkpoint", "onnx") if kind in keys), "_inline")


Teacher = Annotated[
    Union[Annotated[TeacherInline, Tag("_inline")], Annotated[TeacherRecipe, Tag("_recipe")],
          Annotated[TeacherCheckpoint, Tag("_checkpoint")], Annotated[TeacherOnnx, Tag("_onnx")]],
    Discriminator(_teacher_kind)]


class EarlyStop(Section):
    """Cho, Hariharan 2019: after a share of the epochs the teacher falls silent and the labels finish the training."""

    after: float = Field(0.33, gt=0, le=1, description="share of the epochs after which the teacher's weight is 0")
    ramp: float = Field(0.0, ge=0, le=1, description="share of the epochs before that over which its weight falls")


class DistillSection(Section):
    """What every method shares: when its loss counts."""

    warmup_epochs: int | None = Field(
        None, ge=0, description="the method's weight rises over these epochs; null: the method's default, at most 10 % "
                                "of the run")
    early_stop: EarlyStop | None = Field(None, description="stop distilling early; null: distill to the end")

    @model_validator(mode="after")
    def _something_counts(self) -> DistillSection:
        fields = ("ce_weight", "kd_weight", "weight", "alpha", *(["beta"] if isinstance(self, Dkd) else []))
        named = {name: getattr(self, name) for name in fields if hasattr(self, name)}
        if not any(named.values()):
            raise ValueError(f"{', '.join(named)} are all 0, so there is nothing to learn; give one of them a weight")
        return self


class TaughtSection(DistillSection):
    """What every method with a teacher shares."""

    teacher: Teacher
    teacher_cache_mb: int = Field(
        2048, ge=0, description="keep the teacher's outputs on disk up to this size where images are not augmented")


class SoftTargets(TaughtSection):
    """Hinton, Vinyals, Dean 2015: ce_weight * CE + kd_weight * T^2 * KL(teacher || student)."""

    method: Literal["soft_targets"]
    temperature: Temperature = 4.0
    ce_weight: Weight = 0.1
    kd_weight: Weight = 0.9


class Dkd(TaughtSection):
    """Zhao et al. 2022, decoupled: ce_weight * CE + T^2 * (alpha * target-class KL + beta * KL among the others)."""

    method: Literal["dkd"]
    temperature: Temperature = 4.0
    ce_weight: Weight = 1.0
    alpha: Weight = 1.0
    beta: Weight = Field(8.0, description="0.5 to 8; grows with the teacher's confidence")


class FunctionMatching(TaughtSection):
    """Beyer et al. 2022: kd_weight * T^2 * KL on mixed images that teacher and student both see; no labels."""

    method: Literal["function_matching"]
    temperature: Temperature = 1.0
    kd_weight: Weight = 1.0
    beta: float = Field(1.0, gt=0, description="the mixing weight is max(a, 1 - a), a from Beta(beta, beta)")


class FeatureSection(TaughtSection):
    """Methods that compare inner features; soft targets can be added to them."""

    temperature: Temperature = 4.0
    ce_weight: Weight = 1.0
    kd_weight: Weight = Field(0.0, description="weight of soft targets beside the method's own loss")

    @model_validator(mode="after")
    def _teacher_has_features(self) -> FeatureSection:
        if isinstance(self.teacher, TeacherOnnx):
            raise ValueError("teacher.onnx: an ONNX file gives logits only, and this method compares inner features; "
                             "use a teacher with model, recipe or checkpoint, or the method soft_targets, dkd or "
                             "function_matching")
        return self


class Hints(FeatureSection):
    """Romero et al. 2015 (FitNets): a regressor maps the student's feature map onto the teacher's."""

    method: Literal["hints"]
    student_layer: str | None = Field(None, description="name of a layer; null: the end of the second stage")
    teacher_layer: str | None = Field(None, description="name of a layer; null: the end of the second stage")
    mode: Literal["joint", "two_stage"] = Field("joint", description="two_stage: first the hint alone, then the rest")
    init_fraction: float = Field(0.125, gt=0, lt=1, description="two_stage: share of the epochs with the hint alone")
    weight: Weight = 100.0


class LayerPair(Section):
    """Two layers whose feature maps are compared."""

    student: str
    teacher: str


class AttentionTransfer(FeatureSection):
    """Zagoruyko, Komodakis 2017: the student's spatial attention follows the teacher's at every stage."""

    method: Literal["attention_transfer"]
    layers: Annotated[tuple[LayerPair, ...], Field(min_length=1)] | None = Field(
        None, description="null: the ends of the stages of equal resolution")
    weight: Weight = 1000.0


class ContrastSection(FeatureSection):
    """What both contrastive methods share: embeddings of the penultimate features."""

    student_layer: str | None = Field(None, description="name of a layer; null: what the last layer sees, pooled")
    teacher_layer: str | None = Field(None, description="name of a layer; null: what the last layer sees, pooled")
    dim: int = Field(128, ge=2, le=4096, description="size of the embeddings")
    tau: float = Field(0.07, gt=0, description="temperature of the similarities")
    weight: Weight = 0.8


class Crd(ContrastSection):
    """Tian, Krishnan, Isola 2020: contrast against memory banks of every training image (NCE)."""

    method: Literal["crd"]
    negatives: int = Field(16384, ge=1, le=1_048_576, description="images of other classes drawn for each image")
    momentum: float = Field(0.5, ge=0, lt=1, description="share of its old row that a bank keeps")
    positives: Literal["exact", "relaxed"] = Field("exact", description="relaxed: another image of the same class")


class CrdInbatch(ContrastSection):
    """InfoNCE within the batch: cheaper than crd, without banks, and not the same thing."""

    method: Literal["crd_inbatch"]
    supervised: bool = Field(True, description="images of the same class in the batch are not negatives")


class Mutual(DistillSection):
    """Zhang et al. 2018: peers that teach each other; the best one on val is kept."""

    method: Literal["mutual"]
    peers: int = Field(2, ge=2, le=4, description="networks trained side by side, the student among them")
    temperature: Temperature = 1.0
    ce_weight: Weight = 1.0
    weight: Weight = 1.0
    reduce: Literal["mean", "sum"] = Field("mean", description="over the other peers")


Distill = Annotated[
    Union[SoftTargets, Dkd, FunctionMatching, Hints, AttentionTransfer, Crd, CrdInbatch, Mutual],
    Field(discriminator="method")]
