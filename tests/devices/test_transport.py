"""Files and commands on a line that is cut, slow, or leads to a full disk."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from device_shop import small_disk, unmounted
from ssh_line import Line

from toolchain.devices import connect, remote, transport
from toolchain.devices.file import Device
from toolchain.devices.pieces import CHUNK
from toolchain.devices.transport import Link
from toolchain.errors import DeviceError, WorkDirError

BYTES = bytes(range(256)) * (20 * CHUNK // 256)  # 20 MiB


def push(device: Device, content: bytes | Path, name: str = "file") -> str:
    async def act() -> str:
        async with Link("orin", device) as link:
            target = f"{link.folder}/{name}"
            await link.write({f"{link.folder}/made": b""})
            await link.push(content, target)
            return target

    return asyncio.run(act())


def test_a_file_arrives_as_it_is_and_an_empty_one_too(device: Device, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(BYTES[: 3 * CHUNK + 17])
    assert Path(push(device, tmp_path / "source")).read_bytes() == BYTES[: 3 * CHUNK + 17]
    assert Path(push(device, b"", "empty")).read_bytes() == b""


def test_a_cut_transfer_goes_on_where_it_stopped(line: Line, device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    line.cut_at = [8 * CHUNK, 14 * CHUNK]
    assert hashlib.sha256(Path(push(device, BYTES)).read_bytes()).digest() == hashlib.sha256(BYTES).digest()
    assert line.connections == 3
    assert line.sent < len(BYTES) + 8 * CHUNK  # started anew it would have been 8 + 6 + 20
    told = capsys.readouterr().err
    assert told.count("the connection was cut; again in") == 2 and told.count("goes on at") == 2


def test_what_an_earlier_command_sent_is_gone_on_with(line: Line, device: Device) -> None:
    Path(device.folder).mkdir()
    (Path(device.folder) / "file").write_bytes(BYTES[: 15 * CHUNK + 5])
    before = line.sent
    assert Path(push(device, BYTES)).read_bytes() == BYTES
    assert line.sent - before < 6 * CHUNK


def test_a_line_that_stays_cut_is_given_up_in_words(line: Line, device: Device) -> None:
    async def act() -> None:
        async with Link("orin", device) as link:
            line.whole = False
            line.cut()
            await link.run(["true"])

    with pytest.raises(DeviceError, match="orin: the connection was cut and did not come back in 6 tries.*the same command goes on"):
        asyncio.run(act())


def test_a_command_whose_line_is_cut_is_asked_again(line: Line, device: Device, tmp_path: Path) -> None:
    async def act() -> transport.Done:
        async with Link("orin", device) as link:
            asyncio.get_running_loop().call_later(0.5, line.cut)
            return await link.run(["sh", "-c", f"echo x >> {tmp_path}/said; if [ $(wc -l < {tmp_path}/said) = 1 ]; then sleep 5; fi; echo done"])

    assert asyncio.run(act()) == (0, "done\n", "")
    assert (tmp_path / "said").read_text() == "x\nx\n"


def test_words_reach_a_program_as_they_are_and_so_do_its_answers(device: Device) -> None:
    async def act() -> list[transport.Done]:
        async with Link("orin", device) as link:
            return [await link.run(["printf", "%s", "a b; echo $HOME 'c' \\ *"]), await link.run(["sh", "-c", "echo no >&2; exit 7"])]

    said, failed = asyncio.run(act())
    assert said == (0, "a b; echo $HOME 'c' \\ *", "") and failed == (7, "", "no\n")


def test_a_slow_line_is_only_slow(line: Line, device: Device) -> None:
    line.bytes_per_s = 2e6
    assert Path(push(device, BYTES[: 2 * CHUNK])).read_bytes() == BYTES[: 2 * CHUNK]


def test_a_full_disk_is_told_and_the_same_command_goes_on(line: Line, device: Device, tmp_path: Path) -> None:
    folder = small_disk(tmp_path / "small", 8)
    try:
        small = device.model_copy(update={"folder": str(folder)})
        with pytest.raises(DeviceError, match=r"orin: .*small has 8\.\d MB free, and 21\.0 MB more are needed; make room there"):
            push(small, BYTES)
        (folder / "ballast").write_bytes(bytes(5 * CHUNK))
        line.bytes_per_s = 20e6

        async def act() -> None:
            async with Link("orin", small) as link:
                asyncio.get_running_loop().call_later(0.05, (folder / "more").write_bytes, bytes(5 * CHUNK // 2))
                await link.push(BYTES[: 5 * CHUNK // 2], f"{folder}/file")  # fits when it starts, and no longer then

        with pytest.raises(DeviceError, match=r"(the disk with .*small is full|more are needed)"):
            asyncio.run(act())
        for name in ("ballast", "more"):
            (folder / name).unlink()
        assert Path(push(small, BYTES[: 5 * CHUNK // 2])).read_bytes() == BYTES[: 5 * CHUNK // 2]
    finally:
        unmounted(folder)


def test_a_file_that_changes_here_while_it_is_sent_is_named_and_not_taken(device: Device, tmp_path: Path) -> None:
    (tmp_path / "a.bundle").write_bytes(b"what it became")
    asked = hashlib.sha256(b"what it was").hexdigest()

    async def act(source: bytes | Path) -> None:
        async with Link("orin", device) as link:
            await remote.send(link, {asked: source})

    with pytest.raises(DeviceError, match="^orin: .*/a.bundle changed here while it was sent; run the same command again when"):
        asyncio.run(act(tmp_path / "a.bundle"))
    with pytest.raises(DeviceError, match="^orin: a file did not arrive as it is, twice; is the disk with .*ours sound"):
        asyncio.run(act(b"bytes that came out otherwise"))
    assert [path.name for path in (Path(device.folder) / "store").iterdir() if path.name.startswith(asked)] == []


def test_a_folder_that_is_not_the_users_is_told(server, device: Device) -> None:
    (blocked := Path(device.folder)).write_text("a file, where a folder is expected")
    with pytest.raises(DeviceError, match=f"orin: .*{blocked.name}"):
        push(device, b"x")


def test_a_file_is_fetched_over_a_line_that_is_cut(line: Line, device: Device, tmp_path: Path) -> None:
    Path(device.folder).mkdir()
    (Path(device.folder) / "file").write_bytes(BYTES)

    async def act() -> None:
        async with Link("orin", device) as link:
            asyncio.get_running_loop().call_later(0.1, line.cut)
            await link.fetch(f"{link.folder}/file", tmp_path / "new" / "file")

    asyncio.run(act())
    assert (tmp_path / "new" / "file").read_bytes() == BYTES
    assert line.connections in (1, 2)


def test_a_place_in_the_home_folder_there_is_found(device: Device) -> None:
    async def act() -> tuple[str, str, str]:
        async with Link("orin", device.model_copy(update={"folder": "~/ours", "python": "~/bin/python"})) as link:
            return link.folder, link.python, (await link.run(["pwd"])).out.strip()

    folder, python, home = asyncio.run(act())
    assert folder == f"{home}/ours" and python == f"{home}/bin/python"


def test_this_machines_own_disk_is_not_taken_for_the_line(device: Device, tmp_path: Path) -> None:
    Path(device.folder).mkdir()
    (Path(device.folder) / "file").write_bytes(b"x")
    (tmp_path / "taken").write_bytes(b"")

    async def act() -> None:
        async with Link("orin", device) as link:
            await link.fetch(f"{link.folder}/file", tmp_path / "taken" / "file")

    with pytest.raises(WorkDirError, match="taken"):
        asyncio.run(act())


def test_a_line_that_says_nothing_any_more_is_given_up_for_a_new_one(line: Line, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "KEEPALIVE_S", 0.3)
    line.stall_at = 5 * CHUNK
    assert Path(push(device, BYTES)).read_bytes() == BYTES
    assert line.connections == 2 and line.sent < len(BYTES) + 6 * CHUNK
