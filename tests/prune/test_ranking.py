import pytest
import torch

from toolchain.prune.ranking import Width, allowed, kept_at, rank, shares

SCORES = {"a": torch.tensor([4.0, 1.0, 2.0, 3.0]), "b": torch.tensor([0.5, 2.5, 9.0, 8.0])}
FOUR = {"a": Width(4), "b": Width(4)}
NOW = {"a": 4, "b": 4}


def kept(share: float, scope_of=None, widths=None, cap: float = 0.9, round_to: int = 1) -> dict[str, int]:
    scopes = rank(SCORES, scope_of or {"a": 0, "b": 0}, widths or FOUR, cap, round_to)
    return kept_at(scopes, NOW, share)


def test_one_ranking_takes_the_smallest_scores_wherever_they_are() -> None:
    assert kept(0.5) == {"a": 2, "b": 2}  # 0.5, 1, 2, 2.5
    assert kept(0.625) == {"a": 1, "b": 2}  # and 3
    assert kept(0.3) == {"a": 2, "b": 3}  # two of eight are too few


def test_groups_of_their_own_lose_the_same_share() -> None:
    assert kept(0.3, {"a": "a", "b": "b"}) == {"a": 2, "b": 2}  # 4 * 0.7 = 2.8, rounded down
    assert kept(0.25, {"a": "a", "b": "b"}) == {"a": 3, "b": 3}


def test_the_cap_is_of_each_group() -> None:
    assert kept(0.75, cap=0.5) == {"a": 2, "b": 2}  # no more may go
    assert rank(SCORES, {"a": 0, "b": 0}, FOUR, 0.5, 1)[0].most == 0.5


def test_kept_counts_are_multiples_and_a_notch_is_worth_its_mean() -> None:
    # the first notches of two units: a (1 + 2) / 2 = 1.5, b (0.5 + 2.5) / 2 = 1.5: of equal ones the first group's
    assert kept(0.2, round_to=2) == {"a": 2, "b": 4}
    assert allowed(20, 20, 0.9, 8) == [20, 16, 8]
    assert allowed(8, 8, 0.9, 8) == [8]
    assert allowed(10, 10, 0.9, 1)[-1] == 1  # 10 * (1 - 0.9) is 0.99.. in floating point


def test_a_unit_of_two_blocks_counts_as_two_channels() -> None:
    # 4 * 1 + 4 * 2 = 12 channels; b's 0.5 (2), a's 1 (1), a's 2 (1) are the first four
    assert kept(1 / 3, widths={"a": Width(4), "b": Width(4, weight=2)}) == {"a": 2, "b": 3}


def test_later_rounds_count_what_went_before() -> None:
    widths = {"a": Width(8), "b": Width(4)}  # a has lost 4 of 8: 4 of 12 are gone
    scopes = rank(SCORES, {"a": 0, "b": 0}, widths, 0.9, 1)
    assert kept_at(scopes, NOW, 0.3) == NOW
    assert kept_at(scopes, NOW, 0.5) == {"a": 3, "b": 3}
    assert shares(scopes)[0] == pytest.approx(5 / 12)
