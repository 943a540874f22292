"""A volume in memory, read from and written to files with unchanged geometry."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from foldwise.files import CaseError, atomic_path
from foldwise.volumes.dicom_series import Series, open_series, read_voxels
from foldwise.volumes.suffixes import NIBABEL_SUFFIXES

# ITK stores points in LPS, nibabel and this package in RAS: x and y change sign between the two.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Header:
    """A volume's header, read without its voxels.

    Attributes:
        shape: voxels along the stored axes (x, y, z); more than three for a 4-D file.
        affine: 4×4, voxel index to millimetres in RAS+ (nibabel's convention).
        dtype: type of the voxel values after scaling.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    dtype: np.dtype[Any]

    @property
    def channels(self) -> int:
        """Volumes in the file: those along the fourth axis of a 4-D NIfTI, else one."""
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
        here = io_orientation(self.affine)
        turn = ornt_transform(here, axcodes2ornt(tuple(codes)))
        data = apply_orientation(self.data, turn)
        return Volume(data, self.affine @ inv_ornt_aff(turn, self.data.shape))


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel edges in mm: the lengths of the affine's first three columns."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def is_nifti(path: Path) -> bool:
    """Whether a file has the name of a NIfTI, or of another format that nibabel reads."""
    return path.name.lower().endswith(NIBABEL_SUFFIXES)


def is_dicom_folder(path: Path) -> bool:
    """Whether `path` is a folder; volumes that are folders hold one DICOM series."""
    return path.is_dir()


def series_header(series: Series) -> Header:
    """The header of a DICOM series."""
    return Header(series.shape, LPS_TO_RAS @ series.affine, series.dtype)


def read_header(path: Path) -> Header:
    """Read a volume's header only.

    Args:
        path: NIfTI, NRRD, MHA/MHD or another format of SimpleITK, or a folder with one DICOM series.

    Raises:
        CaseError: the file cannot be read as a volume, its voxels are complex numbers or colours, or a
            folder contains no or several series.
    """
    try:
        if is_nifti(path):
            header = _nifti_header(path)
        elif is_dicom_folder(path):
            header = series_header(open_series(path))
        else:
            header = _itk_header(path)
    except CaseError:
        raise
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
    return header


def read_volume(path: Path, dtype: Literal["native"] | type = "native") -> Volume:
    """Read a volume with its geometry.

    Args:
        path: as for `read_header`.
        dtype: "native" keeps the stored type; if the file scales its values they are float32, or float64
            if float32 could not hold them.

    Raises:
        CaseError: as for `read_header`; also a volume that is not 3-D.
    """
    header = read_header(path)
    if len(header.shape) != 3:
        raise CaseError(f"{path}: expected a 3-D volume, found shape {header.shape}")
    data = _voxels(path, header)
    return Volume(data if dtype == "native" else data.astype(dtype, copy=False), header.affine)


def read_channels(path: Path) -> list[Volume]:
    """Read an image file as its channels: one volume, or those along the fourth axis of a 4-D NIfTI.

    Raises:
        CaseError: as for `read_header`; also a volume that is neither 3-D nor a 4-D NIfTI.
    """
    header = read_header(path)
    if len(header.shape) not in (3, 4) or (len(header.shape) == 4 and not is_nifti(path)):
        raise CaseError(f"{path}: expected a 3-D volume or a 4-D NIfTI, found shape {header.shape}")
    data = _voxels(path, header)
    channels = [data] if data.ndim == 3 else [data[..., number] for number in range(header.channels)]
    return [Volume(channel, header.affine) for channel in channels]


def _voxels(path: Path, header: Header) -> np.ndarray:
    try:
        if is_nifti(path):
            data = _nifti_voxels(path, header)
        elif is_dicom_folder(path):
            data = read_voxels(open_series(path))
        else:
            # ITK's arrays are (z, y, x); the transpose is a view.
            data = sitk.GetArrayFromImage(sitk.ReadImage(os.fspath(path))).transpose()
    except CaseError:
        raise
    except Exception as error:
        raise CaseError(f"{path}: its voxels cannot be read ({_first_line(error)})") from error
    data = np.asarray(data).reshape(header.shape)
    # Big-endian files exist; torch and HDF5 filters need native order.
    return data.astype(data.dtype.newbyteorder("="), copy=False)


def _nifti_header(path: Path) -> Header:
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair | nib.MGHImage):
        raise CaseError(
            f"{path}: an Analyze file, which does not say how the patient lies; convert it to NIfTI"
        )
    dtype = image.get_data_dtype()
    if _is_scaled(image):
        small = dtype.itemsize <= 2 or dtype == np.float32
        dtype = np.result_type(np.float32 if small else np.float64, dtype)
    return Header(tuple(image.shape), np.asarray(image.affine, float), dtype)


def _nifti_voxels(path: Path, header: Header) -> np.ndarray:
    image = nib.load(path)
    if path.suffix != ".gz":
        return _values(image, header)
    with gzip.open(path) as file:
        data = _values(type(image).from_stream(file), header)
        # nibabel stops after the last voxel; the checksum of the whole file comes after it.
        while file.read(1 << 20):
            pass
    return data


def _values(image: Any, header: Header) -> np.ndarray:
    # Unscaled integers must not pass through nibabel's floats; scaled files of floats exist too.
    return np.asarray(
        image.get_fdata(dtype=header.dtype) if _is_scaled(image) else image.dataobj.get_unscaled()
    )


def _is_scaled(image: Any) -> bool:
    return bool(image.dataobj.slope != 1 or image.dataobj.inter != 0)


def write_volume(volume: Volume, path: Path) -> None:
    """Write a NIfTI atomically; the affine is stored as scanner coordinates, in sform and qform."""
    image = nib.Nifti1Image(volume.data, volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1)
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def same_grid(first: Header | Volume, second: Header | Volume, tolerance_mm: float = 1e-2) -> bool:
    """Whether two volumes share shape and position: all corners of the grids agree within the tolerance.

    Channels of a 4-D file do not matter.
    """
    shapes = [tuple(v.data.shape if isinstance(v, Volume) else v.shape)[:3] for v in (first, second)]
    if shapes[0] != shapes[1] or len(shapes[0]) != 3:
        return False
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shapes[0]])).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    return bool(np.abs((first.affine - second.affine) @ corners).max() <= tolerance_mm)


def _itk_header(path: Path) -> Header:
    if not path.is_file():
        raise CaseError(f"{path}: no such file")
    with path.open("rb") as stream:
        if stream.read(132)[128:] == b"DICM":
            raise CaseError(f"{path}: a DICOM file; give the folder that contains the files of its series")
    reader = _information(path)
    size, dtype = reader.GetSize(), _dtype(reader)
    spacing, origin, direction = reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()
    if len(size) != 3:
        return Header(tuple(size), np.eye(4), dtype)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.array(direction).reshape(3, 3) * spacing, origin
    return Header(tuple(size), LPS_TO_RAS @ affine, dtype)


def _information(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header only."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    reader.ReadImageInformation()
    return reader


def _dtype(reader: sitk.ImageFileReader) -> np.dtype[Any]:
    if (count := reader.GetNumberOfComponents()) != 1:
        raise CaseError(
            f"{reader.GetFileName()}: has {count} components, several values per voxel (channels, colours or "
            f"layers of a segmentation); expected one: write each to a separate file"
        )
    pixel = sitk.GetArrayViewFromImage(sitk.Image(1, 1, 1, reader.GetPixelIDValue()))
    return np.dtype(pixel.dtype)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
