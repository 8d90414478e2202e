import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from toolchain.data import load_dataset
from toolchain.data.calibration_set import npz_bytes, read_calibration_set, write_calibration_set
from toolchain.errors import DataError, DigestMismatch
from toolchain.recipe.schema import Digits


@pytest.fixture(scope="module")
def digits():
    return load_dataset(Digits(source="digits"), [])


@pytest.fixture
def written(digits, tmp_path):
    images = digits.train.images([0, 1, 2, 3])
    write_calibration_set(tmp_path / "set", images, digits.train.labels[:4], digits)
    return tmp_path / "set", images


def change(folder, **fields):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_what_is_written_is_read_back(written, digits):
    folder, images = written
    found, manifest = read_calibration_set(folder, digits.preprocess)
    assert np.array_equal(found, images)
    assert manifest["images"] == 4 and manifest["source"] == "digits train"
    assert sum(manifest["class_balance"].values()) == 4
    assert manifest["image_sha256"][2] == hashlib.sha256(images[2].tobytes()).hexdigest()
    assert sorted(path.name for path in folder.iterdir()) == ["images.npz", "manifest.json"]


def test_the_same_images_give_the_same_bytes(written, digits, tmp_path):
    folder, images = written
    write_calibration_set(tmp_path / "again", images, digits.train.labels[:4], digits)
    for name in ("images.npz", "manifest.json"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_numpy_reads_the_archive_without_pickle(tmp_path):
    (tmp_path / "a.npz").write_bytes(npz_bytes({"images": np.arange(6, dtype=np.uint8).reshape(2, 3)}))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["images"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_an_altered_file_is_a_digest_mismatch(written):
    folder, _ = written
    content = bytearray((folder / "images.npz").read_bytes())
    content[-1] ^= 1
    (folder / "images.npz").write_bytes(bytes(content))
    with pytest.raises(DigestMismatch, match="images.npz: SHA-256 is"):
        read_calibration_set(folder)


def test_an_altered_image_is_noticed_even_with_a_matching_file_digest(written):
    folder, _ = written
    change(folder, image_sha256=["0" * 64] * 4)
    with pytest.raises(DigestMismatch, match="image 0 is not the one in the manifest"):
        read_calibration_set(folder)


def test_a_set_of_another_geometry_is_refused(written):
    folder, _ = written
    other = load_dataset(Digits(source="digits", image_size=16), []).preprocess
    with pytest.raises(DataError, match="image_size 32.* but the recipe has image_size 16"):
        read_calibration_set(folder, other)


def test_missing_and_malformed_manifests_are_named(written, tmp_path):
    folder, _ = written
    with pytest.raises(DataError, match="absent/manifest.json: is missing"):
        read_calibration_set(tmp_path / "absent")
    change(folder, format_version=9)
    with pytest.raises(DataError, match="format_version is 9, expected 1"):
        read_calibration_set(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_calibration_set(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="missing or malformed: format_version, source, preprocess"):
        read_calibration_set(folder)


def test_a_missing_array_file_and_a_path_outside_the_set_are_refused(written):
    folder, _ = written
    change(folder, file="../images.npz")
    with pytest.raises(DataError, match="lies outside the set"):
        read_calibration_set(folder)
    change(folder, file="gone.npz")
    with pytest.raises(DataError, match="gone.npz: is missing"):
        read_calibration_set(folder)


def make_files(folder):
    entries = []
    for value in (10, 200):
        path = folder / f"{value}.png"
        Image.new("RGB", (40, 20), (value, value, value)).save(path)
        entries.append({"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "label": 0})
    (folder / "manifest.json").write_text(json.dumps({
        "format_version": 1, "source": "my camera", "files": entries,
        "preprocess": {"image_size": 8, "resize": 10, "interpolation": "bilinear"}}))


def test_a_folder_of_images_gets_the_geometry_of_its_manifest(tmp_path):
    make_files(tmp_path)
    images, manifest = read_calibration_set(tmp_path)
    assert images.shape == (2, 8, 8, 3) and images.dtype == np.uint8
    assert (images[0] == 10).all() and (images[1] == 200).all()
    assert manifest["source"] == "my camera"


def test_an_altered_image_file_is_named(tmp_path):
    make_files(tmp_path)
    Image.new("RGB", (40, 20)).save(tmp_path / "200.png")
    with pytest.raises(DigestMismatch, match="200.png"):
        read_calibration_set(tmp_path)
