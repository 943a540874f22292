"""Units, positions, channels and damage: what the headers of each format say, and what they leave out."""

import gzip
import re
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from foldwise.files import CaseError
from foldwise.volumes.volume import Volume, read_channels, read_header, read_volume, write_volume

DATA = np.arange(120, dtype="<i2").reshape(4, 5, 6)
# In RAS and mm: voxels of 0.8 × 0.9 × 2.5 mm, the first one at (1, 2, 3).
PLACE = np.array([[0.8, 0, 0, 1], [0, 0.9, 0, 2], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])
# Two channels, and the directions of a NRRD that has them as its first or last axis.
TWO = np.stack([DATA, DATA[::-1]])
NONE_FIRST = "none (0.8,0,0) (0,0.9,0) (0,0,2.5)"
NONE_LAST = "(0.8,0,0) (0,0.9,0) (0,0,2.5) none"


def nifti(path: Path, affine: np.ndarray = PLACE, changes: tuple[tuple[int, str, Any], ...] = ()) -> Path:
    """A NIfTI file, and changes of its header: offset, format of struct, values."""
    nib.save(nib.Nifti1Image(DATA, affine), path)
    raw = bytearray(path.read_bytes())
    for offset, kind, values in changes:
        struct.pack_into("<" + kind, raw, offset, *np.atleast_1d(values))
    path.write_bytes(raw)
    return path


def nrrd(path: Path, data: np.ndarray = DATA, raw: bytes | None = None, **changes: str | None) -> Path:
    """A NRRD with PLACE, and changes of its fields; None leaves one out."""
    fields: dict[str, str | None] = {
        "type": "short",
        "dimension": str(data.ndim),
        "space": "right-anterior-superior",
        "sizes": " ".join(map(str, data.shape)),
        "space directions": "(0.8,0,0) (0,0.9,0) (0,0,2.5)",
        "space origin": "(1,2,3)",
        "endian": "little",
        "encoding": "raw",
    }
    fields |= {key.replace("_", " "): value for key, value in changes.items()}
    head = "".join(f"{key}: {value}\n" for key, value in fields.items() if value is not None)
    path.write_bytes(f"NRRD0004\n{head}\n".encode() + (data.tobytes(order="F") if raw is None else raw))
    return path


def mha(path: Path, raw: bytes | None = None, **changes: str | None) -> Path:
    """A MetaImage with PLACE (in LPS), and changes of its fields; None leaves one out."""
    fields: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "TransformMatrix": "-1 0 0 0 -1 0 0 0 1",
        "Offset": "-1 -2 3",
        "ElementSpacing": "0.8 0.9 2.5",
        "DimSize": "4 5 6",
        "ElementType": "MET_SHORT",
        **changes,
    }
    fields["ElementDataFile"] = fields.pop("ElementDataFile", "LOCAL")
    head = "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None)
    path.write_bytes(head.encode() + (DATA.tobytes(order="F") if raw is None else raw))
    return path


THOUSANDS = np.diag([1000.0, 1000, 1000, 1]) @ PLACE
LARGE: dict[str, Any] = {
    "space_directions": "(800,0,0) (0,900,0) (0,0,2500)",
    "space_origin": "(1000,2000,3000)",
}
SPACED: dict[str, Any] = {"space_directions": None, "space_origin": None, "space": None}


