import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from crd_parts import SPLIT, reference_of, section, step, term_of
from crd_reference import case
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from train_data import small_net, squares

from toolchain import train as loop
from toolchain.distill.crd import Scores, bank_scores, crd, draw, log_mean_score, nce_loss
from toolchain.distill.memory_banks import MemoryBanks
from toolchain.distill.objective import Setting
from toolchain.errors import TrainError
from toolchain.recipe.schema import Sgd, Train
from toolchain.train import fit

# 8 * 12 images against K * 16 numbers: the whole bank is compared with, or the K drawn rows are gathered
BOTH_WAYS = pytest.mark.parametrize("negatives", [12, 4], ids=["whole_bank", "gathered_rows"])


def setting(teacher: nn.Module | None = None, train: Train | None = None, dataset=None) -> Setting:
    torch.manual_seed(1)
    student = small_net()
    return Setting(student, teacher or small_net(), dataset or squares(), train or Train(), lambda seed: small_net())


def test_nce_loss_worked_by_hand():
    # Z = 4 and n = 4: u = 4 has P = 1, u = 2 has P = 1/2; K = 2 negatives, so c = 1/2
    scores = Scores(torch.tensor([4.0]).double().log(), torch.tensor([[2.0, 4.0]]).double().log(), torch.ones(()))
    expected = math.log(1.5 / 1) + math.log(1.0 / 0.5) + math.log(1.5 / 0.5)
    found = nce_loss(scores, torch.tensor(4.0).double().log(), negatives=2, images=4)
    assert found.item() == pytest.approx(expected, abs=5e-7)  # eps = 1e-7 in three denominators


@BOTH_WAYS
def test_two_steps_equal_the_papers_formulas_with_z_of_the_first_batch(negatives):
    small = case(negatives)
    term = term_of(small)
    reference = reference_of(term)
    for number in range(2):
        expected = reference.step(small.features["student"][number], small.features["teacher"][number],
                                  small.indices[number], small.indices[number], small.drawn[number])
        assert step(term, small, number).item() == pytest.approx(expected, rel=1e-10)
        np.testing.assert_allclose(term.banks.student.numpy(), reference.student_bank, rtol=1e-10)
        np.testing.assert_allclose(term.banks.teacher.numpy(), reference.teacher_bank, rtol=1e-10)
        assert term.banks.log_z_student.item() == pytest.approx(math.log(reference.z["student"]), rel=1e-10)
        assert term.banks.log_z_teacher.item() == pytest.approx(math.log(reference.z["teacher"]), rel=1e-10)


@BOTH_WAYS
def test_the_gradients_of_both_linears_equal_a_complex_step_through_the_formulas(negatives):
    small = case(negatives)
    term = term_of(small)
    reference = reference_of(term)
    both = [[small.features["student"][number], small.features["teacher"][number], small.indices[number],
             small.indices[number], small.drawn[number]] for number in range(2)]
    reference.step(*both[0])
    step(term, small, 0)
    banks = reference.student_bank.copy(), reference.teacher_bank.copy()
    step(term, small, 1).backward()
    for name, linear in term.embeddings.named_children():
        for place, parameter in enumerate((linear.weight, linear.bias)):
            plain = reference.linears[name][place]
            expected = np.empty_like(plain)
            for at in np.ndindex(plain.shape):
                moved = plain.astype(complex)
                moved[at] += 1e-30j
                pair = list(reference.linears[name])
                pair[place] = moved
                reference.student_bank[:], reference.teacher_bank[:] = banks
                kept, reference.linears[name] = reference.linears[name], tuple(pair)
                expected[at] = reference.step(*both[1]).imag / 1e-30
                reference.linears[name] = kept
            np.testing.assert_allclose(parameter.grad.numpy(), expected, rtol=1e-8, atol=1e-10)


def test_relaxed_positives_are_the_rows_that_were_drawn():
    small = case(negatives=8)
    term = term_of(small, positives="relaxed")
    reference = reference_of(term)
    positives = (small.indices[0] + 3) % 12  # another image of the class
    expected = reference.step(small.features["student"][0], small.features["teacher"][0], small.indices[0], positives,
                              small.drawn[0])
    assert step(term, small, 0, positives=torch.from_numpy(positives)).item() == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(term.banks.student.numpy(), reference.student_bank, rtol=1e-10)  # the images' own rows


