"""NRRD, MetaImage and the other formats of SimpleITK: what their headers say, and their voxels."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from foldwise.files import CaseError
from foldwise.volumes.grids import LPS_TO_RAS
from foldwise.volumes.suffixes import is_dicom
from foldwise.volumes.units import mm_per

# Longest header that is searched for a key.
HEADER_BYTES = 1 << 20
NRRD, META = (".nrrd", ".nhdr"), (".mha", ".mhd")


def read_header(path: Path) -> tuple[tuple[int, ...], np.ndarray, np.dtype[Any], tuple[str, ...]]:
    """Shape, affine in mm, type and remarks, the attributes of a `Header`.

    Several values per voxel are the last axis of the shape.

    Raises:
        CaseError: a DICOM file, an unknown unit, or colours and matrices instead of grey values.
    """
    if not path.is_file():
        raise CaseError("no such file")
    if is_dicom(path):
        raise CaseError("a DICOM file; give the folder that contains the files of its series")
    reader, said = information(path)
    fields, _ = _fields(path)
    size, components = tuple(reader.GetSize()), reader.GetNumberOfComponents()
    pixel = sitk.GetArrayViewFromImage(sitk.Image((1, 1, 1), reader.GetPixelIDValue(), components)).dtype
    kind = said.get("NRRD_kinds[pixel]", "")
    # 3D Slicer stores layers of segments as a list.
    if "color" in kind or (components in (3, 4) and pixel == np.uint8 and kind != "list"):
        raise CaseError("its voxels are colours (RGB), several values per voxel; expected grey values")
    if "matrix" in kind:
        raise CaseError(
            f"its voxels are matrices ({kind}), several values per voxel; expected one grey value"
        )
    affine = np.eye(4)
    if (axes := len(size)) >= 3:
        direction = np.array(reader.GetDirection()).reshape(axes, axes)
        affine[:3, :3] = direction[:3, :3] * reader.GetSpacing()[:3]
        affine[:3, 3] = reader.GetOrigin()[:3]
        affine = LPS_TO_RAS @ _in_mm(affine, fields, said)
    shape = size if components == 1 or axes < 3 else (*size, components)
    return shape, affine, np.dtype(pixel), tuple(_remarks(fields, said, path))


def information(path: Path) -> tuple[sitk.ImageFileReader, dict[str, str]]:
    """A reader that has read the header only, and what the header says apart from the grid."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    reader.SetImageIO(_format(path))
    reader.ReadImageInformation()
    return reader, {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


def read_voxels(path: Path) -> np.ndarray:
    """The voxels, axes (x, y, z), and the several values of a voxel as the last axis.

    Raises:
        CaseError: compressed voxels of a MetaImage are damaged.
    """
    image = sitk.ReadImage(os.fspath(path), imageIO=_format(path))
    # ITK's arrays are (z, y, x) and then the values of a voxel; the transpose is a view.
    data = sitk.GetArrayFromImage(image)
    _refuse_damaged(path, data.nbytes)
    spatial = data.ndim - (image.GetNumberOfComponentsPerPixel() > 1)
    return data.transpose(*reversed(range(spatial)), *range(spatial, data.ndim))


def _format(path: Path) -> str:
    """ITK's name of a file's format, so that it does not try each; empty for other formats."""
    suffix = path.suffix.lower()
    return "MetaImageIO" if suffix in META else "NrrdImageIO" if suffix in NRRD else ""


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """Fields of a NRRD's or MetaImage's header, keys in lower case, and its length in bytes."""
    suffix = path.suffix.lower()
    if suffix not in NRRD + META:
        return {}, 0
    with path.open("rb") as stream:
        head = stream.read(HEADER_BYTES)
    # The header ends with an empty line, or with the key that names the data's file.
    pattern = rb"\r?\n\r?\n" if suffix in NRRD else rb"(?<=\n)ElementDataFile[^\n]*\n?"
    if end := re.search(pattern, head):
        head = head[: end.end()]
    lines = re.findall(r"^([\w ]+?)\s*[:=]\s*(.*?)\s*$", head.decode("utf-8", "replace"), re.MULTILINE)
    return {key.lower(): value for key, value in lines}, len(head)


def _in_mm(affine: np.ndarray, fields: dict[str, str], said: dict[str, str]) -> np.ndarray:
    """An affine in LPS whose axes in space, or along the voxels, have units of their own."""
    space = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    if len(space) == 3:
        return np.diag([*map(mm_per, space), 1.0]) @ affine
    if "ITK_VoxelUnits" in said:
        return np.diag([*[mm_per(said["ITK_VoxelUnits"])] * 3, 1.0]) @ affine
    along = [mm_per(said.get(f"NRRD_units[{axis}]", "")) for axis in range(3)]
    return affine @ np.diag([*along, 1.0])


def _remarks(fields: dict[str, str], said: dict[str, str], path: Path) -> Iterator[str]:
    if path.suffix.lower() in NRRD:
        placed = bool(re.search(r"left|right|^[lr][ap][is]", fields.get("space", ""), re.IGNORECASE))
        sized = "space directions" in fields or "spacings" in fields
    elif path.suffix.lower() in META:
        placed = not fields.keys().isdisjoint({"transformmatrix", "rotation", "orientation"})
        sized = not fields.keys().isdisjoint({"elementspacing", "elementsize"})
    else:
        return
    if not placed:
        yield "its header does not say how it lies in the patient, so left and right are a guess"
    if not sized:
        yield "its header has no voxel size; 1 mm is assumed"


def _refuse_damaged(path: Path, expected: int) -> None:
    """Raise if a MetaImage's compressed voxels are not whole, since ITK then goes on with other values."""
    if path.suffix.lower() not in META:
        return
    fields, start = _fields(path)
    name, size = fields.get("elementdatafile", ""), int(fields.get("compresseddatasize", 0))
    file = path if name == "LOCAL" else path.parent / name
    if fields.get("compresseddata", "").lower() != "true" or not file.is_file():
        return
    if name == "LOCAL" and not size:
        raise CaseError("its header lacks the CompressedDataSize")
    unpacker, unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32), 0  # zlib or gzip
    with file.open("rb") as stream:
        stream.seek(start if name == "LOCAL" else 0)
        left = size or file.stat().st_size
        while not unpacker.eof and (part := stream.read(min(left, 1 << 16))):
            left -= len(part)
            unpacked += len(unpacker.decompress(part))
    if not unpacker.eof or unpacked < expected:
        raise CaseError(f"its compressed voxels are cut off: {unpacked} bytes of {expected}")
