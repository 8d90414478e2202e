import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.data.split import split_digest, stratified


def test_each_class_gives_its_share():
    labels = np.array([0] * 20 + [1] * 40)
    kept, held = stratified(labels, 0.25, seed=0)
    assert np.bincount(labels[held]).tolist() == [5, 10]
    assert np.bincount(labels[kept]).tolist() == [15, 30]


def test_when_every_class_has_one_image_the_fraction_of_the_classes_is_held_out():
    kept, held = stratified(np.arange(10), 0.2, seed=3)
    assert len(held) == 2 and len(kept) == 8


def test_the_largest_remainders_give_the_images_that_whole_parts_leave_over():
    labels = np.array([0] * 15 + [1] * 11 + [2] * 14)  # shares at 0.1: 1.5, 1.1, 1.4; 4 in all
    _, held = stratified(labels, 0.1, seed=0)
    assert np.bincount(labels[held]).tolist() == [2, 1, 1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.floats(0.01, 0.9), st.integers(0, 2**31 - 1))
def test_kept_and_held_are_all_indices_once_and_ascending(labels, fraction, seed):
    kept, held = stratified(np.array(labels), fraction, seed)
    assert len(held) == round(fraction * len(labels))
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert list(kept) == sorted(kept) and list(held) == sorted(held)


def test_the_split_follows_the_seed_and_is_the_same_for_ever():
    labels = np.repeat(np.arange(3), 6)
    assert stratified(labels, 1 / 3, seed=0)[1].tolist() == stratified(labels, 1 / 3, seed=0)[1].tolist()
    assert stratified(labels, 1 / 3, seed=0)[1].tolist() != stratified(labels, 1 / 3, seed=1)[1].tolist()


def test_the_digest_sees_indices_labels_and_content():
    indices, labels = np.array([1, 2]), np.array([0, 1])
    digests = {
        split_digest({"train": ("a", indices, labels)}),
        split_digest({"train": ("b", indices, labels)}),
        split_digest({"train": ("a", indices[::-1], labels)}),
        split_digest({"train": ("a", indices, labels[::-1])}),
        split_digest({"val": ("a", indices, labels)}),
    }
    assert len(digests) == 5
