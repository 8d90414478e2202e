"""Whether a network can be pruned as the recipe says, tried on an untrained twin: a mistake then costs no training."""

from __future__ import annotations

import copy

from toolchain.recipe.prune import Channels, Greedy, Latency, Magnitude, Sparse24
from toolchain.steps.job import Job
from toolchain.steps.teaching import fresh_student


def check_pruning(job: Job) -> None:
    """Refuse what no weights can mend: channels that cannot be followed, shares out of reach, another network's scan.

    What depends on trained weights (layers that global pruning empties, which layers are faster as factors) shows only
    afterwards. Raises TrainError, RecipeError.
    """
    from toolchain.prune import prune
    from toolchain.prune.channels import prune_channels
    from toolchain.prune.greedy import check_greedy
    from toolchain.prune.groups import trace
    from toolchain.prune.saliency import saliencies
    from toolchain.steps.scanning import check_scan_file

    cfg, size = job.recipe.prune, job.recipe.data.image_size
    if cfg is None:
        return
    network = fresh_student(job, 0)
    if isinstance(cfg, (Channels, Greedy, Latency)):
        saliencies(trace(copy.deepcopy(network), size), "random" if cfg.saliency == "taylor" else cfg.saliency)
    if isinstance(cfg, Channels):
        prune_channels(network, cfg.model_copy(update={"saliency": "random"}), size)
    elif isinstance(cfg, Greedy):
        check_scan_file(job, cfg.scan, "channels", network)
        check_greedy(network, cfg, size)
    elif isinstance(cfg, Magnitude) and cfg.scope == "sensitivity":
        check_scan_file(job, cfg.scan, "weights", network)
    elif isinstance(cfg, Sparse24):
        prune(network, cfg, size)
