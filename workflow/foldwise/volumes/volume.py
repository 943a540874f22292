"""A volume in memory, read from and written to files with unchanged geometry.

Libraries that read files are imported only where one is read: thousands of calls on a network file system,
which a call that remembers all headers, and the Snakemake of every job, need not wait for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foldwise import looks
from foldwise.files import CaseError, atomic_path
from foldwise.volumes import plausible
from foldwise.volumes.grids import LPS_TO_RAS, apart_mm, corners, spacing_of
from foldwise.volumes.suffixes import is_nifti

if TYPE_CHECKING:
    from foldwise.volumes.dicom_series import Series

# Largest displacement at a corner by the shear that a qform leaves out. mm.
QFORM_MM = 1e-2

_importing = threading.Lock()


@dataclass(frozen=True)
class Header:
    """A volume's header, read without its voxels.

    Attributes:
        shape: voxels along the stored axes (x, y, z), and channels if there are several.
        affine: 4×4, voxel index to millimetres in RAS+ (nibabel's convention).
        dtype: type of the voxel values after scaling.
        remarks: what is doubtful, or was left out, for a warning.
        no_seg: why a DICOM Segmentation cannot refer to it; empty if one can, or if it is not DICOM.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    dtype: np.dtype[Any]
    remarks: tuple[str, ...] = ()
    no_seg: str = ""

    def as_list(self) -> list[Any]:
        """Plain values, for JSON."""
        return [list(self.shape), self.affine.tolist(), self.dtype.str, list(self.remarks), self.no_seg]

    @classmethod
    def from_list(cls, values: list[Any]) -> Header:
        """The inverse of `as_list`."""
        shape, affine, dtype, remarks, no_seg = values
        return cls(tuple(shape), np.array(affine), np.dtype(dtype), tuple(remarks), no_seg)

    @property
    def channels(self) -> int:
        """Volumes in the file: those along its fourth axis, or the values of a voxel; else one."""
        return self.shape[3] if len(self.shape) == 4 else 1


@dataclass(frozen=True)
class Volume:
    """An array with its position in space.

    Attributes:
        data: voxels, axes (x, y, z) in the order stored in the file.
        affine: 4×4, voxel index to millimetres in RAS+.
    """

    data: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge along each stored axis, in mm."""
        return spacing_of(self.affine)

    def oriented(self, codes: str = "RAS") -> Volume:
        """The same volume with its axes permuted and flipped to `codes`; no voxel value changes."""
        from nibabel.orientations import (
            apply_orientation,
            axcodes2ornt,
            inv_ornt_aff,
            io_orientation,
            ornt_transform,
        )

        here = io_orientation(self.affine)
        turn = ornt_transform(here, axcodes2ornt(tuple(codes)))
        data = apply_orientation(self.data, turn)
        return Volume(data, self.affine @ inv_ornt_aff(turn, self.data.shape))


def is_dicom_folder(path: Path) -> bool:
    """Whether `path` is a folder; volumes that are folders hold one DICOM series."""
    return looks.is_folder(path)


def series_header(series: Series) -> Header:
    """The header of a DICOM series."""
    return Header(series.shape, LPS_TO_RAS @ series.affine, series.dtype, series.remarks, series.no_seg)


def read_header(path: Path) -> Header:
    """Read a volume's header only.

    Args:
        path: NIfTI, NRRD, MHA/MHD or another format of SimpleITK, or a folder with one DICOM series.

    Raises:
        CaseError: the file cannot be read as a volume, its size cannot be that of a scan, its unit is
            unknown, its voxels are complex numbers or colours, or a folder contains no or several series.
    """
    return _open(path)[0]


def _open(path: Path) -> tuple[Header, Series | None]:
    """The header, and the series of a DICOM folder, so that its files' headers are read once."""
    series = None
    try:
        if is_dicom_folder(path):
            header = series_header(series := reader_of(path).open_series(path))
        else:
            header = Header(*reader_of(path).read_header(path))
    except CaseError as error:
        raise _named(error, path) from None
    except Exception as error:  # readers raise a dozen unrelated types for a broken file
        raise CaseError(f"{path}: not readable as a volume ({_first_line(error)})") from error
    if header.dtype.kind == "c":
        raise CaseError(
            f"{path}: its voxels are complex numbers; expected real ones, such as their magnitude"
        )
    if header.dtype.kind not in "biuf":
        raise CaseError(
            f"{path}: its voxels are colours (RGB), several values per voxel; expected one grey value"
        )
    if len(header.shape) < 3:
        raise CaseError(f"{path}: expected a 3-D volume, found shape {header.shape}")
    try:
        plausible.refuse_impossible(header.affine, header.shape)
    except CaseError as error:
        raise CaseError(f"{path}: {error}") from None
    remarks = header.remarks + plausible.unusual(header.affine, header.shape)
    return replace(header, remarks=remarks), series


def read_volume(path: Path, dtype: Literal["native"] | type = "native") -> Volume:
    """Read a volume with its geometry.

    Args:
        path: as for `read_header`.
        dtype: "native" keeps the stored type; if the file scales its values they are float32, or float64
            if float32 could not hold them.

    Raises:
        CaseError: as for `read_header`; also a volume that is not 3-D.
    """
    header, series = _open(path)
    if len(header.shape) != 3:
        raise CaseError(f"{path}: expected a 3-D volume, found shape {header.shape}")
    data = _voxels(path, header, series)
    return Volume(data if dtype == "native" else data.astype(dtype, copy=False), header.affine)


def read_channels(path: Path, say: Callable[[str], None] = lambda remark: None) -> list[Volume]:
    """Read an image file as its channels: one volume, or those along its fourth axis.

    Args:
        path: as for `read_header`.
        say: takes the header's remarks.

    Raises:
        CaseError: as for `read_header`; also a volume that is neither 3-D nor 4-D.
    """
    header, series = _open(path)
    if len(header.shape) not in (3, 4):
        raise CaseError(f"{path}: expected a 3-D or 4-D volume, found shape {header.shape}")
    for remark in header.remarks:
        say(f"{path}: {remark}")
    data = _voxels(path, header, series)
    channels = [data] if data.ndim == 3 else [data[..., number] for number in range(header.channels)]
    return [Volume(channel, header.affine) for channel in channels]


def reader_of(path: Path) -> Any:
    """The module that reads a file or folder."""
    name = "dicom_series" if is_dicom_folder(path) else "nifti" if is_nifti(path) else "itk"
    # Not by several threads at once, which could see half of a library.
    with _importing:
        return import_module(f"foldwise.volumes.{name}")


def _voxels(path: Path, header: Header, series: Series | None) -> np.ndarray:
    try:
        if is_nifti(path):
            data = reader_of(path).read_voxels(path, header.dtype)
        else:
            data = reader_of(path).read_voxels(path if series is None else series)
    except CaseError as error:
        raise _named(error, path) from None
    except Exception as error:
        raise CaseError(f"{path}: its voxels cannot be read ({_first_line(error)})") from error
    data = np.asarray(data).reshape(header.shape)
    # Big-endian files exist; torch and HDF5 filters need native order.
    return data.astype(data.dtype.newbyteorder("="), copy=False)


def write_volume(volume: Volume, path: Path) -> None:
    """Write a NIfTI atomically, in mm; the affine is stored as scanner coordinates.

    It is in the sform and, unless it is sheared, in the qform, which cannot hold a shear.
    """
    import nibabel as nib

    image = nib.Nifti1Image(volume.data, volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1)
    if apart_mm(image.get_qform(), volume.affine, volume.data.shape) > QFORM_MM:
        image.set_qform(None, code=0)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def same_grid(first: Header | Volume, second: Header | Volume, tolerance_mm: float = 1e-2) -> bool:
    """Whether two volumes share shape and position: all corners of the grids agree within the tolerance.

    Channels of a 4-D file do not matter.
    """
    shapes = [tuple(v.data.shape if isinstance(v, Volume) else v.shape)[:3] for v in (first, second)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 3:
        return False
    apart = corners(first.affine, shapes[0]) - corners(second.affine, shapes[0])
    return bool(np.abs(apart).max() <= tolerance_mm)


def _named(error: CaseError, path: Path) -> CaseError:
    """The error of a reader with the name of its file, which that of a series names itself."""
    return error if is_dicom_folder(path) else CaseError(f"{path}: {error}")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
