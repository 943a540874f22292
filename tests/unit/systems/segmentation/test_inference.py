"""The sliding window: as MONAI's on whole volumes, in little memory, on a device that may have too little."""

import itertools
import logging
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from foldwise.settings import validate
from foldwise.systems.segmentation import inference
from foldwise.systems.segmentation.inference import Found, Inference
from foldwise.systems.segmentation.learner import SegmentationLearner
from foldwise.systems.segmentation.settings import Model
from foldwise.volumes.cache import Contents, open_case, write_case
from foldwise.volumes.geometry import Box, Lineage, int3
from foldwise.volumes.patches import normalise, scaling
from foldwise.volumes.predictions import label_map, open_prediction, write_steps
from foldwise.volumes.probabilities import decode, quantise
from foldwise.volumes.targets import Targets
from synthetic import task
from untrained import shares

NESTED = Targets({"a": 1, "b": 2}, {"outer": ("a", "b"), "inner": ("b",)})
SHAPES = [(20, 18, 12), (9, 30, 7), (33, 8, 5), (3, 3, 3), (1, 40, 20), (17, 17, 17)]
# Stands in for a GPU: not the CPU by its name, but memory of the CPU.
GPU = torch.device("cpu", 0)


class Border(nn.Module):
    """What it returns for a voxel depends on the window's border, so windows cannot be mistaken."""

    def __init__(self, learner: SegmentationLearner, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        kind: Any = nn.Conv2d if learner.flat else nn.Conv3d
        self.first = kind(learner.channels, 5, 3, padding=1)
        self.last = kind(5, learner.outputs, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.first(image).relu()) * 5
        return out


def learner_of(targets: Targets, channels: int = 1, **more: Any) -> SegmentationLearner:
    values = {
        "network": {"name": "BasicUNet", "features": [4, 4, 8, 8, 8, 4]},
        "patch": [16, 16, 8],
        "intensity": {"clip": None, "scale": "zscore"},
    }
    return SegmentationLearner(validate(Model, {**values, **more}), task(targets, channels))


def write(path: Path, shape: Sequence[int], channels: int = 1) -> str:
    image = np.random.default_rng(0).integers(-500, 500, (channels, *shape)).astype(np.int16)
    lineage = Lineage.of(int3(shape), np.eye(4), Box((0, 0, 0), int3(shape)))
    write_case(path, path.stem, Contents(image, None, None, lineage, ("a",)), (8, 8, 8), 50)
    return str(path)


@torch.no_grad()
def on_whole_volumes(learner: SegmentationLearner, networks: Sequence[nn.Module], path: str) -> np.ndarray:
    """Mean probabilities (names, x, y, z), by MONAI's inferer, which keeps all outputs in float32."""
    with open_case(path) as file:
        scales = scaling(file, learner.model.intensity)
        image = normalise(torch.from_numpy(file["image"][()]), scales).numpy()
        fill = normalise(torch.from_numpy(file.attrs["fill"])[:, None, None, None], scales).ravel().tolist()
    size, axis, patch = np.array(image.shape[1:]), learner.axis, np.array(learner.patch)
    before = np.maximum(0, (patch - size) // 2)
    after = np.maximum(0, patch - size - before)
    if learner.flat:
        before[axis] = after[axis] = patch[axis] // 2
    pads = [(int(b), int(a)) for b, a in zip(before, after, strict=True)]
    whole = np.stack([np.pad(c, pads, constant_values=v) for c, v in zip(image, fill, strict=True)])
    settings = learner.model.inference
    slide = SlidingWindowInferer(
        learner.size, settings.batch, overlap=settings.overlap, mode=settings.weighting
    )
    means = []
    for network in networks:

        def forward(image: torch.Tensor, network: nn.Module = network) -> torch.Tensor:
            axes = range(2, image.ndim)
            turns = [t for n in range(1 + len(axes)) for t in itertools.combinations(axes, n)]
            turns = turns if settings.mirror else [()]
            return torch.stack([network(image.flip(t)).flip(t) for t in turns]).mean(0)

        if learner.flat:
            planes = [
                slide(
                    torch.from_numpy(np.take(whole, range(n, n + patch[axis]), 1 + axis))
                    .movedim(1 + axis, 1)
                    .flatten(0, 1)[None],
                    forward,
                )
                for n in range(size[axis])
            ]
            logits = torch.cat(planes).movedim(0, 1 + axis)
            before[axis] = 0
        else:
            logits = slide(torch.from_numpy(whole)[None], forward)[0]
        inside = tuple(slice(int(b), int(b + n)) for b, n in zip(before, size, strict=True))
        logits = logits[:, *inside].double()
        means.append(logits.sigmoid() if learner.targets.regions else logits.softmax(0)[1:])
    return np.asarray(torch.stack(means).mean(0).numpy())


def drawn(seed: int) -> tuple[Targets, tuple[int, ...], int, int, dict[str, Any]]:
    """Targets, shape, channels, number of networks and settings: every kind of each is drawn by some seed."""
    random = np.random.default_rng(seed)
    dimensions = ("3d", "2d", "2.5d", "slab")[seed % 4]
    targets = [Targets({"a": 1}), Targets({"a": 1, "b": 2, "c": 7}), NESTED][seed % 3]
    more = {
        "dimensions": dimensions,
        "slice_axis": str(random.choice(list("xyz"))),
        "patch": [int(n) for n in random.choice([4, 8, 16, 24], 3)],
        "inference": {
            "overlap": float(random.choice([0, 0.25, 0.5, 0.75])),
            "batch": int(random.integers(1, 5)),
            "weighting": str(random.choice(["gaussian", "constant"])),
            "mirror": bool(random.integers(2)),
        },
    }
    return targets, SHAPES[seed % len(SHAPES)], int(random.integers(1, 3)), 1 + seed % 5 % 3, more


def rounded(exact: np.ndarray, together: bool) -> tuple[np.ndarray, np.ndarray]:
    """Steps (names, x, y, z), and the voxels where a hundredth of a step more or less makes no difference."""
    steps, clear = np.rint(exact), np.all(np.abs(exact % 1 - 0.5) > 0.03, axis=0)
    if together:
        error = np.abs(steps.sum(0) - exact.sum(0))
        sums = exact.cumsum(0)
        clear &= (np.abs(error - 1) > 0.03) & ((error < 1) | (np.abs(sums % 1 - 0.5) > 0.03).all(0))
        steps = np.where(error > 1, np.diff(np.rint(sums), axis=0, prepend=0), steps)
    return steps.astype(np.float32), np.asarray(clear)


@pytest.mark.parametrize("seed", range(24))
def test_as_on_whole_volumes(tmp_path: Path, seed: int) -> None:
    targets, shape, channels, count, more = drawn(seed)
    learner = learner_of(targets, channels, **more)
    path = write(tmp_path / "c.h5", shape, channels)
    networks = [Border(learner, n) for n in range(count)]
    expected = on_whole_volumes(learner, networks, path) * 255
    found = learner.inference.found(networks, learner.read(path))
    assert found.label.shape == shape
    steps, clear = rounded(expected, together=not targets.regions)
    assert clear.mean() > 0.5
    assert (found.probability == steps)[:, clear].all()
    assert (found.label == targets.decode(steps))[clear].all()
    single = on_whole_volumes(learner, networks[:1], path) * 255
    label = learner.inference.labels(networks[0], learner.read(path))
    assert (label == targets.decode(single)).mean() > 0.999  # float64 breaks ties in another way


def test_many_classes_and_networks(tmp_path: Path) -> None:
    """Rounding errors of many small probabilities do not add up: the background is what the classes leave."""
    targets = Targets({f"c{n}": n for n in range(1, 301)})
    learner = learner_of(targets)
    path = write(tmp_path / "c.h5", (20, 9, 12))
    networks = [Border(learner, n) for n in range(5)]
    for network in networks:
        network.last.weight.data *= 0.05  # many classes are about as probable
    expected = on_whole_volumes(learner, networks, path) * 255
    found = learner.inference.found(networks, learner.read(path))
    assert np.abs(np.rint(expected).sum(0) - expected.sum(0)).max() > 10
    assert np.abs(found.probability.sum(0, dtype=float) - expected.sum(0)).max() < 1.1
    assert np.abs(found.probability - expected).max() < 1.6
    assert found.label.dtype == np.int16


def test_the_first_axis_gives_the_very_bits_of_monai(tmp_path: Path) -> None:
    """The order of sums is the same, so results of earlier versions are found again."""
    learner = learner_of(Targets({"a": 1, "b": 2}), patch=[8, 16, 16], inference={"batch": 3})
    path = write(tmp_path / "c.h5", (30, 20, 18))
    network = Border(learner, 0)
    slide = SlidingWindowInferer(learner.size, 3, overlap=0.5, mode="gaussian")
    with torch.no_grad():
        expected = slide(learner.read(path).image[None], network)[0].softmax(0)[1:]
    assert torch.equal(shares(learner, network, path), expected)


def test_half_precision_is_off_by_a_fraction_of_a_step(tmp_path: Path) -> None:
    learner = learner_of(Targets({"a": 1, "b": 2}))
    path = write(tmp_path / "c.h5", (40, 20, 18))
    network = Border(learner, 0)
    full = shares(learner, network, path)
    half = torch.empty_like(full)
    with torch.no_grad():
        for where, part in learner.inference.shares(
            network, learner.read(path), torch.device("cpu"), torch.float16
        ):
            half[:, *where] = part
    assert 0 < (half - full).abs().max() < 1 / 255
    assert (half - full).abs().mean() < 0.1 / 255


def test_outputs_coarser_than_the_window_are_interpolated(tmp_path: Path) -> None:
    class Coarse(Border):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool3d(super().forward(image), 2)

    learner = learner_of(Targets({"a": 1}))
    path = write(tmp_path / "c.h5", (20, 18, 12))
    fine, coarse = (shares(learner, kind(learner, 0), path) for kind in (Border, Coarse))
    assert coarse.shape == fine.shape
    assert torch.corrcoef(torch.stack([fine.ravel(), coarse.ravel()]))[0, 1] > 0.3


@pytest.mark.parametrize("targets", [Targets({"a": 3}), Targets({"a": 1, "b": 2, "c": 9}), NESTED])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_labels_on_a_device_are_those_of_targets(targets: Targets, kind: Any) -> None:
    """Ties included: few different values."""
    drawn = np.random.default_rng(0).integers(0, 5, (len(targets.names), 30, 20, 10)) * 42.5
    steps = (drawn * 1.5 / (1 if targets.regions else len(drawn))).astype(kind)
    expected = targets.decode(steps)
    assert len(np.unique(expected)) == 1 + len(targets.classes)
    assert (decode(torch.from_numpy(steps), targets).numpy() == expected).all()
    # By the definition, from all at once.
    if not targets.regions:
        rest = 255 - steps.sum(0, dtype=np.float32)
        by_hand = np.where(steps.max(0) > rest, 1 + steps.argmax(0), 0)
        assert (expected == by_hand).all()
        assert (expected == targets.decode(part for part in steps)).all()


def test_rounding_errors_are_carried_from_class_to_class() -> None:
    assert quantise(torch.tensor([0.4, 0.5, 1.5, 254.6]), True).tolist() == [0, 0, 2, 255]
    many = torch.full((255, 2), 0.4)
    many[:, 1] = 0
    assert quantise(many, True).sum(0, dtype=torch.float32).tolist() == [102, 0]
    assert quantise(many, False).sum() == 0


# The device.


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[torch.device]]:
    """Networks are on a GPU with so many free bytes; returns the devices on which outputs are added up."""

    def of(free: float) -> list[torch.device]:
        places: list[torch.device] = []
        own = Inference.shares

        def noted(self: Inference, network: Any, scan: Any, place: torch.device, *more: Any) -> Any:
            places.append(place)
            return own(self, network, scan, place, *more)

        monkeypatch.setattr(inference, "device_of", lambda network: GPU)
        monkeypatch.setattr(inference, "free_bytes", lambda device: free)
        monkeypatch.setattr(inference, "empty_cache", lambda: None)
        monkeypatch.setattr(Inference, "shares", noted)
        return places

    return of


def same(found: Found, other: Found) -> bool:
    return np.array_equal(found.label, other.label) and np.array_equal(found.probability, other.probability)


@pytest.mark.parametrize("count", [1, 2])
def test_outputs_that_do_not_fit_are_added_up_on_the_cpu(
    tmp_path: Path, gpu: Callable[[float], list[torch.device]], count: int
) -> None:
    learner = learner_of(Targets({"a": 1, "b": 2}))
    scan = learner.read(write(tmp_path / "c.h5", (40, 20, 18)))
    networks = [Border(learner, n) for n in range(count)]
    expected = learner.inference.found(networks, scan)
    need = learner.inference.need(scan, torch.float32)
    # The image, the slab's sums and weights, and copies of a part of it.
    slab = 16 * 20 * 18
    assert need == 4 * 40 * 20 * 18 + slab * (3 * 4 + 4) + 16 * 3 * slab
    for free, place in ((2 * need + 2, GPU), (2 * need - 2, torch.device("cpu"))):
        places = gpu(free)
        assert same(learner.inference.found(networks, scan), expected)
        assert places[-count:] == [place] * count


def test_outputs_that_did_not_fit_are_added_up_on_the_cpu(
    tmp_path: Path, gpu: Callable[[float], list[torch.device]], caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of a case; the next one of this size does not try again, a smaller one does."""

    class Full(Border):
        failing = True

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            passes.append(1)
            if len(passes) == 5 and self.failing:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore")
            return super().forward(image)

    passes: list[int] = []
    learner = learner_of(Targets({"a": 1, "b": 2}))
    large = learner.read(write(tmp_path / "large.h5", (40, 20, 18)))
    small = learner.read(write(tmp_path / "small.h5", (16, 8, 8)))
    expected = learner.inference.found([Border(learner, 0)], large)
    places, network = gpu(1e12), Full(learner, 0)
    with caplog.at_level(logging.WARNING):
        assert same(learner.inference.found([network], large), expected)
    assert "case large: the GPU's memory did not suffice" in caplog.text
    assert "Tried to allocate 9 GiB.); the CPU adds them up" in caplog.text
    network.failing = False
    assert same(learner.inference.found([network], large), expected)
    learner.inference.found([network], small)
    assert places == [GPU, torch.device("cpu"), torch.device("cpu"), GPU]


def test_a_network_that_does_not_fit_at_all_fails(
    tmp_path: Path, gpu: Callable[[float], list[torch.device]]
) -> None:
    class Full(Border):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    learner = learner_of(Targets({"a": 1}))
    scan = learner.read(write(tmp_path / "c.h5", (20, 18, 12)))
    gpu(1e12)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        learner.inference.found([Full(learner, 0)], scan)


# Memory.


def test_a_label_map_of_many_classes_takes_the_memory_of_one(tmp_path: Path) -> None:
    """On the source's grid, 60 classes in float32 would take 240 bytes a voxel."""
    targets = Targets({f"c{n}": n for n in range(1, 61)})
    cached, source = (20, 24, 16), (80, 96, 64)
    lineage = Lineage.of(source, np.eye(4), Box((0, 0, 0), source)).resized(cached, None)
    steps = np.random.default_rng(0).integers(0, 5, (60, *cached)).astype(np.uint8)
    steps[7, 5:15, 5:15, 5:15] = 200
    write_steps("c", steps, targets.decode(steps), lineage, targets, tmp_path / "p.h5")
    expected = np.stack([lineage.to_box(part.astype(np.float32)) for part in steps])
    by_hand = np.where(expected.max(0) > 255 - expected.sum(0), 1 + expected.argmax(0), 0)
    tracemalloc.start()
    found = label_map(tmp_path / "p.h5")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.data == by_hand).all()
    assert set(np.unique(by_hand)) == {0, 8}
    assert peak < 45 * np.prod(source)


def test_steps_of_several_networks_are_stored_as_of_one(tmp_path: Path) -> None:
    targets = Targets({"a": 1, "b": 2})
    lineage = Lineage.of((4, 5, 6), np.eye(4), Box((0, 0, 0), (4, 5, 6)))
    steps = np.random.default_rng(0).integers(0, 127, (2, 4, 5, 6))
    for name, kind in (("one", np.uint8), ("several", np.uint16)):
        write_steps("c", steps.astype(kind), targets.decode(steps), lineage, targets, tmp_path / f"{name}.h5")
        with open_prediction(tmp_path / f"{name}.h5") as file:
            assert file["probability"].dtype == np.uint8
            assert (file["probability"][()] == steps).all()
