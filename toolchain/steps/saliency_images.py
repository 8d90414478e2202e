"""The images by whose loss channels are judged, where a saliency reads gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolchain.steps.job import Job

if TYPE_CHECKING:
    from toolchain.prune.saliency import Batches

GRADED_IMAGES, GRADED_BATCH = 512, 64  # of train, by whose loss saliency taylor judges


def saliency_batches(job: Job, saliency: str) -> Batches:
    """Images of train, the same for every run of one seed and without augmentation, where `saliency` needs them."""
    if saliency != "taylor":
        return ()
    import numpy as np
    import torch

    data = job.dataset()
    chosen = np.sort(np.random.default_rng(job.recipe.seed).permutation(len(data.train))[:GRADED_IMAGES])
    return [(torch.from_numpy(data.preprocess.normalize(data.train.images(some))),
             torch.from_numpy(np.asarray(data.train.labels)[some]))
            for some in np.array_split(chosen, -(-len(chosen) // GRADED_BATCH))]
