import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from toolchain.data import batches, fingerprint, load_dataset
from toolchain.errors import DataError
from toolchain.recipe.schema import Parquet

NAMES = ["cat", "dog"]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, labels, contents=None, names=NAMES, **columns):
    contents = [png(10 * i) for i in range(len(labels))] if contents is None else contents
    image = pa.StructArray.from_arrays([pa.array(contents, pa.binary()), pa.array([None] * len(labels), pa.string())],
                                       names=["bytes", "path"])
    table = pa.table(columns or {"image": image, "label": pa.array(labels, pa.int64())})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=3)
    return path


def load(tmp_path, **fields):
    return load_dataset(Parquet(**{"source": "parquet", "train": "train.parquet", "image_size": 8, "test_fraction": 0.4,
                                   "val_fraction": 0.3, **fields}), [tmp_path])


def test_images_labels_and_class_names_are_read_across_row_groups(tmp_path):
    write(tmp_path / "train.parquet", [0, 1] * 5)
    dataset = load(tmp_path)
    source = dataset.train.store.source
    assert dataset.classes == ("cat", "dog")
    assert [source.read(i)[0, 0, 0] for i in range(10)] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (4, 2, 4)
    for part in (dataset.train, dataset.val, dataset.test):
        assert part.images(range(len(part)))[:, 0, 0, 0].tolist() == (10 * part.rows).tolist()


def test_a_test_file_of_its_own_is_used_whole_and_in_order(tmp_path):
    write(tmp_path / "train.parquet", [0, 1] * 5)
    write(tmp_path / "test.parquet", [1, 1, 0])
    dataset = load(tmp_path, test="test.parquet")
    assert dataset.test.labels.tolist() == [1, 1, 0]
    assert (len(dataset.train), len(dataset.val)) == (7, 3)
    seen = list(batches(dataset.test, dataset.preprocess, 2))
    assert [len(labels) for _, labels in seen] == [2, 1]
    assert seen[1][0][0, 0, 0, 0] == pytest.approx((20 / 255 - 0.485) / 0.229)


def test_a_set_too_large_for_memory_gives_the_same_images(tmp_path):
    write(tmp_path / "train.parquet", [0, 1] * 5)
    held, streamed = load(tmp_path, image_size=300), load(tmp_path, image_size=300, memory_mb=1)
    assert held.train.in_memory and not streamed.train.in_memory
    assert np.array_equal(held.train.images([0, 2, 1]), streamed.train.images([0, 2, 1]))
    assert held.split_sha256 == streamed.split_sha256


def test_the_fingerprint_follows_the_bytes(tmp_path):
    cfg = Parquet(source="parquet", train="train.parquet")
    write(tmp_path / "train.parquet", [0, 1])
    first = fingerprint(cfg, [tmp_path])
    assert fingerprint(cfg, [tmp_path]) == first and len(first) == 64
    write(tmp_path / "train.parquet", [1, 0])
    assert fingerprint(cfg, [tmp_path]) != first


def test_without_names_the_labels_name_the_classes(tmp_path):
    write(tmp_path / "train.parquet", [0, 2, 1] * 5, names=None)
    assert load(tmp_path).classes == ("0", "1", "2")


def test_a_missing_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=rf"data.train: 'train.parquet' is not in {tmp_path}.*--data-root"):
        load(tmp_path)
    with pytest.raises(DataError, match="data.train"):
        fingerprint(Parquet(source="parquet", train="train.parquet"), [tmp_path])


def test_a_truncated_file_is_named(tmp_path):
    path = write(tmp_path / "train.parquet", [0, 1] * 5)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="train.parquet: is not a whole parquet file"):
        load(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="train.parquet: is not a whole parquet file"):
        load(tmp_path)


def test_a_damaged_row_is_named_with_its_number(tmp_path):
    contents = [png(0)] * 10
    contents[4] = contents[4][:30]
    write(tmp_path / "train.parquet", [0, 1] * 5, contents)
    with pytest.raises(DataError, match="train.parquet: row 4"):
        load(tmp_path).train.images([0])
    contents[4] = None
    write(tmp_path / "train.parquet", [0, 1] * 5, contents)
    with pytest.raises(DataError, match="train.parquet: row 4 has no image bytes"):
        load(tmp_path).train.images([0])


def test_labels_that_have_no_name_and_labels_that_are_missing_are_refused(tmp_path):
    write(tmp_path / "train.parquet", [0, 1, 2])
    with pytest.raises(DataError, match=r"row 2 has label 2, but there are 2 class names \(labels 0 to 1\)"):
        load(tmp_path)
    write(tmp_path / "train.parquet", [0, None, 1])
    with pytest.raises(DataError, match="row 1 has no label"):
        load(tmp_path)


def test_one_class_and_no_rows_are_refused(tmp_path):
    write(tmp_path / "train.parquet", [0, 0, 0], names=["cat"])
    with pytest.raises(DataError, match=r"has 1 class \(cat\); a classifier needs at least 2"):
        load(tmp_path)
    write(tmp_path / "train.parquet", [])
    with pytest.raises(DataError, match="holds no images"):
        load(tmp_path)


def test_another_layout_is_told_what_is_expected(tmp_path):
    write(tmp_path / "train.parquet", [], pixels=[1, 2])
    with pytest.raises(DataError, match="has no column image and label, only pixels"):
        load(tmp_path)
    write(tmp_path / "train.parquet", [], image=["a", "b"], label=[0, 1])
    with pytest.raises(DataError, match="column image is string"):
        load(tmp_path)


def test_test_may_not_have_other_classes_than_train(tmp_path):
    write(tmp_path / "train.parquet", [0, 1] * 5)
    write(tmp_path / "test.parquet", [0, 1], names=["cat", "wolf"])
    with pytest.raises(DataError, match="'wolf' stands where train has 'dog'"):
        load(tmp_path, test="test.parquet")


def test_too_few_images_for_three_parts_are_refused(tmp_path):
    write(tmp_path / "train.parquet", [0, 1])
    with pytest.raises(DataError, match="2 images leave val empty"):
        load(tmp_path)
