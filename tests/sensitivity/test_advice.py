import pytest
import yaml

from toolchain.recipe.schema import Recipe
from toolchain.sensitivity.advice import advice
from toolchain.sensitivity.file import Baseline, LayerScan, Point, Sensitivity
from toolchain.sensitivity.words import headline


def scan(kind: str, images: int, layers: dict[str, tuple[int, list[dict]]], **more: float) -> Sensitivity:
    return Sensitivity(kind=kind, images=images, baseline=Baseline(top1_percent=90), **more, layers=[
        LayerScan(name=name, parameters=count, points=[Point(**{"drop": 0, **point}, top1_percent=80, kl_nats=0) for point in points])
        for name, (count, points) in layers.items()])


def pruned(kind: str, ratio: float, **more: float) -> Sensitivity:
    return scan(kind, 100, {"conv": (10, [{"ratio": ratio}]), "head": (5, [{"ratio": ratio}])}, **more)


def quantized(images: int = 144, **lost: tuple[int, int]) -> Sensitivity:
    """layer=(images lost in INT8, in INT4)."""
    return scan("quantize", images, {name: (9, [
        {"precision": precision, "drop": 100 * each / images} for precision, each in zip(("int8", "int4"), both, strict=True)])
        for name, both in lost.items()})


def section(found: Sensitivity) -> tuple[str, dict]:
    """The sentence, and the sections that a recipe takes."""
    told, lines = advice(found, "build/x/s.json")
    sections = yaml.safe_load("\n".join(lines)) or {}
    Recipe.model_validate({"name": "r", "model": {"arch": "vgg11_bn"}, **sections})
    return told, sections


@pytest.mark.parametrize(("ratio", "amount"), [(0.9, 0.7), (0.5, 0.46), (0.1, 0.06)])  # 9 + 4, 5 + 2, 1 + 0 of 15
def test_the_amount_is_one_that_the_scan_covers(ratio: float, amount: float) -> None:
    told, sections = section(pruned("weights", ratio))
    assert sections["prune"] == {"method": "magnitude", "amount": amount, "scope": "sensitivity", "scan": {"file": "build/x/s.json"}}
    assert (f"({amount:g} is the most that the scan covers)" in told) == (amount < 0.7)


@pytest.mark.parametrize(("removable", "params"), [(None, 0.7), (0.93, 0.7), (0.7, 0.7), (0.4599, 0.45)])
def test_the_share_of_greedy_is_one_that_the_network_can_lose(removable: float | None, params: float) -> None:
    more = {} if removable is None else {"removable": removable}
    told, sections = section(pruned("channels", 0.5, **more))
    assert sections["prune"] == {"method": "greedy", "params": params, "scan": {"file": "build/x/s.json"}}
    assert ("0.45 is the most that prune.cap allows" in told) == (params < 0.7)


def test_next_to_nothing_to_prune_is_said_and_no_section_is_given() -> None:
    assert section(pruned("weights", 0.05)) == (  # of ten and of five weights none
        "The scan covers less than 0.01 of the weights, too little to prune by: scan larger --ratios.", {})
    told, sections = section(pruned("channels", 0.5, removable=0.009))
    assert "Less than 0.01 of the parameters" in told and not sections


def test_the_first_and_last_layer_stay_float_where_one_of_them_loses_and_no_other_is_said_to() -> None:
    told, sections = section(quantized(first=(1, 7), middle=(0, 3), last=(0, 0)))
    assert sections == {"quantize": {"method": "ptq", "int4": {"first_last": "float"}}}  # one image in INT8 is nothing
    assert told.startswith("Alone, first (4.86 points in INT4) and middle (2.08 points in INT4) lose most. "
                           "Keep the first and the last layer float, as first loses more than one image (middle would stay quantized: ")
    told, sections = section(quantized(first=(2, 2), middle=(1, 1), last=(3, 0)))
    assert sections["quantize"] == {"method": "ptq", "int8": {"first_last": "float"}, "int4": {"first_last": "float"}}
    assert "as first and last lose more than one image:" in told


def test_where_only_layers_in_between_lose_other_remedies_are_named() -> None:
    told, sections = section(quantized(first=(1, 1), middle=(2, 4), last=(0, -3)))
    assert not sections and told.startswith("Alone, middle (2.78 points in INT4) loses most. The first and the last layer lose one image at most")
    assert "quantize.repair: auto" in told and "quantize.method: qat" in told


def test_a_single_image_singles_nothing_out() -> None:
    told, sections = section(quantized(first=(1, 1), last=(0, 1)))
    assert not sections and told.startswith("No layer alone loses more than one image")


def test_one_image_is_given_in_points_where_it_counts() -> None:
    assert headline(quantized(first=(0, 0))) == "1 layer on 144 images of val (one image is 0.69 points); baseline 90.00 % top-1"
    assert headline(quantized(1000, first=(0, 0))) == "1 layer on 1,000 images of val; baseline 90.00 % top-1"
