import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from toolchain.distill.class_draws import ClassDraws
from toolchain.errors import TrainError


@given(labels=st.lists(st.integers(0, 5), min_size=2, max_size=40).filter(lambda labels: len(set(labels)) > 1))
@hypothesis_settings(max_examples=60, deadline=None)
def test_others_never_share_the_class_and_same_always_does(labels):
    labels = np.array(labels)
    draws = ClassDraws(labels, classes=6)
    wanted = torch.from_numpy(labels)
    others = draws.others(wanted, 200).numpy()
    assert others.shape == (len(labels), 200)
    assert (labels[others] != labels[:, None]).all()
    assert (labels[draws.same(wanted).numpy()] == labels).all()


def test_every_image_of_the_other_classes_is_drawn_equally_often():
    labels = np.array([2, 0, 1, 0, 2, 2, 1])
    torch.manual_seed(0)
    others = ClassDraws(labels, classes=3).others(torch.tensor([1]), 50_000)
    counts = np.bincount(others.numpy().ravel(), minlength=7)
    expected = np.where(labels == 1, 0, 10_000)  # five images of other classes
    assert np.abs(counts - expected).max() < 5 * np.sqrt(50_000 * 0.2 * 0.8)


def test_every_image_of_the_class_is_drawn_equally_often():
    torch.manual_seed(0)
    drawn = ClassDraws(np.array([2, 0, 2, 1, 2]), classes=3).same(torch.full((30_000,), 2))
    counts = np.bincount(drawn.numpy(), minlength=5)
    assert np.abs(counts - np.array([10_000, 0, 10_000, 0, 10_000])).max() < 5 * np.sqrt(30_000 * 2 / 9)


def test_the_same_seed_gives_the_same_draws():
    draws = ClassDraws(np.arange(20) % 4, classes=4)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(draws.others(torch.arange(4), 9))
    assert torch.equal(*found)


def test_a_class_without_images_is_skipped():
    others = ClassDraws(np.array([0, 3, 3]), classes=5).others(torch.tensor([3, 0]), 50)
    assert others[0].unique().tolist() == [0] and others[1].unique().tolist() == [1, 2]


def test_data_of_one_class_have_no_negatives():
    with pytest.raises(TrainError, match="the 4 training images are all of one class"):
        ClassDraws(np.full(4, 2), classes=3)
