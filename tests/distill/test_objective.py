import errno
import math
from dataclasses import replace

import pytest
import torch
from lessons import TEACHER, Fixed, batch, setting
from torch import nn
from train_data import small_net, squares

from toolchain.distill import DISTILL, distillation_loss
from toolchain.distill.objective import Weights, objective, scheduled
from toolchain.errors import TrainError
from toolchain.recipe.distill import Dkd, EarlyStop, Mutual, SoftTargets
from toolchain.recipe.schema import Augment, Distill, Train
from toolchain.train import Progress, fit

FIRST = Progress(0, 10)
KL = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # of teacher 3/4, 1/4 against student 1/2, 1/2


def section(**values) -> SoftTargets:
    return SoftTargets(method="soft_targets", teacher=TEACHER, **values)


def test_every_method_of_the_recipe_has_a_loss():
    methods = {kind.model_fields["method"].annotation.__args__[0] for kind in Distill.__args__[0].__args__}
    assert set(DISTILL) == methods


def test_the_weights_join_the_label_loss_and_the_soft_one():
    student, teacher = Fixed([0.0, 0.0]), Fixed([math.log(3.0), 0.0])
    loss = distillation_loss(section(temperature=1.0, ce_weight=2.0, kd_weight=3.0), setting(student, teacher))
    step = loss(student, batch([0, 1]), FIRST)
    assert step.loss.item() == pytest.approx(2 * math.log(2) + 3 * KL)
    assert step.logits.shape == (2, 2)
    assert step.parts["label"].item() == pytest.approx(math.log(2))
    assert step.parts["method"].item() == pytest.approx(KL)
    assert (step.parts["label_weight"], step.parts["method_weight"], step.parts["soft_weight"]) == (2.0, 3.0, 0.0)


def test_label_smoothing_of_the_training_section_reaches_the_label_loss():
    student, teacher = Fixed([0.0, math.log(3.0)]), Fixed([0.0, 0.0])
    loss = distillation_loss(section(ce_weight=1.0, kd_weight=0.0), setting(student, teacher, label_smoothing=0.2))
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    assert loss(student, batch([1]), FIRST).loss.item() == pytest.approx(expected)


def test_the_teacher_runs_in_eval_mode_and_gets_no_gradient():
    student, teacher = Fixed([0.0, 0.0]), Fixed([1.0, 0.0]).train()
    loss = distillation_loss(section(), setting(student, teacher))
    loss(student, batch([0]), FIRST).loss.backward()
    assert teacher.modes and not any(teacher.modes)
    assert teacher.logits.grad is None
    assert student.logits.grad is not None


def test_student_and_teacher_see_identical_pixels():
    student, teacher = Fixed([0.0, 0.0]), Fixed([1.0, 0.0])
    loss = distillation_loss(section(), setting(student, teacher))
    loss(student, batch([0, 1]), FIRST)
    assert torch.equal(student.seen[-1], teacher.seen[-1])


def test_a_teacher_with_other_classes_is_refused_before_training():
    with pytest.raises(TrainError, match="distill.teacher: it has 3 classes, dataset squares has 2"):
        distillation_loss(section(), setting(Fixed([0.0, 0.0]), Fixed([0.0, 0.0, 0.0])))


def test_the_teacher_is_no_part_of_what_is_trained_and_saved():
    loss = distillation_loss(section(), setting(Fixed([0.0, 0.0]), Fixed([1.0, 0.0])))
    assert isinstance(loss, nn.Module)
    assert not list(loss.parameters()) and not loss.state_dict()


def test_soft_targets_can_be_added_to_a_method_that_compares_features():
    from toolchain.recipe.distill import AttentionTransfer

    student, teacher = Fixed([0.0, 0.0]), Fixed([math.log(3.0), 0.0])
    cfg = AttentionTransfer(method="attention_transfer", teacher=TEACHER, kd_weight=3.0, temperature=1.0)
    loss = objective(cfg, setting(student, teacher), lambda s, t, b: s.logits.sum() * 0 + 5.0, weight=2.0)
    assert loss(student, batch([0]), FIRST).loss.item() == pytest.approx(math.log(2) + 2 * 5 + 3 * KL)


def test_early_stop_silences_the_teacher_and_leaves_the_labels_alone():
    cfg = section(ce_weight=0.1, kd_weight=0.9, early_stop=EarlyStop(after=0.3))
    weights = [scheduled(cfg, Progress(epoch, 10), cfg.kd_weight) for epoch in range(10)]
    assert weights == [Weights(0.1, 0.9, 0.0)] * 3 + [Weights(1.0, 0.0, 0.0)] * 7


def test_the_ramp_falls_to_the_stop_in_equal_steps():
    cfg = section(kd_weight=1.0, early_stop=EarlyStop(after=0.8, ramp=0.4))
    weights = [scheduled(cfg, Progress(epoch, 10), 1.0).method for epoch in range(10)]
    assert weights == pytest.approx([1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0])


def test_a_run_of_one_epoch_still_listens_to_its_teacher():
    cfg = section(early_stop=EarlyStop(after=0.1))
    assert scheduled(cfg, Progress(0, 1), 0.9).method == 0.9


