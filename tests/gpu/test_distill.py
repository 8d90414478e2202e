"""Distillation on a real GPU: every method trains under mixed precision, resumes, and leaves its teacher alone."""

import pytest
import torch
from lessons import TEACHER
from pydantic import TypeAdapter
from train_data import squares

from toolchain.checkpoint import state_sha256
from toolchain.distill import DISTILL, distillation_loss
from toolchain.distill.objective import Setting
from toolchain.models import create_model
from toolchain.recipe.schema import Distill, Sgd, TorchModel, Train
from toolchain.train import fit

RUN = Train(epochs=2, batch_size=16, optimizer=Sgd(method="sgd", lr=0.01), mixed_precision="fp16")


def network(seed: int, width: float) -> torch.nn.Module:
    torch.manual_seed(seed)
    return create_model(TorchModel(arch="resnet18", width=width), 3)


@pytest.mark.parametrize("method", DISTILL)
def test_a_method_trains_in_half_precision_and_its_teacher_stays_as_it_was(tmp_path, method):
    taught = {} if method == "mutual" else {"teacher": TEACHER}
    cfg = TypeAdapter(Distill).validate_python({"method": method, **taught})
    student, teacher, data = network(0, 0.125), network(1, 0.25), squares()
    before = state_sha256(teacher)
    setting = Setting(student, None if method == "mutual" else teacher, data, RUN, lambda number: network(number, 0.125))
    history = fit(student, data, RUN, folder=tmp_path, seed=0, loss=distillation_loss(cfg, setting))
    assert len(history) == 2 and history[-1]["parts"]
    assert state_sha256(teacher) == before
    assert all(value.isfinite().all() for value in student.state_dict().values())
