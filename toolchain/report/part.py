"""What every part of report.json is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Percent = Annotated[float, Field(ge=0, le=100)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Bytes = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """Frozen; keys of later versions are kept; NaN and infinity are no measurements."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)


class Speedup(Part):
    """The reference's latency divided by this engine's, with a bootstrap 95 % interval."""

    value: Positive
    low: Positive | None = None
    high: Positive | None = None


class Energy(Part):
    """What one image costs, idle power included."""

    millijoules: float = Field(ge=0)
    counter: str = Field(description="what counted: RAPL, NVML or a Jetson's INA monitor")


class Latency(Part):
    """Milliseconds per batch, over every timed run."""

    p50: Positive
    p95: Positive
    p99: Positive
    mean: Positive
    std: float = Field(ge=0)
    n: int = Field(ge=1, description="timed runs")
