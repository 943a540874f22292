"""The cache: exact arrays, detected damage, smaller than its source."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from foldwise.files import CaseError
from foldwise.index import Index
from foldwise.volumes.cache import Contents, check_labels, compact, open_case, write_case
from foldwise.volumes.geometry import Box, Lineage
from foldwise.volumes.patches import Patches
from foldwise.volumes.settings import Intensity, Sampling
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, write_volume
from synthetic import ball, write_cached_set


def lineage(shape: tuple[int, int, int]) -> Lineage:
    return Lineage.of(shape, np.diag([1.0, 2.0, 3.0, 1.0]), Box((0, 0, 0), shape))


def write(path: Path, image: np.ndarray, label: np.ndarray | None = None, **more: object) -> None:
    shape = image.shape[1:]
    weight = more.get("weight")
    contents = Contents(image, label, weight, lineage(shape), ("a", "b"))  # type: ignore[arg-type]
    write_case(path, "case", contents, (8, 8, 8), int(more.get("limit", 1000)))  # type: ignore[call-overload]


def test_arrays_and_facts_come_back(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    image = random.integers(-1000, 2000, (2, 20, 15, 9)).astype(np.int16)
    label = random.integers(0, 2, (20, 15, 9)).astype(np.uint8)
    weight = random.random((20, 15, 9)).astype(np.float32)
    write(tmp_path / "c.h5", image, label, weight=weight, limit=5000)
    with open_case(tmp_path / "c.h5") as file:
        assert (file["image"][()] == image).all()
        assert file["image"].dtype == np.int16
        assert (file["label"][()] == label).all()
        assert file["foreground"]["a"].dtype == np.int16
        assert file["image"].chunks == (1, 7, 8, 5)
        assert np.allclose(file.attrs["spacing"], [1, 2, 3])
        found = file["foreground"]["a"][()]
        assert (label[tuple(found.T)] == 1).all()
        assert len(found) == (label == 1).sum()
        assert len(file["foreground"]["b"]) == 0
        sums = file["weight_sum"][()]
        assert sums.shape == (3, 2, 2)
        assert sums[2, 1, 1] == pytest.approx(weight[14:, 8:, 5:].sum(), rel=1e-6)
        statistics = json.loads(file.attrs["statistics"])
        assert statistics[1]["mean"] == pytest.approx(image[1].mean())
        assert statistics[0]["nonzero_std"] == pytest.approx(image[0][image[0] != 0].std())
        assert file.attrs["fill"].tolist() == [image[0].min(), image[1].min()]


def test_foreground_is_capped_evenly(tmp_path: Path) -> None:
    label = np.ones((20, 20, 20), np.uint8)
    write(tmp_path / "c.h5", np.zeros((1, 20, 20, 20), np.uint8), label, limit=500)
    with open_case(tmp_path / "c.h5") as file:
        found = file["foreground"]["a"][()]
    assert len(found) == len(np.unique(found, axis=0)) == 500
    assert np.abs(found.mean(axis=0) - 9.5).max() < 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0, 255]), np.uint8),
        (np.array([-1, 255]), np.int16),
        (np.array([0, 40000], np.uint16), np.float32),
        (np.array([0.5, 1.0]), np.float32),
        (np.array([True, False]), np.uint8),
        (np.array([-(2**24), 2**24 - 1], np.int32), np.float32),
        (np.array([100_000, 100_003], np.uint64), np.float32),
        (np.array([5, -7], ">i2"), np.int16),
        (np.array([2.0**40, 2.0**40 + 2**17]), np.float32),
    ],
)
def test_compact_keeps_values(values: np.ndarray, expected: type) -> None:
    compacted = compact(values)
    assert compacted.dtype == expected
    assert compacted.dtype.isnative
    assert (compacted == values).all()


def test_compact_rounds_to_seven_digits() -> None:
    for values in (np.array([0, 2**31 - 1], np.int32), np.array([0.1, 0.1]), np.array([1000.1, 1003.3])):
        compacted = compact(values)
        assert compacted.dtype == np.float32
        assert compacted == pytest.approx(values, rel=6e-8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([0, 1e300]), r"value 1e\+300 is outside the range of float32"),
        (np.array([-1e39, 0]), r"value -1e\+39 is outside the range"),
        (np.array([2**40, 2**40 + 999], np.uint64), "1099511627776 to 1099511628775 need more precision"),
        (np.array([2**24, 2**24 + 1], np.int32), "16777216 to 16777217 need more precision"),
        (np.array([1.0, 1 + 1e-9]), "need more precision"),
        (np.array([0, 1e-300]), "need more precision"),
    ],
)
def test_compact_refuses_what_float32_would_change(values: np.ndarray, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        compact(values)


def test_coordinates_of_a_long_axis(tmp_path: Path) -> None:
    label = np.zeros((1, 1, 40_000), np.uint8)
    label[0, 0, 39_999] = 1
    contents = Contents(label[None], label, None, lineage(label.shape), ("a",))
    write_case(tmp_path / "c.h5", "case", contents, label.shape, 10)
    with open_case(tmp_path / "c.h5") as file:
        assert file["foreground"]["a"][()].tolist() == [[0, 0, 39_999]]


def test_content_hash_knows_the_arrays(tmp_path: Path) -> None:
    image = np.zeros((1, 8, 8, 8), np.int16)
    hashes = []
    for number, value in enumerate((0, 0, 1)):
        changed = image.copy()
        changed[0, 4, 4, 4] = value
        write(tmp_path / f"{number}.h5", changed)
        with open_case(tmp_path / f"{number}.h5") as file:
            hashes.append(file.attrs["content"])
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "c.h5"
    write(path, np.random.default_rng(0).integers(0, 255, (1, 30, 30, 30)).astype(np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept > 1 else kept * len(whole))])
    with pytest.raises(CaseError, match=r"c\.h5.*delete it and run again"):
        open_case(path)


def contents_of(path: Path) -> dict[str, bytes]:
    """All that a job reads of a case's file, apart from names that are compared with others."""
    with open_case(path) as file:
        names = ("image", "label", "weight", "weight_sum", "foreground/a")
        arrays = {name: file[name][()].tobytes() for name in names}
        facts = ("affine", "spacing", "fill", "lineage", "statistics")
        return arrays | {name: np.asarray(file.attrs[name]).tobytes() for name in facts}


