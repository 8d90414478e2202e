"""A training run in words."""

from __future__ import annotations

from typing import Any

from toolchain.report.schema import Report, TrainingRun
from toolchain.report.training import peers_told, run_title, terms, weights_told


def run(*parts: dict[str, float], **taught: Any) -> TrainingRun:
    epochs = [{"epoch": number, "parts": said} for number, said in enumerate(parts, start=1)]
    return TrainingRun.model_validate({"title": "train", "epochs": epochs, "taught": taught or None})


def test_a_run_that_was_taught_is_called_by_its_method(taught_report: Report):
    assert [run_title(r) for r in taught_report.training] == ["teacher", "train (dkd)"]


def test_an_early_stop_is_told_to_be_exactly_zero(taught_report: Report):
    assert weights_told(taught_report.training[1]) == (
        "Weights in the loss: labels 0.1 until epoch 2, then 1; dkd 0.9 until epoch 2, then exactly 0.")
    assert weights_told(taught_report.training[0]) == ""


def test_a_warm_up_is_told_from_where_to_where():
    rising = run(*({"label_weight": 1.0, "method_weight": w} for w in (0.25, 0.5, 0.75, 1.0, 1.0)), method="crd")
    assert weights_told(rising) == "Weights in the loss: labels 1; crd 0.25 to 0.75 until epoch 3, then 1."


def test_a_weight_that_is_almost_zero_is_not_called_zero():
    assert weights_told(run({"method_weight": 1.0}, {"method_weight": 1e-9}, method="dkd")).endswith("until epoch 1, then 1e-09.")


def test_a_weight_that_is_never_used_is_not_mentioned_nor_drawn():
    quiet = run({"label": 1.0, "label_weight": 1.0, "soft_weight": 0.0}, method="dkd")
    assert "soft" not in weights_told(quiet) and [term.title for term in terms(quiet)] == ["label loss"]


def test_terms_are_drawn_where_they_count_and_weights_where_they_change(taught_report: Report):
    drawn = {term.title: term.values for term in terms(taught_report.training[1])}
    assert list(drawn) == ["label loss", "dkd loss", "weight of labels", "weight of dkd"]
    assert drawn["dkd loss"] == [(1, 3.1), (2, 1.7), (3, None), (4, None)]
    assert drawn["weight of dkd"][2:] == [(3, 0.0), (4, 0.0)]


def test_peers_have_curves_of_their_own_and_the_best_is_named():
    mutual = run({"label_weight": 1.0, "peer_1_label": 2.0, "peer_1_kl": 0.1, "peer_2_label": 2.1, "peer_2_kl": 0.2},
                 method="mutual", peers_val_top1=[98.0, 99.0], mean=98.5, best=1)
    assert [t.title for t in terms(mutual)] == ["peer 1: label loss", "peer 1: KL to the other peers, nats", "peer 2: label loss",
                                               "peer 2: KL to the other peers, nats"]
    assert peers_told(mutual) == ("Val top-1 of the peers: 98.00, 99.00 %; mean 98.50 %, best 99.00 % "
                                  "(peer 2, which is the student from here on).")
    assert peers_told(run({}, method="dkd")) == ""


def test_a_term_nobody_knows_keeps_its_name():
    assert [t.title for t in terms(run({"my_own_term": 1.0, "peer_count": 2.0}))] == ["my own term", "peer count"]
