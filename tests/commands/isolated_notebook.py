"""Execute a notebook where no connection can be made, and refuse to where one could.

``python isolated_notebook.py NOTEBOOK EXECUTED --probe HOST:PORT ...`` is started by the tests inside a network
namespace (see :func:`isolation`). Kaggle's own executor also runs the cells in order with no one to answer questions.
Needs nbclient and ipykernel only, so it also runs in an environment that has just what the Kaggle image has.

Exit status: 0 the notebook ran, 1 a cell failed, 3 a connection could have been made.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

OUTSIDE = ("1.1.1.1:53", "8.8.8.8:443", "[2606:4700:4700::1111]:53")
"""Public resolvers by address, so that the probe does not depend on a name being resolved."""
EQUIVALENTS = """\
No network namespace can be made here. Any of these makes this test run:
  * allow unprivileged user namespaces (Ubuntu 24.04: sysctl kernel.apparmor_restrict_unprivileged_userns=0),
  * password-less sudo, or running as root with CAP_SYS_ADMIN,
  * running the tests in a container without a network: docker run --network none."""


def isolation() -> list[str] | None:
    """The command prefix under which a program has no interface but a loopback that is down; None where none works.

    An empty list: this process has no network to begin with, as in a container started without one.
    """
    if not reachable(OUTSIDE) and interfaces() <= {"lo"}:
        return []
    user, group = str(os.getuid()), str(os.getgid())
    as_self = ["setpriv", "--reuid", user, "--regid", group, "--clear-groups"]
    for prefix in (
        ["unshare", "-rn"],
        ["unshare", "-n"],
        ["bwrap", "--dev-bind", "/", "/", "--unshare-net"],
        ["sudo", "-n", "-E", "unshare", "-n", *as_self],
    ):
        if (
            shutil.which(prefix[0])
            and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
        ):
            return prefix
    return None


def interfaces() -> set[str]:
    """The network interfaces this process sees."""
    return {name for _, name in socket.if_nameindex()}


def reachable(addresses: tuple[str, ...] | list[str]) -> list[str]:
    """Those of the addresses (host:port) that a connection can be made to."""
    return [address for address in addresses if _connects(address)]


def execute(notebook: Path, executed: Path) -> None:
    """Run every cell in order and save the notebook with its outputs, also when a cell fails.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    import nbformat
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    content = nbformat.read(notebook, as_version=4)
    # The kernel is spoken to over unix sockets: there is no loopback to speak over. Their paths have to be short.
    os.environ["JUPYTER_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="nb", dir="/tmp")
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc")
    client = NotebookClient(content, km=manager, timeout=1200)
    try:
        client.execute()
    finally:
        nbformat.write(content, executed)
        shutil.rmtree(os.environ["JUPYTER_RUNTIME_DIR"], ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("notebook", type=Path)
    parser.add_argument("executed", type=Path)
    parser.add_argument("--probe", action="append", default=[], metavar="HOST:PORT", help="must not be reachable")
    args = parser.parse_args()
    if interfaces() - {"lo"}:
        print(f"a connection could be made: interfaces {', '.join(sorted(interfaces()))}", file=sys.stderr)
        return 3
    open_ones = reachable([*OUTSIDE, *args.probe])
    if open_ones:
        print(f"a connection could be made: to {', '.join(open_ones)}", file=sys.stderr)
        return 3
    try:
        execute(args.notebook, args.executed)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _connects(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