@pytest.mark.parametrize(
    "write",
    [
        lambda p: nifti(p / "a.nii"),
        lambda p: nifti(p / "none.nii", changes=((123, "B", 0),)),
        lambda p: nifti(p / "mm_and_s.nii", changes=((123, "B", 10),)),
        lambda p: nifti(p / "micron.nii", THOUSANDS, ((123, "B", 3),)),
        lambda p: nifti(p / "m.nii", np.diag([1e-3, 1e-3, 1e-3, 1]) @ PLACE, ((123, "B", 1),)),
        lambda p: nrrd(p / "a.nrrd"),
        lambda p: nrrd(p / "mm.nrrd", space_units='"mm" "mm" "mm"'),
        lambda p: nrrd(p / "um.nrrd", space_units='"um" "um" "um"', **LARGE),
        lambda p: nrrd(p / "micro.nrrd", space_units='"µm" "μm" "microns"', **LARGE),
        lambda p: nrrd(
            p / "mixed.nrrd",
            space_units='"cm" "mm" "m"',
            space_directions="(0.08,0,0) (0,0.9,0) (0,0,0.0025)",
            space_origin="(0.1,2,0.003)",
        ),
        lambda p: mha(p / "a.mha"),
        lambda p: mha(
            p / "cm.mha", DistanceUnits="cm", ElementSpacing="0.08 0.09 0.25", Offset="-0.1 -0.2 0.3"
        ),
    ],
)
def test_every_format_is_in_mm(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path)
    assert np.allclose(read_header(path).affine, PLACE, atol=1e-5)
    volume = read_volume(path)
    assert np.allclose(volume.affine, PLACE, atol=1e-5)
    assert (volume.data == DATA).all()
    assert read_header(path).remarks == ()
    # What we write is in mm, and says so.
    write_volume(volume, tmp_path / "out.nii.gz")
    written = nib.load(tmp_path / "out.nii.gz")
    assert np.allclose(written.affine, PLACE, atol=1e-5)
    assert written.header.get_xyzt_units()[0] == "mm"


def test_units_along_the_axes_of_a_nrrd(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", spacings="800 0.9 2.5", units='"um" "mm" ""', **SPACED)
    # Without `space` ITK's axes are those of LPS, as for 3D Slicer.
    assert np.allclose(read_header(path).affine, np.diag([-0.8, -0.9, 2.5, 1]))
    assert "left and right are a guess" in read_header(path).remarks[0]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: nifti(p / "a.nii", changes=((123, "B", 5),)), "unit of length is 'code 5'"),
        (lambda p: nrrd(p / "a.nrrd", space_units='"px" "px" "px"'), "unit of length is 'px'"),
        (lambda p: nifti(p / "a.nii", THOUSANDS), "voxels are 800 × 900 × 2500 mm"),
        (lambda p: nifti(p / "a.nii", np.diag([10, 10, 2000, 1])), "voxels are 10 × 10 × 2000 mm"),
        (lambda p: nifti(p / "a.nii", np.diag([1e-5, 1, 1, 1])), "voxels are 1e-05 × 1 × 1 mm"),
        (lambda p: nifti(p / "a.nii", changes=((296, "4f", (0, 0, 0, 0)),)), "axes are not independent"),
        (lambda p: nifti(p / "a.nii", changes=((280, "f", np.nan),)), "NaN or infinite"),
        (lambda p: nifti(p / "a.nii", changes=((42, "3h", (30_000,) * 3),)), "bytes are too few"),
        (lambda p: nifti(p / "a.nii", changes=((42, "h", -4),)), "its shape is"),
        (
            lambda p: nrrd(
                p / "a.nrrd",
                np.zeros((3, 4, 5, 6), np.uint8),
                type="uchar",
                kinds="RGB-color domain domain domain",
                space_directions=NONE_FIRST,
            ),
            "colours",
        ),
    ],
)
def test_what_cannot_be_is_refused_from_the_header(tmp_path: Path, write: Any, message: str) -> None:
    path = write(tmp_path)
    with pytest.raises(CaseError, match=rf"^{re.escape(str(path))}: .*{message}"):
        read_header(path)


@pytest.mark.parametrize(
    ("spacing", "shape", "doubtful"),
    [
        ((0.01, 0.01, 0.01), (100, 100, 100), ""),
        ((0.8, 0.8, 20), (10, 10, 10), ""),
        ((4, 4, 4), (10, 10, 500), ""),  # a whole body of 2 m
        ((0.8, 0.8, 50), (10, 10, 10), "voxels are 0.8 × 0.8 × 50 mm"),
        ((0.0008, 0.0008, 0.0025), (10, 10, 10), "voxels are 0.0008 × 0.0008 × 0.0025 mm"),
        ((8, 8, 10), (10, 512, 10), "80 × 4096 × 100 mm large"),
    ],
)
def test_unusual_sizes_are_remarked(
    tmp_path: Path, spacing: tuple[float, ...], shape: tuple[int, ...], doubtful: str
) -> None:
    path = tmp_path / "a.nii.gz"
    write_volume(Volume(np.zeros(shape, np.uint8), np.diag([*spacing, 1])), path)
    remarks = read_header(path).remarks
    assert [doubtful in remark for remark in remarks] == ([True] if doubtful else [])


