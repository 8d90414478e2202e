"""The YAML recipe as frozen pydantic models, one per section, in pipeline order.

A method's name selects its parameters (discriminated unions), so wrong combinations cannot be written.
Reading a recipe has no side effects and imports neither torch nor a runtime.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

ARCHITECTURES = (
    "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
    "resnet18", "resnet34", "resnet50", "mobilenet_v2", "squeezenet1_0", "squeezenet1_1",
)
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
RTX_SMS = (75, 80, 86, 89, 120, 121)

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# YAML reads a bare `no` as false
MixedPrecision = Annotated[
    Literal["auto", "no", "bf16", "fp16"], BeforeValidator(lambda value: "no" if value is False else value)]


class Section(BaseModel):
    """Frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _method_name(value: Any) -> Any:
    """`calibrator: entropy` is short for `calibrator: {method: entropy}`."""
    return {"method": value} if isinstance(value, str) else value


# ---------------------------------------------------------------- data

class Augment(Section):
    """What happens to a training image only (never to val, test or calibration images)."""

    crop_padding: int = Field(4, ge=0, description="zero-pad by this many pixels, then crop back at random")
    flip: bool = Field(True, description="mirror left-right with probability 1/2")


class DataSection(Section):
    """What every dataset shares: the split and the preprocessing."""

    image_size: int = Field(32, ge=8, le=1024, description="height and width of the network's input, in pixels")
    resize: int | None = Field(
        None, ge=8, description="resize the short side to this, then crop the centre; null: resize to a square")
    mean: tuple[float, float, float] | None = Field(None, description="per channel, on images scaled to [0, 1]")
    std: tuple[float, float, float] | None = Field(None, description="per channel, on images scaled to [0, 1]")
    val_fraction: float = Field(0.1, gt=0, lt=0.5, description="share of train held out as val; tuning sees only val")
    split_seed: int = Field(0, ge=0)
    augment: Augment = Augment()
    workers: int = Field(2, ge=0, description="loader processes for sets too large to live in memory")
    memory_mb: int = Field(1024, ge=1, description="a set whose decoded images fit in this many MB lives in memory")

    @field_validator("std")
    @classmethod
    def _std_is_positive(cls, std: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if std is not None and min(std) <= 0:
            raise ValueError("every std must be above 0")
        return std

    @model_validator(mode="after")
    def _crop_fits(self) -> DataSection:
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(f"resize ({self.resize}) must be at least image_size ({self.image_size})")
        return self


class Digits(DataSection):
    """scikit-learn's 1,797 handwritten digits, scaled to 32x32x3; nothing to download."""

    source: Literal["digits"]
    augment: Augment = Augment(crop_padding=2, flip=False)
    test_fraction: float = Field(0.2, gt=0, lt=0.9)


class Cifar10(DataSection):
    """torchvision's CIFAR-10, from --data-root or $TOOLCHAIN_DATA, downloaded where a network exists."""

    source: Literal["cifar10"]


class Cifar100(DataSection):
    """torchvision's CIFAR-100, from --data-root or $TOOLCHAIN_DATA, downloaded where a network exists."""

    source: Literal["cifar100"]


class Parquet(DataSection):
    """Hugging Face image layout: struct image{bytes,path}, int label, class names in the schema metadata."""

    source: Literal["parquet"]
    train: str = Field(description="parquet file, relative to --data-root / $TOOLCHAIN_DATA or to the recipe")
    test: str | None = Field(None, description="parquet file; null: test_fraction of train is held out")
    test_fraction: float = Field(0.2, gt=0, lt=0.9, description="used only where `test` is null")


class Folder(DataSection):
    """ImageFolder layout: train/<class>/*.jpg and test/<class>/*.jpg (or one folder, split by test_fraction)."""

    source: Literal["folder"]
    train: str
    test: str | None = None
    test_fraction: float = Field(0.2, gt=0, lt=0.9, description="used only where `test` is null")


Data = Annotated[Union[Digits, Cifar10, Cifar100, Parquet, Folder], Field(discriminator="source")]


# ---------------------------------------------------------------- model

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


# ---------------------------------------------------------------- train

class Sgd(Section):
    """Stochastic gradient descent with Nesterov momentum."""

    method: Literal["sgd"]
    lr: float = Field(0.05, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)


class AdamW(Section):
    """Adam with decoupled weight decay."""

    method: Literal["adamw"]
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)


Optimizer = Annotated[Union[Sgd, AdamW], Field(discriminator="method"), BeforeValidator(_method_name)]


class Train(Section):
    """One training run; fine-tuning after pruning and QAT use the same fields with other defaults."""

    epochs: int = Field(12, ge=0)
    batch_size: int = Field(64, ge=1)
    optimizer: Optimizer = Sgd(method="sgd")
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    label_smoothing: Fraction = 0.0
    clip_norm: float | None = Field(5.0, gt=0, description="largest gradient norm; null: no clipping")
    early_stopping: int | None = Field(None, ge=1, description="stop after this many epochs without a better val top-1")
    mixed_precision: MixedPrecision = Field("auto", description="auto: bf16 where it is native")
    channels_last: bool = True


