"""scikit-learn's 1,797 real handwritten digits (UCI Optical Recognition of Handwritten Digits); no download.

8x8 pixels with 17 grey levels become 8 bits, three equal channels, and `image_size` pixels by the preprocessing.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from toolchain.data.source import Loaded, Source, check_source, digest
from toolchain.recipe.schema import Digits

LEVELS = 16  # the darkest of the 17 grey levels

# Measured over all images at 32x32 pixels; the three channels are equal.
MEAN, STD = (0.3055, 0.3055, 0.3055), (0.3235, 0.3235, 0.3235)

Triple = tuple[float, float, float]


def load(cfg: Digits, roots: Sequence[Path]) -> Loaded:
    """All digits as one source; test is held out of it by `test_fraction`."""
    from sklearn.datasets import load_digits  # a second of imports that a cached build never needs

    found = load_digits()
    grey = np.rint(found.images * (255 / LEVELS)).astype(np.uint8)
    labels = found.target.astype(np.int64)
    classes = tuple(str(name) for name in found.target_names)
    identity = digest("digits", grey.tobytes(), labels.astype("<i8").tobytes())
    source = Source(lambda index: np.repeat(grey[index][:, :, None], 3, axis=2), labels, classes, identity)
    return Loaded(check_source(source, "digits"), None)


def fingerprint(cfg: Digits, roots: Sequence[Path]) -> str:
    """The digits come with scikit-learn, so its version identifies them."""
    return digest("digits", version("scikit-learn"))


def statistics(cfg: Digits) -> tuple[Triple, Triple]:
    """Default mean and std per channel, on images scaled to [0, 1]."""
    return MEAN, STD
