"""``python -m pipeline kaggle OUT``: everything that has to be uploaded so that the notebook runs on Kaggle offline.

``OUT/code``, ``OUT/weights`` and ``OUT/wheels`` become three datasets, ``OUT/kernel`` the notebook that is submitted.
Each carries the metadata file its upload command asks for. Nothing is uploaded here: the commands are printed.

Metadata fields after Kaggle's own documentation (github.com/Kaggle/kaggle-cli, docs/kernels_metadata.md and
docs/datasets_metadata.md, September 2026).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.console import complain, say

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "kaggle_notebook.ipynb"
MODEL_CARD = "MODEL_CARD.md"
CODE_FILES = ("submit.py", "LICENSE", "README.md", "requirements.txt", "requirements-decoders.txt")
CODE_SUFFIXES = (".py", ".yaml", ".csv")
COMPETITION = "rsna-2024-lumbar-spine-degenerative-classification"
ACCELERATORS = ("NvidiaTeslaT4", "NvidiaTeslaT4Highmem", "none")
"""One T4, two T4, no GPU: the names Kaggle gives to machine shapes."""
DEFAULT_PYTHON = "3.12"
"""Of the current image (github.com/Kaggle/docker-python on github.com/googlecolab/backend-info, mid 2026)."""
NO_USER = "your-kaggle-name"


@dataclass(frozen=True)
class Dataset:
    """One dataset to upload. The limits of title (6 to 50) and subtitle (20 to 80 characters) are Kaggle's."""

    folder: str
    title: str
    subtitle: str
    license: str

    @property
    def slug(self) -> str:
        """The last part of its address."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


CODE = Dataset("code", "Lumbar grading code", "The program that turns lumbar MRI into submission.csv", "apache-2.0")
WEIGHTS = Dataset("weights", "Lumbar grading weights", "Networks in safetensors with manifest and model card", "other")
WHEELS = Dataset("wheels", "Lumbar grading wheels", "Optional DICOM decoders for the image's Python", "other")
KERNEL_TITLE = "Lumbar grading"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``kaggle``."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to build in; an earlier build there is replaced")
    parser.add_argument("--user", default=os.environ.get("KAGGLE_USERNAME"), help="Kaggle name (or $KAGGLE_USERNAME)")
    parser.add_argument("--weights", type=Path, metavar="DIR", default=ROOT / "weights" / "default",
                        help="the set of weights to upload (default: weights/default)")  # fmt: skip
    parser.add_argument("--no-weights", action="store_true", help="without: only class frequencies are submitted")
    parser.add_argument("--no-wheels", action="store_true", help="no wheelhouse; the base path needs none")
    parser.add_argument("--python-version", default=DEFAULT_PYTHON, metavar="X.Y",
                        help="Python of the image the wheels are for (default: %(default)s)")  # fmt: skip
    parser.add_argument("--accelerator", choices=ACCELERATORS, default=ACCELERATORS[0],
                        help="machine of the kernel: one T4 (default), two T4, or none")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Build the folders and print sizes and commands; returns the exit status."""
    from pipeline.ensemble.manifest import WeightsError
    from pipeline.report.wheelhouse import WheelError

    if not re.fullmatch(r"3\.\d{1,2}", args.python_version):
        complain(f"kaggle: --python-version {args.python_version}: expected two numbers such as 3.12")
        return 2
    if args.user is not None and not re.fullmatch(r"[A-Za-z0-9-]+", args.user):
        complain(f"kaggle: --user {args.user!r}: expected letters, digits and dashes, as in your profile")
        return 2
    if args.out.exists() and (not args.out.is_dir() or _is_foreign(args.out)):
        complain(f"kaggle: {args.out} is not an earlier build; name a new or an empty folder")
        return 2
    try:
        datasets = build(
            args.out,
            args.user or NO_USER,
            None if args.no_weights else args.weights,
            None if args.no_wheels else args.python_version,
            args.accelerator,
        )
    except (WeightsError, WheelError) as error:
        complain(f"kaggle: {error}")
        return 1
    except OSError as error:
        complain(f"kaggle: {error.filename or args.out}: {error.strerror or error}")
        return 1
    _report(args.out, datasets, args.user)
    return 0


