"""Classes and overlapping regions: to outputs and back, by hand."""

import json

import numpy as np
import pytest

from foldwise.files import CaseError
from foldwise.settings import as_json, validate
from foldwise.volumes.settings import Data
from foldwise.volumes.targets import Targets

BRATS = Targets(
    {"oedema": 2, "necrosis": 1, "enhancing": 4},
    {"whole": ("oedema", "necrosis", "enhancing"), "core": ("necrosis", "enhancing"), "et": ("enhancing",)},
)


def decode(targets: Targets, *rows: tuple[float, ...]) -> list[int]:
    """Class numbers of voxels, given each output's probabilities as a row."""
    return targets.decode(np.array(rows, np.float32).reshape(len(rows), -1, 1, 1) * 255).ravel().tolist()


def test_regions_by_hand() -> None:
    assert BRATS.names == ("whole", "core", "et")
    assert BRATS.values == {"whole": (2, 1, 4), "core": (1, 4), "et": (4,)}
    # Columns: background, oedema, necrosis, enhancing.
    assert BRATS.membership.astype(int).tolist() == [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]


def test_regions_become_labels() -> None:
    """A voxel must be in every region around it; it gets the own class of the smallest."""
    whole, core, et = (
        (0.9, 0.9, 0.9, 0.2, 0.9, 0.4),
        (0.1, 0.8, 0.8, 0.9, 0.3, 0.9),
        (0.1, 0.2, 0.9, 0.9, 0.9, 0.1),
    )
    assert decode(BRATS, whole, core, et) == [1, 2, 3, 0, 1, 0]


def test_the_order_of_regions_does_not_matter() -> None:
    turned = Targets(BRATS.classes, dict(reversed(BRATS.regions.items())))
    random = np.random.default_rng(0).random((3, 50))
    assert decode(BRATS, *random) == decode(turned, *random[::-1])


@pytest.mark.parametrize("seed", range(3))
def test_labels_survive_the_way_there_and_back(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, (5, 4, 3))
    assert (BRATS.decode(BRATS.membership[:, labels] * 255.0) == labels).all()
    plain = Targets(BRATS.classes)
    assert (plain.decode(plain.membership[:, labels] * 255.0) == labels).all()


def test_classes_exclude_each_other() -> None:
    # 0.3 and 0.3 leave 0.4 for background; 0.35 and 0.4 leave 0.25.
    assert decode(Targets({"a": 3, "b": 7}), (0.3, 0.35, 0.9), (0.3, 0.4, 0.05)) == [0, 2, 1]


def test_two_own_classes_are_written_as_the_first() -> None:
    """BraTS until 2015: necrosis and non-enhancing tumour are distinct in files, but not in regions."""
    targets = Targets({"n": 1, "ne": 3, "e": 4}, {"core": ("n", "ne", "e"), "et": ("e",)})
    assert decode(targets, (0.9, 0.9), (0.1, 0.9)) == [1, 3]
    assert targets.value("core") == 1
    assert (targets.without("et"), targets.without("core")) == (1, 0)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"a": ("x", "unknown")}, "unknown"),
        ({"all": ("x", "y"), "one": ("x",), "two": ("y",)}, "all is the union of smaller regions"),
        ({"a": ("x", "y"), "b": ("y", "z")}, "overlap, but neither contains the other"),
    ],
)
def test_regions_that_labels_could_not_tell(regions: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(CaseError, match=message):
        Targets({"x": 1, "y": 2, "z": 3}, regions)


def test_plain_values() -> None:
    assert Targets.from_dict(BRATS.as_dict()) == BRATS


def test_more_classes_than_a_byte_counts() -> None:
    labels = np.array([0, 1, 255, 256, 299]).reshape(-1, 1, 1)
    plain = Targets({f"c{value}": value for value in range(1, 300)})
    assert (plain.decode(plain.membership[:, labels] * 255.0) == labels).all()
    nested = Targets(plain.classes, {"all": tuple(plain.classes), "last": ("c299",)})
    assert nested.decode(nested.membership[:, labels] * 255.0).ravel().tolist() == [0, 1, 1, 1, 299]


def test_the_order_of_classes_survives_the_sorted_keys_of_json() -> None:
    """Caches number classes in this order, so an index and a model must not turn it."""
    regions = {name: list(members) for name, members in BRATS.regions.items()}
    data = validate(Data, {"sheet": "s.csv", "labels": BRATS.classes, "regions": regions})
    sent = validate(Data, json.loads(as_json(data)))
    stored = json.loads(json.dumps(sent.targets().as_dict(), sort_keys=True))
    for targets in (sent.targets(), Targets.from_dict(stored)):
        assert list(targets.classes.items()) == [("oedema", 2), ("necrosis", 1), ("enhancing", 4)]
        assert targets.names == ("whole", "core", "et")


def test_several_classes_without_their_order_are_refused() -> None:
    assert Targets.from_dict({"classes": {"a": 3}, "regions": {}}).classes == {"a": 3}
    with pytest.raises(CaseError, match=r"a, b: the order of these classes is not recorded.*Train again"):
        Targets.from_dict({"classes": {"a": 3, "b": 7}, "regions": {}})


@pytest.mark.parametrize("labels", [[["a", 1], ["a", 2]], [[["a"], 1]], [["a", 1, 2]], [1], "a"])
def test_what_is_no_mapping_is_refused(labels: object) -> None:
    with pytest.raises(CaseError, match="labels: Input should be a valid dictionary"):
        validate(Data, {"sheet": "s.csv", "labels": labels})