def test_no_flipped_bit_passes_unnoticed(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    image = random.integers(-1000, 2000, (1, 12, 12, 12)).astype(np.int16)
    label = ball((12, 12, 12), (6, 6, 6), 3).astype(np.uint8)
    write(tmp_path / "c.h5", image, label, weight=random.random((12, 12, 12)).astype(np.float32))
    whole, right = (tmp_path / "c.h5").read_bytes(), contents_of(tmp_path / "c.h5")
    found = 0
    for place in random.choice(len(whole), 400, replace=False).tolist():
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path = tmp_path / "d.h5"
        path.write_bytes(damaged)
        try:
            unnoticed, message = contents_of(path), ""
        except CaseError as error:
            unnoticed, message = None, str(error)
        # A byte that nobody reads may be another one.
        assert unnoticed == right or str(path) in message, place
        found += unnoticed is None
    assert found > 250


def test_a_sampler_names_a_damaged_file(tmp_path: Path) -> None:
    """In chunks whose values unpack, but to others: only the checksum knows."""
    index = Index.read(write_cached_set(tmp_path))
    path = Path(index.entries[0].cache)
    with h5py.File(path, "r") as file:
        chunks = [file["image"].id.get_chunk_info(n) for n in range(file["image"].id.get_num_chunks())]
    raw = bytearray(path.read_bytes())
    for chunk in chunks:
        raw[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(raw)
    patches = Patches([str(path)], (8, 8, 8), Sampling(), [Intensity()], [0])
    with pytest.raises(CaseError, match=f"{path}: /image is not as it was written"):
        patches[0]


def test_foreign_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("not HDF5 at all")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.zeros(3)
    for name in ("text.h5", "other.h5", "missing.h5"):
        with pytest.raises(CaseError, match=name):
            open_case(tmp_path / name)


def test_training_refuses_a_broken_cache(tmp_path: Path) -> None:
    index = Index.read(write_cached_set(tmp_path))
    path = Path(index.entries[0].cache)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CaseError, match=r"c0\.h5"):
        open_case(path)


def test_smaller_than_the_source(tmp_path: Path) -> None:
    """A CT-like volume: correlated noise as from a scanner's kernel, lungs, and air around the body."""
    random = np.random.default_rng(3)
    shape = (96, 96, 64)
    noise = gaussian_filter(random.normal(0, 1, shape), 1.0)
    image = 40 + 15 * noise / noise.std()
    image[ball(shape, (48, 48, 32), 20)] -= 850
    image[~ball(shape, (48, 48, 32), 46)] = -1000
    image = np.rint(image).astype(np.int16)
    write_volume(Volume(image, np.eye(4)), tmp_path / "source.nii.gz")
    contents = Contents(image[None], None, None, lineage(shape), ("a",))
    write_case(tmp_path / "c.h5", "c", contents, (32, 32, 32), 1000)
    assert (tmp_path / "c.h5").stat().st_size < (tmp_path / "source.nii.gz").stat().st_size


def test_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "c.h5")
    write(tmp_path / "c.h5", np.zeros((1, 4, 4, 4), np.int16))
    check_labels([path], Targets({"a": 1, "b": 2}))
    with pytest.raises(CaseError, match=r"c\.h5: its labels are a, b, in this order; expected b, a"):
        check_labels([path], Targets({"b": 1, "a": 2}))