def forms(path: Path, sform: int, qform: int, pixdim: tuple[float, ...] = (0.8, 0.9, 2.5)) -> Path:
    """A NIfTI with PLACE as its sform, the same moved by 4 mm as its qform, and the two codes."""
    image = nib.Nifti1Image(DATA, PLACE)
    moved = PLACE.copy()
    moved[0, 3] += 4
    image.set_sform(PLACE, 1)
    image.set_qform(moved, 1)
    nib.save(image, path)
    raw = bytearray(path.read_bytes())
    struct.pack_into("<hh", raw, 252, qform, sform)
    struct.pack_into("<3f", raw, 80, *pixdim)
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    ("sform", "qform", "pixdim", "corner", "remark"),
    [
        (1, 1, (0.8, 0.9, 2.5), (1, 2, 3), "4 mm apart at the corners; the sform is used"),
        (4, 1, (0.8, 0.9, 2.5), (1, 2, 3), "4 mm apart at the corners; the sform is used"),
        (1, 0, (0.8, 0.9, 2.5), (1, 2, 3), ""),
        (0, 1, (0.8, 0.9, 2.5), (5, 2, 3), ""),
        (1, 0, (0.8, 0.9, 3.0), (1, 2, 3), "0.8 × 0.9 × 3 by pixdim; 0.8 × 0.9 × 2.5 is used"),
        (0, 1, (0.0, 0.9, 2.5), (5, 2, 3), "0 × 0.9 × 2.5 by pixdim; 1 × 0.9 × 2.5 is used"),
        # nibabel's guess: x points to the left, and the middle is the origin.
        (0, 0, (0.8, 0.9, 2.5), (1.2, -1.8, -6.25), "left and right are a guess"),
    ],
)
def test_which_position_of_a_nifti_is_used(
    tmp_path: Path, sform: int, qform: int, pixdim: tuple[float, ...], corner: tuple[float, ...], remark: str
) -> None:
    path = forms(tmp_path / "a.nii", sform, qform, pixdim)
    header = read_header(path)
    assert np.allclose(header.affine[:3, 3], corner, atol=1e-5)
    assert np.array_equal(header.affine, nib.load(path).affine)
    assert [remark in found for found in header.remarks] == ([True] if remark else [])


def test_a_damaged_qform_beside_a_good_sform(tmp_path: Path) -> None:
    path = forms(tmp_path / "a.nii", 1, 1)
    raw = bytearray(path.read_bytes())
    struct.pack_into("<3f", raw, 256, 1, 1, 1)  # not a unit quaternion
    path.write_bytes(raw)
    assert np.allclose(read_header(path).affine, PLACE)
    assert "the sform is used" in read_header(path).remarks[0]


@pytest.mark.parametrize(
    ("write", "remark"),
    [
        (lambda p: nrrd(p / "a.nrrd", space="scanner-xyz"), "left and right are a guess"),
        (lambda p: mha(p / "a.mha", TransformMatrix=None), "left and right are a guess"),
        (lambda p: mha(p / "a.mha", ElementSpacing=None), "1 mm is assumed"),
        (lambda p: nifti(p / "a.nii", changes=((112, "2f", (np.nan, 0)),)), "taken as stored"),
    ],
)
def test_what_a_header_lacks_is_remarked(tmp_path: Path, write: Any, remark: str) -> None:
    path = write(tmp_path)
    (found,) = read_header(path).remarks
    assert remark in found
    assert (read_volume(path).data == DATA).all()


