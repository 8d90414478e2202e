"""`toolchain ship`, `verify` and `keys`: a finished build in, one signed file out, the same every time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bundles import CLASSES, CONTENT, ENGINE, KEY, LOGITS, PRIVATE, RECORD, files, sound, text, tiny_run
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from device_python import interpreter
from said import call

from toolchain.errors import EngineError, RecipeError
from toolchain.report.schema import load_report
from toolchain.ship import pack
from toolchain.ship.device import facts
from toolchain.ship.gather import chosen

NAME = str(RECORD["name"])
BUNDLE = f"tiny.{NAME}.bundle"
HERE = "machine=x86_64 onnxruntime=1.31.1"


def test_what_was_shipped_verifies_and_holds_what_was_built(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = call(capsys, "ship", run, "--engine", "int8", "--to", HERE)
    assert code == 0 and "signed by workshop" in shown
    code, shown = call(capsys, "verify", run / BUNDLE, "--for", HERE)
    assert code == 0 and "takes the engine" in shown and "golden inputs" in shown
    with zipfile.ZipFile(run / BUNDLE) as bundle:
        held = {name: bundle.read(name) for name in bundle.namelist()}
    assert held["engine/engine.onnx"] == ENGINE and json.loads(held["classes.json"]) == {"classes": CLASSES}
    assert held["golden.images.u8"] == bytes(range(24))
    assert np.frombuffer(held["golden.logits.f32"], "<f4").reshape(2, 3).tolist() == LOGITS
    golden = json.loads(held["golden.json"])
    assert golden["answers"] == ["cat", "eel"] and golden["tolerance"] == 0.1 and golden["shape"] == [2, 2, 3]
    assert json.loads(held["measured.json"])["engine"]["sha256"] == RECORD["sha256"]
    provenance = json.loads(held["provenance.json"])
    assert provenance["data"]["split_sha256"] == "1" * 64 and provenance["stages"] == {"train": "ab"}
    assert provenance["recipe_sha256"] == hashlib.sha256(b"name: tiny\n").hexdigest()
    sbom = json.loads(held["sbom.cdx.json"])
    assert sbom["bomFormat"] == "CycloneDX" and sbom["metadata"]["component"]["hashes"][0]["content"] == RECORD["sha256"]
    assert {(c["name"], c["scope"]) for c in sbom["components"]} == {("onnxruntime", "required"), ("numpy", "excluded")}
    assert {"run.py", "runner/bundle.py", "runner/ed25519.py", "runner/trust.py", "runner/contents.py"} <= set(held)


def test_the_same_build_gives_the_same_bytes_in_another_process(run: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "2")):
        done = subprocess.run([sys.executable, "-m", "toolchain", "ship", run, "--engine", NAME, "-o", tmp_path / name],
                              env={**os.environ, "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("version", [None, "3.10"], ids=["this Python", "Python 3.10"])
def test_the_runner_in_a_bundle_verifies_it_with_python_alone(
    version: str | None, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = interpreter(version) if version else sys.executable
    call(capsys, "ship", run, "--engine", "int8")
    with zipfile.ZipFile(run / BUNDLE) as bundle:
        bundle.extractall(tmp_path / "device", [n for n in bundle.namelist() if n.startswith("runner/")])
    code = ("import sys; sys.path.insert(0, '.'); from pathlib import Path; from runner.bundle import open_bundle; "
            "from runner.trust import trusted_keys; "
            "print(open_bundle(Path(sys.argv[1]), trusted_keys(Path(sys.argv[2]))).manifest['name'], "
            "[m for m in ('numpy', 'toolchain', 'cryptography') if m in sys.modules])")
    done = subprocess.run([python, "-I", "-S", "-c", code, run / BUNDLE, tmp_path / "keys/trusted"],
                          cwd=tmp_path / "device", capture_output=True, text=True)
    assert done.stdout == "tiny []\n", done.stderr


def test_the_portable_onnx_file_goes_along_for_devices_that_build_their_own(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    orin = "machine=aarch64 sm=87 onnxruntime=1.31.1"
    code, shown = call(capsys, "ship", run, "--engine", "int8", "--to", orin)
    assert code == 13 and "built for cpu_x86, and the device is aarch64; ship an engine built for it, or with --portable" in shown
    assert not (run / BUNDLE).exists()
    code, shown = call(capsys, "ship", run, "--engine", "int8", "--portable", "--to", "machine=aarch64 sm=87 tensorrt=10.3.0")
    assert code == 13 and "the device has tensorrt 10.3.0" in shown and not (run / BUNDLE).exists()
    assert call(capsys, "ship", run, "--engine", "int8", "--to", orin, "--portable")[0] == 0
    code, shown = call(capsys, "verify", run / BUNDLE, "--for", orin)
    assert code == 0 and "builds its own engine" in shown


def test_limits_that_were_not_held_stop_a_shipment_or_stand_in_it(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tiny_run(tmp_path / "broken", held=False)
    code, shown = call(capsys, "ship", broken, "--engine", "int8")
    assert code == 10 and "top1_drop: asked 0.5, found 2.0" in shown and "--anyway" in shown
    code, shown = call(capsys, "ship", broken, "--engine", "int8", "--anyway")
    assert code == 0 and "limits were not held" in shown
    assert "limits not held: top1_drop" in call(capsys, "verify", broken / BUNDLE)[1]


def test_an_engine_that_was_not_measured_here_is_shipped_as_such(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unmeasured = tiny_run(tmp_path / "unmeasured", measured=False)
    assert call(capsys, "ship", unmeasured, "--engine", "int8")[0] == 0
    code, shown = call(capsys, "verify", unmeasured / BUNDLE, "--json")
    assert code == 0 and json.loads(shown)["measured"] is False


@pytest.mark.parametrize(("file", "content", "code", "told"), [
    (f"engines/{NAME}/engine.onnx", b"other", 8, "was altered"),
    ("preprocess.json", b"{}", 8, "was altered"),
    ("golden/golden.json", b"{}", 8, "was altered"),
    (f"golden/{NAME}.npy", b"", 8, "was altered"),
    ("onnx/model.int8.onnx", b"", 8, "was altered"),
    (f"engines/{NAME}/engine.json", text({**RECORD, "sha256": "1" * 64}), 8, "was altered"),
    (f"engines/{NAME}/engine.json", text({**RECORD, "precision": "fp16"}), 8, "was altered"),
    (f"engines/{NAME}/engine.json", None, 9, "is missing"),
    (f"engines/{NAME}/engine.onnx", None, 9, "engine.onnx: is missing; run the build again"),
    ("report.json", b"{}", 8, "was altered"),
    ("recipe.resolved.yaml", b"name: other\n", 8, "was altered"),
    ("golden/images.npy", None, 9, "is missing"),
    ("recipe.resolved.yaml", None, 9, "is missing"),
    ("published.json", b"[", 9, "no file of this build can be checked"),
    ("published.json", text({"preprocess.json": 1}), 9, "expected names and their SHA-256"),
    ("published.json", text({"preprocess.json": "1" * 64}), 9, "does not tell the SHA-256 of report.json"),
    ("report.json", None, 9, "is missing"),
])
def test_a_file_that_is_not_what_was_reported_is_not_shipped(
    file: str, content: bytes | None, code: int, told: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / file).unlink() if content is None else (run / file).write_bytes(content)
    found, shown = call(capsys, "ship", run, "--engine", "int8", "--portable")
    assert (found, told in shown) == (code, True), shown
    assert not (run / BUNDLE).exists()


def test_another_engine_under_the_same_name_is_not_shipped(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / f"engines/{NAME}/engine.onnx").write_bytes(b"new")
    record = {**RECORD, "sha256": hashlib.sha256(b"new").hexdigest()}
    (run / f"engines/{NAME}/engine.json").write_bytes(text(record))
    code, shown = call(capsys, "ship", run, "--engine", "int8")
    assert code == 8 and "but report.json is about" in shown


@pytest.mark.parametrize(("words", "code", "told"), [
    (("--engine", "int9"), 2, "has no engine 'int9'"),
    (("--engine", "int8", "--key", "other"), 2, "no private key 'other'"),
    (("--engine", "int8", "--to", "mars"), 2, "has no device 'mars'; expected 'here', a device that is listed there, or what it has"),
    (("--engine", "int8", "--to", "machine=x86_64 torch=2.9"), 2, "expected 'here' or what it has"),
    (("--engine", "int8", "-o", "/dev/null/x"), 9, "cannot be written"),
])
def test_what_cannot_be_is_told_in_a_sentence(
    words: tuple[str, ...], code: int, told: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, shown = call(capsys, "ship", run, *words)
    assert (found, told in shown) == (code, True), shown


def test_only_a_bundle_is_replaced_by_a_bundle(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in (b"# Mine", b"PK\3\4" + b"0" * 26 + b"photo.png"):
        (tmp_path / "README.md").write_bytes(content)
        code, shown = call(capsys, "ship", run, "--engine", "int8", "-o", tmp_path / "README.md")
        assert code == 2 and "README.md: exists and is not a bundle" in shown and "delete this one" in shown
        assert (tmp_path / "README.md").read_bytes() == content
    (tmp_path / "empty").touch()
    assert [call(capsys, "ship", run, "--engine", "int8", "-o", tmp_path / "empty")[0] for _ in range(2)] == [0, 0]
    (tmp_path / "empty").write_bytes((tmp_path / "empty").read_bytes()[:200])  # a damaged one may be replaced
    assert call(capsys, "ship", run, "--engine", "int8", "-o", tmp_path / "empty")[0] == 0


def test_a_run_that_is_not_there_is_told_in_a_sentence(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = call(capsys, "ship", run.with_name("none"), "--engine", "int8")
    assert code == 2 and "none: no such folder" in shown and "expected the folder of a finished build" in shown
    for name in ("report.json", "published.json"):
        (run / name).unlink()
    code, shown = call(capsys, "ship", run, "--engine", "int8")
    assert code == 9 and "has no report.json; expected the folder of a finished build" in shown


def test_verify_refuses_with_its_own_exit_code_and_says_how_to_trust(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "ship", run, "--engine", "int8")
    code, shown = call(capsys, "verify", run / BUNDLE, "--keys", tmp_path / "others")
    assert code == 13 and "not trusted here" in shown and "toolchain keys trust FILE" in shown
    assert call(capsys, "keys", "trust", tmp_path / "keys/workshop.pub", "--keys", tmp_path / "others")[0] == 0
    assert call(capsys, "verify", run / BUNDLE, "--keys", tmp_path / "others")[0] == 0
    code, shown = call(capsys, "verify", run / BUNDLE, "--for", "machine=aarch64 onnxruntime=1.31.1")
    assert code == 13 and "the device is aarch64" in shown
    (run / BUNDLE).write_bytes((run / BUNDLE).read_bytes().replace(b"nobody", b"anyone"))
    code, shown = call(capsys, "verify", run / BUNDLE)
    assert code == 13 and "engine/engine.onnx was altered" in shown


def test_a_device_without_words_is_no_device(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "ship", run, "--engine", "int8")
    for words in (("verify", run / BUNDLE, "--for", ""), ("ship", run, "--engine", "int8", "--to", "")):
        code, shown = call(capsys, *words)
        assert code == 2 and "found the device '', expected 'here'" in shown


def test_the_sbom_is_valid_cyclonedx(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "ship", run, "--engine", "int8")
    with zipfile.ZipFile(run / BUNDLE) as bundle:
        sbom = bundle.read("sbom.cdx.json").decode()
    schema = JsonStrictValidator(SchemaVersion.V1_6)
    assert schema.validate_str(sbom) is None
    assert schema.validate_str(sbom.replace('"components"', '"parts"')) is not None  # it does look


def test_two_shipments_to_one_place_do_not_disturb_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked, out = pack.open_bundle, tmp_path / "tiny.bundle"

    def meanwhile(path: Path, trusted: object) -> object:
        monkeypatch.setattr(pack, "open_bundle", checked)
        pack.write_bundle(out, CONTENT, files(), KEY, PRIVATE.sign)  # another one begins and ends
        return checked(path, trusted)  # type: ignore[arg-type]

    monkeypatch.setattr(pack, "open_bundle", meanwhile)
    pack.write_bundle(out, CONTENT, files(), KEY, PRIVATE.sign)
    assert out.read_bytes() == sound() and [p.name for p in tmp_path.iterdir()] == ["tiny.bundle"]


def test_an_engine_is_named_where_its_precision_does_not_tell(run: Path) -> None:
    report = load_report(run / "report.json")
    one = report.engines[0]
    twin = one.model_copy(update={"name": "int8.openvino.cpu_x86", "built": False, "reason": "no such operator"})
    both = report.model_copy(update={"engines": [one, twin]})
    assert chosen(run, both, NAME) == one
    with pytest.raises(RecipeError, match="has 2 int8 engines; name one: int8.onnxruntime.cpu_x86, int8.openvino.cpu_x86"):
        chosen(run, both, "int8")
    with pytest.raises(EngineError, match="was not built: no such operator"):
        chosen(run, both, twin.name)


def test_an_engine_without_golden_answers_is_shipped_without_them(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = run / "golden/golden.json"
    index.write_bytes(text({"images": 2, "engines": {}}))
    published = json.loads((run / "published.json").read_text())
    published["golden/golden.json"] = hashlib.sha256(index.read_bytes()).hexdigest()
    (run / "published.json").write_bytes(text(published))
    assert call(capsys, "ship", run, "--engine", "int8")[0] == 0
    assert "no golden inputs" in call(capsys, "verify", run / BUNDLE)[1]


def test_what_a_device_has_is_read_as_it_is_written() -> None:
    expected = {"machine": "aarch64", "sm": 87, "runtimes": {"tensorrt": "10.3.0", "onnxruntime": "1.23"}}
    assert facts("machine=aarch64 sm=87 tensorrt=10.3.0, onnxruntime=1.23") == expected
    assert facts("sm=sm87,machine=aarch64,tensorrt=10.3.0,onnxruntime=1.23") == expected
    assert facts("machine=x86_64") == {"machine": "x86_64", "sm": None, "runtimes": {}}
    for word in ("", "sm=87", "machine=x sm=x", "machine=x tensorrt=ten"):
        with pytest.raises(RecipeError, match="expected 'here' or what it has"):
            facts(word)


def test_shipping_and_verifying_load_neither_torch_nor_a_runtime(run: Path, tmp_path: Path) -> None:
    code = ("import sys; from pathlib import Path; from toolchain.commands_ship import run_ship, run_verify;"
            "out = Path(sys.argv[2]); run_ship(Path(sys.argv[1]), 'int8', out=out, keys=Path(sys.argv[3]));"
            "run_verify(out, keys=Path(sys.argv[3]));"
            "print([m for m in ('torch', 'onnx', 'onnxruntime', 'tensorrt_rtx') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code, run, tmp_path / "b", tmp_path / "keys"], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n"), done.stderr


def test_a_bundle_replaces_no_pipe_or_device(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code, told = call(capsys, "ship", run, "--engine", "int8", "-o", pipe)
    assert code == 9 and "not a regular file" in told and not pipe.is_file()
