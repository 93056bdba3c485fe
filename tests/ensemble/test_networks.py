"""Networks on devices that fail, cubes between rounds, and the real stages with random weights."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.cubes import Cube, CubeSettings, StudyCubes, ViewSettings
from pipeline.ensemble import networks as module
from pipeline.ensemble.networks import Networks, predict_in_parts
from pipeline.labels import CELLS, Family, SeriesKind
from pipeline.landmarks.landmarks import Landmarks
from pipeline.landmarks.sagittal import run_network
from pipeline.weights.manifest import Manifest, Member
from pipeline.weights.runtime import RuntimeFailedError
from tests.landmarks.spine import sagittal


def cube(seed=0):
    rng = np.random.default_rng(seed)
    return Cube(
        pixels=rng.random((3, 8, 8), np.float32),
        present=np.array([True, True, False]),
        centre_mm=rng.normal(size=3),
        right=np.array([1.0, 0, 0]),
        down=np.array([0, 0, -1.0]),
        spacing_mm=0.8,
        offset_mm=1.5,
        series_id=f"s{seed}",
        shares=np.array([0.25, 0.75, 0.0]) if seed % 2 else np.full(3, np.nan),
    )


CUBES = StudyCubes("1", {(cell, SeriesKind.SAGITTAL_T1): (cube(cell), cube(cell + 100)) for cell in (5, 6, 7, 12)})


class Shouting:
    """Grades what it is given and fails where it is told to."""

    def __init__(self, device, failures):
        self.device, self.failures = device, failures

    def predict(self, cubes):
        self.failures["calls"].append((self.device, len(cubes.cubes)))
        for device, least, message in self.failures["plan"]:
            if device == self.device and len(cubes.cubes) >= least:
                raise RuntimeError(message)
        values = np.full((25, 3), np.nan)
        for cell, _ in cubes.cubes:
            values[cell] = np.log([0.5, 0.3, 0.2])
        return values


class Failing(Networks):
    """Networks on devices that fail as the test plans."""

    def __init__(self, manifest, members, runtime="torch"):
        super().__init__(manifest, members, runtime)
        self.failures = {"calls": [], "plan": []}

    def load_grader(self, name, device, runtime="torch"):
        return Shouting(device, self.failures)


@pytest.fixture
def failing(tmp_path):
    member = Member("f", "foraminal", "x", "")
    networks = Failing(Manifest(tmp_path, "test", "", (member,)), (member,))
    return networks, networks.failures, {CubeSettings(): CUBES}


@pytest.mark.parametrize(
    ("plan", "calls"),
    [
        ([], [("cuda:0", 4)]),
        ([("cuda:0", 4, "CUDA out of memory")], [("cuda:0", 4), ("cuda:0", 3), ("cuda:0", 1)]),
        ([("cuda:0", 1, "CUDA out of memory")], [("cuda:0", 4), ("cuda:0", 3), ("cpu", 4)]),
        ([("cuda:0", 1, "device-side assert triggered")], [("cuda:0", 4), ("cpu", 4)]),
    ],
)
def test_a_gpu_that_fails_gets_half_the_batch_and_then_the_cpu_takes_over(failing, plan, calls):
    networks, failures, cubes = failing
    failures["plan"] = plan
    values = networks.grade("f", cubes, "cuda:0", 1)
    assert failures["calls"] == calls
    said = [f"{what} {detail}" for what, detail in networks.notices()]
    assert len(said) == (calls[-1][0] == "cpu"), "what the CPU did in the GPU's place, and nothing else"
    assert all(
        re.match(r"gpu-failed cuda:0 failed at f: RuntimeError: .*; the CPU computes it$", text) for text in said
    )
    assert np.isfinite(values).all(1).nonzero()[0].tolist() == [5, 6, 7, 12]


def test_grades_are_averaged_over_the_numberings_of_the_levels(failing, monkeypatch):
    networks, _, cubes = failing
    grades = np.full((25, 3), np.nan)
    grades[[5, 6, 7]] = np.log([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    monkeypatch.setattr(module, "predict_in_parts", lambda grader, cubes, parts: grades)
    assert networks.grade("f", cubes, "cpu", 1) == pytest.approx(grades, nan_ok=True)
    unsure = {key: replace(one, numbering=np.tile([0.2, 0.8, 0.0], (25, 1))) for key, one in cubes.items()}
    found = np.exp(networks.grade("f", unsure, "cpu", 1))
    p = np.exp(grades)
    assert found[5] == pytest.approx(0.8 * p[5] + 0.2 * p[6])  # what is called L2/L3 may be L1/L2
    assert found[7] == pytest.approx(p[7])  # nothing is known of the cell below


def test_a_gpu_that_broke_is_not_asked_again(failing):
    networks, failures, cubes = failing
    failures["plan"] = [("cuda:0", 1, "an illegal memory access was encountered")]
    networks.grade("f", cubes, "cuda:0", 1)
    failures["calls"].clear()
    networks.grade("f", cubes, "cuda:0", 1)
    assert failures["calls"] == [("cpu", 4)]


@pytest.mark.parametrize(
    ("largest", "message", "calls"),
    [
        (24, "", [("cuda:0", 24)]),
        (12, "CUDA out of memory", [("cuda:0", 24), ("cuda:0", 12)]),
        (0, "CUDA out of memory", [("cuda:0", 24), ("cuda:0", 12), ("cpu", 24)]),
        (0, "device-side assert triggered", [("cuda:0", 24), ("cpu", 24)]),
    ],
)
def test_points_are_found_with_half_the_slices_and_then_on_the_cpu(failing, monkeypatch, largest, message, calls):
    networks, _, _ = failing
    asked = []

    class Finder:
        def __init__(self, device):
            self.device = device

        def predict(self, volumes, batch):
            asked.append((self.device, batch))
            if self.device != "cpu" and batch > largest:
                raise RuntimeError(message)
            return Landmarks.empty(volumes.study_id, (f"by {self.device}",))

    monkeypatch.setattr(Failing, "load_finder", lambda _, names, device, runtime: Finder(device))
    networks = Failing(networks.manifest, networks.members)
    points, notes = networks.find_landmarks(SimpleNamespace(study_id="1"), ["points"], "cuda:0", 1)
    assert asked == calls
    assert points.notes == (f"by {calls[-1][0]}",)
    assert [note.detail for note in notes] == [f"by {calls[-1][0]}"]


def test_the_sagittal_network_sees_no_more_slices_than_the_batch_holds():
    seen = []

    class Net:
        settings, stride = SimpleNamespace(size_px=32), 4

        def __call__(self, images):
            seen.append(len(images))
            return {"heat": images.new_zeros(len(images), 10, 8, 8), "visible": images.new_zeros(len(images), 10)}

    volume = sagittal(SeriesKind.SAGITTAL_T2, "2")
    outputs = [run_network(Net(), volume, torch.device("cpu"), batch) for batch in (24, 4)]
    slices = len(volume.pixels)
    assert slices > 4
    assert seen == [slices, *[4] * (slices // 4), *([slices % 4] if slices % 4 else [])]
    assert outputs[0].maps.shape == outputs[1].maps.shape


def test_damaged_files_are_left_out_one_by_one(tmp_path):
    manifest = Manifest(tmp_path, "test", "")
    for name in ("a", "b"):
        manifest = manifest.add_member(Member(name, "canal", name, ""), name.encode())
    for name in ("ensemble.json", "folds.csv"):
        manifest = manifest.add_file(name, name.encode())
    (tmp_path / "a").write_text("other")
    (tmp_path / "ensemble.json").unlink()
    networks, problems = Networks.open(manifest)
    assert [member.name for member in networks.members] == ["b"]
    assert list(networks.manifest.files) == ["folds.csv"]
    assert [problem.file for problem in problems] == ["a", "ensemble.json"]


def test_what_did_not_fit_once_is_done_in_parts_from_then_on(failing):
    networks, failures, cubes = failing
    failures["plan"] = [("cuda:0", 4, "CUDA out of memory")]
    networks.grade("f", cubes, "cuda:0", 1)
    failures["calls"].clear()
    networks.grade("f", cubes, "cuda:0", 1)
    assert failures["calls"] == [("cuda:0", 3), ("cuda:0", 1)]


def test_networks_are_sent_to_another_process_as_they_were_before_anything_was_loaded(failing):
    networks, _, cubes = failing
    networks.grade("f", cubes, "cpu", 1)
    sent = pickle.loads(pickle.dumps(networks))
    assert (sent.manifest, sent.members) == (networks.manifest, networks.members)
    assert sent.failures["calls"] == [], "a grader that was loaded went along"
    assert np.isfinite(sent.grade("f", cubes, "cpu", 1)).any()


def test_what_fails_on_the_cpu_too_is_raised(failing):
    networks, failures, cubes = failing
    failures["plan"] = [("cpu", 1, "wrong shape")]
    with pytest.raises(RuntimeError, match="wrong shape"):
        networks.grade("f", cubes, "cpu", 1)


def test_parts_of_a_study_grade_as_the_whole_does():
    from pipeline.severity.model import SeverityModel
    from pipeline.severity.predict import SeverityGrader
    from pipeline.severity.settings import NetworkSettings, SeveritySettings

    view = ViewSettings(SeriesKind.SAGITTAL_T1, size_mm=6.4, pixels=8)
    network = NetworkSettings(encoder="3d", width=8, level_width=4)
    settings = SeveritySettings(views=(view,), also=(Family.CANAL,), network=network)
    model = SeverityModel(settings.network, settings.views_of(Family.FORAMINAL), families=2)
    grader = SeverityGrader(model, settings, Family.FORAMINAL)
    whole = grader.predict(CUBES)
    assert np.isfinite(whole).all(1).nonzero()[0].tolist() == [0, 1, 2, 5, 6, 7, 12], "the canal from either side"
    assert predict_in_parts(grader, CUBES, 2) == pytest.approx(whole, abs=1e-5, nan_ok=True)
    assert all(CELLS[index].condition.family is Family.FORAMINAL for index in (5, 6, 7, 12))


def test_what_the_runtime_cannot_compute_pytorch_does_and_it_is_said_once(failing, monkeypatch):
    networks, _, cubes = failing
    load, asked = Failing.load_grader, []

    def refuse(self, name, device, runtime):
        asked.append((device, runtime))
        if runtime == "openvino":
            raise RuntimeFailedError("no such layer")
        return load(self, name, device)

    monkeypatch.setattr(Failing, "load_grader", refuse)
    networks = pickle.loads(pickle.dumps(Failing(networks.manifest, networks.members, "openvino")))
    for _ in range(2):
        assert np.isfinite(networks.grade("f", cubes, "cpu", 1)).any()
    assert asked == [("cpu", "openvino"), ("cpu", "torch")]
    assert networks.notices() == (("runtime-failed", "f: no such layer; PyTorch computes it"),)
    assert networks.notices() == ()


def test_a_gpu_is_never_asked_for_another_runtime(failing, monkeypatch):
    networks, _, cubes = failing
    asked = []
    load = Failing.load_grader
    monkeypatch.setattr(
        Failing, "load_grader", lambda self, name, device, runtime: asked.append(runtime) or load(self, name, device)
    )
    networks = Failing(networks.manifest, networks.members, "openvino")
    networks.grade("f", cubes, "cuda:0", 1)
    assert asked == ["torch"]
