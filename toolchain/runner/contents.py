"""What the files of a bundle say, once their digests hold: do they belong together, and to this device?

A key can sign nonsense. So labels are held against golden answers, the engine's record against the manifest, and what
the engine was built for against what the device has.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .trust import Refused, strict_json

if TYPE_CHECKING:
    from .bundle import Bundle

ON_CPUS, WITH_ACTIVATIONS = ("onnxruntime", "openvino"), ("int8", "mixed")  # whose activations are codes too
ENGINE_RECORD, PORTABLE = "engine/engine.json", "portable/model.onnx"
PREPROCESS, CLASSES, MEASURED = "preprocess.json", "classes.json", "measured.json"
GOLDEN, GOLDEN_IMAGES, GOLDEN_LOGITS = "golden.json", "golden.images.u8", "golden.logits.f32"
NEEDED = (PREPROCESS, CLASSES, MEASURED, "recipe.yaml", "provenance.json", "sbom.cdx.json")
RECORDED = ("name", "precision", "runtime", "runtime_version", "target", "sha256")
EXACT = ("tensorrt", "tensorrt_rtx")  # a built engine opens in the version that built it, and no other
MACHINES = {"cpu_x86": ("x86_64", "amd64"), "cpu_arm": ("aarch64", "arm64")}
LARGEST_SIZE = 4096  # pixels


def from_files(bundle: Bundle) -> None:
    """Raise Refused where the files of a bundle that was not altered do not fit together."""
    where, files = f"{bundle.path}: ", bundle.manifest["files"]
    for name in NEEDED:
        _must(name in files, f"{where}{name} is missing")
    engine: Any = bundle.manifest.get("engine")
    _must(isinstance(engine, dict) and all(_word(engine.get(field)) for field in (*RECORDED, "file")),
          f"{where}manifest.json does not say which engine this is, for which runtime and target")
    broken: Any = bundle.manifest.get("limits_not_held")
    _must(_word(bundle.manifest.get("name")) and _strings(broken) and all(map(_word, broken)),
          f"{where}manifest.json does not say the recipe's name, or which limits are not held")
    _must(engine["file"] in files or PORTABLE in files, f"{where}holds neither the engine nor a portable ONNX file")
    if engine["file"] in files:
        record = strict_json(bundle.read(ENGINE_RECORD) if ENGINE_RECORD in files else b"{}", where + ENGINE_RECORD)
        odd = [field for field in RECORDED if record.get(field) != engine[field]]
        _must(not odd, f"{where}{ENGINE_RECORD} and manifest.json contradict each other about {', '.join(odd)}")
        _must(files[engine["file"]]["sha256"] == engine["sha256"],
              f"{where}{engine['file']} is not the engine that {ENGINE_RECORD} describes")
    preprocess = strict_json(bundle.read(PREPROCESS), where + PREPROCESS)
    _preprocess(preprocess, where + PREPROCESS)
    classes: Any = strict_json(bundle.read(CLASSES), where + CLASSES).get("classes")
    _must(_strings(classes) and len(set(classes)) == len(classes) > 0,
          f"{where}{CLASSES}: expected a list of class names, no two alike")
    if GOLDEN in files:
        _golden(bundle, preprocess["image_size"], classes, where)


def _preprocess(content: Mapping[str, Any], place: str) -> None:
    size, resize = content.get("image_size"), content.get("resize")
    _must(_whole(size) and (resize is None or _whole(resize)), f"{place}: image_size or resize is no number of pixels")
    for field, fine in (("mean", math.isfinite), ("std", lambda value: math.isfinite(value) and value > 0)):
        values: Any = content.get(field)
        _must(isinstance(values, list) and len(values) == 3 and all(_number(value) and fine(value) for value in values),
              f"{place}: {field} is {str(values)[:80]}, expected three finite numbers{' above 0' * (field == 'std')}")


def _golden(bundle: Bundle, size: int, classes: Sequence[str], where: str) -> None:
    """The golden inputs have the engine's shape, and its answers to them have the names that classes.json gives."""
    content = strict_json(bundle.read(GOLDEN), where + GOLDEN)
    count: Any = content.get("images")
    answers: Any = content.get("answers")
    _must(_whole(count) and _strings(answers) and len(answers) == count and _number(content.get("tolerance")),
          f"{where}{GOLDEN}: expected images, answers and tolerance")
    expected = {GOLDEN_IMAGES: count * size * size * 3, GOLDEN_LOGITS: count * len(classes) * 4}
    for name, length in expected.items():
        _must(name in bundle.members and bundle.members[name].size == length,
              f"{where}{name}: expected {length} bytes for {count} images of {size} pixels and {len(classes)} classes")
    logits = struct.iter_unpack(f"<{len(classes)}f", bundle.read(GOLDEN_LOGITS))
    for index, (row, answer) in enumerate(zip(logits, answers)):
        _must(all(map(math.isfinite, row)), f"{where}{GOLDEN_LOGITS}: image {index} has a logit that is no number")
        found = classes[row.index(max(row))]
        _must(found == answer, f"{where}{CLASSES}: golden image {index} is answered {found[:40]!r}, but was "
                               f"{answer[:40]!r} when the engine was built: the labels were swapped")