class FineTune(Train):
    """A short run at a low learning rate."""

    epochs: int = Field(4, ge=0)
    optimizer: Optimizer = Sgd(method="sgd", lr=0.01)
    schedule: Literal["one_cycle", "cosine", "constant"] = "cosine"


# ---------------------------------------------------------------- distill

class TeacherInline(Section):
    """A teacher trained on this recipe's data."""

    model: TorchModel
    train: Train = Train()


class TeacherRecipe(Section):
    """A teacher that has its own recipe (its data, model and train sections are used)."""

    recipe: str = Field(description="path of the teacher's recipe, relative to this one")


def _teacher_kind(value: Any) -> str:
    keys = value if isinstance(value, dict) else vars(value) if isinstance(value, BaseModel) else {}
    return "_recipe" if "recipe" in keys else "_inline"


Teacher = Annotated[
    Union[Annotated[TeacherInline, Tag("_inline")], Annotated[TeacherRecipe, Tag("_recipe")]],
    Discriminator(_teacher_kind)]


class SoftTargets(Section):
    """Hinton, Vinyals, Dean 2015: ce_weight * CE + kd_weight * T^2 * KL(teacher || student)."""

    method: Literal["soft_targets"]
    teacher: Teacher
    temperature: float = Field(4.0, gt=0)
    ce_weight: float = Field(0.1, ge=0)
    kd_weight: float = Field(0.9, ge=0)


Distill = SoftTargets  # becomes a union, discriminated by `method`, with the second method


# ---------------------------------------------------------------- prune

class Channels(Section):
    """Structured channel pruning by the group's L2 norm (DepGraph, Fang et al. 2023), then fine-tuning."""

    method: Literal["channels"]
    ratio: float = Field(0.5, gt=0, lt=1, description="share of channels to remove from every layer")
    round_to: int = Field(8, ge=1, description="keep channel counts a multiple of this")
    finetune: FineTune = FineTune()


Prune = Channels  # becomes a union, discriminated by `method`, with the second method


# ---------------------------------------------------------------- quantize

class MaxCalibrator(Section):
    """amax = largest magnitude seen."""

    method: Literal["max"]


class PercentileCalibrator(Section):
    """amax = this percentile of the magnitudes."""

    method: Literal["percentile"]
    percentile: float = Field(99.99, gt=50, le=100)


class EntropyCalibrator(Section):
    """amax that loses the least information (TensorRT's KL search)."""

    method: Literal["entropy"]


class MseCalibrator(Section):
    """amax with the smallest squared rounding and clipping error."""

    method: Literal["mse"]


Calibrator = Annotated[
    Union[MaxCalibrator, PercentileCalibrator, EntropyCalibrator, MseCalibrator],
    Field(discriminator="method"), BeforeValidator(_method_name)]


class CalibrationImages(Section):
    """Which images calibrate: a set made by `toolchain calib`, or a draw from train."""

    set: str | None = Field(None, description="folder of a calibration set; null: draw from train")
    images: int = Field(512, ge=1, description="how many images")


class Int8(Section):
    """W8A8: per-channel symmetric weights, per-tensor activations."""

    first_last: Literal["int8", "float"] = Field("int8", description="precision of the first and last layer")


class Int4(Section):
    """Weight-only, symmetric, one scale per block along the input axis."""

    block: Literal[32, 64, 128] = 32
    first_last: Literal["int4", "float"] = Field("int4", description="precision of the first and last layer")


class QuantizeSection(Section):
    """What PTQ and QAT share."""

    calibrator: Calibrator = EntropyCalibrator(method="entropy")
    calibration: CalibrationImages = CalibrationImages()
    int8: Int8 = Int8()
    int4: Int4 = Int4()


class Ptq(QuantizeSection):
    """Post-training quantization: ranges from calibration images, weights rounded to nearest."""

    method: Literal["ptq"]


class QatTrain(FineTune):
    """The fake-quantized fine-tuning run."""

    epochs: int = Field(2, ge=1)
    optimizer: Optimizer = Sgd(method="sgd", lr=2e-3, weight_decay=1e-4)
    mixed_precision: MixedPrecision = "no"


class Qat(QuantizeSection):
    """Quantization-aware training: fake quantization during fine-tuning; evaluation keeps it on."""

    method: Literal["qat"]
    provider: Literal["modelopt"] = "modelopt"
    train: QatTrain = QatTrain()


Quantize = Annotated[Union[Ptq, Qat], Field(discriminator="method"), BeforeValidator(_method_name)]


