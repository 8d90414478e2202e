import os

import numpy as np
import pytest
from PIL import Image

from toolchain.data import fingerprint, load_dataset
from toolchain.errors import DataError
from toolchain.recipe.schema import Folder


def fill(place, counts, start=0):
    value = start
    for name, count in counts.items():
        (place / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", (10, 12), (value, 0, 0)).save(place / name / f"{number}.png")
            value += 1


def load(tmp_path, **fields):
    return load_dataset(Folder(**{"source": "folder", "train": "train", "image_size": 8, **fields}), [tmp_path])


def test_classes_are_the_sub_folders_in_sorted_order(tmp_path):
    fill(tmp_path / "train", {"dog": 10, "cat": 10})
    dataset = load(tmp_path)
    assert dataset.classes == ("cat", "dog")
    source = dataset.train.store.source
    assert source.labels.tolist() == [0] * 10 + [1] * 10
    assert source.read(0)[0, 0].tolist() == [10, 0, 0]  # the first cat was written after the ten dogs
    assert source.read(0).shape == (12, 10, 3) and dataset.train.images([0]).shape == (1, 8, 8, 3)


def test_deeper_files_count_hidden_and_other_files_do_not(tmp_path):
    fill(tmp_path / "train", {"cat/old": 5, "cat": 5, "dog": 10})
    (tmp_path / "train" / "cat" / "notes.txt").write_text("x")
    (tmp_path / "train" / "cat" / ".hidden.png").write_bytes(b"x")
    (tmp_path / "train" / ".cache").mkdir()
    assert len(load(tmp_path).train.store.source) == 20


def test_a_test_folder_has_train_classes_only_and_keeps_their_numbers(tmp_path):
    fill(tmp_path / "train", {"cat": 10, "dog": 10})
    fill(tmp_path / "test", {"dog": 3})
    assert load(tmp_path, test="test").test.labels.tolist() == [1, 1, 1]
    fill(tmp_path / "test", {"dogs": 1})
    with pytest.raises(DataError, match="train has no class 'dogs', did you mean 'dog'"):
        load(tmp_path, test="test")


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="data.train: 'train' is not in"):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="train: has no sub-folders"):
        load(tmp_path)
    fill(tmp_path / "train", {"cat": 3})
    with pytest.raises(DataError, match=r"has 1 class \(cat\)"):
        load(tmp_path)
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(DataError, match="dog: holds no images"):
        load(tmp_path)


def test_a_corrupt_image_is_named_when_it_is_read(tmp_path):
    fill(tmp_path / "train", {"cat": 10, "dog": 10})
    (tmp_path / "train" / "cat" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    with pytest.raises(DataError, match="cat/3.png"):
        load(tmp_path).train.images([0])
    with pytest.raises(DataError, match="cat/3.png"):
        dataset = load(tmp_path, image_size=250, memory_mb=1)  # streamed by threads
        list(dataset.train.image_batches([np.arange(len(dataset.train))]))
        list(dataset.val.image_batches([np.arange(len(dataset.val))]))
        list(dataset.test.image_batches([np.arange(len(dataset.test))]))


def test_the_fingerprint_sees_a_changed_file_and_the_split_hash_does_not_see_the_clock(tmp_path):
    fill(tmp_path / "train", {"cat": 10, "dog": 10})
    cfg = Folder(source="folder", train="train")
    before, split = fingerprint(cfg, [tmp_path]), load(tmp_path).split_sha256
    os.utime(tmp_path / "train" / "cat" / "3.png", (1, 1))
    assert fingerprint(cfg, [tmp_path]) != before
    assert load(tmp_path).split_sha256 == split