def nifti_4d(path: Path, vector: bool) -> Path:
    data = np.moveaxis(TWO, 0, -1)
    image = nib.Nifti1Image(data[..., None, :] if vector else data, PLACE)
    if vector:
        image.header.set_intent("vector")
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    "write",
    [
        lambda p: nifti_4d(p / "a.nii.gz", vector=False),
        lambda p: nifti_4d(p / "a.nii.gz", vector=True),
        lambda p: mha(p / "a.mha", TWO.tobytes(order="F"), ElementNumberOfChannels="2"),
        *(
            lambda p, kind=kind: nrrd(
                p / "a.nrrd", TWO, space_directions=NONE_FIRST, kinds=f"{kind} domain domain domain"
            )
            for kind in ("list", "vector")
        ),
        *(
            lambda p, kind=kind: nrrd(
                p / "a.nrrd",
                np.moveaxis(TWO, 0, -1),
                space_directions=NONE_LAST,
                kinds=f"domain domain domain {kind}",
            )
            for kind in ("list", "vector")
        ),
        lambda p: mha(
            p / "a.mha",
            np.moveaxis(TWO, 0, -1).tobytes(order="F"),
            NDims="4",
            DimSize="4 5 6 2",
            ElementSpacing="0.8 0.9 2.5 1",
            Offset="-1 -2 3 0",
            TransformMatrix="-1 0 0 0 0 -1 0 0 0 0 1 0 0 0 0 1",
        ),
    ],
)
def test_several_values_per_voxel_are_channels(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path)
    header = read_header(path)
    assert header.channels == 2
    assert np.allclose(header.affine, PLACE, atol=1e-5)
    first, second = read_channels(path)
    assert (first.data == DATA).all()
    assert (second.data == DATA[::-1]).all()
    with pytest.raises(CaseError, match="expected a 3-D volume"):
        read_volume(path)


def test_axes_of_length_one_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(DATA[..., None], PLACE), path)
    assert (read_volume(path).data == DATA).all()


PACKED = gzip.compress(DATA.tobytes(order="F"), mtime=0)
WRONG = PACKED[:-6] + bytes([PACKED[-6] ^ 1]) + PACKED[-5:]


@pytest.mark.parametrize(
    "write",
    [
        lambda p: nrrd(p / "a.nrrd", raw=DATA.tobytes()[:-20]),
        lambda p: nrrd(p / "a.nrrd", raw=PACKED[:-20], encoding="gzip"),
        lambda p: nrrd(p / "a.nrrd", raw=WRONG, encoding="gzip"),
        lambda p: nrrd(p / "a.nhdr", raw=b"", data_file="gone.raw"),
        lambda p: nrrd(p / "a.nhdr", raw=b"", data_file="short.raw"),
        lambda p: mha(p / "a.mha", DATA.tobytes()[:-20]),
        lambda p: mha(p / "a.mhd", b"", ElementDataFile="gone.raw"),
        lambda p: mha(p / "a.mhd", b"", ElementDataFile="short.raw"),
        *(
            lambda p, raw=raw: mha(p / "a.mha", raw, CompressedData="True", CompressedDataSize=str(len(raw)))
            for raw in (WRONG, PACKED[:-20], gzip.compress(DATA.tobytes()[:-20]))
        ),
        # ITK reads these two without an error, but not their voxels.
        lambda p: mha(p / "a.mha", PACKED, CompressedData="True", CompressedDataSize="100"),
        lambda p: mha(p / "a.mha", PACKED, CompressedData="True"),
        lambda p: mha(p / "a.mhd", b"", ElementDataFile="short.raw", CompressedData="True"),
        lambda p: p / "cut.nii",
        lambda p: p / "cut.nii.gz",
    ],
)
def test_damaged_voxels_are_refused(tmp_path: Path, write: Any) -> None:
    (tmp_path / "short.raw").write_bytes(DATA.tobytes()[:50])
    for name in ("cut.nii", "cut.nii.gz"):
        nib.save(nib.Nifti1Image(DATA, PLACE), tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
    path = write(tmp_path)
    with pytest.raises(CaseError, match=re.escape(str(path))):
        read_volume(path)


def test_sound_compressed_voxels_are_read(tmp_path: Path) -> None:
    size = str(len(PACKED))
    path = mha(tmp_path / "a.mha", PACKED, CompressedData="True", CompressedDataSize=size)
    assert (read_volume(path).data == DATA).all()
    image = sitk.GetImageFromArray(DATA.transpose())
    for name in ("b.mha", "b.mhd", "b.nrrd", "b.nhdr"):
        sitk.WriteImage(image, tmp_path / name, True)
        assert (read_volume(tmp_path / name).data == DATA).all(), name


def test_a_suffix_in_capitals(tmp_path: Path) -> None:
    write_volume(Volume(DATA, PLACE), tmp_path / "a.nii.gz")
    (tmp_path / "a.nii.gz").rename(tmp_path / "A.NII.GZ")
    assert (read_volume(tmp_path / "A.NII.GZ").data == DATA).all()
