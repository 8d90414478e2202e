"""What the training stages left behind, as the report takes it."""

from __future__ import annotations

import json
from pathlib import Path

from toolchain.steps.result import _epoch, _of_training


def test_a_teacher_that_came_as_a_file_has_no_training_run(tmp_path: Path):
    folders = {name: tmp_path / name for name in ("data", "teacher", "train")}
    for folder in folders.values():
        folder.mkdir()
    (folders["train"] / "history.json").write_text(json.dumps([1]))
    (folders["data"] / "history.json").write_text(json.dumps([2]))
    assert _of_training(folders, "history.json") == {"train": [1]}
    assert _of_training(folders, "taught.json") == {}


def test_an_epoch_keeps_the_parts_of_its_loss_and_an_old_one_has_none():
    told = {"epoch": 3, "train_loss": 0.5, "val_top1": 90.0, "seconds": 1.5, "lr": 0.1}
    expected = {"epoch": 3, "loss": 0.5, "val_top1_percent": 90.0, "seconds": 1.5}
    assert _epoch(told | {"parts": {"label": 0.4}}) == expected | {"parts": {"label": 0.4}}
    assert _epoch(told) == expected | {"parts": {}}