def test_random_embeddings_start_at_the_loss_of_log_normal_scores():
    # s = 1/(tau sqrt(dim)); a side is ln(1 + K) + 1 + s^2/2 (methods: 23.0 in all for K = 16384, dim 128)
    torch.manual_seed(0)
    images, dim, negatives, tau = 3000, 128, 4096, 0.07
    banks = MemoryBanks(images, dim, SPLIT)
    total = 0.0
    for bank in (banks.student, banks.teacher):
        embedding = F.normalize(torch.randn(64, dim), dim=1)
        drawn = draw(torch.randint(images, (64,)), torch.randint(images, (64, negatives)), bank)
        scores = bank_scores(embedding, bank, drawn, tau)
        log_z = log_mean_score(scores, negatives) + math.log(images)
        total += nce_loss(scores, log_z, negatives, images).item()
    spread = 1 / (tau * math.sqrt(dim))
    assert total == pytest.approx(2 * (math.log(1 + negatives) + 1 + spread**2 / 2), abs=0.5)


def test_a_tiny_tau_neither_overflows_in_the_loss_nor_in_the_gradient():
    small = case(negatives=8)
    term = term_of(small, tau=0.001).float()  # scores up to 1000, exp of which no float32 holds
    loss = step(term, small, 0)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in term.parameters())


def test_feature_maps_are_averaged_and_half_precision_is_computed_in_float32():
    term = crd(section(student_layer="2", teacher_layer="1"), setting()).term
    assert term.embeddings.student.in_features == term.embeddings.teacher.in_features == 8
    maps = torch.randn(4, 8, 3, 3, dtype=torch.bfloat16)
    outputs = {name: type("O", (), {"features": {name: maps}}) for name in "12"}
    student, teacher = term.embeddings(outputs["2"], outputs["1"])
    assert student.dtype == torch.float32
    expected = term.embeddings.teacher(maps.mean(dim=(2, 3)).float())
    torch.testing.assert_close(teacher, expected / expected.square().sum(dim=1, keepdim=True).sqrt())


def test_a_restored_state_gives_the_identical_next_step():
    small = case(negatives=12)
    undisturbed = term_of(small)
    step(undisturbed, small, 0)
    restored = term_of(small)
    restored.load_state_dict({name: value.clone() for name, value in undisturbed.state_dict().items()})
    losses = [step(term, small, 1).item() for term in (undisturbed, restored)]
    assert losses[0] == losses[1]
    for name, value in undisturbed.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name


def test_a_state_from_before_the_first_batch_sets_z_anew():
    small = case(negatives=12)
    term = term_of(small)
    start = {name: value.clone() for name, value in term.state_dict().items()}
    first = step(term, small, 0).item()
    step(term, small, 1)
    term.load_state_dict(start)
    assert step(term, small, 0).item() == first


@pytest.mark.parametrize(("images", "split"), [(96, "00" * 32), (90, SPLIT)], ids=["another_split", "fewer_images"])
def test_banks_of_other_data_are_refused(images, split):
    saved = MemoryBanks(96, 4, SPLIT).state_dict()
    found = f"this dataset has {images} images of split {split[:12]}"
    with pytest.raises(TrainError, match=f"its memory banks hold 96 images of split abababababab, but {found}"):
        MemoryBanks(images, 4, split).load_state_dict(saved)


def test_banks_of_another_size_are_refused_by_torch_itself():
    with pytest.raises(RuntimeError, match="size mismatch for student"):
        MemoryBanks(6, 4, SPLIT).load_state_dict(MemoryBanks(6, 8, SPLIT).state_dict())


