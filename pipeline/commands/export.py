"""``python -m pipeline export OUT``: the networks of a weights folder as ONNX files, for other programs.

Each file is run by ONNX Runtime and compared with PyTorch before it gets its name.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path

from pipeline.commands import DEFAULT_WEIGHTS
from pipeline.console import CallError, WorkError, say

KIND = "networks in ONNX"
DESCRIPTION = "networks.json"
PACKAGES = ("onnx", "onnxruntime")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder to write and the set of weights."""
    parser.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="folder for NETWORK.onnx of every network and networks.json, which says for each of them what it does, "
        "what goes in and what comes out. New or empty, or one of an earlier export, whose files are replaced",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        default=DEFAULT_WEIGHTS,
        metavar="DIR",
        help="weights folder whose networks are written (default: $LUMBAR_WEIGHTS, else weights/default)",
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        metavar="NAME",
        help="only these, by the names of the weights' manifest.json, e.g. canal-t2-fold0 (default: all)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the networks and print what was written."""
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise CallError(f"needs {' and '.join(missing)}; pip install -r requirements-onnx.txt")

    from pipeline.exports.onnx import ExportError, write_network
    from pipeline.files import write_text
    from pipeline.owned import check_apart, claim
    from pipeline.weights.manifest import Manifest, WeightsError

    check_apart({"--weights": args.weights}, {}, {"OUT": args.out})
    try:
        manifest = Manifest.load(args.weights)
    except WeightsError as error:
        raise CallError(str(error)) from error
    known = {member.name: member for member in manifest.members}
    if strange := sorted(set(args.networks or ()) - known.keys()):
        raise CallError(f"--networks {strange[0]}: not one of {', '.join(known) or 'none'}")
    claim(args.out, KIND)
    written = {}
    for name in args.networks or known:
        member = known[name]
        try:
            found = write_network(args.weights, member, args.out / f"{name}.onnx")
        except (ExportError, WeightsError) as error:
            raise WorkError(str(error)) from error
        about = {"file": f"{name}.onnx", "task": member.task, "fold": member.fold, "sha256_of_weights": member.sha256}
        written[name] = {**about, **found, "settings": member.config}
        say(f"{name}: differs from PyTorch by {found['difference']:.1e} of the largest output")
    content = {"set": manifest.set, "description": manifest.description, "networks": written}
    write_text(args.out / DESCRIPTION, json.dumps(content, indent=2) + "\n")
    size = sum((args.out / f"{name}.onnx").stat().st_size for name in written)
    say(f"{args.out}: {len(written)} networks, {size / 1e6:.1f} MB; {DESCRIPTION} says what goes in and what comes out")
    return 0
