"""What is printed, on streams that are closed, full, broken or of another encoding."""

from __future__ import annotations

import ast
import builtins
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.console import EXIT_STATUS, Parser, complain, exit_status, run_command, say, say_json

ROOT = Path(__file__).parents[1]
HELP = [sys.executable, "-m", "pipeline", "--help"]


def run(command, **options):
    return subprocess.run(command, cwd=ROOT, check=False, stderr=subprocess.PIPE, text=True, timeout=120, **options)


def test_a_reader_that_has_gone_breaks_nothing():
    reading, writing = os.pipe()
    os.close(reading)
    done = run(HELP, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_is_lost_on_a_full_disk_is_said_in_one_line():
    with Path("/dev/full").open("w") as full:
        done = run(HELP, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "python -m pipeline: standard output: No space left on device\n"


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path):
    code = (
        "from pipeline.console import complain, run_program, say\n"
        "def work():\n"
        f"    file = open({str(tmp_path / 'table')!r}, 'w')\n"
        "    file.write('table')\n"
        "    file.flush()\n"
        "    say('said'); complain('complained')\n"
        "    import os; os.write(1, b'a library'); os.write(2, b'another')\n"
        "    import subprocess, sys\n"
        "    ask = 'import sys; sys.exit(3 if sys.stdin and sys.stdout and sys.stderr else 4)'\n"
        "    return subprocess.call([sys.executable, '-c', ask])\n"  # a worker needs streams as well
        "raise SystemExit(run_program('test', work))\n"
    )
    closed = f'exec {sys.executable} -c "$CODE" <&- >&- 2>&-'
    done = run(["bash", "-c", closed], env={**os.environ, "CODE": code})
    assert done.returncode == 3
    assert (tmp_path / "table").read_text() == "table"


def test_what_the_encoding_lacks_is_escaped():
    code = "from pipeline.console import *; run_program('test', lambda: say('M\\xfcller \\N{SNOWMAN}') or 0)"
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run([sys.executable, "-c", code], stdout=subprocess.PIPE, env=plain)
    assert (done.returncode, done.stdout, done.stderr) == (0, "M\\xfcller \\u2603\n", "")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("PermissionError(13, 'Permission denied', '/x')", "test: /x: Permission denied\n"),
        ("MemoryError('1 GB')", "test: out of memory: 1 GB\n"),
    ],
)
def test_what_the_system_lacks_is_said_in_one_line(error, text):
    code = (
        f"from pipeline.console import *\ndef work():\n    raise {error}\nraise SystemExit(run_program('test', work))"
    )
    done = run([sys.executable, "-c", code])
    assert (done.returncode, done.stderr) == (1, text)


def test_lines_hold_no_line_break_and_json_is_left_whole(capsys):
    say("one\ntwo", "\x1b[31mthree")
    say_json({"a\x1b": "\udce9" * 12_000})
    complain("caf\udce9")
    printed = capsys.readouterr()
    first, second, third = printed.out.splitlines()
    assert (first, second) == ("one\\x0atwo", "\\x1b[31mthree")
    assert third == '{"a\\u001b": "' + "\\udce9" * 12_000 + '"}'
    assert printed.err == "caf\\xe9\n"


def own_errors():
    """The classes of exceptions of the package, by name."""
    found = {}
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                assert node.name not in found, (
                    f"{path}: a second {node.name}, so its exit status cannot be told by name"
                )
                module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
                found[node.name] = getattr(module, node.name)
    return found


CAUGHT = {"UndecodableError", "BadFileError", "DamagedError", "NoReportError", "ExportError", "RuntimeFailedError"}
"""Errors that never reach a command's end: they become a problem, or a line, or the file is made anew."""
OF_OTHERS = {"WorkerLostError", "ClusterLostError"}
"""Kinds of ``OSError``."""


def test_every_error_of_the_package_has_one_exit_status_that_every_command_uses(capsys):
    known = own_errors() | {name: getattr(builtins, name) for name in EXIT_STATUS if hasattr(builtins, name)}
    assert known.keys() - CAUGHT - OF_OTHERS == EXIT_STATUS.keys()
    for name, status in [*EXIT_STATUS.items(), *dict.fromkeys(OF_OTHERS, EXIT_STATUS["OSError"]).items()]:
        error = known[name].__new__(known[name])
        Exception.__init__(error, "what is wrong")

        def run(args, error=error):
            raise error

        assert run_command("python -m pipeline prior", "A table.", lambda parser: None, run, []) == status
        assert capsys.readouterr().err.startswith("prior: "), name


def test_a_status_that_a_command_returns_is_passed_on_and_a_fault_of_the_program_keeps_its_traceback():
    assert exit_status("x", lambda: 7) == 7
    for error in (ValueError, KeyError, RuntimeError):
        with pytest.raises(error):
            exit_status("x", lambda error=error: (_ for _ in ()).throw(error("a bug")))


def test_a_wrong_argument_is_shown_escaped(capsys):
    with pytest.raises(SystemExit, match="2"):
        Parser(prog="x").parse_args(["\x1b[31m\nname"])
    assert capsys.readouterr().err.splitlines()[-1] == "x: error: unrecognized arguments: \\x1b[31m\\x0aname"


def calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_nothing_is_printed_and_no_duration_measured_past_the_modules_for_it():
    """One place escapes what people see, one starts processes, and a clock that is set must not end a run."""
    allowed = {
        "print": {"console.py"},
        "tqdm.write": {"tracking.py"},
        "Parallel": set(),
        "argparse.ArgumentParser": set(),
        "time.time": {"rounds.py", "session.py"},  # the time of day, for people
    }
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        for call in calls(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(call.func)
            assert path.name in allowed.get(name, {path.name}), f"{path}:{call.lineno}: {name}"
