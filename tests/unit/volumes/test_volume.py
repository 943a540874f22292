"""Reading and writing: every format, every orientation, the affine unchanged, broken files named."""

import gzip
import itertools
import locale
import re
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from foldwise.files import CaseError
from foldwise.volumes.volume import Volume, read_header, read_volume, same_grid, write_volume

ARRAY = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)
ANGLE = np.deg2rad(12)
OBLIQUE = np.array(
    [
        [0.8 * np.cos(ANGLE), -1.5 * np.sin(ANGLE), 0, -12.5],
        [0.8 * np.sin(ANGLE), 1.5 * np.cos(ANGLE), 0, 33.25],
        [0, 0, 2.5, -71.0],
        [0, 0, 0, 1],
    ]
)


def itk_image() -> sitk.Image:
    """The array with the oblique affine, as in ITK: x and y change sign."""
    image = sitk.GetImageFromArray(ARRAY.transpose())
    flip = np.diag([-1.0, -1, 1])
    spacing = np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((flip @ OBLIQUE[:3, 3]).tolist())
    image.SetDirection((flip @ OBLIQUE[:3, :3] / spacing).ravel().tolist())
    return image


def dicom(folder: Path, skip: int | None = None) -> Path:
    """The image as a DICOM series, slice by slice."""
    folder.mkdir()
    image = itk_image()
    before = locale.setlocale(locale.LC_ALL)
    direction = image.GetDirection()
    for number in range(image.GetDepth()):
        if number == skip:
            continue
        part = image[:, :, number]
        place = image.TransformIndexToPhysicalPoint((0, 0, number))
        tags = {
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": "1.2.3.4",
            "0020|0013": str(number),
            "0020|0032": "\\".join(f"{v:.10g}" for v in place),
            "0020|0037": "\\".join(f"{direction[i]:.10g}" for i in (0, 3, 6, 1, 4, 7)),
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for key, value in tags.items():
            part.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        # Names in reverse order of slices: positions sort them, not names.
        writer.SetFileName(str(folder / f"{100 - number}.dcm"))
        writer.Execute(part)
    # ITK's writer sets the locale "C", in which later tests could not read a command's output.
    locale.setlocale(locale.LC_ALL, before)
    return folder


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
def test_formats_agree_on_values_and_place(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan.{suffix}"
    if suffix.startswith("nii"):
        nib.save(nib.Nifti1Image(ARRAY, OBLIQUE), path)
    else:
        sitk.WriteImage(itk_image(), path)
    header, volume = read_header(path), read_volume(path)
    assert header.shape == volume.data.shape == ARRAY.shape
    assert header.dtype == volume.data.dtype == np.int16
    assert (volume.data == ARRAY).all()
    assert np.allclose(volume.affine, OBLIQUE, atol=1e-5)
    assert np.array_equal(header.affine, volume.affine)


def test_a_dicom_series_is_read_as_itk_reads_it(tmp_path: Path) -> None:
    folder = dicom(tmp_path / "series")
    volume = read_volume(folder)
    assert (volume.data == ARRAY).all()
    assert np.allclose(volume.affine, OBLIQUE, atol=1e-4)
    whole = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    assert np.allclose(whole.GetSpacing(), volume.spacing, atol=1e-4)
    assert read_header(folder).shape == ARRAY.shape


def test_a_missing_slice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="one is missing"):
        read_header(dicom(tmp_path / "series", skip=3))


def test_a_folder_without_one_series(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="contains 0 DICOM series"):
        read_header(tmp_path)


def test_round_trip_keeps_every_bit_of_a_nifti_affine(tmp_path: Path) -> None:
    write_volume(Volume(ARRAY, OBLIQUE), tmp_path / "a.nii.gz")
    first = read_volume(tmp_path / "a.nii.gz")
    write_volume(first, tmp_path / "b.nii.gz")
    second = read_volume(tmp_path / "b.nii.gz")
    assert second.affine.tobytes() == first.affine.tobytes()
    itk = sitk.ReadImage(tmp_path / "b.nii.gz")
    assert np.allclose(itk.GetSpacing(), first.spacing, atol=1e-5)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_orientation_agrees_with_nibabel(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.diag((1.0, 2.0, 3.0))[:, axes] * signs
    affine[:3, 3] = (5, -6, 7)
    ours = Volume(ARRAY, affine).oriented()
    theirs = nib.as_closest_canonical(nib.Nifti1Image(ARRAY, affine))
    assert (ours.data == np.asarray(theirs.dataobj)).all()
    assert np.allclose(ours.affine, theirs.affine)


def test_scaled_and_big_endian_nifti(tmp_path: Path) -> None:
    scaled = nib.Nifti1Image(ARRAY, np.eye(4))
    scaled.header.set_slope_inter(0.5, 10)
    nib.save(scaled, tmp_path / "scaled.nii")
    read = read_volume(tmp_path / "scaled.nii")
    expected = nib.load(tmp_path / "scaled.nii").get_fdata()
    assert read.data.dtype == np.float32
    assert np.allclose(read.data, expected, atol=1e-3)
    big = nib.Nifti1Image(ARRAY.astype(">i2"), np.eye(4), header=nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii")
    read = read_volume(tmp_path / "big.nii")
    assert read.data.dtype.isnative
    assert (read.data == ARRAY).all()


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((30, 30, 30)), np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:50000])
    with pytest.raises(CaseError, match=r"cut\.nii\.gz: its voxels cannot be read"):
        read_volume(path)
    (tmp_path / "text.nrrd").write_text("hello")
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"hello"))
    for name in ("text.nrrd", "text.nii.gz", "gone.nii.gz", "gone.mha"):
        with pytest.raises(CaseError, match=name):
            read_header(tmp_path / name)


