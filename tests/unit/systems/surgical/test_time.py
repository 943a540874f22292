"""Nothing is seen across a gap in prediction and in temporal networks; constant rates change nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from foldwise.networks.mtrcnet import MTRCNet
from foldwise.networks.tecno import TeCNO
from foldwise.systems.surgical.annotations import UNKNOWN
from foldwise.systems.surgical.features import Videos, write_bank
from foldwise.systems.surgical.predictions import Prediction
from foldwise.systems.surgical.results import nearest, summary_of
from foldwise.systems.surgical.ribbon import cells
from foldwise.systems.surgical.timing import remarks
from foldwise.systems.surgical.whole import by_windows, on_a_grid
from foldwise.video.decode import Frame
from foldwise.video.gaps import runs
from foldwise.video.store import open_video, write_frames
from videos import flat_frames

WIDTH = 6
SPARSE = np.array([0, 1, 2, 3, 4, 9, 10, 40, 41, 42, 43, 44, 45, 46.0])


def bank(folder: Path, times: np.ndarray, features: np.ndarray) -> str:
    """Features of a video whose phases are 0, 1, 2, 0, …"""
    run, step = runs(times.astype(int), times, 1)
    pictures = flat_frames(len(times), (8, 8))
    arrays: dict[str, np.ndarray] = {
        "row": times.astype(np.int64),
        "phase": (np.arange(len(times)) % 3).astype(np.int8),
        "tool": np.zeros((len(times), 0), np.int8),
        "run": run,
    }
    frames = [Frame(int(time), float(time), pictures[n]) for n, time in enumerate(times)]
    write_frames(folder / "v.h5", "v", frames, arrays=arrays, attrs={"step": step, "fps": 1.0, "damaged": 0})
    write_bank(folder / "b.h5", folder / "v.h5", features, {"model": "m", "settings": "{}"})
    return str(folder / "b.h5")


def features_of(count: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0))


def head() -> MTRCNet:
    torch.manual_seed(0)
    return MTRCNet(WIDTH, phases=3, tools=2, hidden=5, mapping=True).eval()


@torch.no_grad()
@pytest.mark.parametrize(("count", "window"), [(40, 10), (300, 4), (7, 10), (1, 3), (5, 1)])
def test_windows_of_a_constant_rate_answer_as_slices(tmp_path: Path, count: int, window: int) -> None:
    """Bit for bit: sliding windows of all frames, 256 at a time; the first one answers for its frames."""
    features, network = features_of(count), head()
    path = bank(tmp_path, np.arange(count, dtype=float), features.numpy())
    with open_video(path) as file:
        found = by_windows(network, features, file, window)
    windows = features.unfold(0, min(window, count), 1).transpose(1, 2)
    parts = [network(part) for part in windows.split(256)]
    for name, logits in found.items():
        wanted = torch.cat([parts[0][name][0, :-1], *(part[name][:, -1] for part in parts)])
        assert torch.equal(logits, wanted)


@torch.no_grad()
@pytest.mark.parametrize("window", [3, 10])
def test_no_prediction_sees_across_a_gap(tmp_path: Path, window: int) -> None:
    features, network = features_of(len(SPARSE)), head()
    with open_video(bank(tmp_path, SPARSE, features.numpy())) as file:
        run = file["run"][()]
        assert run.tolist() == [0] * 5 + [1] * 2 + [2] * 7
        before = by_windows(network, features, file, window)
        for changed in range(3):
            other = features.clone()
            other[torch.from_numpy(run == changed)] += 3
            after = by_windows(network, other, file, window)
            for name, logits in before.items():
                differs = (logits != after[name]).any(1).numpy()
                assert not differs[run != changed].any()
                assert differs[run == changed].all()
        # A frame after a gap answers as if it had lasted: its window repeats it.
        length = min(window, len(SPARSE))
        alone = network(features[5].expand(1, length, WIDTH))["phase"][0, -1]
        torch.testing.assert_close(before["phase"][5], alone)


@torch.no_grad()
def test_a_temporal_network_sees_the_time_that_passed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TeCNO(WIDTH, 3, stages=2, layers=3, channels=8).eval()
    features = features_of(len(SPARSE))
    path = bank(tmp_path, SPARSE, features.numpy())
    item = Videos([path], (0,))[0]
    # Seconds 0 to 46: all of them have a place, and those between hold the last frame's features.
    assert item["features"].shape == (47, WIDTH)
    assert torch.equal(item["features"][SPARSE.astype(int)], features)
    assert torch.equal(item["features"][11:40], features[6].expand(29, WIDTH))
    known = np.flatnonzero(item["phase"].numpy() != UNKNOWN)
    assert known.tolist() == SPARSE.astype(int).tolist()
    assert item["phase"][known].tolist() == [n % 3 for n in range(len(SPARSE))]
    with open_video(path) as file:
        found = on_a_grid(network, features, file)
    torch.testing.assert_close(found, network(item["features"][None])[-1, 0][known])


@torch.no_grad()
def test_a_temporal_network_of_a_constant_rate_is_as_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = TeCNO(WIDTH, 3, stages=2, layers=3, channels=8).eval()
    features = features_of(30)
    path = bank(tmp_path, np.arange(30.0), features.numpy())
    item = Videos([path], (0,))[0]
    assert torch.equal(item["features"], features)
    assert item["phase"].tolist() == [n % 3 for n in range(30)]
    with open_video(path) as file:
        assert torch.equal(on_a_grid(network, features, file), network(features[None])[-1, 0])


def test_ribbons_are_blank_in_gaps() -> None:
    times = np.array([0, 60, 120, 600, 660.0])
    edges, shown = cells(times, np.array([0, 0, 0, 1, 1]))
    assert edges.tolist() == [0, 1, 2, 3, 10, 11, 12]
    assert shown.tolist() == [0, 1, 2, -1, 3, 4]
    # All frames are alone: gaps are still seen.
    edges, shown = cells(np.array([0, 10, 30.0]), np.arange(3))
    assert (edges * 60).tolist() == pytest.approx([0, 5, 10, 15, 30, 35])
    assert shown.tolist() == [0, -1, 1, -1, 2]
    assert cells(np.array([5.0]), np.zeros(1))[1].tolist() == [0]


def test_a_video_is_summed_up_in_seconds() -> None:
    """Frames at 0, 1, 2, and after a gap at 10 and 11 s; each is shown for a second."""
    tool = np.array([[0.9], [0.2], [0.5], [0.4], [0.8]], np.float32)
    prediction = Prediction(
        case="v",
        rows=np.array([0, 25, 50, 250, 275]),
        times=np.array([0, 1, 2, 10, 11.0]),
        run=np.array([0, 0, 0, 1, 1]),
        fps=1.0,
        rate=25.0,
        damaged=2,
        phases=("a", "b"),
        tools=("a",),
        phase=np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7], [0.9, 0.1]], np.float32),
        tool=tool,
    )
    assert summary_of(prediction, tool >= 0.5) == {
        "mode": "online",
        "frames": 5,
        "seconds": 12.0,
        "fps": 1.0,
        "mean_fps": round(4 / 11, 4),
        "gaps": 1,
        "longest_gap_s": 8.0,
        "covered": round(3 / 11, 4),
        "damaged": 2,
        "annotation_fps": 25.0,
        "transitions": 2,
        "phase_confidence": 0.78,
        "phase_a_s": 3.0,
        "phase_b_s": 2.0,
        "tool_confidence": 0.72,
        "tool_a_s": 3.0,
    }
    # Frames that are all alone last as long as the nominal rate says: gaps belong to no phase.
    alone = replace(prediction, run=np.arange(5), times=np.arange(0, 500, 100.0))
    row = summary_of(alone, tool >= 0.5)
    assert (row["phase_a_s"], row["phase_b_s"], row["seconds"], row["covered"]) == (3, 2, 401, 0)


def test_an_annotation_has_a_row_once() -> None:
    """Five frames per second of rows one second apart: the frame at the second itself has its row."""
    times = np.arange(12) / 5
    rows = np.rint(times).astype(int)
    assert nearest(rows, times, 1.0).tolist() == [0, 5, 10]
    assert nearest(np.arange(12), times, None).tolist() == list(range(12))


def test_sparse_videos_are_remarked_in_the_report(tmp_path: Path) -> None:
    bank(tmp_path, SPARSE, features_of(len(SPARSE)).numpy())
    cases: dict[str, Any] = {"v": {}, "not cached yet": {}}
    [remark] = remarks(cases, tmp_path, tmp_path)
    assert (remark.case, remark.text) == (
        "v",
        "14 frames, 0.283 per second instead of 1; 2 gap(s), the longest of 30 s; 24 % of its length is "
        "without gaps",
    )
    bank(tmp_path, np.arange(9.0), features_of(9).numpy())
    assert remarks(cases, tmp_path, tmp_path) == []
    with h5py.File(tmp_path / "v.h5", "r+") as file:
        file.attrs["damaged"] = 3
    [remark] = remarks(cases, tmp_path, tmp_path)
    assert remark.text == "3 damaged frame(s) left out"
