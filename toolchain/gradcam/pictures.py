"""From networks and a split to the picture sheet: a few images, and where each network looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from toolchain.data.dataset import Split
from toolchain.data.preprocess import Preprocess
from toolchain.gradcam.maps import grad_cam
from toolchain.gradcam.sheet import choose, write_sheet
from toolchain.gradcam.similarity import answers, cosine, is_zero, same_grid


def draw_networks(
    path: Path, networks: Mapping[str, tuple[nn.Module, str]], split: Split, preprocess: Preprocess,
    class_names: Sequence[str], count: int, classes: Literal["labels", "teacher"] = "labels",
) -> None:
    """Write a PNG of at most `count` images of `split`, one per class, each beside the networks' maps.

    networks: header -> (model, layer), the teacher first; the others' captions say how alike their map is to the
    teacher's. classes: what the maps are asked about, as in `compare_maps`. Raises TrainError as `grad_cam`.
    """
    rows = choose(split.labels, count)
    pixels, labels = split.images(rows), torch.from_numpy(split.labels[rows])
    images = torch.from_numpy(preprocess.normalize(pixels))
    asked = labels if classes == "labels" else answers(next(iter(networks.values()))[0], images).cpu()
    maps = {header: grad_cam(model, images, asked, layer).cpu() for header, (model, layer) in networks.items()}
    of_teacher = next(iter(maps.values()))
    captions = {}
    for index, (header, ours) in enumerate(maps.items()):
        alike = [f"cosine {value:.2f}" if index else "" for value in cosine(*same_grid(ours, of_teacher)).tolist()]
        captions[header] = ["nothing speaks for it" if zero else text
                            for zero, text in zip(is_zero(ours).tolist(), alike, strict=True)]
    names = [class_names[label] if label == seen else f"{class_names[label]}, seen as {class_names[seen]}"
             for label, seen in zip(labels.tolist(), asked.tolist(), strict=True)]
    write_sheet(path, pixels, names, {header: one.float().numpy() for header, one in maps.items()}, captions)
