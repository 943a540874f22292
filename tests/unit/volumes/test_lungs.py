"""The lung mask and the thoracic region, on generated chests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy.ndimage import binary_dilation

from foldwise.files import CaseError
from foldwise.volumes.lung_judgement import judge
from foldwise.volumes.lung_mask import mask_case
from foldwise.volumes.lungs import find_lungs, missed_share
from foldwise.volumes.phantom import fill_lungs, make_abdomen, make_phantom, with_couch
from foldwise.volumes.remarks import remarks_in
from foldwise.volumes.settings import LungMask
from foldwise.volumes.volume import Volume, write_volume

SPACING = (5.0, 5.0, 5.0)


@pytest.fixture(scope="module")
def chest() -> tuple[Volume, Volume, Volume]:
    """Image, tumours and true lungs of one phantom, in RAS."""
    phantom = make_phantom("p01", SPACING)
    return phantom.image.oriented(), phantom.label.oriented(), phantom.lungs.oriented()


def dice(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first > 0, second > 0
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


@pytest.mark.parametrize(
    "name",
    [pytest.param("p02", marks=pytest.mark.slow), "p03a", "p07", pytest.param("p10", marks=pytest.mark.slow)],
)
def test_mask_agrees_with_the_true_lungs(name: str) -> None:
    phantom = make_phantom(name, (4.0, 4.0, 4.0))
    found = find_lungs(phantom.image)
    assert dice(found.mask, phantom.lungs.data) > 0.96
    missed = missed_share(phantom.label.data, found.region)
    assert missed is not None
    assert missed <= 0.01
    assert found.mask.shape == found.region.shape == phantom.image.data.shape
    assert not (found.mask & ~found.region).any()
    body = phantom.image.data > -300
    assert found.region.sum() < 0.95 * (body | found.mask).sum()


@pytest.mark.slow
def test_trachea_stays_out(chest: tuple[Volume, Volume, Volume]) -> None:
    image, _, lungs = chest
    found = find_lungs(image)
    # Near -1000 HU inside the body and above the lungs' air: trachea and bronchi.
    inside = binary_dilation(found.region, iterations=2)
    gas = (image.data < -960) & inside & (lungs.data == 0)
    central = np.zeros_like(gas)
    middle = image.data.shape[0] // 2
    central[middle - 4 : middle + 5] = True
    trachea = gas & central & found.region
    assert trachea.sum() > 50
    assert (found.mask & trachea).sum() < 0.1 * trachea.sum()


@pytest.mark.parametrize("codes", ["LPI", "ASL", "IRP"])
def test_orientation_changes_nothing(chest: tuple[Volume, Volume, Volume], codes: str) -> None:
    """Exactly: every axis is once first, once second and once third, and each is also turned round."""
    found = find_lungs(chest[0])
    turned = find_lungs(chest[0].oriented(codes))
    for name in ("mask", "region"):
        back = Volume(getattr(turned, name), chest[0].oriented(codes).affine).oriented().data
        assert (back == getattr(found, name)).all()
    assert turned.seen == found.seen


def test_a_scan_cropped_inside_the_chest(chest: tuple[Volume, Volume, Volume]) -> None:
    image, _, lungs = chest
    x, y, z = np.nonzero(lungs.data)
    box = (slice(x.min() + 6, x.max() - 5), slice(y.min() - 4, y.max() + 4), slice(z.min() + 5, z.max() - 4))
    cut = Volume(np.ascontiguousarray(image.data[box]), image.affine)
    assert dice(find_lungs(cut).mask, lungs.data[box]) > 0.95


@pytest.mark.parametrize("padding", [-2000, -3024])
@pytest.mark.slow
def test_padding_below_air(chest: tuple[Volume, Volume, Volume], padding: int) -> None:
    image = chest[0]
    x, y, _ = np.indices(image.data.shape)
    middle = np.array(image.data.shape[:2]) / 2
    far = np.hypot((x - middle[0]) / middle[0], (y - middle[1]) / middle[1]) > 1.0
    padded = image.data.copy()
    padded[far] = padding
    assert dice(find_lungs(Volume(padded, image.affine)).mask, find_lungs(image).mask) > 0.98


@pytest.mark.parametrize(("side", "share", "stored"), [(0, 0.6, "RAS"), (1, 1.0, "RAS"), (0, 1.0, "SRA")])
@pytest.mark.slow
def test_a_filled_lung_stays_in_the_region(
    chest: tuple[Volume, Volume, Volume], side: int, share: float, stored: str
) -> None:
    """An effusion or a tumour fills one lung from below: the region contains it in any orientation."""
    image, _, lungs = chest
    lung = lungs.data.copy()
    middle = lung.shape[0] // 2
    lung[middle:] *= side
    lung[:middle] *= 1 - side
    whole = int(lung.sum())
    z = np.nonzero(lung)[2]
    lung[:, :, int(z.min() + share * (z.max() + 1 - z.min())) :] = 0
    filled = image.data.copy()
    # Its bronchi are also filled.
    filled[binary_dilation(lung, iterations=2) & (filled < 0) & (lungs.data == lung)] = 20
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(stored))
    affine = image.affine @ inv_ornt_aff(turn, image.data.shape)
    found = find_lungs(Volume(apply_orientation(filled, turn), affine))
    lung = apply_orientation(lung, turn)
    missed = missed_share(lung, found.region)
    assert missed is not None
    assert missed < 0.01
    assert missed_share(lung, found.mask) > 0.5  # type: ignore[operator]
    assert found.seen.smaller < 1.2 * (1 - lung.sum() / whole) + 0.05


@pytest.mark.slow
def test_a_filled_lung_may_reach_lower_than_the_other_one(chest: tuple[Volume, Volume, Volume]) -> None:
    image, _, lungs = chest
    left, right = lungs.data.copy(), lungs.data.copy()
    middle = lungs.data.shape[0] // 2
    left[middle:], right[:middle] = 0, 0
    # The healthy lung ends 32 mm higher than the filled one.
    raised = np.nonzero(right)[2].min() + 8
    filled = image.data.copy()
    filled[left > 0] = 20
    filled[:, :, :raised][right[:, :, :raised] > 0] = 20
    missed = missed_share(left, find_lungs(Volume(filled, image.affine)).region)
    assert missed is not None
    assert missed < 0.01


@pytest.mark.parametrize(
    ("shares", "start", "least"),
    [
        ((1, 0), "behind", 0.99),
        ((0, 1), "behind", 0.99),
        ((0.9, 0), "below", 0.99),
        ((0, 0.5), "behind", 0.99),
        ((1 / 3, 1 / 3), "behind", 0.97),
        ((1 / 2, 1 / 2), "behind", 0.97),
        ((1, 1 / 3), "behind", 0.97),
        # Where these lungs ended cannot be seen: the region reaches a fixed length lower.
        ((1 / 3, 1 / 3), "below", 0.8),
    ],
)
def test_what_is_filled_stays_in_the_region(
    chest: tuple[Volume, Volume, Volume], shares: tuple[float, float], start: Any, least: float
) -> None:
    image, _, lungs = chest
    ill, filled = fill_lungs(image, lungs, shares, start)
    # By hand: each side's filled share of its volume, up to a slice.
    middle = lungs.data.shape[0] // 2
    for side, share in zip((slice(None, middle), slice(middle, None)), shares, strict=True):
        assert filled[side].sum() / lungs.data[side].sum() == pytest.approx(share, abs=0.06)
    found = find_lungs(ill)
    assert found.region[filled].mean() > least
    assert found.region[lungs.data > 0].mean() > 0.93
    judged = judge(found.seen)
    assert judged.verdict == "plausible"
    assert judged.assumed
    if min(shares) == 0 or max(shares) == 1:
        assert "mirror image" in " ".join(judged.assumed)


def test_a_scan_of_one_side(chest: tuple[Volume, Volume, Volume]) -> None:
    """From the spine to the right, half of the lung filled from behind: all of it stays in the region."""
    image, _, lungs = chest
    half = slice(image.data.shape[0] // 2 - 5, None)
    one, lung = (Volume(volume.data[half], volume.affine) for volume in (image, lungs))
    ill, filled = fill_lungs(one, lung, (0.5, 0.5), "behind")
    for scan in (one, ill):
        found = find_lungs(scan)
        assert found.region[lung.data > 0].mean() > 0.97
        assert "the scan shows one side only" in judge(found.seen).reasons
    assert filled.any()


def test_the_couch_changes_nothing(chest: tuple[Volume, Volume, Volume]) -> None:
    image = chest[0]
    depth = with_couch(image).data.shape[1] - image.data.shape[1]
    lying, alone = find_lungs(with_couch(image)), find_lungs(image)
    assert not lying.region[:, : depth - 1].any()
    assert dice(lying.mask[:, depth:], alone.mask) > 0.99
    assert dice(lying.region[:, depth:], alone.region) > 0.97


@pytest.mark.parametrize(("couch", "height"), [(False, 120), (True, 300)])
def test_an_abdomen_is_not_taken_for_lungs(couch: bool, height: float) -> None:
    """Gas and stool in the bowel, and the couch's inside: nothing is found, or it is found implausible."""
    abdomen = make_abdomen(SPACING, height)
    try:
        found = find_lungs(with_couch(abdomen) if couch else abdomen)
    except CaseError:
        return
    assert judge(found.seen).verdict == "implausible"


