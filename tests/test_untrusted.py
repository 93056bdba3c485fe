"""What a file that somebody else wrote may say, and that no file of ours can carry code."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from pipeline.files import read_bounded
from pipeline.untrusted import parse_json

ROOT = Path(__file__).resolve().parents[1]


def test_json_of_numbers_that_are_numbers_is_read():
    assert parse_json(b'{"a": [1, 2.5, null, "x"], "b": {"c": true}}') == {"a": [1, 2.5, None, "x"], "b": {"c": True}}
    assert parse_json(b"[" * 32 + b"]" * 32) is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"NaN", "NaN is not finite"),
        (b"[-Infinity]", "-Infinity is not finite"),
        (b"1e999", "1e999 is not finite"),
        (b"1" + b"0" * 10_000, "is not JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice"),
        (b"[" * 34 + b"]" * 34, "nested deeper than 32 levels"),
        (b'{"a":' * 34 + b"1" + b"}" * 34, "nested deeper than 32 levels"),
        (b"[" * 1_000_000, "nested deeper than 32 levels"),
    ],
)
def test_other_json_is_refused_by_what_it_is(content, message):
    with pytest.raises(ValueError, match=message) as refused:
        parse_json(content)
    assert len(str(refused.value)) < 300


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345678")
    assert read_bounded(path, 8) == b"12345678"
    with pytest.raises(OSError, match="has 8 bytes, more than the 7"):
        read_bounded(path, 7)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="is a link"):
        read_bounded(tmp_path / "link", 8)
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="is no regular file"):
            read_bounded(odd, 8)


def test_no_file_is_read_in_a_way_that_could_run_code():
    """numpy without pickle, torch with tensors alone, YAML with plain values, and nothing that unpickles."""
    faults = []
    for path in [*(ROOT / "pipeline").rglob("*.py"), ROOT / "submit.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if fault := _fault(node):
                faults.append(f"{path.relative_to(ROOT)}:{node.lineno}: {fault}")
    assert faults == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "np.load(path)", "np.load(path, allow_pickle=True)",
        "torch.load(path)", "torch.load(path, weights_only=False)", "joblib.load(p)", "yaml.load(text)", "eval(text)",
        "np.lib.format.read_array(file)", "pd.read_pickle(path)", "np.load(p, None, True)",
    ],
)  # fmt: skip
def test_that_test_would_notice(source):
    assert any(_fault(node) for node in ast.walk(ast.parse(source)))


def _fault(node: ast.AST) -> str | None:
    """What is wrong with a piece of a program, if anything."""
    never = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle"}
    if isinstance(node, ast.Import) and (found := {name.name.partition(".")[0] for name in node.names} & never):
        return f"imports {found.pop()}"
    if isinstance(node, ast.ImportFrom):
        names = {name.name for name in node.names}
        if (node.module or "").partition(".")[0] in never or (
            node.module in ("joblib", "torch", "numpy") and "load" in names
        ):
            return f"imports from {node.module}"
    if not isinstance(node, ast.Call):
        return None
    called, options = ast.unparse(node.func), {option.arg: ast.unparse(option.value) for option in node.keywords}
    wanted = {"np.load": ("allow_pickle", "False"), "torch.load": ("weights_only", "True")}
    wanted |= {"np.lib.format.read_array": ("allow_pickle", "False")}
    if called in wanted and options.get(wanted[called][0]) != wanted[called][1]:
        return f"{called} without {'='.join(wanted[called])}"
    if called in ("joblib.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "eval", "exec"):
        return f"calls {called}"
    return None