# ---------------------------------------------------------------- export, engines, measure, limits

class Export(Section):
    """The clean float ONNX file that every engine starts from."""

    opset: int = Field(21, ge=21, le=25)
    tolerance: float = Field(1e-3, gt=0, description="largest logit difference to PyTorch / largest logit")


class Batch(Section):
    """Batch sizes of the engine's optimization profile."""

    min: int = Field(1, ge=1)
    opt: int = Field(1, ge=1)
    max: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Batch:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"expected min <= opt <= max, found {self.min}, {self.opt}, {self.max}")
        return self


class OrtEngine(Section):
    """ONNX Runtime: an .onnx file with the target's rules applied."""

    runtime: Literal["onnxruntime"]
    precision: Precision
    target: Literal["cpu_x86", "cuda"] = "cpu_x86"


class RtxEngine(Section):
    """TensorRT for RTX, built ahead of time for one or several SMs, with or without a GPU here."""

    runtime: Literal["tensorrt_rtx"]
    precision: Precision
    target: str | None = Field(None, description="sm86, or sm86+sm89; null: every SM that runs this precision")
    batch: Batch = Batch()

    @field_validator("target")
    @classmethod
    def _sms_are_known(cls, target: str | None) -> str | None:
        known = [f"sm{sm}" for sm in RTX_SMS]
        wrong = [part for part in (target or known[0]).split("+") if part not in known]
        if wrong:
            raise ValueError(f"TensorRT-RTX has no {', '.join(wrong)}; expected {', '.join(known)}, joined by +")
        return target


class TrtEngine(Section):
    """TensorRT 10.x or 11.x, built on and for the GPU of this machine."""

    runtime: Literal["tensorrt"]
    precision: Precision
    target: Literal["local_gpu"] = "local_gpu"
    batch: Batch = Batch()
    workspace_mb: int | None = Field(None, ge=1)


class OpenVinoEngine(Section):
    """OpenVINO on an x86 CPU."""

    runtime: Literal["openvino"]
    precision: Literal["fp32", "bf16", "int8"]
    target: Literal["cpu_x86"] = "cpu_x86"


Engine = Annotated[Union[OrtEngine, RtxEngine, TrtEngine, OpenVinoEngine], Field(discriminator="runtime")]


class Measure(Section):
    """How engines are judged."""

    batch: int = Field(1, ge=1, description="batch size of the latency figures")
    threads: int | None = Field(None, ge=1, description="CPU threads; null: physical cores")
    warmup: int = Field(20, ge=1, description="untimed runs before the first round")
    rounds: int = Field(20, ge=2, description="each round times every engine once, in random order")
    runs_per_round: int = Field(20, ge=1, description="timed runs of one engine in one round")
    throughput_batches: tuple[int, ...] = (1, 8, 32)
    accuracy_batch: int = Field(64, ge=1)


class Holds(Section):
    """What an engine must hold; null: no limit."""

    top1: float | None = Field(None, ge=0, le=100, description="smallest top-1, percent")
    top1_drop: float | None = Field(None, ge=0, le=100, description="largest loss of top-1 against FP32, points")
    agreement: float | None = Field(None, ge=0, le=100, description="smallest share of equal answers to FP32, percent")
    speedup: float | None = Field(None, gt=0, description="smallest FP32 latency / engine latency, same runtime")
    latency_ms: float | None = Field(None, gt=0, description="largest p50 latency")
    weight_bytes: float | None = Field(None, gt=0, description="largest share of FP32's weight bytes")
    engine_bytes: int | None = Field(None, gt=0, description="largest engine file, bytes")


class Limits(Holds):
    """Limits for every measured engine except FP32; a precision's own section overrides them for it."""

    fp32: Holds = Holds()
    fp16: Holds = Holds()
    bf16: Holds = Holds()
    int8: Holds = Holds()
    int4: Holds = Holds()


class Recipe(Section):
    """One YAML file: everything a build depends on, in pipeline order."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names the default output folder")
    seed: int = Field(0, ge=0, lt=2**31)
    data: Data = Digits(source="digits")
    model: Model
    train: Train = Train()
    distill: Distill | None = None
    prune: Prune | None = None
    quantize: Quantize = Ptq(method="ptq")
    export: Export = Export()
    engines: tuple[Engine, ...] | None = Field(None, description="null: every precision of each installed runtime")
    measure: Measure = Measure()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _own_onnx_has_no_torch_side(self) -> Recipe:
        if isinstance(self.model, OnnxModel):
            sections = [s for s in ("train", "distill", "prune") if s in self.model_fields_set and getattr(self, s)]
            if sections or isinstance(self.quantize, Qat):
                named = ", ".join(sections + ["quantize: qat"] * isinstance(self.quantize, Qat))
                raise ValueError(f"model.onnx is a finished network: remove {named}, or use model.arch")
        return self
