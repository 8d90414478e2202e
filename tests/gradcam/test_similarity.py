import math

import numpy as np
import pytest
import torch
from torch import nn
from train_data import small_net, squares

from toolchain.data.loader import eval_batches
from toolchain.errors import DataError
from toolchain.gradcam.similarity import (
    Similarity,
    answers,
    centred_cosine,
    compare_maps,
    cosine,
    is_zero,
    random_twin,
    same_grid,
    summary,
)


def maps(*rows):
    """Maps (N, 1, w) of the given values."""
    return torch.tensor(rows, dtype=torch.float32)[:, None]


def shallow():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3))


def compared(batch_size=7, student=None, **options):
    data = squares()
    torch.manual_seed(0)
    teacher = small_net()
    return compare_maps(student or teacher, teacher, eval_batches(data.test, data.preprocess, batch_size),
                        student_layer="2" if student is None else "1", teacher_layer="2",
                        control=random_twin(student or teacher, 0), **options)


def test_cosines_worked_by_hand():
    a, b = maps([3, 4, 0], [1, 0, 0], [1, 1, 1]), maps([3, 0, 4], [0, 2, 0], [2, 2, 2])
    assert cosine(a, b).tolist() == pytest.approx([9 / 25, 0, 1])


def test_the_centred_cosine_is_pearsons_correlation():
    """(0, 1, 2) against (0, 1, 5): deviations (-1, 0, 1) and (-2, -1, 3), so 5 / sqrt(2 * 14)."""
    a, b = maps([0, 1, 2], [0, 1, 2], [7, 7, 7]), maps([0, 1, 5], [2, 1, 0], [0, 1, 2])
    assert centred_cosine(a, b).tolist() == pytest.approx([5 / math.sqrt(28), -1, 0])  # a constant map: 0


def test_two_maps_that_are_never_negative_look_alike_until_they_are_centred():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(500, 4, 4, generator=generator) for _ in range(2))
    assert cosine(a, b).mean() == pytest.approx(0.75, abs=0.02)  # E[x]² / E[x²] = (1/4) / (1/3)
    assert centred_cosine(a, b).mean() == pytest.approx(0, abs=0.05)


def test_zero_maps_have_cosine_zero_and_are_seen():
    a, b = maps([0, 0, 0], [0, 0, 1]), maps([1, 2, 3], [0, 0, 1])
    assert cosine(a, b).tolist() == [0, 1] and centred_cosine(a, b).tolist() == pytest.approx([0, 1])
    assert is_zero(a).tolist() == [True, False] and cosine(a, a).tolist() == [0, 1]


def test_the_size_of_a_raw_map_does_not_matter():
    a, b = maps([3, 4, 0]), maps([3, 0, 4])
    assert cosine(a * 1e-30, b * 1e30).tolist() == pytest.approx([9 / 25], rel=1e-5)
    rough = maps([0.1, 0.1 + 1e-8, 0.1])  # float32's rounding is no pattern
    assert centred_cosine(rough, maps([0, 1, 0])).tolist() == [0]


def test_maps_of_two_sizes_are_compared_on_the_smaller_grid():
    large = torch.arange(16.0).reshape(1, 4, 4)
    small = torch.ones(1, 2, 2)
    ours, theirs = same_grid(large, small)
    assert ours[0].tolist() == [[2.5, 4.5], [10.5, 12.5]] and torch.equal(theirs, small)


def test_a_network_looks_exactly_where_it_looks_itself():
    found = compared()
    seen = ~found.teacher_zero
    assert found.cosine[seen] == pytest.approx(1) and (found.cosine[~seen] == 0).all()
    assert found.grid == (8, 8) and len(found.cosine) == 48
    assert (found.student_zero == found.teacher_zero).all()
    assert found.random_cosine.mean() < found.cosine.mean()


def test_the_batch_size_and_the_order_of_the_batches_change_nothing():
    told = []
    one, many = compared(batch_size=48), compared(batch_size=5, advance=told.append)
    for name in Similarity._fields[:-1]:
        assert getattr(one, name) == pytest.approx(getattr(many, name), abs=1e-5), name
    assert sum(told) == 48


def test_a_student_with_smaller_maps_is_compared_on_its_own_grid():
    found = compared(student=shallow())
    assert found.grid == (4, 4) and np.isfinite(found.cosine).all() and found.cosine.max() < 1


def test_all_networks_are_asked_about_the_teachers_answer_when_told_so():
    data = squares()
    torch.manual_seed(0)
    teacher = small_net()
    batch = next(eval_batches(data.test, data.preprocess, 48))
    given = answers(teacher, batch.images)
    assert teacher.training and not torch.equal(given, batch.labels)
    expected = compare_maps(teacher, teacher, [batch._replace(labels=given)], student_layer="2", teacher_layer="2",
                            control=random_twin(teacher, 0))
    assert (compared(classes="teacher").teacher_zero == expected.teacher_zero).all()


def test_no_images_are_refused():
    with pytest.raises(DataError, match="found no test images"):
        compare_maps(small_net(), small_net(), [], student_layer="2", teacher_layer="2", control=small_net())


def test_the_random_network_depends_on_its_seed_alone():
    model = small_net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(11)
    state = torch.random.get_rng_state()
    one, same, other = (random_twin(model, seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"]) and not torch.equal(one["0.weight"], before["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert one["0.weight"].std().item() == pytest.approx(math.sqrt(2 / 27), rel=0.2)  # He: sqrt(2 / fan-in)
    assert one["1.running_mean"].tolist() == [0] * 8 and one["6.bias"].tolist() == [0] * 3


def test_the_summary_has_the_keys_of_fidelity_json():
    half = np.array([True, False])
    found = Similarity(np.array([0.0, 1.0]), np.array([0.0, 0.5]), np.array([0.2, 0.4]), np.array([-0.1, 0.1]),
                       half, ~half & False, half | True, (4, 4))
    assert summary(found, "features.14", "layer4", lambda values: {"value": float(values.mean())}) == {
        "student_layer": "features.14", "teacher_layer": "layer4", "grid": [4, 4], "cosine": {"value": 0.5},
        "centred_cosine": {"value": 0.25}, "random_cosine": pytest.approx(0.3), "random_centred_cosine": 0.0,
        "student_zero_percent": 50.0, "teacher_zero_percent": 0.0, "random_zero_percent": 100.0}
