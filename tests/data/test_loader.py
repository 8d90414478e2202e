import numpy as np
import pytest
import torch

from toolchain.data import load_dataset
from toolchain.data.augment import draw_epoch
from toolchain.data.dataset import split_dataset
from toolchain.data.jitter import jittered
from toolchain.data.loader import eval_batches, rank_positions, train_batches
from toolchain.data.preprocess import Preprocess
from toolchain.data.source import Loaded, Source
from toolchain.errors import DataError
from toolchain.recipe.data import Augment, Digits, Jitter

PLAIN = Augment(crop_padding=0, flip=False)


@pytest.fixture(scope="module")
def digits():
    return load_dataset(Digits(source="digits"), [])


def test_an_epoch_shows_every_image_once(digits):
    batches = train_batches(digits.train, digits.preprocess, PLAIN, 64, seed=0, epoch=0)
    seen = [batch.indices for batch in batches]
    assert len(batches) == len(seen) == 21  # 20 * 64 = 1280, and 14 more
    assert sorted(torch.cat(seen).tolist()) == list(range(1294))


def test_images_are_normalised_and_belong_to_their_labels(digits):
    batch = next(iter(train_batches(digits.train, digits.preprocess, PLAIN, 8, seed=0, epoch=0)))
    indices = batch.indices.numpy()
    assert batch.images.dtype == torch.float32 and batch.labels.dtype == torch.int64
    assert np.array_equal(batch.images.numpy(), digits.preprocess.normalize(digits.train.images(indices)))
    assert np.array_equal(batch.labels.numpy(), digits.train.labels[indices])


def test_the_same_seed_and_epoch_give_the_same_bits_and_another_epoch_does_not(digits):
    def epoch(number):
        augment = Augment(crop_padding=2, flip=True)
        return torch.cat([b.images for b in train_batches(digits.val, digits.preprocess, augment, 32, 7, number)])

    assert torch.equal(epoch(3), epoch(3))
    assert not torch.equal(epoch(3), epoch(4))


@pytest.mark.parametrize("jitter", [None, Jitter()])
def test_two_processes_see_together_what_one_sees_alone(digits, jitter):
    def indices(rank, world_size, batch_size):
        augment = Augment(crop_padding=2, flip=True, jitter=jitter)
        return list(train_batches(digits.train, digits.preprocess, augment, batch_size, 0, 0, rank, world_size))

    alone, first, second = indices(0, 1, 64), indices(0, 2, 32), indices(1, 2, 32)
    assert len(first) == len(second) == len(alone)
    for whole, left, right in zip(alone, first, second, strict=True):
        assert torch.equal(whole.indices, torch.cat([left.indices, right.indices]))
        assert torch.equal(whole.images, torch.cat([left.images, right.images]))


def test_training_images_are_jittered_by_the_draws_of_their_position_and_test_images_never(digits):
    augment = PLAIN.model_copy(update={"jitter": Jitter()})
    batch = list(train_batches(digits.train, digits.preprocess, augment, 64, seed=3, epoch=1))[1]
    draws, indices = draw_epoch(len(digits.train), augment, 3, 1), batch.indices.numpy()
    assert np.array_equal(indices, draws.order[64:128])
    expected = jittered(digits.train.images(indices), draws.jitter[64:128])
    assert np.array_equal(batch.images.numpy(), digits.preprocess.normalize(expected))
    clean = next(eval_batches(digits.test, digits.preprocess, 8))
    assert np.array_equal(clean.images.numpy(), digits.preprocess.normalize(digits.test.images(range(8))))


def test_what_is_left_over_is_shared_evenly():
    assert [p.tolist() for p in rank_positions(11, 3, 0, 2)] == [[0, 1, 2], [6, 7]]
    assert [p.tolist() for p in rank_positions(11, 3, 1, 2)] == [[3, 4, 5], [8, 9]]  # position 10 sits out
    assert [p.tolist() for p in rank_positions(7, 3, 0, 1)] == [[0, 1, 2], [3, 4, 5]]  # one image alone breaks BatchNorm
    assert [p.tolist() for p in rank_positions(3, 1, 0, 1)] == [[0], [1], [2]]


def test_too_few_images_for_all_processes_are_refused(digits):
    with pytest.raises(DataError, match=r"val: has 144 images, too few for 100 process\(es\)"):
        train_batches(digits.val, digits.preprocess, PLAIN, 64, 0, 0, rank=0, world_size=100)


def test_evaluation_keeps_the_order(digits):
    batches = list(eval_batches(digits.test, digits.preprocess, 100))
    assert [len(b.labels) for b in batches] == [100, 100, 100, 59]
    assert torch.cat([b.indices for b in batches]).tolist() == list(range(359))
    assert np.array_equal(torch.cat([b.labels for b in batches]).numpy(), digits.test.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_training_images_are_those_of_memory(workers):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 200, 200, 3), dtype=np.uint8)
    source = Source(pixels.__getitem__, np.arange(40) % 2, ("a", "b"), "identity")
    preprocess = Preprocess(200, None, (0, 0, 0), (1, 1, 1))
    epochs = []
    for memory_mb in (1024, 1):
        cfg = Digits(source="digits", image_size=200, memory_mb=memory_mb, workers=workers)
        train = split_dataset("x", Loaded(source, None), preprocess, cfg).train
        assert train.in_memory == (memory_mb == 1024)
        epochs.append([b.images for b in train_batches(train, preprocess, Augment(), 8, 0, 0)])
    assert all(torch.equal(a, b) for a, b in zip(*epochs, strict=True))
