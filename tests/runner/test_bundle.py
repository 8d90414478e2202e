"""Nobody gets a corrupted bundle past the checks, and nothing in it is interpreted before they hold."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bundle_mutations import KEYS, LATER, SIGNED, UNSIGNED, Mutation
from bundles import ENGINE, KEY, TODAY, TRUSTED, files, ordered, signed, sound, text, zipped
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.runner import bundle as reader
from toolchain.runner import trust
from toolchain.runner.bundle import MANIFEST, Bundle, open_bundle
from toolchain.runner.contents import fitting
from toolchain.runner.trust import Refused, key_text, read_key, trusted_keys
from toolchain.ship.pack import manifest_text


def refusal(path: Path, content: bytes, today: object = TODAY) -> str:
    path.write_bytes(content)
    with pytest.raises(Refused) as told:
        open_bundle(path, TRUSTED, today)  # type: ignore[arg-type]
    return str(told.value)


def opened(path: Path, content: bytes) -> Bundle:
    path.write_bytes(content)
    return open_bundle(path, TRUSTED, TODAY)


def test_a_sound_bundle_is_opened_and_gives_its_files(tmp_path: Path) -> None:
    bundle = opened(tmp_path / "b", sound())
    assert bundle.key == KEY and bundle.manifest["name"] == "tiny"
    assert bundle.read("engine/engine.onnx") == ENGINE
    bundle.copy("engine/engine.onnx", tmp_path / "engine.onnx")
    assert (tmp_path / "engine.onnx").read_bytes() == ENGINE


def test_a_bundle_is_a_zip_file_like_any_other() -> None:
    with zipfile.ZipFile(io.BytesIO(sound())) as plain:
        assert plain.testzip() is None
        assert {name: plain.read(name) for name in files()} == files()


def test_there_are_two_hundred_mutations_at_least() -> None:
    names = [name for name, _, _ in [*UNSIGNED, *SIGNED]]
    assert len(set(names)) >= 200 and all(content != sound() for _, content, _ in UNSIGNED)


GROUPS = [UNSIGNED[i : i + 40] for i in range(0, len(UNSIGNED), 40)]


@pytest.mark.parametrize("group", GROUPS, ids=[group[0][0] for group in GROUPS])
def test_what_was_altered_is_refused_before_anything_is_deserialized(
    group: list[Mutation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    loads = json.loads

    def spy(content: str, **how: object) -> object:
        parsed.append(content)
        return loads(content, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(trust.json, "loads", spy)
    for module, name in ((np, "load"), (pickle, "load"), (pickle, "loads"), (zipfile, "ZipFile")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("something was deserialized"))
    manifest = manifest_text_of_sound()
    for name, content, reason in group:
        told = refusal(tmp_path / "b", content)
        assert re.search(reason, told.removeprefix(str(tmp_path))), f"{name}: {told}"
        assert set(parsed) <= {manifest}, f"{name}: parsed {parsed}"  # whose signature held


def manifest_text_of_sound() -> str:
    return signed(files())[MANIFEST].decode()


@pytest.mark.parametrize("mutation", SIGNED, ids=[name.replace("\x1b", "") for name, _, _ in SIGNED])
def test_what_a_trusted_key_signed_by_mistake_is_refused(mutation: Mutation, tmp_path: Path) -> None:
    told = refusal(tmp_path / "b", mutation[1])
    assert re.search(mutation[2], told, re.S), told
    assert told.isprintable()


def test_an_expired_key_is_refused_and_its_last_day_is_not(tmp_path: Path) -> None:
    told = refusal(tmp_path / "b", sound(), LATER)
    assert "expired on 2027-12-31" in told and told.endswith(f"says {LATER}")
    open_bundle(tmp_path / "b", TRUSTED, KEY.expires)


@pytest.mark.parametrize("mutation", KEYS, ids=[name for name, _, _ in KEYS])
def test_a_public_key_that_says_what_its_key_did_not_sign_opens_nothing(mutation: Mutation, tmp_path: Path) -> None:
    (tmp_path / "workshop.pub").write_bytes(mutation[1])
    with pytest.raises(Refused, match=mutation[2]):
        trusted_keys(tmp_path)


def test_no_byte_of_a_public_key_changes_what_it_says(tmp_path: Path) -> None:
    path, whole = tmp_path / "k.pub", key_text(KEY).encode()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(Refused):
            read_key(path)


def test_without_any_trusted_key_nothing_is_opened(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(sound())
    with pytest.raises(Refused, match="not trusted here; trusted: none"):
        open_bundle(tmp_path / "b", {}, TODAY)


@pytest.mark.parametrize("path", ["missing", ".", "nul\0"])
def test_what_is_no_file_is_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="is not a file|cannot be read"):
        open_bundle(tmp_path / path, TRUSTED, TODAY)


def test_a_file_exchanged_after_the_checks_is_refused_when_it_is_read(tmp_path: Path) -> None:
    bundle = opened(tmp_path / "b", sound())
    (tmp_path / "b").write_bytes(sound().replace(b"nobody", b"anyone"))
    with pytest.raises(Refused, match="was altered"):
        bundle.copy("engine/engine.onnx", tmp_path / "engine.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]  # nor half of it


def test_a_text_too_long_to_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "LARGEST_TEXT", 60)
    assert "more than the 60 that such a file may have" in refusal(tmp_path / "b", sound())


def test_no_bundle_is_too_large_to_be_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "LARGEST_BUNDLE", 1000)
    assert "expected a bundle of at most 1000" in refusal(tmp_path / "b", sound())


@settings(max_examples=150)
@given(start=st.integers(0, 5000), drop=st.integers(0, 300), put=st.binary(max_size=60))
def test_no_splice_makes_a_traceback_or_another_bundle(start: int, drop: int, put: bytes) -> None:
    whole = sound()
    content = whole[:start] + put + whole[start + drop :]
    file = io.BytesIO(content)
    if content == whole:
        return
    try:
        members = reader.structure(file, len(content), "it")
    except Refused:
        return
    assert list(members) == list(ordered(signed(files())))  # only bytes that the digests and the signature cover differ


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: (
    st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)), max_leaves=12)


@settings(max_examples=80)
@given(name=st.sampled_from(["preprocess_json", "classes_json", "golden_json", "engine_engine_json"]), value=json_values,
       field=st.sampled_from(["image_size", "mean", "std", "classes", "images", "answers", "sha256", "resize", None]))
def test_no_signed_json_makes_a_traceback(
    name: str, value: object, field: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sane = json.loads(files()[next(n for n in files() if n.replace("/", "_").replace(".", "_") == name)])
    path = tmp_path_factory.getbasetemp() / "fuzzed.bundle"
    path.write_bytes(zipped(ordered(signed(files(**{name: text({**sane, field: value} if field else value)})))))
    try:
        open_bundle(path, TRUSTED, TODAY)
    except Refused as told:
        assert str(told).isprintable()


@settings(max_examples=80)
@given(field=st.sampled_from(["engine", "files", "name", "limits_not_held", "key_id", "schema_version"]), value=json_values)
def test_no_signed_manifest_makes_a_traceback(field: str, value: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    manifest = {**json.loads(manifest_text_of_sound()), field: value}
    path = tmp_path_factory.getbasetemp() / "fuzzed.bundle"
    path.write_bytes(zipped(ordered(signed(files(), manifest=text(manifest)))))
    try:
        bundle = open_bundle(path, TRUSTED, TODAY)
    except Refused as told:
        assert str(told).isprintable()
    else:
        assert bundle.manifest == manifest


def engine(runtime: str, version: str, target: str, device: str = "a CPU", portable: bool = False) -> dict:
    listed = {"engine/e": {}, **({"portable/model.onnx": {}} if portable else {})}
    return {"files": listed, "engine": {"name": "int8", "runtime": runtime, "runtime_version": version, "target": target,
                                        "device": device, "file": "engine/e"}}


ORIN = {"machine": "aarch64", "sm": 87, "runtimes": {"tensorrt": "10.3.0", "onnxruntime": "1.23.0"}}
PC = {"machine": "x86_64", "sm": 89, "runtimes": {"tensorrt": "10.13.3", "tensorrt_rtx": "1.7.1.116", "onnxruntime": "1.31.1"}}


@pytest.mark.parametrize(("manifest", "device", "reason"), [
    (engine("onnxruntime", "1.31.1", "cpu_x86"), PC, None),
    (engine("onnxruntime", "1.30.0", "cpu_x86"), PC, None),  # an ONNX file opens in later versions
    (engine("onnxruntime", "1.32.0", "cpu_x86"), PC, "made for onnxruntime 1.32.0, the device has 1.31.1"),
    (engine("onnxruntime", "1.20.0", "cpu_x86"), ORIN, "built for cpu_x86, and the device is aarch64"),
    (engine("onnxruntime", "1.20.0", "cpu_arm"), ORIN, None),
    (engine("openvino", "2026.2", "cpu_x86"), PC, "runs in openvino, which is not installed there"),
    (engine("tensorrt_rtx", "1.7.1.116", "sm86+sm89"), PC, None),
    (engine("tensorrt_rtx", "1.7.1.116", "sm86+sm120"), PC, r"built for sm86\+sm120, and the GPU is SM89"),
    (engine("tensorrt_rtx", "1.7.2.3", "sm89"), PC, "opens in no other, the device has 1.7.1.116"),
    (engine("tensorrt", "10.3.0", "local_gpu", "Orin (sm87)"), ORIN, None),
    (engine("tensorrt", "10.13.3", "local_gpu", "Orin (sm87)"), ORIN, "built by tensorrt 10.13.3 and opens in no other"),
    (engine("tensorrt", "10.13.3", "local_gpu", "RTX 3090 (sm86)"), PC, r"RTX 3090 \(sm86\), and the GPU is SM89"),
    (engine("tensorrt", "10.3.0", "local_gpu", "Orin (sm87)"), {**ORIN, "sm": None}, "there is no NVIDIA GPU"),
    (engine("onnxruntime", "1.31.0", "cuda", "RTX 3090 (sm86)"), PC, None),  # an ONNX file, for any GPU
    (engine("onnxruntime", "1.31.0", "cuda", "RTX 3090 (sm86)"), {**PC, "sm": None}, "there is no NVIDIA GPU"),
])
def test_an_engine_is_refused_by_a_device_it_was_not_built_for(manifest: dict, device: dict, reason: str | None) -> None:
    if reason is None:
        assert fitting(manifest, device) == "engine"
        return
    with pytest.raises(Refused, match=reason):
        fitting(manifest, device)


def test_what_mends_another_version_is_told() -> None:
    with pytest.raises(Refused) as told:
        fitting(engine("onnxruntime", "1.32.0", "cpu_x86"), PC)
    assert str(told.value).endswith("the device has 1.31.1 (install onnxruntime 1.32.0 there); ship an engine built for it, "
                                    "or with --portable the ONNX file that it builds its own from")
    with pytest.raises(Refused) as told:  # it can make none
        fitting(engine("tensorrt", "10.13.3", "sm87"), {**ORIN, "sm": None, "runtimes": {"tensorrt": "10.3.0"}})
    assert "--portable" not in str(told.value)


def test_a_device_builds_its_own_engine_where_the_onnx_file_came_along() -> None:
    assert fitting(engine("tensorrt_rtx", "1.7.1", "sm89", portable=True), ORIN) == "portable"
    with pytest.raises(Refused, match="the device has no runtime"):
        fitting(engine("tensorrt_rtx", "1.7.1", "sm89", portable=True), {**ORIN, "runtimes": {}})


def test_tensorrt_makes_no_engine_of_unsigned_codes_and_none_without_a_gpu() -> None:
    jetson = {**ORIN, "runtimes": {"tensorrt": "10.3.0"}}
    of_cpu = engine("onnxruntime", "1.31.1", "cpu_x86", portable=True)
    of_cpu["engine"]["precision"] = "int8"
    with pytest.raises(Refused, match="which onnxruntime is to run: the device has tensorrt 10.3.0"):
        fitting(of_cpu, jetson)
    assert fitting(of_cpu, ORIN) == "portable"  # it has onnxruntime too
    of_cpu["engine"]["precision"] = "fp16"
    assert fitting(of_cpu, jetson) == "portable"
    with pytest.raises(Refused, match="no NVIDIA GPU"):
        fitting(of_cpu, {**jetson, "sm": None})


def test_the_bytes_of_a_bundle_follow_from_its_content() -> None:
    assert zipped(ordered(signed(files()))) == sound()
    assert manifest_text({"b": 1, "a": 2}, files(), KEY) == manifest_text({"a": 2, "b": 1}, files(), KEY)
