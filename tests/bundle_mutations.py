"""Corrupted bundles, each with words of the reason it must be refused for."""

from __future__ import annotations

import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from datetime import date

from bundles import (
    CLASSES,
    CONTENT,
    ENGINE,
    KEY,
    PREPROCESS,
    RECORD,
    STRANGER,
    files,
    ordered,
    signed,
    sound,
    text,
    zipped,
)

from toolchain.runner.bundle import CENTRAL, END, LOCAL, MANIFEST, SIGNATURE, structure
from toolchain.runner.trust import key_text
from toolchain.ship.pack import manifest_text

Mutation = tuple[str, bytes, str]  # what was done, the bundle, a regular expression of the reason
HEADER = "zip|header|encrypted|compressed|name|link|begins|expected|belong|altered|add"


def flipped(content: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


def flips() -> Iterator[Mutation]:
    """One bit of every field of every header, of the beginning, middle and end of every file, of the whole end record."""
    whole = sound()
    members = structure(io.BytesIO(whole), len(whole), "it")
    directory = struct.unpack_from("<L", whole, len(whole) - 6)[0]
    for index, member in enumerate(members.values()):
        places = sorted({0, member.size // 2, member.size - 1})
        for at in places:
            reason = "altered|not trusted" if member.name in (MANIFEST, SIGNATURE) else f"{member.name} was altered"
            yield f"a bit of {member.name} at {at}", flipped(whole, member.start + at, at % 8), reason
        header = member.start - LOCAL.size - len(member.name)
        for at in (0, 4, 6, 8, 10, 12, 14, 18, 22, 26, 28, 30):
            yield f"a bit of the header of {member.name} at {at}", flipped(whole, header + at, (at + index) % 8), HEADER
    at = directory
    for index, member in enumerate(members.values()):
        for field in (0, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 30, 32, 34, 36, 38, 42, 46):
            yield f"a bit of the entry of {member.name} at {field}", flipped(whole, at + field, (field + index) % 8), HEADER
        at += CENTRAL.size + len(member.name)
    for at in range(len(whole) - END.size, len(whole)):
        yield f"a bit of the end record at {at}", flipped(whole, at, at % 8), HEADER


def lengths() -> Iterator[Mutation]:
    whole = sound()
    for part in (0, 1, 21, 22, 100, len(whole) // 2, len(whole) - 22, len(whole) - 1):
        yield f"cut to {part} bytes", whole[:part], "expected a bundle|cut short|damaged"
    yield "bytes behind it", whole + b"\0", "something was added"
    yield "bytes before it", b"#!/bin/sh\n" + whole, "something was added"
    yield "a comment", whole[:-2] + b"\2\0hi", "something was added"
    yield "two bundles", whole + whole, "something was added"
    yield "not a zip file", b"\x7fELF" * 200, "does not end as a bundle"
    yield "another kind of archive", b"\x1f\x8b" + whole, "something was added"


def rezipped() -> Iterator[Mutation]:
    """Somebody without the key, who can write a sound zip file."""
    holds = ordered(signed(files()))

    def with_(name: str, **changed: bytes | None) -> Mutation:
        content = {n: changed.get(n.replace("/", "_").replace(".", "_"), c) for n, c in holds.items()}
        return name, zipped({n: c for n, c in content.items() if c is not None}), "altered|what is listed|listed but not"

    yield with_("swapped labels", classes_json=text({"classes": ["dog", "cat", "eel"]}))
    yield with_("another label of equal length", classes_json=text({"classes": ["cat", "dog", "owl"]}))
    yield with_("altered mean", preprocess_json=text({**PREPROCESS, "mean": [0.6, 0.5, 0.5]}))
    yield with_("altered std", preprocess_json=text({**PREPROCESS, "std": [0.25, 0.25, 0.35]}))
    yield with_("another engine", engine_engine_onnx=ENGINE[::-1])
    yield with_("a longer engine", engine_engine_onnx=ENGINE + b"!")
    yield with_("another runtime version", engine_engine_json=text({**RECORD, "runtime_version": "1.30.1"}))
    yield with_("better figures", measured_json=b"{ }")
    for name in holds:
        without = zipped({n: c for n, c in holds.items() if n != name})
        yield f"without {name}", without, "listed but not there|expected manifest.json"
        empty = zipped({n: b"" if n == name else c for n, c in holds.items()})
        yield f"{name} empty", empty, "what is listed|expected 72|does not hold"
        if name not in (MANIFEST, SIGNATURE):
            other = {n if n != name else n.replace(".", "_x."): c for n, c in holds.items()}
            yield f"{name} renamed", zipped(ordered(other)), "listed but not there"
            yield f"{name} twice", zipped(holds).replace(b"recipe.yaml", name.encode()[:11].ljust(11, b"x")) \
                if len(name) == 11 and name != "recipe.yaml" else zipped(ordered({**holds, name.upper(): b"x"})), \
                "twice|expected manifest.json"
    yield "two files exchanged", zipped({**holds, "measured.json": holds["sbom.cdx.json"], "golden.json": holds[
        "classes.json"]}), "altered|what is listed"
    yield "a file more", zipped(ordered({**holds, "extra.json": b"{}"})), "extra.json is listed but not there, or there"
    yield "another order", zipped(dict(reversed(holds.items()))), "expected manifest.json"
    yield "too many files", zipped(ordered({**holds, **{f"f{n}": b"" for n in range(70)}})), "2 to 64"
    yield "a manifest of 2 MB", zipped({**holds, MANIFEST: b" " * (2 << 20)}), "more than the"


def keys() -> Iterator[Mutation]:
    """Manifests that are sound in themselves and signed by somebody, or by nobody."""
    own = manifest_text(CONTENT, files(), KEY)

    def made(name: str, reason: str, signature: bytes, manifest: bytes = own) -> Mutation:
        return name, zipped(ordered({MANIFEST: manifest, SIGNATURE: signature, **files()})), reason

    stranger = STRANGER.sign(own)
    yield made("an unknown key", "not trusted here", b"\1" * 8 + stranger)
    yield made("an unknown key under the name of ours", "does not hold", bytes.fromhex(KEY.key_id) + stranger)
    yield made("no signature", "expected 72", b"")
    yield made("a signature without a key", "expected 72", stranger)
    yield made("a signature of zeros", "does not hold", bytes.fromhex(KEY.key_id) + b"\0" * 64)
    yield made("a signature and more", "expected 72", bytes.fromhex(KEY.key_id) + stranger + b"\0")
    for field, value in (("name", "other"), ("limits_not_held", ["x"]), ("key_id", "0" * 16), ("schema_version", 2)):
        changed = json.dumps({**json.loads(own), field: value}).encode()
        yield made(f"a manifest with another {field}", "does not hold", signed(files())[SIGNATURE], changed)
    resized = files(measured_json=b'{"top1": 99}')
    yield ("a manifest with new digests", zipped(ordered({**signed(files()), **resized, MANIFEST: manifest_text(
        CONTENT, resized, KEY)})), "does not hold")


def hostile() -> Iterator[Mutation]:
    """What zip files can do to those who unpack them."""
    def zip_of(change: Callable[[zipfile.ZipFile], None]) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as out:
            change(out)
        return buffer.getvalue()

    def entry(name: str, mode: int = stat.S_IFREG | 0o644, method: int = 0, extra: bytes = b"") -> zipfile.ZipInfo:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr, info.compress_type, info.extra = 3, mode << 16, method, extra
        return info

    def one(info: zipfile.ZipInfo, content: bytes = b"x") -> bytes:
        return zip_of(lambda out: [out.writestr(i, c) for i, c in (  # type: ignore[func-returns-value]
            (info, content), (entry(MANIFEST), b"{}"), (entry(SIGNATURE), b"s"))] and None)

    bomb = one(entry("measured.json", method=zipfile.ZIP_DEFLATED), b"\0" * (8 << 20))
    yield "a decompression bomb", bomb, "measured.json is compressed"
    yield "bzip2", one(entry("measured.json", method=zipfile.ZIP_BZIP2)), "is compressed"
    yield "lzma", one(entry("measured.json", method=zipfile.ZIP_LZMA)), "is compressed"
    for kind, mode in (("symlink", stat.S_IFLNK), ("device", stat.S_IFCHR), ("pipe", stat.S_IFIFO), ("folder", stat.S_IFDIR)):
        yield f"a {kind}", one(entry("measured.json", mode | 0o777), b"/etc/passwd"), "link, a folder or a device"
    yield "a folder by name", one(entry("engine/"), b""), "link, a folder or a device"
    for name in ("../measured.json", "/etc/passwd", "engine/../../x", "..", ".", "./x", "a//b", "C:/x", "C:\\x", "..\\x", "a\\b",
                 "m\xe4rz.json", "\u202ejson.exe", "a b", "a\nb", ".ssh/keys", "~/x", "a" * 120, "-rf", "a/b/c/d/e", "CON:", "x\x7f"):
        told = "name" if name != "../measured.json" else "could lie outside"
        yield f"the name {ascii(name)}", one(entry(name)), told
    yield "extra fields", one(entry("measured.json", extra=b"UT\5\0\1\0\0\0\0")), "zip header with more"
    whole = sound()
    start = struct.unpack_from("<L", whole, len(whole) - 6)[0]

    def field(name: str, at: int, value: bytes, reason: str, where: int = 0) -> Mutation:
        changed = bytearray(whole)
        changed[where + at : where + at + len(value)] = value
        return name, bytes(changed), reason

    for name, bit in (("encrypted", 1), ("with a data descriptor", 8), ("patched", 32), ("strongly encrypted", 65),
                      ("with UTF-8 names", 2048), ("masked", 8192)):
        yield field(name, 8, struct.pack("<H", bit), "encrypted|zip header with more", start)
    yield field("zip64 sizes", 20, b"\xff" * 8, "zip64", start)
    yield field("zip64 offset", 42, b"\xff" * 4, "zip64", start)
    yield field("two files in one place", 42, b"\1\0\0\0", "overlap", start)
    yield field("another size in the directory", 20, struct.pack("<LL", 1, 1), "contradict|begins", start)
    yield field("a NUL in a name", 46, b"m\0", "name", start)
    yield field("several disks", 4, b"\1\0", "disks", len(whole) - END.size)
    yield field("more entries than there are", 8, b"\x20\0\x20\0", "damaged", len(whole) - END.size)
    yield field("fewer entries than there are", 8, b"\3\0\3\0", "belong to no file", len(whole) - END.size)
    yield field("a directory elsewhere", 16, b"\0\0\0\0", "does not end", len(whole) - END.size)
    yield "an empty zip file", zip_of(lambda out: None), "expected a bundle"
    yield "a shell script in front", b"#!/bin/sh\nrm -rf ~\n" + bomb, "something was added"
    gap = whole[:start] + b"hidden" + whole[start:-END.size] + END.pack(*END.unpack(whole[-END.size:])[:6], start + 6, 0)
    yield "bytes between files and directory", gap, "belong to no file"


def nonsense() -> Iterator[Mutation]:
    """Signed by the trusted key, and wrong all the same: what a mistake while packing would make."""
    def made(name: str, reason: str, content: dict | None = None, **changed: bytes | None) -> Mutation:
        return name, zipped(ordered(signed(files(**changed), content))), reason

    def manifest(name: str, reason: str, raw: bytes) -> Mutation:
        return name, zipped(ordered(signed(files(), manifest=raw))), reason

    yield made("labels swapped before signing", "'dog', but was 'cat'.*swapped", classes_json=text({"classes": ["dog", "cat", "eel"]}))
    yield made("two labels alike", "no two alike", classes_json=text({"classes": ["cat", "cat", "eel"]}))
    yield made("a label too few", "golden.logits.f32: expected 16 bytes", classes_json=text({"classes": CLASSES[:2]}))
    yield made("labels that are numbers", "list of class names", classes_json=text({"classes": [1, 2, 3]}))
    yield made("no labels", "classes.json is missing", classes_json=None)
    for value, told in (([0.5, 0.5], "three finite"), (0.5, "three finite"), ([0.5, "x", 0.5], "three finite")):
        yield made(f"mean {value}", f"mean is .*{told}", preprocess_json=text({**PREPROCESS, "mean": value}))
    yield made("std of zero", "std is .*above 0", preprocess_json=text({**PREPROCESS, "std": [0.25, 0, 0.25]}))
    yield made("std below zero", "std is .*above 0", preprocess_json=text({**PREPROCESS, "std": [0.25, -1, 0.25]}))
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "1" * 30):
        broken = text(PREPROCESS).replace(b"0.25", number.encode(), 1)
        yield made(f"std of {number[:9]}", "no JSON that can be relied on", preprocess_json=broken)
    for size in (0, -1, 2.0, True, "2", None, 1 << 30):
        yield made(f"image_size {size!r}", "image_size", preprocess_json=text({**PREPROCESS, "image_size": size}))
    yield made("another image size", "golden.images.u8: expected", preprocess_json=text({**PREPROCESS, "image_size": 3}))
    yield made("a key twice", "stands in it twice", classes_json=b'{"classes": ["a"], "classes": ["b"]}')
    yield made("deep JSON", "no JSON", classes_json=b"[" * 100_000)
    yield made("no UTF-8", "no JSON", classes_json=b"\xff\xfe{}")
    yield made("a list for an object", "JSON object", preprocess_json=b"[]")
    yield made("NaN logits", "no number", golden_logits_f32=struct.pack("<6f", *[float("nan")] * 6))
    yield made("infinite logits", "no number", golden_logits_f32=struct.pack("<6f", float("inf"), *[0.0] * 5))
    yield made("golden answers too few", "expected images, answers", golden_json=text({"images": 2, "answers": ["cat"], "tolerance": 0.1}))
    yield made("golden images missing", "golden.images.u8: expected 24", golden_images_u8=None)
    yield made("another engine in the record", "contradict each other about sha256",
               engine_engine_json=text({**RECORD, "sha256": "1" * 64}))
    yield made("another target in the record", "contradict each other about target",
               engine_engine_json=text({**RECORD, "target": "cpu_arm"}))
    yield made("another runtime version in the record", "about runtime_version",
               engine_engine_json=text({**RECORD, "runtime_version": "1.0"}))
    yield made("the engine exchanged before signing", "is not the engine that", engine_engine_onnx=ENGINE[:-1])
    yield made("no engine", "neither the engine nor", engine_engine_onnx=None)
    yield made("no record", "contradict", engine_engine_json=None)
    for name in ("measured_json", "recipe_yaml", "provenance_json", "sbom_cdx_json", "preprocess_json"):
        yield made(f"without {name}", "is missing", **{name: None})
    engine = CONTENT["engine"]
    assert isinstance(engine, dict)
    for wrong in (None, [], {}, {**engine, "target": 7}, {**engine, "name": "\x1b[2J"}):
        yield made(f"engine {wrong!r:.20}", "which engine this is", {**CONTENT, "engine": wrong})
    yield made("the manifest as the engine", "neither the engine nor", {**CONTENT, "engine": {**engine, "file": MANIFEST}})
    yield made("no name", "recipe's name", {**CONTENT, "name": None})
    yield made("a name with a lone surrogate", "recipe's name", {**CONTENT, "name": "\ud800"})
    yield made("limits that are no list", "limits", {**CONTENT, "limits_not_held": 3})
    own = json.loads(manifest_text(CONTENT, files(), KEY))
    for version in (2, 0, "1", None):
        yield manifest(f"schema_version {version!r}", "schema_version", text({**own, "schema_version": version}))
    yield manifest("another key's id", "names another key", text({**own, "key_id": "0" * 16}))
    for listed in (None, [], {}, {"x": 1}, {**own["files"], "x": {}}, dict.fromkeys(own["files"], 3),
                   dict.fromkeys(own["files"], {"bytes": 1})):
        yield manifest(f"files {listed!r:.30}", "list of files|listed", text({**own, "files": listed}))
    for raw in (b"", b"null", b"[]", b"{", b"[" * 100_000, b"\xff", b'{"a": NaN}', b'{"files": {}, "files": {}}'):
        yield manifest(f"the manifest {raw[:12]!r}", "no JSON|JSON object", raw)


def public_keys() -> Iterator[Mutation]:
    """Files of public keys that somebody without the private key made of the trusted one."""
    own = json.loads(key_text(KEY))

    def made(what: str, reason: str, **changed: object) -> Mutation:
        return what, text({**own, **changed}), reason

    later, other = KEY._replace(expires=date.max), KEY._replace(name="other")
    yield made("an edited expiry", "does not hold", expires="2999-12-31")
    yield made("an expiry a day later", "does not hold", expires="2028-01-01")
    yield made("an edited name", "does not hold", name="other")
    yield made("an edited day of birth", "does not hold", created="2025-11-01")
    yield made("dates exchanged", "does not hold", created=own["expires"], expires=own["created"])
    yield made("an expiry that a stranger signed", "does not hold", expires="9999-12-31",
               signature=STRANGER.sign(later.statement).hex())
    yield made("a name that a stranger signed", "does not hold", name="other", signature=STRANGER.sign(other.statement).hex())
    yield made("the signature of a manifest", "does not hold", signature=signed(files())[SIGNATURE][8:].hex())
    yield made("another key's signature", "does not hold", public_key=(theirs := STRANGER.public_key().public_bytes_raw()).hex(),
               key_id=KEY._replace(public=theirs).key_id)
    yield "no signature", text({k: v for k, v in own.items() if k != "signature"}), "not signed by the key itself"
    for value in ("", "00", "00" * 64, "zz", None, 7):
        yield made(f"the signature {value!r:.10}", "does not hold|no public key", signature=value)
    yield "an expiry more", key_text(KEY).replace("{", '{"expires": "2999-12-31",', 1).encode(), "stands in it twice"


UNSIGNED: list[Mutation] = [*flips(), *lengths(), *rezipped(), *keys(), *hostile()]
SIGNED: list[Mutation] = list(nonsense())
KEYS: list[Mutation] = list(public_keys())
LATER = date(2028, 1, 1)
