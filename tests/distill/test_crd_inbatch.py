import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from train_data import small_net, squares

from toolchain.distill.crd_inbatch import crd_inbatch, infonce_inbatch
from toolchain.distill.objective import Setting
from toolchain.errors import TrainError
from toolchain.recipe.distill import CrdInbatch
from toolchain.recipe.schema import Sgd, Train
from toolchain.train import fit


def section(**values) -> CrdInbatch:
    return CrdInbatch(**{"method": "crd_inbatch", "teacher": {"model": {"arch": "vgg11"}}, "dim": 8, **values})


def setting(train: Train | None = None) -> Setting:
    torch.manual_seed(1)
    return Setting(small_net(), small_net(), squares(), train or Train(), lambda seed: small_net())


def by_loops(student, teacher, labels, tau):
    """The mean over both directions and images of -log(own / sum over the images that take part)."""
    total = 0.0
    for anchors, others in ((student, teacher), (teacher, student)):
        for i, anchor in enumerate(anchors):
            u = [np.exp(anchor @ other / tau) for other in others]
            part = [j for j in range(len(u)) if j == i or labels is None or labels[j] != labels[i]]
            total = total - np.log(u[i] / sum(u[j] for j in part))
    return total / (2 * len(student))


def rows(count: int, dim: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


@pytest.mark.parametrize("labels", [None, [0, 1, 0, 2, 0, 1]], ids=["every_image", "supervised"])
def test_infonce_and_its_gradients_equal_loops_over_the_formula(labels):
    student, teacher = rows(6, 4, 0).requires_grad_(), rows(6, 4, 1).requires_grad_()
    loss = infonce_inbatch(student, teacher, None if labels is None else torch.tensor(labels), tau=0.2)
    plain = student.detach().numpy(), teacher.detach().numpy()
    assert loss.item() == pytest.approx(by_loops(*plain, labels, 0.2), rel=1e-12)
    loss.backward()
    for side, tensor in enumerate((student, teacher)):
        expected = np.empty_like(plain[side])
        for at in np.ndindex(expected.shape):
            moved = [values.astype(complex) for values in plain]
            moved[side][at] += 1e-30j  # a complex step: exact derivatives
            expected[at] = by_loops(*moved, labels, 0.2).imag / 1e-30
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-8, atol=1e-12)


def test_images_that_look_alike_cost_the_log_of_the_batch():
    same = torch.ones(8, 4, dtype=torch.float64) / 2
    assert infonce_inbatch(same, same, None, 0.07).item() == pytest.approx(math.log(8), rel=1e-12)
    pairs = torch.arange(8) // 2  # each image has one of its class, which takes no part
    assert infonce_inbatch(same, same, pairs, 0.07).item() == pytest.approx(math.log(7), rel=1e-12)


def test_random_embeddings_start_near_the_log_of_the_batch():
    found = infonce_inbatch(rows(256, 128, 0), rows(256, 128, 1), None, tau=0.07).item()
    spread = 1 / (0.07 * math.sqrt(128))  # of the logits: their log-mean-exp is spread^2 / 2
    assert found == pytest.approx(math.log(256) + spread**2 / 2, abs=0.2)


def test_a_batch_of_one_class_has_no_negatives_and_no_gradient():
    student = rows(4, 3, 0).requires_grad_()
    loss = infonce_inbatch(student, rows(4, 3, 1), torch.zeros(4, dtype=torch.int64), 0.07)
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()


def test_training_lowers_the_loss_and_moves_both_linears(tmp_path):
    train = Train(epochs=4, batch_size=16, optimizer=Sgd(method="sgd", lr=0.02))
    given = setting(train)
    loss = crd_inbatch(section(), given)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    history = fit(given.student, given.dataset, train, folder=tmp_path, seed=0, loss=loss)
    assert history[-1]["parts"]["method"] < history[0]["parts"]["method"]
    assert all(not torch.equal(before[name], value) for name, value in loss.state_dict().items())


def test_the_section_chooses_whether_images_of_a_class_are_negatives():
    given = setting()
    batch = type("B", (), {"labels": torch.tensor([0, 1, 0, 2])})
    features = type("O", (), {"features": {"penultimate": torch.randn(4, 32)}})
    for supervised, labels in ((True, batch.labels), (False, None)):
        term = crd_inbatch(section(supervised=supervised), given).term
        expected = by_loops(*(e.detach().double().numpy() for e in term.embeddings(features, features)),
                            None if labels is None else labels.tolist(), 0.07)
        assert term(features, features, batch).item() == pytest.approx(expected, rel=1e-4)


def test_a_layer_that_does_not_exist_is_refused_with_its_field():
    with pytest.raises(TrainError, match="distill.teacher_layer: 'nowhere' is not a layer"):
        crd_inbatch(section(teacher_layer="nowhere"), setting())


def test_a_layer_that_gives_neither_features_nor_maps_is_refused():
    given = setting()
    given.student.insert(0, nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (8, 8))))
    with pytest.raises(TrainError, match=r"distill.student_layer: '0.0' gives 2 dimensions per image, \(3, 64\)"):
        crd_inbatch(section(student_layer="0.0"), given)
