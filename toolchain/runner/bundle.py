"""A bundle, read by somebody who must not trust it yet: on this machine by `toolchain verify`, on the device by run.py.

A bundle is a zip
file of one form only: plain files, stored as they are, in a fixed order, every header byte implied by names, sizes and
CRCs. So every byte of it is either in that form, or signed, or covered by a digest that is signed; and nothing unfolds.

Order of the checks: size, zip structure, the Ed25519 signature over the bytes of manifest.json by a trusted key, the
manifest, every file's digest, what the files say. Until the digests hold no file but the manifest is interpreted.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from .contents import from_files
from .ed25519 import verified
from .trust import Key, Refused, strict_json

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
SCHEMA_VERSION = 1
LARGEST_BUNDLE = (1 << 32) - 2  # bytes; beyond it zip has another form
LARGEST_MANIFEST = 1 << 20
LARGEST_TEXT = 16 << 20  # of a file that is interpreted: JSON, golden inputs
MOST_FILES = 64
SIGNATURE_BYTES = 8 + 64  # the signature follows the id of its key
BLOCK = 1 << 20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}(/[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}){0,3}")
LOCAL, CENTRAL, END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s4H2LH")
UNIX, VERSION, DATE, PLAIN_FILE = 3, 20, 0x21, 0o100644  # made by; needed to read; 1980-01-01; -rw-r--r--


class Member(NamedTuple):
    """One file of the bundle: `size` bytes from `start` on."""

    name: str
    start: int
    size: int
    crc: int


class Bundle:
    """A bundle whose every check held. A file is checked again while it is read, for the disk is not ours alone."""

    def __init__(
        self, path: Path, manifest: dict[str, Any], members: Mapping[str, Member], key: Key, own: Mapping[str, str]
    ) -> None:
        self.path, self.manifest, self.members, self.key = path, manifest, members, key
        self.digests = {**own, **{name: facts["sha256"] for name, facts in manifest["files"].items()}}
        self.manifest_sha256 = own[MANIFEST]  # names all there is in the bundle

    def blocks(self, name: str) -> Iterator[bytes]:
        """The file in pieces. Raises Refused at its end, or before, where it is not what was signed."""
        with _opened(self.path) as file:
            yield from _blocks(file, self.members[name], self.digests[name], str(self.path))

    def read(self, name: str) -> bytes:
        """The whole file, of at most LARGEST_TEXT bytes. Raises Refused."""
        if self.members[name].size > LARGEST_TEXT:
            raise Refused(f"{self.path}: {name} has {self.members[name].size} bytes, more than the {LARGEST_TEXT} that "
                          "such a file may have")
        return b"".join(self.blocks(name))

    def copy(self, name: str, target: Path) -> None:
        """Write the file to `target`, which appears whole and as signed, or not at all. Raises Refused, OSError."""
        part = target.with_name(f".{target.name}.part")
        try:
            with open(part, "wb") as out:
                for block in self.blocks(name):
                    out.write(block)
            os.replace(part, target)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def open_bundle(path: Path, trusted: Mapping[str, Key], today: date | None = None) -> Bundle:
    """The bundle in `path`, after every check that needs no device. Raises Refused.

    trusted: keys by their id. today: the day that expiry is judged on; None: of this machine's clock.
    """
    where = str(path)
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        members = structure(file, size, where)
        manifest, signature = (_whole(file, members[name], where) for name in (MANIFEST, SIGNATURE))
        key = _signer(manifest, signature, trusted, today or date.today(), where)
        content = _manifest(manifest, members, key, where)
        for name, facts in content["files"].items():
            for _ in _blocks(file, members[name], facts["sha256"], where):
                pass
    own = {MANIFEST: hashlib.sha256(manifest).hexdigest(), SIGNATURE: hashlib.sha256(signature).hexdigest()}
    bundle = Bundle(path, content, members, key, own)
    from_files(bundle)
    return bundle


def structure(file: Any, size: int, where: str) -> dict[str, Member]:
    """The files of a zip file of our one form, by name. Nothing but headers is read. Raises Refused."""
    if not END.size + CENTRAL.size <= size <= LARGEST_BUNDLE:
        raise Refused(f"{where}: has {size} bytes, expected a bundle of at most {LARGEST_BUNDLE}")
    file.seek(size - END.size)
    magic, disk, disk_too, count, total, length, start, comment = END.unpack(file.read(END.size))
    if magic != b"PK\5\6" or start + length + END.size != size or comment:
        raise Refused(f"{where}: does not end as a bundle does: it was cut short, or something was added to it")
    if (disk, disk_too, total) != (0, 0, count) or not 2 <= count <= MOST_FILES or length > LARGEST_MANIFEST:
        raise Refused(f"{where}: its zip directory speaks of {total} files on {disk + 1} disks, expected 2 to "
                      f"{MOST_FILES} on one")
    file.seek(start)
    directory, at, here = file.read(length), 0, 0
    members: dict[str, Member] = {}
    for _ in range(count):
        member, offset, at = _entry(directory, at, where)
        if member.name.lower() in (known.lower() for known in members):
            raise Refused(f"{where}: {member.name} stands in it twice")
        if offset != here:
            raise Refused(f"{where}: {member.name} begins at byte {offset}, expected {here}: files overlap, or "
                          "something lies between them")
        local = local_header(member)
        file.seek(offset)
        if offset + len(local) + member.size > start or file.read(len(local)) != local:
            raise Refused(f"{where}: the header before {member.name} and the zip directory contradict each other")
        members[member.name] = member._replace(start=offset + len(local))
        here = offset + len(local) + member.size
    if at != length or here != start:
        raise Refused(f"{where}: holds bytes that belong to no file")
    if list(members) != in_order(members):
        raise Refused(f"{where}: expected {MANIFEST}, {SIGNATURE} and then all other files by name, found "
                      f"{', '.join(members)[:200]}")
    return members


def in_order(names: Iterable[str]) -> list[str]:
    """How the files of a bundle follow each other: manifest and signature first, and both must be there."""
    return [MANIFEST, SIGNATURE, *sorted(set(names) - {MANIFEST, SIGNATURE})]


def local_header(member: Member) -> bytes:
    """The one form that the header before a file has."""
    name = member.name.encode("ascii")
    return LOCAL.pack(b"PK\3\4", VERSION, 0, 0, 0, DATE, member.crc, member.size, member.size, len(name), 0) + name


def central_header(member: Member, offset: int) -> bytes:
    """The one form that a file's entry in the directory has."""
    name = member.name.encode("ascii")
    return CENTRAL.pack(b"PK\1\2", UNIX << 8 | VERSION, VERSION, 0, 0, 0, DATE, member.crc, member.size, member.size,
                        len(name), 0, 0, 0, 0, PLAIN_FILE << 16, offset) + name


