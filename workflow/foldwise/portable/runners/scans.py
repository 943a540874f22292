"""Read scans from files, for runner.py; needs numpy, nibabel and SimpleITK."""

import re
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy import ndarray as Array

# NIfTI's units of length, in mm; 0: not said.
UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


def find_cases(source: Path, output: Path) -> dict[str, list[Path]]:
    """Case → its files, one for each channel (<case>_0000, _0001, … without gaps) or one with all."""
    form = re.compile(r"([^.].*?)\.(nii|nii\.gz|nrrd|nhdr|mha|mhd)", re.IGNORECASE)
    stems: dict[str, Path] = {}
    if output.resolve() == (source if source.is_dir() else source.parent).resolve():
        sys.exit(f"{output}: is the folder of the scans, which would be replaced; give another one")
    for path in sorted(source.iterdir()) if source.is_dir() else [source]:
        named = form.fullmatch(path.name)
        if named and stems.setdefault(named[1], path) != path:
            sys.exit(f"{stems[named[1]].name} and {path.name} are two scans with one name; rename one")
    cases: dict[str, list[Path]] = {}
    for stem, path in stems.items():
        of = re.fullmatch(r"(.+)_([0-9]{4})", stem)
        channel = of and all(f"{of[1]}_{number:04d}" in stems for number in range(int(of[2])))
        case = of[1] if of and channel else stem
        if channel and case in stems:
            sys.exit(f"{stems[case].name} and {path.name} are two scans of {case}; rename one")
        cases.setdefault(case, []).append(path)
    return cases or sys.exit(f"{source}: no scans, which are files of NIfTI, NRRD or MHA")


def read(path: Path) -> tuple[Array, Array]:
    """The channels (channels, x, y, z) of a file; its affine, voxels to mm towards right, front and above."""
    data, affine = _nifti(path) if re.search(r"\.nii(\.gz)?$", path.name.lower()) else _itk(path)
    if not np.isfinite(data).all() or not np.isfinite(affine).all():
        raise ValueError(f"{path}: has voxels or a position that are NaN or infinite")
    small = data.dtype.kind != "f" and data.min() >= -(2**15) and data.max() < 2**15
    data = data.reshape(*data.shape[:3], -1).astype(np.int16 if small else np.float32)
    return np.moveaxis(data, 3, 0), affine


def _nifti(path: Path) -> tuple[Array, Array]:
    image: Any = nib.load(path)
    unit = int(image.header["xyzt_units"]) % 8
    if unit not in UNITS_MM:
        raise ValueError(f"{path}: unit {unit} of its voxel size is unknown; convert it to mm")
    affine = image.affine.astype(float)
    affine[:3] *= UNITS_MM[unit]
    return np.asarray(image.dataobj), affine


def _itk(path: Path) -> tuple[Array, Array]:
    # ITK ignores the units of NRRD.
    if re.search(rb'(?m)^(space )?units:.*"(?!mm"|["?\s]|$)', path.open("rb").read(2**16)):
        raise ValueError(f"{path}: the unit of its voxel size must be converted to mm")
    image = sitk.ReadImage(str(path))
    data, axes, affine = sitk.GetArrayFromImage(image), image.GetDimension(), np.eye(4)
    data = data.transpose(*reversed(range(axes)), *range(axes, data.ndim))
    turns = np.reshape(image.GetDirection(), (axes, axes))[:3, :3]  # ITK's x and y run to left and back
    affine[:3] = np.diag([-1, -1, 1]) @ np.c_[turns * image.GetSpacing()[:3], image.GetOrigin()[:3]]
    return data, affine