def test_the_rows_of_the_batch_move_and_the_later_of_two_equal_indices_counts():
    banks = MemoryBanks(6, 2, SPLIT)
    banks.student.copy_(torch.tensor([[1.0, 0.0]]).expand(6, 2))
    before = banks.teacher.clone()
    embeddings = torch.tensor([[0.0, 1.0], [-1.0, 0.0], [0.6, 0.8]])
    banks.update(torch.tensor([4, 2, 4]), embeddings, embeddings, momentum=0.25)
    length = math.hypot(0.25 + 0.75 * 0.6, 0.75 * 0.8)
    expected = {4: [(0.25 + 0.75 * 0.6) / length, 0.75 * 0.8 / length], 2: [-1.0, 0.0]}
    for row in range(6):
        assert banks.student[row].tolist() == pytest.approx(expected.get(row, [1.0, 0.0]))
        assert torch.equal(banks.teacher[row], before[row]) == (row not in expected)


def test_the_banks_start_uniform_with_rows_of_length_one_on_average_in_float32():
    banks = MemoryBanks(4000, 12, SPLIT)
    for bank in (banks.student, banks.teacher):
        assert bank.dtype == torch.float32 and 0.49 < bank.abs().max() <= 0.5  # 1/sqrt(12/3)
        assert bank.square().sum(dim=1).mean().item() == pytest.approx(1, abs=0.03)
        assert bank.square().sum(dim=1).std().item() > 0.1  # not normalised


def test_two_processes_end_with_the_banks_and_z_of_one(tmp_path):
    here = Path(__file__).parents[1]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here.parent}{os.pathsep}{here}"}
    ranks = [subprocess.Popen([sys.executable, here / "crd_two_processes.py", tmp_path, str(rank)], env=env,
                              stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in ranks:
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 0, errors[-3000:]
    states = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2)]
    small = case(negatives=8)
    reference = reference_of(term_of(small))
    for number in range(2):
        reference.step(small.features["student"][number], small.features["teacher"][number], small.indices[number],
                       small.indices[number], small.drawn[number])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    np.testing.assert_allclose(states[0]["student"].numpy(), reference.student_bank, rtol=1e-10)
    np.testing.assert_allclose(states[0]["teacher"].numpy(), reference.teacher_bank, rtol=1e-10)
    assert states[0]["log_z_teacher"].item() == pytest.approx(math.log(reference.z["teacher"]), rel=1e-10)


def test_training_lowers_the_loss_and_moves_both_linears_and_every_row(tmp_path):
    train = Train(epochs=4, batch_size=16, optimizer=Sgd(method="sgd", lr=0.02))
    given = setting(train=train)
    loss = crd(section(negatives=16), given)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    history = fit(given.student, given.dataset, train, folder=tmp_path, seed=0, loss=loss)
    assert history[-1]["parts"]["method"] < history[0]["parts"]["method"]
    after = loss.state_dict()
    for side in ("student", "teacher"):
        assert not torch.equal(before[f"term.embeddings.{side}.weight"], after[f"term.embeddings.{side}.weight"])
        assert (before[f"term.banks.{side}"] != after[f"term.banks.{side}"]).any(dim=1).all()


def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path, monkeypatch):
    train = Train(epochs=3, batch_size=16)

    def run(folder: Path) -> dict[str, torch.Tensor]:
        given = setting(train=train)
        loss = crd(section(negatives=16, positives="relaxed"), given)
        fit(given.student, given.dataset, train, folder=tmp_path / folder, seed=0, loss=loss)
        return {**given.student.state_dict(), **loss.state_dict()}

    undisturbed, saved, save = run("undisturbed"), [], loop.save_checkpoint

    def save_two(*args):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(save(*args))

    monkeypatch.setattr(loop, "save_checkpoint", save_two)
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    saved.pop()  # room for one epoch more
    for name, value in run("killed").items():
        assert torch.equal(value, undisturbed[name]), name


def test_a_layer_that_does_not_exist_is_refused_with_its_field():
    with pytest.raises(TrainError, match="distill.student_layer: 'penultimat' is not a layer"):
        crd(section(student_layer="penultimat"), setting())


def test_a_teacher_with_logits_only_is_refused():
    teacher = small_net()
    teacher.logits_only = True
    with pytest.raises(TrainError, match="distill.teacher: crd compares inner features"):
        crd(section(), setting(teacher))


def test_data_of_one_class_are_refused():
    data = squares()
    data.train.labels[:] = 1
    with pytest.raises(TrainError, match="the 96 training images are all of one class"):
        crd(section(), setting(dataset=data))
