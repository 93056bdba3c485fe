"""Sets of weights through ``submit.py`` and ``kaggle``: manifests, fits, tensors, tables, and what is no file.

What a downloader could be given: texts with any bytes or values, tensors of any shape, and names, links and pipes that
lead elsewhere. Checksums are mended after a change, or few changes would get past them. Counts as a failure: an
exception, a table that is not complete, a control character among what was printed, and any change outside.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from pipeline.commands import kaggle, submit
from pipeline.config import to_dict
from pipeline.cubes.settings import ViewSettings
from pipeline.ensemble import combine
from pipeline.ensemble.context import ContextModel
from pipeline.ensemble.prior import PRIOR_FILE
from pipeline.labels import Family
from pipeline.landmarks import load as points
from pipeline.landmarks.model import PointModelSettings, PointNet
from pipeline.severity.model import SeverityModel
from pipeline.severity.predict import member_config
from pipeline.severity.settings import NetworkSettings, SeveritySettings
from pipeline.submission import read_submission
from pipeline.weights.manifest import Manifest, Member, WeightsError
from pipeline.weights.seen import seen_list, seen_studies
from tests.fuzz.mutate import mutate
from tests.run.studies import SERIES, write_studies

VALUES: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2, 7, 0.5, -0.5, 1e-300, 1e300, -1e300, float("nan"), float("inf"), 2**31, 2**63, 10**400, "",
    "nan", "../x", "/dev/zero", "hf-hub:a/b", "local-dir:/", "mobilenetv2_100.hf-hub:a/b", "resnet18", "pretrained",
    "a\x1b[2Jb", "\ud800", "a\nb", "x" * 5000, [], {}, [[]], [1, 2, 3], {"a": 1}, ["Sagittal T1"],
    "vit_giant_patch14_clip_224", "canal", "axial", "transformer", "3d", "sequence",
)  # fmt: skip
NAMES = (
    "../outside/thesis.txt",
    "/dev/zero",
    "/etc/hostname",
    "..",
    "",
    "nul",
    "manifest.json",
    "a/b",
    "x.txt",
    ".lock",
)
STUDY = "100"


HANG_SECONDS = 60.0
"""A whole run of ``submit.py``, on a machine that may have other work."""


@dataclass
class Scene:
    """A folder of one study, a sound set of weights by file name, and somebody's thesis."""

    folder: Path
    files: dict[str, bytes]

    @classmethod
    def make(cls, folder: Path, files: dict[str, bytes]) -> Scene:
        write_studies(folder / "data", [STUDY])
        (folder / "outside").mkdir()
        (folder / "outside" / "thesis.txt").write_text("years of work")
        return cls(folder, files)

    @property
    def weights(self) -> Path:
        return self.folder / "case" / "set"

    def lay_out(self) -> None:
        shutil.rmtree(self.folder / "case", ignore_errors=True)
        self.weights.mkdir(parents=True)
        for name, content in self.files.items():
            (self.weights / name).write_bytes(content)

    def outside(self) -> dict[str, bytes]:
        """Whatever is neither the set nor one of the two results."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if not name.startswith(("case/set", "case/out", "case/upload")) and path.is_file():
                found[name] = path.read_bytes()
        return found

    def named(self, random: Random, suffix: str = "") -> Path | None:
        """A file of the set that is still one."""
        names = [name for name in sorted(self.files) if name.endswith(suffix)]
        path = self.weights / random.choice(names)
        return path if path.is_file() and not path.is_symlink() and path.stat().st_size < 2**24 else None

    def manifest(self) -> dict[str, Any] | None:
        path = self.weights / "manifest.json"
        if path.is_symlink() or not path.is_file() or path.stat().st_size >= 2**24:  # a change before made it so
            return None
        try:
            content = json.loads(path.read_bytes())
            return content if isinstance(content, dict) else None
        except (OSError, ValueError, RecursionError):
            return None

    def save(self, content: Any) -> None:
        (self.weights / "manifest.json").write_text(json.dumps(content))

    def write(self, path: Path, content: bytes) -> None:
        """Change a file, and its checksum in the manifest."""
        path.write_bytes(content)
        manifest = self.manifest()
        if manifest is None or path.name == "manifest.json":
            return
        checksum = hashlib.sha256(content).hexdigest()
        if isinstance(manifest.get("files"), dict) and path.name in manifest["files"]:
            manifest["files"][path.name] = checksum
        for member in manifest.get("members") if isinstance(manifest.get("members"), list) else ():
            if isinstance(member, dict) and member.get("file") == path.name:
                member["sha256"] = checksum
        self.save(manifest)


def bytes_of_a_file(scene: Scene, random: Random) -> None:
    if (path := scene.named(random)) is not None:
        content = mutate(path.read_bytes(), random.choice(list(scene.files.values())), random)
        if random.random() < 0.8:
            scene.write(path, content)
        else:
            path.write_bytes(content)


def bytes_of_the_manifest(scene: Scene, random: Random) -> None:
    if (path := scene.named(random, "manifest.json")) is not None:
        path.write_bytes(mutate(path.read_bytes(), b'{"a": [1]}', random))


def value_in_the_manifest(scene: Scene, random: Random) -> None:
    if (content := scene.manifest()) is not None:
        set_somewhere(content, random)
        scene.save(content)


def value_in_a_configuration(scene: Scene, random: Random) -> None:
    content = scene.manifest()
    members = content.get("members") if content else None
    if isinstance(members, list) and members and isinstance(member := random.choice(members), dict):
        set_somewhere(member.get("config"), random)
        scene.save(content)


def value_in_the_fit(scene: Scene, random: Random) -> None:
    if (path := scene.named(random, "ensemble.json")) is not None:
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(path.read_bytes())
            set_somewhere(content, random)
            scene.write(path, json.dumps(content).encode())


def name_in_the_manifest(scene: Scene, random: Random) -> None:
    content = scene.manifest()
    if content is None:
        return
    members, files = content.get("members"), content.get("files")
    if isinstance(files, dict) and files and random.random() < 0.5:
        name = random.choice(sorted(files))
        files[random.choice(NAMES)] = files.pop(name)
    elif isinstance(members, list) and members and isinstance(member := random.choice(members), dict):
        member[random.choice(("file", "seen", "name"))] = random.choice(NAMES)
    scene.save(content)


def header_of_tensors(scene: Scene, random: Random) -> None:
    """The JSON before the tensors, or its length, with values that no program writes."""
    path = scene.named(random, ".safetensors")
    if path is None:
        return
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    with contextlib.suppress(ValueError, RecursionError, OverflowError):
        header = json.loads(content[8 : 8 + length])
        set_somewhere(header, random)
        text = json.dumps(header).encode()
        if random.random() < 0.2:
            length = random.choice((0, 1, 2**31, 2**62, 2**64 - 1))
        else:
            length = len(text)
        scene.write(path, length.to_bytes(8, "little") + text + content[8 + int.from_bytes(content[:8], "little") :])


def numbers_of_a_tensor(scene: Scene, random: Random) -> None:
    """Of the right shape, but not finite, huge, or of another kind; or another shape."""
    path = scene.named(random, ".safetensors")
    if path is None:
        return
    with contextlib.suppress(Exception):  # it was no such file any more
        tensors = load(path.read_bytes())
        name = random.choice(sorted(tensors))
        tensor = tensors[name]
        kind = random.randrange(5)
        if kind == 0:
            tensors[name] = torch.full_like(tensor, random.choice([float("nan"), float("inf"), 3e38, -1.0]))
        elif kind == 1:
            tensors[name] = tensor.to(random.choice([torch.float64, torch.int8, torch.bool, torch.complex64]))
        elif kind == 2:
            tensors[name] = torch.zeros(random.choice([(0,), (1,), (3, 5), (2, 2, 2, 2)]))
        elif kind == 3:
            del tensors[name]
        else:
            tensors[f"{name}.scale"] = torch.ones(random.choice([1, 2, 3]))
        scene.write(path, save(tensors))


def no_file(scene: Scene, random: Random) -> None:
    """A link, a pipe, a folder, nothing, or far too much in place of a file."""
    path = scene.named(random)
    if path is None:
        return
    path.unlink()
    kind = random.randrange(6)
    if kind == 0:
        path.symlink_to(scene.folder / "outside" / "thesis.txt")
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(random.choice(["/dev/zero", str(path), "nowhere"]))
    elif kind == 3:
        path.mkdir()
    elif kind == 4:
        path.touch()
        os.truncate(path, random.choice([2**24, 2**31, 2**40]))


def model_card(scene: Scene, random: Random) -> None:
    path = scene.weights / random.choice(("MODEL_CARD.md", "../MODEL_CARD.md"))
    if not os.path.lexists(path):
        kind = random.randrange(3)
        if kind == 0:
            path.symlink_to(random.choice([scene.folder / "outside" / "thesis.txt", Path("/dev/zero")]))
        elif kind == 1:
            os.mkfifo(path)
        else:
            path.write_bytes(b"# card")


CHANGES: tuple[Callable[[Scene, Random], None], ...] = (
    bytes_of_a_file,
    bytes_of_the_manifest,
    value_in_the_manifest,
    value_in_a_configuration,
    value_in_a_configuration,
    value_in_the_fit,
    name_in_the_manifest,
    header_of_tensors,
    numbers_of_a_tensor,
    numbers_of_a_tensor,
    no_file,
    model_card,
)


def set_somewhere(content: Any, random: Random) -> None:
    """Put a value that is not meant there at a random place of nested lists and objects; or take one away."""
    while isinstance(content, dict | list) and content:
        key = random.choice(sorted(content) if isinstance(content, dict) else range(len(content)))
        if random.random() < 0.3 or not isinstance(content[key], dict | list) or not content[key]:
            if random.random() < 0.1:
                del content[key]
            elif isinstance(content, dict) and random.random() < 0.15:
                content[str(random.choice(VALUES))[:100]] = random.choice(VALUES)
            else:
                content[key] = random.choice(VALUES)
            return
        content = content[key]


def prepare(folder: Path) -> dict[str, bytes]:
    """The files of a sound set: a network of every task, a fit, a prior, folds."""
    torch.manual_seed(0)
    manifest = Manifest.open(folder / "set", "made up", "small networks that have learnt nothing")
    seen = seen_list(seen_studies(["1", "2"]))
    for task, channels in (("landmarks", 10), ("axial", 1)):
        settings = PointModelSettings("test_efficientnet", "random", channels, size_px=64, width=8)
        member = Member(f"{task}-fold0", task, f"{task}.safetensors", "", seen=f"{task}.seen.txt", fold=0, score=1.5)
        config = {"model": to_dict(settings), "pixel_mm": 1.0}
        manifest = manifest.add_member(replace(member, config=config), _stored(PointNet(settings)), seen)
    kinds = dict(zip(Family, (SERIES[1][0], SERIES[0][0], SERIES[2][0]), strict=True))
    for family, kind in kinds.items():
        view = ViewSettings(kind, size_mm=32, pixels=32, slices=3, reach_mm=200)
        network = NetworkSettings("test_resnet", encoder="multichannel", head="mean", width=8, level_width=4)
        settings = SeveritySettings(views=(view,), network=network)
        member = Member(f"{family}-fold0", family.value, f"{family}.safetensors", "", seen=f"{family}.seen.txt", fold=0)
        config = member_config(settings, family)
        manifest = manifest.add_member(replace(member, config=config), _stored(SeverityModel(network, (view,))), seen)
    fit = {
        "average": "logits",
        "recipes": {family.value: 1.0 for family in Family},
        "calibration": {family.value: {"temperature": 1.1, "bias": [0.0, 0.1, 0.2]} for family in Family},
        "context": True,
        "trust": {family.value: 0.5 for family in Family},
        "patterns": {
            "canal+foraminal+subarticular": {
                "calibration": {"canal": {"temperature": 0.9, "bias": [0.0, 0.1, 0.2]}},
                "stack": {family.value: {"own": [0.1] * 6, "neighbours": [0.2] * 6} for family in Family},
            }
        },
        "top_severe": 1.2,
        "by_family": {"foraminal": {"canal": 0.5}},
    }
    rng = np.random.default_rng(0)
    context = ContextModel(
        np.log(np.full((25, 3), 1 / 3)),
        *(rng.normal(0, 0.1, shape) for shape in ((1, 125, 4), (1, 5, 4), (1, 4, 9), (1, 9))),
    )
    manifest = manifest.add_file("ensemble.json", json.dumps(fit).encode())
    manifest = manifest.add_file("context.safetensors", context.to_bytes())
    manifest = manifest.add_file("prior.csv", PRIOR_FILE.read_bytes())
    manifest.add_file("folds.csv", b"study_id,fold\n1,0\n2,1\n")
    return {path.name: path.read_bytes() for path in (folder / "set").iterdir() if path.name != ".lock"}


def _stored(model: torch.nn.Module) -> bytes:
    return bytes(save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))


def begin(corpus: Any, folder: Path) -> Callable[[int, int], tuple[str, list[str], str | None]]:
    torch.set_num_threads(1)
    scene = Scene.make(folder, corpus)

    def run(seed: int, number: int) -> tuple[str, list[str], str | None]:
        random = Random(seed * 1_000_003 + number)
        kind = change(scene, random)
        before = scene.outside()
        codes, wrong = _grade(scene)
        wrong = wrong or _upload(scene)
        if wrong is None and scene.outside() != before:
            wrong = "a file outside was changed"
        return kind, codes, None if wrong is None else f"{kind}: {wrong}"

    return run


def change(scene: Scene, random: Random) -> str:
    """Lay the set out and change it; returns how."""
    scene.lay_out()
    changes = [random.choice(CHANGES) for _ in range(random.choice((1, 1, 2, 4)))]
    for one in changes:
        one(scene, random)
    return "+".join(one.__name__ for one in changes)


def _grade(scene: Scene) -> tuple[list[str], str | None]:
    for cache in (combine._fitted, points.load_point_net):
        cache.cache_clear()
    out, said = scene.folder / "case" / "out" / "s.csv", io.StringIO()
    arguments = ["--data", scene.folder / "data", "--out", out, "--weights", scene.weights, "--workers", 1, "--quiet"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = submit.main([*map(str, arguments), "--device", "cpu", "--set", "study_seconds=5"])
    text = said.getvalue()
    if status == 2 and "no manifest.json there" in text:
        return ["no manifest"], None
    if status != 0:
        return [], f"submit.py ended with {status}: {text}"
    table = read_submission(out).to_numpy()
    if table.shape != (25, 3) or not np.isfinite(table).all() or np.abs(table.sum(1) - 1).max() > 1e-5:
        return [], f"the table is not complete: {table}"
    if any(not sign.isprintable() and sign != "\n" for sign in text):
        return [], f"a control character was printed: {text!r}"
    report = json.loads((out.parent / "run.json").read_text())
    problems = [what for what in report["problems"] if what != "landmarks"]
    return [*problems, "graded" if report["rows_by_source"].get("model") else "not graded"], None


def _upload(scene: Scene) -> str | None:
    target = scene.folder / "case" / "upload"
    try:
        kaggle._copy_weights(Manifest.load(scene.weights), target)
    except (WeightsError, OSError):
        return None
    if odd := [path.name for path in target.rglob("*") if path.is_symlink() or not path.is_file()]:
        return f"uploaded what is no file: {odd}"
    leaked = any(b"years of work" in path.read_bytes() for path in target.iterdir())
    return "uploaded what a link led to" if leaked else None


def keep(corpus: Any, seed: int, number: int, path: Path) -> None:
    scene = Scene(path.with_suffix(".kept"), corpus)
    (scene.folder / "outside").mkdir(parents=True)
    kind = change(scene, Random(seed * 1_000_003 + number))
    path.with_suffix(".txt").write_text(f"case {number} of seed {seed}: {kind}; the set is {scene.weights}\n")