def test_same_grid_looks_at_the_corners() -> None:
    base = Volume(np.zeros((100, 100, 100)), np.eye(4))
    turned = np.eye(4)
    turned[0, 1] = 5e-4  # half a hundredth of a degree: 0.05 mm at the far corner
    assert same_grid(base, base)
    assert not same_grid(base, Volume(base.data, turned))
    assert same_grid(base, Volume(base.data, turned), tolerance_mm=0.1)
    assert not same_grid(base, Volume(base.data[1:], np.eye(4)))


@pytest.mark.parametrize(
    ("stored", "slope", "inter", "kind"),
    [
        (np.array([0, 1, 60_000], np.uint16), 1, -32_768, np.float32),
        (np.array([0, 1, 2**31 - 1], np.int32), 1, 1, np.float64),
        (np.array([0, 0.5, 3], np.float32), 2, 1, np.float32),
        (np.array([0, 1, 1e300]), 2, 1, np.float64),
    ],
)
def test_scaled_values_are_exact(
    tmp_path: Path, stored: np.ndarray, slope: float, inter: float, kind: type
) -> None:
    image = nib.Nifti1Image(stored.reshape(3, 1, 1), np.eye(4))
    image.header.set_slope_inter(slope, inter)
    path = tmp_path / "s.nii"
    nib.save(image, path)
    # nibabel omits the factors from its header; they are two floats at byte 112.
    raw = bytearray(path.read_bytes())
    struct.pack_into("<ff", raw, 112, slope, inter)
    path.write_bytes(raw)
    header, volume = read_header(path), read_volume(path)
    assert header.dtype == volume.data.dtype == kind
    assert volume.data.ravel().tolist() == [float(v) * slope + inter for v in stored]


def test_what_is_no_real_number_is_refused(tmp_path: Path) -> None:
    """From the header alone, so before anything runs."""
    rgb = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii.gz")
    nib.save(nib.Nifti1Image(ARRAY.astype(np.complex64), np.eye(4)), tmp_path / "raw.nii.gz")
    grey = sitk.Cast(itk_image(), sitk.sitkUInt8)
    for name in ("rgb.mha", "rgb.nrrd"):
        sitk.WriteImage(sitk.Compose(grey, grey, grey), tmp_path / name)
    for name, message in (
        ("rgb.nii.gz", "colours"),
        ("raw.nii.gz", "complex numbers"),
        ("rgb.mha", "colours"),
        ("rgb.nrrd", "colours"),
    ):
        with pytest.raises(CaseError, match=rf"{re.escape(name)}: .*{message}"):
            read_header(tmp_path / name)


@pytest.mark.parametrize("lost", [-8, None])
def test_a_wrong_checksum_is_damage(tmp_path: Path, lost: int | None) -> None:
    """All voxels can be unpacked, but the checksum shows that they are not the original ones."""
    path = tmp_path / "d.nii.gz"
    write_volume(Volume(ARRAY, OBLIQUE), path)
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1
    path.write_bytes(raw[:lost])
    with pytest.raises(CaseError, match=r"d\.nii\.gz: its voxels cannot be read"):
        read_volume(path)
