"""Settings: what is accepted, what is refused and how the refusal reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest

from pipeline.config import ConfigError, check_range, from_dict, to_dict
from pipeline.preset import load_settings


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Optimiser:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int | None = None


@dataclass(frozen=True)
class Settings:
    name: str = "a"
    epochs: int = 5
    colour: Colour = Colour.RED
    mode: Literal["fast", "slow"] = "fast"
    sizes: tuple[int, ...] = ()
    optimiser: Optimiser = field(default_factory=Optimiser)
    folder: Path | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise ValueError("epochs is negative")


def test_overrides_reach_nested_settings_and_are_converted():
    settings = load_settings(
        Settings, overrides=["optimiser.lr=1e-4", "sizes=[1, 2]", "colour=blue", "optimiser.warmup=3", "folder=/tmp/x"]
    )
    assert settings.optimiser == Optimiser(lr=1e-4, warmup=3)
    assert settings.sizes == (1, 2)
    assert settings.colour is Colour.BLUE
    assert settings.folder == Path("/tmp/x")


def test_settings_survive_a_round_trip_through_plain_values():
    settings = Settings(colour=Colour.BLUE, sizes=(3,), folder=Path("x"), optimiser=Optimiser(warmup=2))
    assert from_dict(Settings, to_dict(settings)) == settings
    assert to_dict(settings)["colour"] == "blue"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", r"unknown setting 'epoch' of Settings; did you mean epochs\?"),
        ("optimiser.learning_rate=1", r"unknown setting 'optimiser.learning_rate' of Optimiser"),
        ("epochs=2.5", r"'epochs': expected int, found 2.5 \(float\)"),
        ("epochs=true", "expected int, found True"),
        ("optimiser.betas=[0.9]", "expected 2 values"),
        ("colour=green", "expected one of 'red', 'blue', found 'green'"),
        ("mode=medium", "expected one of 'fast', 'slow'"),
        ("optimiser=3", "expected a mapping of Optimiser"),
        ("epochs", "--set epochs: expected KEY=VALUE"),
        ("optimiser=3.lr=2", "expected a mapping of Optimiser"),
        ("epochs=[", r"--set epochs=\[: not valid YAML: .* \(line 1, column 2\)$"),
        ("epochs=2024-13-45", "--set epochs=2024-13-45: not valid YAML: month must be in 1..12$"),
        ("epochs=-1", "epochs is negative"),
        ("name.first=x", "unknown|expected"),
    ],
)
def test_what_is_wrong_is_refused_by_name(override, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(Settings, overrides=[override])


@pytest.mark.parametrize("lr", [0.0, 1.0, -1.0, float("nan")])
def test_a_number_out_of_range_is_refused_with_class_name_value_and_range(lr):
    expected = rf"Optimiser: lr is {lr!r}, expected above 0 and below 1"
    with pytest.raises(ValueError, match=expected):
        check_range(Optimiser(lr=lr), "lr", above=0, below=1)


def test_a_number_in_range_and_an_absent_one_are_accepted():
    check_range(Optimiser(lr=0.5), "lr", "warmup", least=0.5, most=0.5)