def fitting(manifest: Mapping[str, Any], device: Mapping[str, Any]) -> str:
    """What of a bundle this device takes: "engine", or "portable" where it has to build its own. Raises Refused.

    device: {"machine": "aarch64", "sm": 87 or None, "runtimes": {"tensorrt": "10.3.0"}}.
    """
    engine = manifest["engine"]
    why = hindrance(engine, device)
    if why is None and engine["file"] in manifest["files"]:
        return "engine"
    if PORTABLE in manifest["files"] and makers(engine, device):
        return "portable"
    more = ""
    if PORTABLE not in manifest["files"]:
        if makers(engine, device):
            more = "; ship an engine built for it, or with --portable the ONNX file that it builds its own from"
    else:
        has = ", ".join(f"{name} {version}" for name, version in device["runtimes"].items()) or "no runtime"
        more = (f"; nor can an engine be made of its ONNX file there, which {engine['runtime']} is to run: "
                f"the device has {has}" + ("" if device["sm"] else " and no NVIDIA GPU"))
    raise Refused(f"{engine['name']} is not for this device: {why or 'its file is not in the bundle'}{more}")


def makers(engine: Mapping[str, Any], device: Mapping[str, Any]) -> list[str]:
    """Runtimes of the device that can make an engine of the portable file, best first.

    TensorRT takes signed codes alone, and what is quantized for a CPU has unsigned ones.
    """
    unsigned = engine["runtime"] in ON_CPUS and engine.get("precision") in WITH_ACTIVATIONS
    able = {"tensorrt": bool(device["sm"]) and not unsigned, "onnxruntime": True}
    found = [name for name in able if name in device["runtimes"] and able[name]]
    return sorted(found, key=lambda name: name != engine["runtime"])


def hindrance(engine: Mapping[str, Any], device: Mapping[str, Any]) -> str | None:
    """Why the device cannot run the engine itself; None: it can, as far as their versions and names tell."""
    runtime, target = engine["runtime"], engine["target"]
    here = device["runtimes"].get(runtime)
    if here is None:
        return f"it runs in {runtime}, which is not installed there"
    if target in MACHINES and str(device["machine"]).lower() not in MACHINES[target]:
        return f"it is built for {target}, and the device is {device['machine']}"
    if target not in MACHINES:
        sm, known = device["sm"], [int(number) for number in re.findall(r"sm(\d+)", f"{target} {engine.get('device')}")]
        if sm is None or (runtime in EXACT and known and sm not in known):  # an ONNX file is bound to no SM
            built_for = target if target.startswith("sm") else engine.get("device") or "a GPU"
            return f"it is built for {built_for}, and " + (f"the GPU is SM{sm}" if sm else "there is no NVIDIA GPU")
    built, found = _version(engine["runtime_version"]), _version(here)
    if runtime in EXACT and built[:3] != found[:3]:
        return f"it was built by {runtime} {engine['runtime_version']} and opens in no other, the device has {here}"
    if built[:1] != found[:1] or found[:2] < built[:2]:
        version = engine["runtime_version"]
        return f"it was made for {runtime} {version}, the device has {here} (install {runtime} {version} there)"
    return None


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,9}", text)[:3])


def _whole(value: Any) -> bool:
    return type(value) is int and 0 < value <= LARGEST_SIZE


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _word(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one for one in value)


def _must(held: Any, told: str) -> None:
    if not held:
        raise Refused(told)


