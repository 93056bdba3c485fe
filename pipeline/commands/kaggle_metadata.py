"""What Kaggle is told of each dataset and of the kernel that ``python -m pipeline kaggle`` builds.

Fields after Kaggle's own documentation (github.com/Kaggle/kaggle-cli, docs/kernels_metadata.md and
docs/datasets_metadata.md, September 2026).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NOTEBOOK = "kaggle_notebook.ipynb"
MODEL_CARD = "MODEL_CARD.md"
COMPETITION = "rsna-2024-lumbar-spine-degenerative-classification"


@dataclass(frozen=True)
class Dataset:
    """One dataset to upload. The limit of the subtitle (20 to 80 characters) is Kaggle's."""

    folder: str
    subtitle: str
    license: str


CODE = Dataset("code", "The program that turns lumbar MRI into submission.csv", "apache-2.0")
WEIGHTS = Dataset("weights", "Networks in safetensors with manifest and model card", "other")
WHEELS = Dataset("wheels", "Optional DICOM decoders for the image's Python", "other")


def title_of(name: str, dataset: Dataset) -> str:
    """The title of a dataset of an upload that is called ``name``."""
    return f"{name} {dataset.folder}"


def address_of(user: str, title: str) -> str:
    """``user/slug``, as Kaggle makes it from a title."""
    return f"{user}/{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}"


def dataset_metadata(out: Path, dataset: Dataset, user: str, name: str) -> dict[str, Any]:
    """The content of dataset-metadata.json; a model card is spoken of if it lies in ``out``."""
    description = _DESCRIPTIONS[dataset.folder]
    if (out / dataset.folder / MODEL_CARD).is_file():
        description += f" Terms, training data and measured scores: {MODEL_CARD}."
    return {
        "title": title_of(name, dataset),
        "id": address_of(user, title_of(name, dataset)),
        "subtitle": dataset.subtitle,
        "description": description,
        "licenses": [{"name": dataset.license}],
    }


def kernel_metadata(datasets: list[Dataset], user: str, name: str, accelerator: str) -> dict[str, Any]:
    """The content of kernel-metadata.json."""
    return {
        "id": address_of(user, name),
        "title": name,
        "code_file": NOTEBOOK,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": accelerator != "none",
        "enable_internet": False,
        "machine_shape": "" if accelerator == "none" else accelerator,
        "dataset_sources": [address_of(user, title_of(name, dataset)) for dataset in datasets],
        "competition_sources": [COMPETITION],
        "kernel_sources": [],
        "model_sources": [],
    }


_DESCRIPTIONS = {
    "code": "`submit.py` and its package. Attach it to the notebook; it needs no installation.",
    "weights": "Trained networks for the code.",
    "wheels": "Wheels of optional DICOM decoders (fast RLE), each under its own licence. "
    "The notebook installs them with --no-index; without them it runs as well.",
}