def _entry(directory: bytes, at: int, where: str) -> tuple[Member, int, int]:
    """One entry of the directory at byte `at`: the file, where its header begins, where the next entry does."""
    if len(directory) < at + CENTRAL.size or directory[at : at + 4] != b"PK\1\2":
        raise Refused(f"{where}: its zip directory is damaged")
    (_, _, _, flags, method, _, _, crc, packed, size, length, extra, comment, _, _, attributes, offset
     ) = CENTRAL.unpack_from(directory, at)
    end = at + CENTRAL.size + length
    raw = directory[at + CENTRAL.size : end]
    name, told = raw.decode("ascii", "replace"), f"{where}: {ascii(raw.decode('utf-8', 'replace'))[1:-1][:100]}"
    if flags & 1:
        raise Refused(f"{told} is encrypted; a bundle is signed, not encrypted")
    if method != 0 or packed != size:
        raise Refused(f"{told} is compressed; the files of a bundle are stored as they are, so that none can unfold "
                      "into more than it says")
    if 0xFFFFFFFF in (size, offset):
        raise Refused(f"{told} is in zip64 form, which a bundle never is")
    if name.endswith("/") or (attributes >> 16) & 0o170000 not in (0, 0o100000) or attributes & 0x10:
        raise Refused(f"{told} is a link, a folder or a device; a bundle holds plain files alone")
    if not NAME.fullmatch(name) or len(raw) != length:
        raise Refused(f"{told} is a name that could lie outside the bundle's folder, or that no file of a bundle has")
    member = Member(name, offset, size, crc)
    if extra or comment or directory[at:end] != central_header(member, offset):
        raise Refused(f"{told} has a zip header with more, or other, in it than a bundle has")
    return member, offset, end