def test_the_silent_teacher_is_not_even_run():
    student, teacher = Fixed([0.0, 0.0]), Fixed([1.0, 0.0])
    loss = distillation_loss(section(early_stop=EarlyStop(after=0.5)), setting(student, teacher))
    looked = len(teacher.seen)
    step = loss(student, batch([0]), Progress(5, 10))
    assert len(teacher.seen) == looked
    assert step.loss.item() == pytest.approx(math.log(2)) and "method" not in step.parts


@pytest.mark.parametrize(("epochs", "expected"), [(240, [1 / 20, 2 / 20, 3 / 20]), (20, [1 / 2, 1, 1]), (5, [1, 1, 1])])
def test_dkd_warms_up_over_twenty_epochs_but_at_most_a_tenth_of_the_run(epochs, expected):
    cfg = Dkd(method="dkd", teacher=TEACHER)
    assert [scheduled(cfg, Progress(e, epochs), 1.0).method for e in range(3)] == pytest.approx(expected)


def test_an_explicit_warm_up_counts_epochs_from_one():
    cfg = section(warmup_epochs=4, kd_weight=1.0)
    assert [scheduled(cfg, Progress(e, 8), 1.0).method for e in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_peers_have_no_teacher_but_the_same_schedule():
    cfg = Mutual(method="mutual", early_stop=EarlyStop(after=0.5))
    assert scheduled(cfg, Progress(4, 10), 1.0).method == 1.0 and scheduled(cfg, Progress(5, 10), 1.0).method == 0.0


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return small_net(dropout=0.0)


def fixed_view():
    return replace(squares(), augment=Augment(crop_padding=0, flip=False))


def test_on_a_fixed_view_the_teacher_looks_at_each_image_once_and_training_ends_the_same(tmp_path):
    looked: dict[str, int] = {}

    def trained(name: str, cache_mb: int):
        teacher, student, data = net(1), net(2), fixed_view()
        cfg = section(teacher_cache_mb=cache_mb)
        loss = distillation_loss(cfg, setting(student, teacher, dataset=data, folder=tmp_path / name))
        teacher.register_forward_pre_hook(lambda _, inputs: looked.update({name: looked.get(name, 0) + len(inputs[0])}))
        run = Train(epochs=3, batch_size=32, mixed_precision="no")
        fit(student, data, run, folder=tmp_path / name, seed=0, loss=loss)
        return student.state_dict()

    live, recorded = trained("live", 0), trained("recorded", 100)
    assert looked == {"live": 3 * 96, "recorded": 96}
    # the batches of later epochs are others, so a teacher's logits may differ in their last bits
    assert all(torch.allclose(live[name].float(), recorded[name].float(), atol=1e-4) for name in live)


def test_an_interrupted_run_on_recorded_outputs_ends_as_an_undisturbed_one(tmp_path):
    def trained(name: str, stop_after: int):
        student, data = net(2), fixed_view()
        loss = distillation_loss(section(), setting(student, net(1), dataset=data, folder=tmp_path / name))
        calls = iter(range(10**6))

        def count(*_):
            if next(calls) == stop_after:
                raise KeyboardInterrupt

        loss.register_forward_pre_hook(count)
        fit(student, data, Train(epochs=3, batch_size=40, mixed_precision="no"), folder=tmp_path / name, seed=0, loss=loss)
        return student.state_dict()

    with pytest.raises(KeyboardInterrupt):
        trained("cut", 4)  # in the second epoch of three steps
    file = tmp_path / "cut/teacher_outputs/rank0/0.npy"
    file.write_bytes(file.read_bytes()[:200])  # what a power cut may leave of it
    cut, whole = trained("cut", 10**6), trained("whole", 10**6)
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


class Constant(nn.Module):
    """Logits of zero for any image."""

    def forward(self, images):
        return torch.zeros(len(images), 3)


def test_outputs_beyond_the_limit_are_not_kept(tmp_path, capsys):
    data = fixed_view()
    many = replace(data, train=replace(data.train, labels=torch.zeros(10**6, dtype=torch.int64).numpy()))
    student = net(2)
    loss = distillation_loss(section(teacher_cache_mb=1), setting(student, Constant(), dataset=many, folder=tmp_path))
    loss(student, batch([0, 1]), FIRST)
    assert "11 MB, more than distill.teacher_cache_mb (1)" in capsys.readouterr().err
    assert not (tmp_path / "teacher_outputs").exists()


def test_a_full_disk_means_no_record_but_the_lesson_goes_on(tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    student = net(2)
    loss = distillation_loss(section(), setting(student, net(1), dataset=fixed_view(), folder=tmp_path))
    assert loss(student, batch([0, 1]), FIRST).loss.isfinite()
    assert "cannot be kept (No space left on device)" in capsys.readouterr().err
    assert not (tmp_path / "teacher_outputs/rank0").exists()


def test_a_teacher_whose_weights_are_not_numbers_is_named(tmp_path):
    teacher = net(1)
    with torch.no_grad():
        teacher[0].weight[0, 0, 0, 0] = math.nan
    with pytest.raises(TrainError, match="distill.teacher: its logits .* are NaN or infinite"):
        distillation_loss(section(), setting(net(2), teacher))


def test_augmented_images_are_looked_at_anew_in_every_epoch(tmp_path):
    teacher, student = net(1), net(2)
    loss = distillation_loss(section(), setting(student, teacher, folder=tmp_path))
    runs: list[int] = []
    teacher.register_forward_pre_hook(lambda *_: runs.append(1))
    for _ in range(2):
        loss(student, batch([0, 1, 2]), FIRST)
    assert len(runs) == 2