def build(
    out: Path, user: str, weights: Path | None, python_version: str | None, accelerator: str = ACCELERATORS[0]
) -> list[Dataset]:
    """Build every folder below ``out``; returns the datasets that were made.

    Args:
        out: replaced if it holds an earlier build.
        user: owner of the datasets.
        weights: a set of weights, None to go without.
        python_version: for the wheelhouse, None to go without.
        accelerator: one of :data:`ACCELERATORS`.

    Raises:
        WeightsError: the set has no manifest, or a file that is not what the manifest records.
        WheelError: the wheelhouse could not be built.
        OSError: a file could not be read or written.
    """
    from pipeline.report.wheelhouse import build_wheelhouse, requirement_names

    for name in (CODE.folder, WEIGHTS.folder, WHEELS.folder, "kernel"):
        shutil.rmtree(out / name, ignore_errors=True)
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
        _write_json(out / dataset.folder / "dataset-metadata.json", _dataset_metadata(dataset, user))
    kernel = out / "kernel"
    kernel.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / NOTEBOOK, kernel / NOTEBOOK)
    _write_json(kernel / "kernel-metadata.json", _kernel_metadata(datasets, user, accelerator))
    return datasets


def _copy_code(target: Path) -> None:
    """``submit.py`` and the package without training data, caches or tests."""
    files = [ROOT / name for name in CODE_FILES if (ROOT / name).is_file()]
    files += [path for path in sorted((ROOT / "pipeline").rglob("*")) if path.suffix in CODE_SUFFIXES]
    for path in files:
        if "__pycache__" not in path.parts:
            _copy(path, target / path.relative_to(ROOT))


def _copy_weights(source: Path, target: Path) -> None:
    """The files that the manifest names, their checksums compared, in one folder, and the model card."""
    from pipeline.ensemble.manifest import Manifest

    Manifest.load(source).gather(target)
    for folder in (source, source.parent):
        if (folder / MODEL_CARD).is_file():
            _copy(folder / MODEL_CARD, target / MODEL_CARD)
            break


def _dataset_metadata(dataset: Dataset, user: str) -> dict[str, Any]:
    return {
        "title": dataset.title,
        "id": f"{user}/{dataset.slug}",
        "subtitle": dataset.subtitle,
        "description": _DESCRIPTIONS[dataset.folder],
        "licenses": [{"name": dataset.license}],
    }


def _kernel_metadata(datasets: list[Dataset], user: str, accelerator: str) -> dict[str, Any]:
    return {
        "id": _kernel_id(user),
        "title": KERNEL_TITLE,
        "code_file": NOTEBOOK,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": accelerator != "none",
        "enable_internet": False,
        "machine_shape": "" if accelerator == "none" else accelerator,
        "dataset_sources": [f"{user}/{dataset.slug}" for dataset in datasets],
        "competition_sources": [COMPETITION],
        "kernel_sources": [],
        "model_sources": [],
    }


def _kernel_id(user: str) -> str:
    return f"{user}/{KERNEL_TITLE.lower().replace(' ', '-')}"


_DESCRIPTIONS = {
    "code": "`submit.py` and its package. Attach it to the notebook; it needs no installation.",
    "weights": "Trained networks for the code. Terms, training data and measured scores: MODEL_CARD.md.",
    "wheels": "Wheels of optional DICOM decoders (fast RLE), each under its own licence. "
    "The notebook installs them with --no-index; without them it runs as well.",
}


def _report(out: Path, datasets: list[Dataset], user: str | None) -> None:
    for name in (*(dataset.folder for dataset in datasets), "kernel"):
        files = [path for path in (out / name).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        say(f"{out / name}: {len(files)} files, {size / 1e6:.1f} MB")
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
    say(f"  https://www.kaggle.com/code/{_kernel_id(user or NO_USER)}")


def _is_foreign(folder: Path) -> bool:
    known = {CODE.folder, WEIGHTS.folder, WHEELS.folder, "kernel"}
    return any(path.name not in known for path in folder.iterdir())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