@pytest.mark.parametrize(
    ("part", "verdict", "words"),
    [
        ("whole", "plausible", ""),
        ("lower third", "partial", "the scan ends above"),
        ("upper half", "partial", "the scan ends below"),
        ("upside down", "implausible", "is the scan upside down?"),
    ],
)
def test_parts_of_a_chest(chest: tuple[Volume, Volume, Volume], part: str, verdict: str, words: str) -> None:
    image = chest[0]
    n = image.data.shape[2]
    steps = {
        "whole": slice(None),
        "lower third": slice(n // 3),
        "upper half": slice(n // 2, None),
        "upside down": slice(None, None, -1),
    }
    judged = judge(find_lungs(Volume(image.data[:, :, steps[part]], image.affine)).seen)
    assert judged.verdict == verdict
    assert words in " ".join(judged.reasons)


def test_a_case_with_a_filled_lung_is_named(
    tmp_path: Path, chest: tuple[Volume, Volume, Volume], caplog: pytest.LogCaptureFixture
) -> None:
    image, _, lungs = chest
    paths = [tmp_path / name for name in ("mask.nii.gz", "region.nii.gz", "lungs.json")]
    for scan, words in ((image, 0), (fill_lungs(image, lungs, (1, 0), "behind")[0], 1)):
        write_volume(scan, tmp_path / "ct.nii.gz")
        mask_case("p01", tmp_path / "ct.nii.gz", None, LungMask(), *paths)
        assert len([r for r in caplog.records if r.levelname == "WARNING"]) == words
        assert len(remarks_in(tmp_path / "lungs.json")) == words
    assert "case p01: one lung has " in caplog.text


def test_what_is_implausible_is_an_error_or_a_warning(
    tmp_path: Path, chest: tuple[Volume, Volume, Volume], caplog: pytest.LogCaptureFixture
) -> None:
    write_volume(Volume(chest[0].data[:, :, ::-1], chest[0].affine), tmp_path / "ct.nii.gz")
    paths = [tmp_path / name for name in ("mask.nii.gz", "region.nii.gz", "lungs.json")]
    with pytest.raises(CaseError, match=r"case p01: .*ct\.nii\.gz: hardly lungs: .*implausible: warn"):
        mask_case("p01", tmp_path / "ct.nii.gz", None, LungMask(), *paths)
    assert not any(path.exists() for path in paths)
    mask_case("p01", tmp_path / "ct.nii.gz", None, LungMask(implausible="warn"), *paths)
    assert "case p01: hardly lungs: the windpipe" in caplog.text
    assert remarks_in(tmp_path / "lungs.json")[0].startswith("hardly lungs: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hu: np.clip((hu + 1024) / 8, 0, 255).astype(np.uint8), "not in HU: the lowest value is"),
        (lambda hu: (np.maximum(hu, -1024) + 1024).astype(np.uint16), "rescale slope and intercept"),
        (lambda hu: ((hu + 1024) / 4095).astype(np.float32), "not in HU"),
        (lambda hu: np.full_like(hu, -1000), "not in HU"),
        (lambda hu: np.where(hu > -600, hu, -1000).astype(np.int16), "no lungs found"),
        (lambda hu: np.where(hu > -1200, 40, hu).astype(np.int16), "not in HU"),
    ],
)
def test_what_is_no_chest_in_hu_is_refused(
    chest: tuple[Volume, Volume, Volume], change: object, message: str
) -> None:
    image = chest[0]
    with pytest.raises(CaseError, match=message):
        find_lungs(Volume(change(image.data), image.affine))  # type: ignore[operator]


def test_missed_share_by_hand() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    inside = np.ones_like(label, dtype=bool)
    assert missed_share(label, inside) is None
    label[0, 0] = 3
    inside[0, 0, 0] = False
    assert missed_share(label, inside) == 0.25
