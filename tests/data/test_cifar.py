import hashlib
import pickle
from urllib.error import URLError

import numpy as np
import pytest

from toolchain.data import fingerprint, load_dataset
from toolchain.errors import DataError
from toolchain.recipe.schema import Cifar10, Cifar100

datasets = pytest.importorskip("torchvision.datasets")
CFG = Cifar10(source="cifar10", val_fraction=0.25)


@pytest.fixture
def originals(tmp_path, monkeypatch):
    """torchvision's folder with 20 training and 4 test images whose MD5s torchvision is told to expect."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def put(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    random = np.random.default_rng(0)
    train = {"data": random.integers(0, 256, (20, 3072), dtype=np.uint8), "labels": [0, 1] * 10}
    test = {"data": random.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [1, 0, 1, 0]}
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", put("data_batch_1", train)]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", put("test_batch", test)]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": put("batches.meta", {"label_names": ["cat", "dog"]})}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return train["data"]


def test_torchvisions_files_are_opened_once_and_kept_as_plain_arrays(tmp_path, originals, monkeypatch):
    first = load_dataset(CFG, [tmp_path])
    assert first.classes == ("cat", "dog") and len(first.test) == 4 and len(first.val) == 5
    assert first.train.store.source.read(3)[0, 0].tolist() == originals[3, [0, 1024, 2048]].tolist()
    assert (tmp_path / "cifar10.npz").is_file()
    monkeypatch.setattr(datasets, "CIFAR10", None)  # from now on torchvision is not needed
    second = load_dataset(CFG, [tmp_path])
    assert second.split_sha256 == first.split_sha256
    assert np.array_equal(second.test.images([0, 3]), first.test.images([0, 3]))


def test_a_damaged_original_and_a_damaged_copy_are_named(tmp_path, originals):
    load_dataset(CFG, [tmp_path])
    copy = tmp_path / "cifar10.npz"
    copy.write_bytes(copy.read_bytes()[:1000])
    with pytest.raises(DataError, match="cifar10.npz: is damaged"):
        load_dataset(CFG, [tmp_path])
    copy.unlink()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"x")
    with pytest.raises(DataError, match="cifar-10-batches-py/ is incomplete or damaged"):
        load_dataset(CFG, [tmp_path])


def test_a_missing_set_without_a_network_says_where_to_put_it(tmp_path, monkeypatch):
    def no_network(self):
        raise URLError("no route to host")

    monkeypatch.setattr(datasets.CIFAR100, "download", no_network)
    with pytest.raises(DataError, match=r"cifar100: in .* downloading it failed .*no route.*--data-root"):
        load_dataset(Cifar100(source="cifar100"), [tmp_path])


def test_the_fingerprint_needs_no_file_because_the_set_is_published(tmp_path):
    assert fingerprint(CFG, [tmp_path]) != fingerprint(Cifar100(source="cifar100"), [tmp_path])
