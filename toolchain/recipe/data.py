"""The data section: which images, how they are split and preprocessed."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field, field_validator, model_validator

from toolchain.recipe.section import Section


class Jitter(Section):
    """Random colours (torchvision's ColorJitter), applied in this order; 0 leaves a property as it is."""

    brightness: float = Field(0.4, ge=0, description="factor drawn from [max(0, 1 - b), 1 + b]")
    contrast: float = Field(0.4, ge=0, description="factor drawn from [max(0, 1 - c), 1 + c]")
    saturation: float = Field(0.4, ge=0, description="factor drawn from [max(0, 1 - s), 1 + s]")
    hue: float = Field(0.1, ge=0, le=0.5, description="shift drawn from [-h, h], in turns of the colour circle")


class Augment(Section):
    """What happens to a training image only (never to val, test or calibration images)."""

    crop_padding: int = Field(4, ge=0, description="zero-pad by this many pixels, then crop back at random")
    flip: bool = Field(True, description="mirror left-right with probability 1/2")
    jitter: Jitter | None = Field(None, description="random colours; null: none, {}: the defaults")


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
