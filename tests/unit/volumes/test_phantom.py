"""The phantom set: the same everywhere, varied as real scans are, and plausible."""

import cc3d
import numpy as np
import pytest
from nibabel import aff2axcodes
from scipy.ndimage import binary_dilation

from foldwise.volumes.phantom import Phantom, make_phantom

NAMES = ["p01", "p02", "p03a", "p03b", *(f"p{n:02d}" for n in range(4, 13))]


@pytest.fixture(scope="module")
def phantoms() -> dict[str, Phantom]:
    return {name: make_phantom(name) for name in NAMES}


def litres(phantom: Phantom) -> float:
    return float(phantom.lungs.data.sum() * np.prod(phantom.lungs.spacing) / 1e6)


@pytest.mark.slow
def test_the_same_name_is_the_same_scan(phantoms: dict[str, Phantom]) -> None:
    again = make_phantom("p04")
    assert np.array_equal(again.image.data, phantoms["p04"].image.data)
    assert np.array_equal(again.image.affine, phantoms["p04"].image.affine)
    assert not np.array_equal(again.image.data.shape, phantoms["p05"].image.data.shape)


@pytest.mark.slow
def test_two_scans_of_a_patient_agree(phantoms: dict[str, Phantom]) -> None:
    first, second = phantoms["p03a"], phantoms["p03b"]
    counts = [cc3d.connected_components(p.label.data, connectivity=26).max() for p in (first, second)]
    assert counts[0] == counts[1]
    assert litres(first) == pytest.approx(litres(second), rel=0.05)
    assert not np.array_equal(first.image.affine, second.image.affine)


@pytest.mark.slow
def test_scans_differ_in_geometry(phantoms: dict[str, Phantom]) -> None:
    codes = {aff2axcodes(p.image.affine) for p in phantoms.values()}
    spacings = {tuple(np.round(sorted(p.image.spacing), 2)) for p in phantoms.values()}
    oblique = [p for p in phantoms.values() if (np.abs(p.image.affine[:3, :3]) > 0.1).sum() > 3]
    assert len(codes) >= 4
    assert len(spacings) >= 4
    assert oblique
    for phantom in phantoms.values():
        axes = phantom.image.affine[:3, :3] / phantom.image.spacing
        assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)


@pytest.mark.slow
def test_tissues_and_sizes(phantoms: dict[str, Phantom]) -> None:
    pleural = 0
    for phantom in phantoms.values():
        hu, label, lungs = phantom.image.data, phantom.label.data > 0, phantom.lungs.data > 0
        assert hu.dtype == np.int16
        assert hu.shape == label.shape == lungs.shape
        assert 1.5 < litres(phantom) < 7
        assert 0 < hu[label].mean() < 60
        assert -900 < np.median(hu[lungs]) < -780
        assert hu.max() > 250
        ml = label.sum() * np.prod(phantom.image.spacing) / 1000
        assert 1 < ml < 150
        near = binary_dilation(label, iterations=2)
        pleural += bool((label & ~binary_dilation(lungs)).any() or (near & (hu > 250)).any())
    assert pleural >= 2
