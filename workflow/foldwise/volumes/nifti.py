"""NIfTI and MGH files: position and unit as their headers say, and their voxels."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener

from foldwise.files import CaseError
from foldwise.volumes.grids import apart_mm, spacing_of
from foldwise.volumes.units import mm_per

COMPRESSED = (".gz", ".mgz")
# Deflate's best ratio: a file that claims more voxels is damaged.
BEST_RATIO = 1032
# The two positions in a header, and its sizes, are rounded differently. Shares of a voxel edge.
POSITION, SIZE = 0.1, 0.01


def read_header(path: Path) -> tuple[tuple[int, ...], np.ndarray, np.dtype[Any], tuple[str, ...]]:
    """Shape, affine in mm, type after scaling, and remarks, the attributes of a `Header`.

    The position is that of the sform if it has a code, else of the qform if it has one, else nibabel's guess.
    Axes of length 1 beyond the third are left out: vectors are the fifth axis of a file, after the time.

    Raises:
        CaseError: an unknown unit, a file that is too short for its voxels, or an Analyze file.
    """
    image = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair | nib.MGHImage):
        raise CaseError("an Analyze file, which does not say how the patient lies; convert it to NIfTI")
    shape, dtype = tuple(image.shape), image.get_data_dtype()
    if any(length < 1 for length in shape):
        raise CaseError(f"its shape is {shape}")
    voxels = Path(image.file_map["image"].filename)  # of a pair, the .img
    expected, found = np.prod(shape, dtype=float) * dtype.itemsize, voxels.stat().st_size
    if expected > found * (BEST_RATIO if path.suffix.lower() in COMPRESSED else 1):
        raise CaseError(f"{found} bytes are too few for its shape {shape}; the file is cut off or damaged")
    if _is_scaled(image):
        small = dtype.itemsize <= 2 or dtype == np.float32
        dtype = np.result_type(np.float32 if small else np.float64, dtype)
    affine = np.array(image.affine, float)
    shape = (*shape[:3], *(length for length in shape[3:] if length > 1))
    if isinstance(image, nib.MGHImage):  # always in mm
        return shape, affine, dtype, ()
    affine[:3] *= (scale := mm_per(_unit(image.header)))
    return shape, affine, dtype, tuple(_remarks(image, scale))


def read_voxels(path: Path, dtype: np.dtype[Any]) -> np.ndarray:
    """The voxels as stored, or scaled to a type if the file scales them."""
    image = nib.load(path)
    if path.suffix.lower() not in COMPRESSED:
        return _values(image, dtype)
    with gzip.open(path) as file:
        data = _values(type(image).from_stream(file), dtype)
        # nibabel stops after the last voxel; the checksum of the whole file comes after it.
        while file.read(1 << 20):
            pass
    return data


def _values(image: Any, dtype: np.dtype[Any]) -> np.ndarray:
    # Unscaled integers must not pass through nibabel's floats; scaled files of floats exist too.
    return np.asarray(image.get_fdata(dtype=dtype) if _is_scaled(image) else image.dataobj.get_unscaled())


def _is_scaled(image: Any) -> bool:
    return bool(image.dataobj.slope != 1 or image.dataobj.inter != 0)


def _unit(header: Any) -> str:
    code = int(header["xyzt_units"]) % 8  # the other bits are the unit of time
    return {0: "", 1: "m", 2: "mm", 3: "um"}.get(code, f"code {code}")


def _remarks(image: Any, scale: float) -> Iterator[str]:
    header = image.header
    with ImageOpener(
        image.file_map["header" if "header" in image.file_map else "image"].filename
    ) as file:  # nibabel repairs the header that it keeps
        raw = type(header).from_fileobj(file, check=False)
    sform, scode, qcode = header.get_sform(), int(header["sform_code"]), int(header["qform_code"])
    sizes, used = np.asarray(raw["pixdim"][1:4], float), spacing_of(image.affine)
    if not scode and not qcode:
        yield "it has no position (the codes of its sform and qform are 0), so left and right are a guess"
    if scode and qcode:
        try:
            apart = apart_mm(sform, header.get_qform(), (*image.shape, 1, 1))
        except ValueError:  # not a quaternion
            apart = np.inf
        if not apart <= POSITION * min(used):
            yield f"its sform and qform are {apart * scale:.3g} mm apart at the corners; the sform is used"
    elif not np.allclose(sizes, used, rtol=SIZE, atol=0):
        stated, taken = (" × ".join(f"{edge:.4g}" for edge in edges) for edges in (sizes, used))
        yield f"the size of its voxels is {stated} by pixdim; {taken} is used"
    if not np.isfinite(raw["scl_slope"]):
        yield f"its scl_slope is {raw['scl_slope']}, so the values are taken as stored"
