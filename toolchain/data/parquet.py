"""The Hugging Face image layout: struct `image{bytes, path}`, int `label`, class names in the schema metadata.

The encoded bytes of the file stay in memory; decoded images do so only where they fit `memory_mb`.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from toolchain.data.image import decode
from toolchain.data.source import Loaded, Source, check_source, digest, find
from toolchain.errors import DataError
from toolchain.files import sha256_file
from toolchain.recipe.schema import Parquet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as torchvision's weights expect

Triple = tuple[float, float, float]


def load(cfg: Parquet, roots: Sequence[Path]) -> Loaded:
    """Train, and test where the recipe names a file for it. Raises DataError for missing or damaged files."""
    train = read(find(cfg.train, roots, "data.train"))
    if cfg.test is None:
        return Loaded(train, None)
    path = find(cfg.test, roots, "data.test")
    test = read(path)
    if test.classes != train.classes:
        different = next((pair for pair in zip(train.classes, test.classes, strict=False) if pair[0] != pair[1]), None)
        found = f"'{different[1]}' stands where train has '{different[0]}'" if different else "their number differs"
        raise DataError(f"{path}: its {len(test.classes)} class names are not train's {len(train.classes)}: {found}")
    return Loaded(train, test)


def fingerprint(cfg: Parquet, roots: Sequence[Path]) -> str:
    """SHA-256 over the files' bytes. Raises DataError when one is missing."""
    paths = [find(cfg.train, roots, "data.train")] + ([find(cfg.test, roots, "data.test")] if cfg.test else [])
    return digest("parquet", *(sha256_file(path) for path in paths))


def statistics(cfg: Parquet) -> tuple[Triple, Triple]:
    """Default mean and std per channel, on images scaled to [0, 1]."""
    return MEAN, STD


def read(path: Path) -> Source:
    """One parquet file as a source. Raises DataError naming the file and what is wrong with it."""
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            _check_layout(path, schema)
            table = file.read(columns=["image.bytes", "label"])
    except (OSError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{path}: is not a whole parquet file ({_first_line(error)}); copy it again") from None
    if table.column("label").null_count:
        row = int(np.flatnonzero(table.column("label").is_null().to_numpy())[0])
        raise DataError(f"{path}: row {row} has no label; expected an integer in every row")
    labels = table.column("label").to_numpy().astype(np.int64)
    classes = _class_names(path, schema) or tuple(str(n) for n in range(int(labels.max(initial=-1)) + 1))
    source = Source(_reader(path, table.column("image")), labels, classes, sha256_file(path))
    return check_source(source, str(path))


def _reader(path: Path, images: pa.ChunkedArray) -> Callable[[int], NDArray[np.uint8]]:
    chunks = [chunk.field("bytes") for chunk in images.chunks]
    starts = np.cumsum([0, *(len(chunk) for chunk in chunks)]).tolist()

    def read_row(row: int) -> NDArray[np.uint8]:
        number = bisect_right(starts, row) - 1
        content = chunks[number][row - starts[number]].as_py()
        if not content:
            raise DataError(f"{path}: row {row} has no image bytes; expected an encoded PNG or JPEG (a bare path is "
                            "not followed)")
        return decode(content, f"{path}: row {row}")

    return read_row


def _check_layout(path: Path, schema: pa.Schema) -> None:
    expected = "expected the columns image (struct with bytes) and label (an integer)"
    missing = [name for name in ("image", "label") if name not in schema.names]
    if missing:
        raise DataError(f"{path}: has no column {' and '.join(missing)}, only {', '.join(schema.names)}; {expected}")
    image, label = schema.field("image").type, schema.field("label").type
    if not pa.types.is_struct(image) or image.get_field_index("bytes") < 0:
        raise DataError(f"{path}: column image is {image}; {expected}")
    if not pa.types.is_integer(label):
        raise DataError(f"{path}: column label is {label}; {expected}")


def _class_names(path: Path, schema: pa.Schema) -> tuple[str, ...] | None:
    """info.features.label.names of the schema's `huggingface` metadata, or None where it has none."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    try:
        names = json.loads(text)["info"]["features"]["label"].get("names")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: its 'huggingface' metadata has no info.features.label; write it again") from None
    return tuple(str(name) for name in names) if names else None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
