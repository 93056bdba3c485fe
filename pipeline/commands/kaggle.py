"""``python -m pipeline kaggle OUT``: everything that has to be uploaded so that the notebook runs on Kaggle offline.

``OUT/code``, ``OUT/weights`` and ``OUT/wheels`` become three datasets, ``OUT/kernel`` the notebook that is submitted.
Each carries the metadata file its upload command asks for. Nothing is uploaded here: the commands are printed.

A build is made beside the earlier one and takes its place when it is complete. ``OUT/build.json`` lists every file of
a build with its checksum: what is not in that list, or was changed since, is somebody's own and is neither replaced nor
uploaded unseen; the build is refused until it is moved.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands import DEFAULT_WEIGHTS, IS_CLONE, ROOT
from pipeline.commands.kaggle_metadata import (
    CODE,
    MODEL_CARD,
    NOTEBOOK,
    WEIGHTS,
    WHEELS,
    Dataset,
    address_of,
    dataset_metadata,
    kernel_metadata,
)
from pipeline.files import read_bounded, write_text
from pipeline.untrusted import parse_json

if TYPE_CHECKING:
    from pipeline.weights.manifest import Manifest

from pipeline.console import CallError, say

CODE_FILES = ("submit.py", "LICENSE", "README.md", "requirements.txt", "requirements-decoders.txt")
CODE_SUFFIXES = (".py", ".yaml", ".csv")
ACCELERATORS = ("NvidiaTeslaT4", "NvidiaTeslaT4Highmem", "none")
"""One T4, two T4, no GPU: the names Kaggle gives to machine shapes."""
DEFAULT_PYTHON = "3.12"
"""Of the current image (github.com/Kaggle/docker-python on github.com/googlecolab/backend-info, mid 2026)."""
NO_USER = "your-kaggle-name"
KIND = "kaggle"
BUILD_FILE = "build.json"
MOST_CARD_BYTES = 2**20
_PARTIAL = re.compile(r"\.build-[a-z0-9_]{8}/.*|\.build\.json\.[0-9a-f]+\.partial")
"""Files of a build that did not come to its end."""


DEFAULT_NAME = "Lumbar grading"
_NAMES = re.compile(r"[A-Za-z0-9][A-Za-z0-9 -]{4,40}[A-Za-z0-9]")
"""With the longest folder's name behind it, a title of at most 50 characters, which is Kaggle's limit."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``kaggle``."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to build in; replaces an earlier build")
    parser.add_argument(
        "--user",
        default=os.environ.get("KAGGLE_USERNAME"),
        metavar="NAME",
        help="Kaggle name (default: $KAGGLE_USERNAME)",
    )
    parser.add_argument("--name", default=DEFAULT_NAME, metavar="TITLE",
                        help="title of the kernel and, with code, weights or wheels behind it, of the datasets; "
                        "another one keeps two sets of weights apart on Kaggle (default: %(default)s)")  # fmt: skip
    parser.add_argument("--weights", type=Path, metavar="DIR", default=DEFAULT_WEIGHTS,
                        help="set of weights to upload (default: weights/default)")  # fmt: skip
    parser.add_argument("--no-weights", action="store_true", help="leave out the networks: class frequencies only")
    parser.add_argument("--no-wheels", action="store_true", help="leave the optional DICOM decoders out")
    parser.add_argument("--python-version", default=DEFAULT_PYTHON, metavar="X.Y",
                        help="Python version of the Kaggle image (default: %(default)s)")  # fmt: skip
    parser.add_argument("--accelerator", choices=ACCELERATORS, default=ACCELERATORS[0],
                        help="GPUs of the kernel: one T4 (the default), two T4, or none")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Build the folders and print sizes and commands."""
    if not IS_CLONE:
        raise CallError("what is uploaded is the repository; run python -m pipeline kaggle in a clone of it")
    if not re.fullmatch(r"3\.\d{1,2}", args.python_version):
        raise CallError(f"--python-version {args.python_version}: expected two numbers such as 3.12")
    if args.user is not None and not re.fullmatch(r"[A-Za-z0-9-]+", args.user):
        raise CallError(f"--user {args.user}: expected letters, digits and dashes, as in your profile")
    if not _NAMES.fullmatch(args.name):
        raise CallError(f"--name {args.name}: expected 6 to 42 letters, digits, spaces and dashes")
    datasets = build(
        args.out,
        args.user or NO_USER,
        args.name,
        None if args.no_weights else args.weights,
        None if args.no_wheels else args.python_version,
        args.accelerator,
    )
    _report(args.out, datasets, args.user, args.name)
    return 0


def build(
    out: Path,
    user: str,
    name: str,
    weights: Path | None,
    python_version: str | None,
    accelerator: str = ACCELERATORS[0],
) -> list[Dataset]:
    """Build every folder below ``out``; returns the datasets that were made.

    Args:
        out: a new or empty folder, or one of an earlier build, which is replaced.
        user: owner of the datasets.
        name: title of the kernel and beginning of those of the datasets.
        weights: a set of weights, None to go without.
        python_version: for the wheelhouse, None to go without.
        accelerator: one of :data:`ACCELERATORS`.

    Raises:
        RefusedError: ``out`` holds what no build wrote, or is where something is read. Nothing was changed.
        WeightsError: the set has no manifest, or a file that is not what the manifest records.
        WheelError: the wheelhouse could not be built.
        OSError: a file could not be read or written.
    """
    from pipeline.owned import check_apart, claim
    from pipeline.weights.manifest import Manifest

    check_apart({"--weights": weights, "the program's": ROOT / "pipeline"}, {}, {"OUT": out})
    before = _earlier_files(out)
    manifest = None if weights is None else Manifest.load(weights)
    claim(out, KIND)
    _tidy(out)
    made = Path(tempfile.mkdtemp(prefix=".build-", dir=out))
    try:
        datasets = _build(made, user, name, manifest, python_version, accelerator)
        _swap(made, out, before)
    finally:
        _tidy(out)
    return datasets


def _tidy(out: Path) -> None:
    """Delete what is left of builds that did not come to their end."""
    from pipeline.owned import delete_known

    delete_known(out, KIND, _PARTIAL)
    for folder in sorted([*out.glob(".build-*/**/"), *out.glob(".build-*")], reverse=True):
        with contextlib.suppress(OSError):  # it is not empty, or a link
            folder.rmdir()


def _build(
    out: Path, user: str, name: str, weights: Manifest | None, python_version: str | None, accelerator: str
) -> list[Dataset]:
    """Every folder of a build, into an empty folder."""
    from pipeline.commands.wheelhouse import build_wheelhouse, requirement_names

    datasets = [CODE]
    _copy_code(out / CODE.folder)
    if weights is not None:
        datasets.append(WEIGHTS)
        _copy_weights(weights, out / WEIGHTS.folder)
    if python_version is not None:
        datasets.append(WHEELS)
        present = requirement_names(ROOT / "requirements.txt")
        build_wheelhouse(out / WHEELS.folder, ROOT / "requirements-decoders.txt", python_version, present)
    for dataset in datasets:
        _write_json(out / dataset.folder / "dataset-metadata.json", dataset_metadata(out, dataset, user, name))
    kernel = out / "kernel"
    kernel.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / NOTEBOOK, kernel / NOTEBOOK)
    _write_json(kernel / "kernel-metadata.json", kernel_metadata(datasets, user, name, accelerator))
    return datasets


def _copy_code(target: Path) -> None:
    """``submit.py`` and the package without training data, caches or tests."""
    files = [ROOT / name for name in CODE_FILES if (ROOT / name).is_file()]
    files += [path for path in sorted((ROOT / "pipeline").rglob("*")) if path.suffix in CODE_SUFFIXES]
    for path in files:
        if "__pycache__" not in path.parts:
            _copy(path, target / path.relative_to(ROOT))


def _copy_weights(source: Manifest, target: Path) -> None:
    """The networks that grade a new study, checksums compared, what else the manifest names, and the model card.

    A study that no network has seen has its points from the first sagittal and the first axial localiser; those of the
    other folds are for the dry run, and stay here.
    """
    from pipeline.run.plan import first_finders
    from pipeline.weights.manifest import LANDMARK_TASKS

    finders = source.of_task(*LANDMARK_TASKS)
    spare = {member.name for member in finders} - set(first_finders(finders))
    if spare:
        say(f"left out, because only a dry run uses them: {', '.join(sorted(spare))}")
    source.gather(target, without=spare)
    for folder in (source.folder, source.folder.parent):
        if os.path.lexists(folder / MODEL_CARD):
            (target / MODEL_CARD).write_bytes(read_bounded(folder / MODEL_CARD, MOST_CARD_BYTES))
            return
    say(f"{source.folder}: no {MODEL_CARD} there or above; write one before you share what was trained on patients")


def _earlier_files(out: Path) -> dict[str, list[str]]:
    """The files of the build that lies in ``out``, by their path in it, with the checksums they may have.

    Raises:
        RefusedError: there are others, or one was changed since; or the folder is not one of builds.
        OSError: a file could not be read.
    """
    from pipeline.commands.wheelhouse import sha256_of
    from pipeline.owned import MARK, RefusedError, check_claim

    check_claim(out, KIND)
    try:
        found = parse_json(read_bounded(out / BUILD_FILE, MOST_CARD_BYTES))
        before = {str(name): [str(checksum) for checksum in checksums] for name, checksums in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        before = {}
    for path in out.rglob("*"):
        name, is_link = path.relative_to(out).as_posix(), path.is_symlink()
        if name in (MARK, BUILD_FILE) or _PARTIAL.fullmatch(name) or (path.is_dir() and not is_link):
            continue
        if is_link or not path.is_file() or name not in before:
            raise RefusedError(f"{path}: is not of the earlier build and is left as it is; move it out of {out}")
        if sha256_of(path) not in before[name]:
            raise RefusedError(f"{path}: was changed since it was built and is left as it is; move it out of {out}")
    return before


def _swap(made: Path, out: Path, before: dict[str, list[str]]) -> None:
    """Put a finished build in the place of the one before; whenever this is cut short, the next build can be made."""
    from pipeline.commands.wheelhouse import sha256_of
    from pipeline.owned import delete_known

    files = sorted(path for path in made.rglob("*") if path.is_file())
    after = {path.relative_to(made).as_posix(): [sha256_of(path)] for path in files}
    names = before.keys() | after.keys()
    _write_json(out / BUILD_FILE, {name: before.get(name, []) + after.get(name, []) for name in sorted(names)})
    gone = [re.escape(name) for name in before.keys() - after.keys()]
    for path in files:
        target = out / path.relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    if gone:
        delete_known(out, KIND, re.compile("|".join(gone)))
    _write_json(out / BUILD_FILE, after)


def _report(out: Path, datasets: list[Dataset], user: str | None, name: str) -> None:
    for folder in (*(dataset.folder for dataset in datasets), "kernel"):
        files = [path for path in (out / folder).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        say(f"{out / folder}: {len(files)} files, {size / 1e6:.1f} MB")
    if user is None:
        say(f"the owner is {NO_USER!r} for now: run again with --user NAME before uploading")
    say("", "upload once:")
    for dataset in datasets:
        say(f"  kaggle datasets create -p {out / dataset.folder} --dir-mode zip --keep-tabular")
    say("after a change, instead of it:")
    for dataset in datasets:
        say(f"  kaggle datasets version -p {out / dataset.folder} --dir-mode zip --keep-tabular -m 'what changed'")
    say("when the datasets are ready:")
    say(f"  kaggle kernels push -p {out / 'kernel'}")
    say("when the kernel has run, open its page and choose 'Submit to Competition':")
    say(f"  https://www.kaggle.com/code/{address_of(user or NO_USER, name)}")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")
