"""asyncssh's own server as a program: `python ssh_server.py PORT HOST_KEY AUTHORIZED_KEYS [SFTP [FORCED]]`. It runs any
command, by the shell, and lets files be read and written, as the user who started it; what it runs outlives a cut line,
as with sshd. SFTP: "none" switches it off. FORCED: is run instead, and finds the command in SSH_ORIGINAL_COMMAND.
"""

import asyncio
import contextlib
import os
import sys

import asyncssh


async def pump(source: asyncio.StreamReader, target: asyncssh.SSHWriter) -> None:
    while block := await source.read(1 << 14):
        with contextlib.suppress(OSError):  # nobody listens any more
            target.write(block)


FORCED = "".join(sys.argv[5:6])


async def handle(process: asyncssh.SSHServerProcess) -> None:
    child = await asyncio.create_subprocess_shell(
        FORCED or process.command or "true", env={**os.environ, "SSH_ORIGINAL_COMMAND": process.command or ""}, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, start_new_session=True)
    assert child.stdout and child.stderr
    await asyncio.gather(pump(child.stdout, process.stdout), pump(child.stderr, process.stderr))
    code = await child.wait()
    if code < 0:
        process.exit_with_signal("KILL")
    else:
        process.exit(code)


class Forwarding(asyncssh.SSHServer):
    """Lets itself be used as a jump host, as sshd does."""

    def connection_requested(self, *_: object) -> bool:
        return True


async def main(port: int, host_key: str, authorized: str, sftp: str) -> None:
    await asyncssh.listen("127.0.0.1", port, server_host_keys=[host_key], authorized_client_keys=authorized,
                          server_factory=Forwarding, process_factory=handle, sftp_factory=sftp != "none", encoding=None)
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], "".join(sys.argv[4:5])))
