"""The study-context model: a study's own cells correct each other, and fill the cells whose series is missing.

Stenosis comes in company: a narrow foramen says something of the recess beside it, of the levels around and of the
canal. A small multilayer perceptron sees all of a study's predictions with a mask of what is there, mirrored so that
its target is always on the left, and the target's level; its answer is *added* to what is known of the cell already,
its own prediction or, where there is none, the prior. It starts as the identity and is trained on the metric itself,
the any-severe term included, with whole families hidden at random, so any pattern of missing series is one it knows.
Inference is numpy; the weights are arrays in a safetensors file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load, save

from pipeline.ensemble.calibration import normalised
from pipeline.labels import CELLS, CONDITIONS, GRADES, LEVELS, MIRROR, Condition, Side

_SPAN = 6.0
"""Log-ratios are clipped to this before they enter the network."""

MOST_WEIGHT = 1e6
"""Far beyond any that a fit gives, and small enough that no sum of products leaves what a float holds."""
_ARRAYS = ("prior", "hidden", "hidden_bias", "out", "out_bias")
_INPUTS = 5 * len(CELLS)
"""Numbers that the network sees of a study, see :func:`inputs`."""

OUTPUTS: tuple[Condition, ...] = (Condition.CANAL, Condition.LEFT_FORAMINAL, Condition.LEFT_SUBARTICULAR)
"""What the network answers for, seen from the left: three conditions of three grades each."""


@dataclass(frozen=True, eq=False)
class ContextModel:
    """A committee of perceptrons with one hidden layer.

    Attributes:
        prior: (25, 3) log-probabilities of cells without a prediction.
        hidden: (M, inputs, H) weights and ``hidden_bias`` (M, 5, H), one a level: the level is a bias.
        out: (M, H, 9) weights and ``out_bias`` (M, 9), three conditions of three grades.
    """

    prior: np.ndarray
    hidden: np.ndarray
    hidden_bias: np.ndarray
    out: np.ndarray
    out_bias: np.ndarray

    def apply(self, log_p: np.ndarray) -> np.ndarray:
        """Log-probabilities of all cells.

        Args:
            log_p: (studies, 25, 3), NaN rows where a cell has no prediction.

        Returns:
            (studies, 25, 3), no NaN. A study without any prediction gets the prior.
        """
        known = np.isfinite(log_p).all(-1)
        base = np.where(known[..., None], log_p, self.prior)
        features = inputs(log_p)
        corrections = np.zeros((len(log_p), 2, len(LEVELS), 3 * len(OUTPUTS)))
        for member in range(len(self.hidden)):
            before = (features @ self.hidden[member])[:, :, None] + self.hidden_bias[member]
            corrections += (np.maximum(before, 0) @ self.out[member] + self.out_bias[member]) / len(self.hidden)
        result = normalised(base + to_cells(corrections))
        result[~known.any(1)] = normalised(self.prior)
        return result

    def __post_init__(self) -> None:
        members, units = self.hidden.shape[0], self.hidden.shape[-1]
        shapes = {
            "prior": (len(CELLS), len(GRADES)),
            "hidden": (members, _INPUTS, units),
            "hidden_bias": (members, len(LEVELS), units),
            "out": (members, units, 3 * len(OUTPUTS)),
            "out_bias": (members, 3 * len(OUTPUTS)),
        }
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values.shape != shape:
                raise ValueError(f"{name} is of shape {values.shape}, expected {shape}")
            if not (np.abs(values) <= MOST_WEIGHT).all():  # nor NaN
                raise ValueError(f"{name} holds numbers that are not finite or beyond {MOST_WEIGHT:g}")

    def to_bytes(self) -> bytes:
        """The content of its file, for :meth:`load`."""
        return bytes(save({name: np.ascontiguousarray(getattr(self, name), dtype=np.float64) for name in _ARRAYS}))

    @staticmethod
    def load(content: bytes) -> ContextModel:
        """The inverse of :meth:`to_bytes`.

        Raises:
            ValueError: it does not hold these arrays.
        """
        try:
            arrays = load(content)
            return ContextModel(*(arrays[name].astype(np.float64) for name in _ARRAYS))
        except Exception as error:  # safetensors raises its own kinds
            raise ValueError(f"not a study-context model ({type(error).__name__}: {error!s:.400})") from error


def inputs(log_p: np.ndarray) -> np.ndarray:
    """What the network sees of a study, once from either side.

    Args:
        log_p: (studies, 25, 3), NaN rows where there is no prediction.

    Returns:
        (studies, 2 sides, F): per cell two log-ratios and two probabilities (0 where missing) and the mask. Side 0 is
        the study as it is, side 1 mirrored.
    """
    known = np.isfinite(log_p).all(-1)
    clean = np.where(known[..., None], log_p, 0.0)
    ratios = np.clip(clean[..., 1:] - clean[..., :1], -_SPAN, _SPAN) / _SPAN * 2
    parts = np.concatenate([ratios, np.exp(clean[..., 1:])], -1) * known[..., None]
    cells = np.concatenate([parts, known[..., None].astype(float)], -1)
    return np.stack([cells, cells[:, list(MIRROR)]], 1).reshape(len(log_p), 2, -1)


def to_cells(values: np.ndarray) -> np.ndarray:
    """(studies, 2, 5, 9) answers by side and level to (studies, 25, 3) cells; the canal is the mean of both sides."""
    shaped = values.reshape(*values.shape[:3], len(OUTPUTS), len(GRADES))
    columns = []
    for condition in CONDITIONS:
        left = Condition(condition.value.replace("right", "left"))
        answers = shaped[:, :, :, OUTPUTS.index(left)]
        if condition.side is None:
            columns.append(answers.mean(1))
        else:
            columns.append(answers[:, 0 if condition.side is Side.LEFT else 1])
    return np.concatenate(columns, 1)


@dataclass(frozen=True)
class ContextSettings:
    """How the context model is fitted.

    Attributes:
        hidden: units; steps: optimiser steps; members: perceptrons of the committee.
        batch: studies a step. learning_rate, weight_decay: of AdamW. dropout: on the hidden units.
        family_drop: probability that all predictions of a family are hidden.
        cell_drop: probability that a single cell is hidden.
    """

    hidden: int = 24
    steps: int = 250
    members: int = 2
    batch: int = 384
    learning_rate: float = 3e-3
    weight_decay: float = 0.3
    dropout: float = 0.3
    family_drop: float = 0.3
    cell_drop: float = 0.05