def _signer(manifest: bytes, signature: bytes, trusted: Mapping[str, Key], today: date, where: str) -> Key:
    """The trusted key that signed these very bytes, which are not interpreted before. Raises Refused."""
    if len(signature) != SIGNATURE_BYTES:
        raise Refused(f"{where}: {SIGNATURE} has {len(signature)} bytes, expected {SIGNATURE_BYTES}")
    key = trusted.get(signature[:8].hex())
    if key is None:
        known = ", ".join(f"{k.name} ({i})" for i, k in sorted(trusted.items())) or "none"
        raise Refused(f"{where}: names {signature[:8].hex()} as the key that signed it, which is not trusted here; "
                      f"trusted: {known}")
    if not verified(key.public, signature[8:], manifest):
        raise Refused(f"{where}: the signature of {key.name} ({key.key_id}) does not hold: manifest or signature were "
                      "altered")
    if today > key.expires:
        raise Refused(f"{where}: the key {key.name} ({key.key_id}) that signed it expired on {key.expires}, and the "
                      f"clock of {platform.node() or 'this machine'} says {today}")
    return key


def _manifest(text: bytes, members: Mapping[str, Member], key: Key, where: str) -> dict[str, Any]:
    """manifest.json, whose signature held, and the list of files it gives held against those that are there."""
    content = strict_json(text, f"{where}: {MANIFEST}")
    place = f"{where}: {MANIFEST}"
    if content.get("schema_version") != SCHEMA_VERSION:
        raise Refused(f"{place}: schema_version is {content.get('schema_version')!r}, expected {SCHEMA_VERSION}; read "
                      "it with the version that wrote it")
    files = content.get("files")
    if not isinstance(files, dict) or content.get("key_id") != key.key_id:
        raise Refused(f"{place}: has no list of files, or names another key than {key.key_id}")
    if odd := set(files) ^ (set(members) - {MANIFEST, SIGNATURE}):
        raise Refused(f"{place}: {min(odd)} is listed but not there, or there but not listed")
    for name, facts in files.items():
        if not isinstance(facts, dict) or not isinstance(facts.get("sha256"), str) or facts.get("bytes") != \
                members[name].size:
            raise Refused(f"{place}: {name} has {members[name].size} bytes, which is not what is listed")
    return content


def _blocks(file: Any, member: Member, digest: str, where: str) -> Iterator[bytes]:
    """The bytes of one file in pieces; the digest is judged after the last."""
    found, crc, left = hashlib.sha256(), 0, member.size
    file.seek(member.start)
    while left and (block := file.read(min(BLOCK, left))):
        found.update(block)
        crc, left = zlib.crc32(block, crc), left - len(block)
        yield block
    if found.hexdigest() != digest or crc != member.crc:
        raise Refused(f"{where}: {member.name} was altered: its digest is not the one that was signed")


def _whole(file: Any, member: Member, where: str) -> bytes:
    if member.size > LARGEST_MANIFEST:
        raise Refused(f"{where}: {member.name} has {member.size} bytes, more than the {LARGEST_MANIFEST} it may have")
    file.seek(member.start)
    content: bytes = file.read(member.size)
    if zlib.crc32(content) != member.crc:
        raise Refused(f"{where}: {member.name} was altered: its CRC is not the one in the zip directory")
    return content


def _opened(path: Path) -> Any:
    try:
        if not path.is_file():
            raise Refused(f"{path}: is not a file; expected a bundle, as `toolchain ship` writes it")
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: cannot be read ({error})") from None
