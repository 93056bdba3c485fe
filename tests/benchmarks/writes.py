"""What grading, training and ``kaggle`` write, delete and connect to: ``python -m tests.benchmarks.writes``.

``tests/recorder`` sees what goes through Python; the kernel, asked here through ``strace``, sees libraries in C too.
Printed is a table: calls that change a file, by the folder they are in, and how many lie outside of what was named.
Exit status 1 if any does, but for the semaphores of processes (``/dev/shm``), which have to be gone at the end as
temporary files have, or if a socket was made that is not between processes of this machine.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.phantom import make_phantom
from tests.recorder import ROOT, environment, grading, kaggle, training

CALLS = (
    "open,openat,openat2,creat,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,rmdir,link,linkat,symlink,"
    "symlinkat,truncate,chmod,fchmodat,chown,lchown,fchownat,mknod,mknodat,utimensat,setxattr,socket,connect,bind"
)
WRITING = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND)")
SHARED = "/dev/shm/"
HARMLESS = ("/dev/null", "/dev/tty", "/proc/self/", "/dev/nvidia")


def calls(log: Path) -> Iterator[str]:
    """Whole calls, those of several processes disentangled, without the ones that failed."""
    begun: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        process, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[process] = call.removesuffix("<unfinished ...>")
            continue
        if call.startswith("<..."):
            call = begun.pop(process, "") + call.partition("resumed>")[2]
        if " = -1 " not in call or call.startswith(("socket", "connect", "bind")):
            yield call


def changed(call: str) -> list[str]:
    """The paths that a call changes."""
    name = call.partition("(")[0]
    if name.startswith(("open", "creat")) and not (name == "creat" or WRITING.search(call)):
        return []
    found = re.findall(r'(?:\w+<([^>]*)>, )?"((?:[^"\\]|\\.)*)"', call.rpartition(" = ")[0])
    paths = [str(Path(folder) / path) for folder, path in found]
    return paths[1:] if name.startswith(("link", "symlink")) else paths


def watch(title: str, command: list[str], folder: Path, named: list[Path]) -> bool:
    """Run a command under strace and print its line; whether all is well."""
    log = folder / "strace"
    traced = ["strace", "-f", "-qq", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(log), sys.executable]
    done = subprocess.run(
        [*traced, *command], cwd=ROOT, env=environment(folder), capture_output=True, text=True, check=False
    )
    places = [*named, folder / "tmp"]
    where: Counter[str] = Counter()
    shared: set[str] = set()
    wrong: list[str] = [] if done.returncode == 0 else [f"exit status {done.returncode}: {done.stderr[-2000:]}"]
    for call in calls(log):
        if call.startswith(("socket", "connect", "bind")):
            wrong += [] if "AF_UNIX" in call else [call]
            continue
        for path in changed(call):
            place = next((place for place in places if Path(path) == place or place in Path(path).parents), None)
            if place is not None:
                where[place.name] += 1
            elif path.startswith(SHARED):
                where[SHARED] += 1
                shared.add(path)
            elif not path.startswith(HARMLESS):
                wrong.append(f"{path}: {call[:200]}")
    left = [path for path in (folder / "tmp").rglob("*") if not path.is_dir()]
    left += [Path(path) for path in sorted(shared) if Path(path).exists()]
    wrong += [f"left behind: {path}" for path in left]
    print(f"| {title} | {', '.join(f'{name} {count}' for name, count in where.items())} | {len(wrong)} |")
    for line in wrong[:20]:
        print(line, file=sys.stderr)
    return not wrong


def main() -> int:
    if shutil.which("strace") is None:
        print("writes: strace is not installed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch).resolve()
        data = make_phantom(root / "data", 5, seed=5, size="small")
        print("| command | calls that change a file, by folder | outside |\n| --- | --- | --- |", flush=True)
        out, work, cache = root / "out", root / "work", root / "cache"
        out.mkdir()
        good = [
            watch("submit.py", grading(data / "train_images", out / "a", work), root / "grading", [out / "a", work]),
            watch("train severity", training(data, out / "b", cache), root / "training", [out / "b", cache]),
            watch("kaggle", kaggle(out / "c"), root / "kaggle", [out / "c"]),
        ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
