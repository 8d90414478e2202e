"""The study file: rows (a recipe and its overrides) times seeds, each an ordinary build."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from toolchain.errors import RecipeError, nearest
from toolchain.recipe.explain import explain
from toolchain.recipe.section import Section
from toolchain.recipe.yaml_file import read_yaml

MetricName = Literal[
    "top1", "int8_top1", "kl", "js", "agreement", "gradcam", "jitter_top1", "jitter_drop", "val_top1", "teacher_top1",
    "sparsity", "parameters", "macs", "latency_ms", "speedup_vs_unpruned", "engine_bytes", "deflate_bytes",
    "float_top1", "packed_bytes", "teacher_parameters", "train_seconds", "seconds"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # a recipe's name follows the same rule: both name folders


class Row(Section):
    """One line of the table: a recipe, and what is different in it."""

    recipe: str = Field(description="path of a recipe, relative to the study file")
    set: tuple[str, ...] = Field((), description="overrides of this row: FIELD=VALUE, after the study's own")


class Sweep(Section):
    """Every row at each of these numbers of bits, as quantize.bits of its recipe (quantize: gpfq)."""

    bits: tuple[Annotated[int, Field(ge=2, le=8)], ...] = (2, 3, 4, 5, 6, 7, 8)
    against: str | None = Field(
        None, description="row, such as a teacher, that the others are compared with at equal bytes")

    @field_validator("bits")
    @classmethod
    def _rising(cls, bits: tuple[int, ...]) -> tuple[int, ...]:
        if not bits or any(b <= a for a, b in zip(bits, bits[1:], strict=False)):
            raise ValueError(f"found {', '.join(map(str, bits)) or 'none'}, expected rising numbers of bits, such as "
                             "[2, 3, 4, 5, 6, 7, 8]")
        return bits


class Study(Section):
    """One YAML file: what is compared, on how many seeds, and against what."""

    name: str = Field(max_length=100, pattern=NAME, description="names the output folder")
    seeds: tuple[Seed, ...] = Field(description="every row is built once with each")
    set: tuple[str, ...] = Field((), description="overrides of every row: FIELD=VALUE")
    engine: str | None = Field(
        None, description="engine whose top-1 counts, such as int8.onnxruntime.cpu_x86; null: fp32 of onnxruntime")
    metrics: tuple[MetricName, ...] = Field(
        ("top1", "int8_top1", "kl", "agreement"), description="columns; one that no build has is left out")
    rows: dict[str, Row]
    sweep: Sweep | None = Field(None, description="accuracy against bits and bytes; null: each row is built as it is")
    control: str | None = Field(  # after `rows`, among which it is looked up
        None, description="the row that every other one is compared with, seed by seed")

    @field_validator("seeds", "metrics")
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values:
            raise ValueError("the list is empty; name at least one, such as [0, 1, 2] for seeds or [top1] for metrics")
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"{', '.join(map(str, twice))} stands in the list twice; name each once")
        return values

    @field_validator("set")
    @classmethod
    def _seed_has_its_own_list(cls, overrides: tuple[str, ...]) -> tuple[str, ...]:
        if any(override.partition("=")[0].strip() == "seed" for override in overrides):
            raise ValueError("seed is set by the study for each run; name the seeds in `seeds`")
        return overrides

    @field_validator("rows")
    @classmethod
    def _rows_name_folders(cls, rows: dict[str, Row]) -> dict[str, Row]:
        if not rows:
            raise ValueError("there is no row; write at least one, such as plain: {recipe: plain.yaml}")
        wrong = [name for name in rows if not re.match(NAME, name) or len(name) > 100]
        if wrong:
            raise ValueError(f"'{wrong[0]}' cannot name a folder; use at most 100 letters, digits, _, - and .")
        for name, row in rows.items():
            try:
                cls._seed_has_its_own_list(row.set)
            except ValueError as error:
                raise ValueError(f"{name}.set: {error}") from None
        return rows

    @field_validator("sweep")
    @classmethod
    def _against_is_a_row(cls, sweep: Sweep | None, info: ValidationInfo) -> Sweep | None:
        rows = info.data.get("rows")
        if sweep and sweep.against is not None and rows is not None and sweep.against not in rows:
            raise ValueError(f"against: found '{sweep.against}', expected one of the rows {', '.join(rows)}"
                             f"{nearest(sweep.against, rows)}")
        return sweep

    @field_validator("control")
    @classmethod
    def _control_is_a_row(cls, control: str | None, info: ValidationInfo) -> str | None:
        rows = info.data.get("rows")  # None: they are wrong themselves
        if control is not None and info.data.get("sweep"):
            raise ValueError("a sweep has no control; name the row to compare with at equal bytes as sweep.against")
        if control is not None and rows is not None and control not in rows:
            raise ValueError(f"found '{control}', expected one of the rows {', '.join(rows)}{nearest(control, rows)}")
        return control


class StudyFile(NamedTuple):
    """A study as read. lines: row name -> the line it stands on.

    swept: row of the file -> bits -> the row of `study` that builds it so; empty without a sweep.
    """

    path: Path
    study: Study
    lines: dict[str, int]
    swept: dict[str, dict[int, str]] = {}


def load_study(path: Path) -> StudyFile:
    """The validated study in the YAML file `path`; its recipes are not read yet.

    Raises RecipeError naming file, line, field, value and what is allowed, for all mistakes at once.
    """
    if not path.exists():
        raise RecipeError(f"{path}: no such study; the shipped ones are in recipes/studies/")
    data, lines = read_yaml(path, "the keys of a study (name, seeds, rows, …)")
    if "model" in data and "rows" not in data:
        raise RecipeError(f"{path}: this is a recipe, not a study: run `toolchain build {path}`, or write a study "
                          "whose rows name it")
    origin = {where: f"{path}:{line}" for where, line in lines.items()}
    mistakes = [f"{origin.get(where, path)}: {'.'.join(where)}: unknown key; expected {', '.join(known)}"
                + nearest(where[-1], known) for where, known in _take_unknown(data)]
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        mistakes.append(explain(error, data, origin, str(path)))
    if mistakes:
        raise RecipeError("\n".join(mistakes))
    return _swept(StudyFile(path, study, {name: lines["rows", name] for name in study.rows}))


def _swept(file: StudyFile) -> StudyFile:
    """The same study with a row for each row and number of bits: vkd becomes vkd.2bit, vkd.3bit, ..."""
    if file.study.sweep is None:
        return file
    names = {name: {bits: f"{name}.{bits}bit" for bits in file.study.sweep.bits} for name in file.study.rows}
    rows = {row: file.study.rows[name].model_copy(
                update={"set": (*file.study.rows[name].set, f"quantize.bits={bits}")})
            for name, by_bits in names.items() for bits, row in by_bits.items()}
    lines = {row: file.lines[name] for name, by_bits in names.items() for row in by_bits.values()}
    return StudyFile(file.path, file.study.model_copy(update={"rows": rows}), lines, names)


def _take_unknown(data: dict[str, Any]) -> list[tuple[tuple[str, ...], list[str]]]:
    """Take the keys that a study does not know out of `data`: (where it stood, what is known there) of each."""
    found: list[tuple[tuple[str, ...], list[str]]] = []
    rows = data.get("rows")
    sections: list[tuple[tuple[str, ...], Any, type[Section]]] = [((), data, Study)]
    sections += [(("sweep",), data["sweep"], Sweep)] if isinstance(data.get("sweep"), dict) else []
    sections += [(("rows", str(name)), row, Row) for name, row in rows.items()] if isinstance(rows, dict) else []
    for where, section, model in sections:
        if isinstance(section, dict):
            known = list(model.model_fields)
            found += [((*where, str(key)), known) for key in section if key not in known]
            for key in [key for key in section if key not in known]:
                del section[key]
    return found
