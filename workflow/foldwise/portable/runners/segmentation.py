"""Segment scans with the networks in this folder; needs numpy, onnxruntime, nibabel and SimpleITK.

    python runner.py SCANS OUTPUT [REGIONS] [--probabilities]

SCANS is a volume or a folder of them: NIfTI, NRRD, MHA; channels are in one file, or in <case>_0000, …_0001.
OUTPUT gets label maps on their grids. REGIONS has masks of where plan.json crops to; lungs.py may make them.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform
from numpy import ndarray as Array
from onnxruntime import InferenceSession, get_available_providers
from scans import find_cases, read


def box(start: Any, size: Any) -> tuple[slice, ...]:
    """A box as an index."""
    return tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))


def apart(grid: Array, affine: Array, shape: Any) -> bool:
    """Whether the corners of two grids of one shape are more than 0.01 mm from each other."""
    return (np.abs(grid - affine) @ [*shape, 1]).max() > 0.01


def crop(how: dict, channels: list[Array], affine: Array, region: Path) -> tuple[Any, list[Array]]:
    """The box of a scan that is kept, and its channels in it."""
    mask = np.any([data != 0 for data in channels], axis=0) | (how["to"] == "none")
    if how["to"] == "region":
        (found, *_), grid = read(region)
        if found.shape != mask.shape or apart(grid, affine, mask.shape):
            raise ValueError(f"{region}: its grid is not that of the scan")
        mask = np.isin(found, how["values"]) if how["values"] else found != 0
    if any(data.min() == data.max() for data in channels):
        raise ValueError("every voxel of an image has the same value")
    if not mask.any():
        raise ValueError("the mask is empty, so there is nothing to crop to")
    filled, planes = np.nonzero(mask), 1 / np.linalg.norm(np.linalg.inv(affine[:3, :3]), axis=1)
    margin = np.ceil(how["margin_mm"] / planes - 1e-3).astype(int)
    low = np.maximum(0, np.min(filled, axis=1) - margin)
    kept = box(low, np.minimum(mask.shape, np.max(filled, axis=1) + 1 + margin) - low)
    cut, outside = [data[kept] for data in channels], ~mask[kept]
    for number, data in enumerate(cut if how["outside"] is not None and outside.any() else []):
        value = data[outside].mean(dtype=float) if how["outside"] == "mean" else how["outside"]
        value = np.rint(value) if data.dtype.kind == "i" else value
        cut[number] = np.where(outside, value, data).astype(data.dtype)
    return kept, cut


def resized(data: Array, shape: Any) -> Array:
    """Another shape of the same extent: linear, smoothed if it becomes coarser; whole numbers stay whole."""
    whole = data.dtype.kind == "i"
    for axis, (old, new) in enumerate(zip(data.shape, shape, strict=True)):
        sigma = max(1e-9, (old / new - 1) / 2)
        reach = int(4 * sigma + 0.5)
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        places, grid = (np.arange(new) + 0.5) * old / new - 0.5, np.arange(-reach, old + reach)
        linear = np.maximum(0, 1 - np.abs(np.clip(places, 0, old - 1) - grid[:, None]))
        smooth = np.apply_along_axis(np.convolve, 0, linear, kernel / kernel.sum(), "same")
        matrix = np.stack([smooth[grid.clip(0, old - 1) == place].sum(0) for place in range(old)])
        data = np.moveaxis(np.tensordot(matrix, data, (0, axis)), 0, axis) if old != new else data
    return np.rint(data.astype(np.float32)) if whole else data.astype(np.float32)


def normalised(data: Array, clip: Any, scale: Any) -> Array:
    """Grey values as the networks take them."""
    low, high = np.percentile(data, [0.5, 99.5]) if clip == "percentiles" else clip or (-np.inf, np.inf)
    counted = data[data != 0] if scale == "zscore_nonzero" else data
    mean, std = scale if isinstance(scale, list) else (counted.mean(dtype=float), counted.std(dtype=float))
    values = np.clip(data.astype(np.float32), np.float32(low), np.float32(high)) - np.float32(mean)
    values *= np.float32(1 / max(std, 1e-6))
    return np.where(data == 0, np.float32(0), values) if scale == "zscore_nonzero" else values


def predict(plan: dict, networks: list[Any], image: Array, fill: Array) -> Array:
    """Mean probabilities (names, x, y, z) of an image (channels, x, y, z); added up in whole numbers."""
    patch, window = np.array(plan["patch"]), np.array(plan["window"])  # seen, and labelled in its middle
    size, margin = np.array(image.shape[1:]), (patch - window) // 2
    outer, before = np.maximum(size, window), np.maximum(0, (window - size) // 2)
    whole = np.broadcast_to(fill, (len(image), *(outer + 2 * margin))).copy()
    whole[:, *box(before + margin, size)] = image
    starts = [[*range(0, n - w, s), n - w] for n, w, s in zip(outer, window, plan["steps"], strict=True)]
    weight = np.maximum(np.einsum("x,y,z->xyz", *plan["weights"]), plan["least_weight"]).astype(np.float32)
    total, scale = np.zeros(1, np.float32), np.float32((2**16 - 1) // len(networks))
    for number, network in enumerate(networks, start=1):
        sums, weights = np.zeros((plan["outputs"], *outer), np.float32), np.zeros(outer, np.float32)
        for start in itertools.product(*starts):
            output = network.run(None, {"image": whole[None, :, *box(start, patch)]})[0][0]
            sums[:, *box(start, window)] += output * weight
            weights[box(start, window)] += weight
        logits = (sums / weights)[:, *box(before, size)]
        powers = np.exp(logits - logits.max(0)) if plan["exclusive"] else np.exp(-logits)
        share = (powers / powers.sum(0))[1:] if plan["exclusive"] else 1 / (1 + powers)
        total = total + (np.rint(share * scale) if number < len(networks) else share * scale)
    return total / (scale * len(networks))


def processed(labels: Array, step: dict, voxel_ml: float) -> Array:
    """A label map after a step of post-processing, class by class."""
    for target in step["targets"]:
        mask = np.isin(labels, target["values"])
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        if step["name"] == "fill_holes":
            filled = sitk.GetArrayFromImage(sitk.BinaryFillhole(image, False)) > 0
            labels = np.where(filled & (labels == 0), target["value"], labels)
        else:
            fewest = np.ceil(np.round(min(step.get("ml", 0) / voxel_ml, labels.size + 1), 6))
            pieces = sitk.RelabelComponent(sitk.ConnectedComponent(image, True), int(fewest))  # largest: 1
            kept = sitk.GetArrayFromImage(pieces if "ml" in step else pieces == 1) > 0
            labels = np.where(mask & ~kept, target["without"], labels)
    return labels


def segment(plan: dict, networks: list[Any], paths: list[Path], region: Path) -> tuple[Array, Array, Array]:
    """Label map (x, y, z) and probabilities (names, x, y, z) on a scan's grid, and its affine."""
    files = [read(path) for path in paths]
    channels, affine = [channel for some, _ in files for channel in some], files[0][1]
    whole, spacing = channels[0].shape, np.linalg.norm(affine[:3, :3], axis=0)
    if len(channels) != plan["channels"]:
        raise ValueError(f"{len(channels)} channel(s), but the networks take {plan['channels']}")
    if any(data.shape != whole for data in channels) or any(apart(grid, affine, whole) for _, grid in files):
        raise ValueError("its channels are not on one grid")
    if np.abs((axes := affine[:3, :3] / spacing).T @ axes - np.eye(3)).max() > 5e-3:
        raise ValueError("its axes are not at right angles (a tilted gantry?); resample it")
    kept, cut = crop(plan["crop"], channels, affine, region)
    turn = nib.io_orientation(affine)  # of the stored axes to right, front and above
    cut = [apply_orientation(data, turn) for data in cut]
    native, edges = np.array(cut[0].shape), spacing[np.argsort(turn[:, 0])]
    free = np.maximum(1, np.rint(native * edges / plan["spacing"])).astype(int) if plan["spacing"] else native
    grey = np.stack([resized(data, plan["shape"] or free) for data in cut])
    image = np.stack([normalised(data, *how) for data, how in zip(grey, plan["intensity"], strict=True)])
    fill = [values.flat[data.argmin()] for values, data in zip(image, grey, strict=True)]
    steps = predict(plan, networks, image, np.reshape(fill, (-1, 1, 1, 1))) * 255
    if not np.isfinite(steps).all():
        raise ValueError("the networks' outputs are not finite")
    rounded = np.rint(steps)
    if plan["exclusive"] and len(steps) > 1:  # errors of many classes must not add up
        off = np.abs(rounded.sum(0) - steps.sum(0)) > 1
        rounded[:, off] = np.diff(np.rint(steps[:, off].cumsum(0)), axis=0, prepend=0)
    back = ornt_transform(axcodes2ornt("RAS"), turn)
    steps = np.stack([apply_orientation(resized(step, native), back) for step in rounded])
    if plan["exclusive"]:
        found = np.where(steps.max(0) > 255 - steps.sum(0), np.array(plan["values"])[steps.argmax(0)], 0)
    else:
        found = np.zeros(steps.shape[1:], int)
        for value, regions in plan["values"]:  # the largest region first
            found[np.all(steps[regions] > 127.5, axis=0)] = value
    for step in plan["postprocess"]:
        found = processed(found, step, abs(np.linalg.det(affine[:3, :3])) / 1000)
    labels, shares = np.zeros(whole, plan["type"]), np.zeros((len(steps), *whole), np.float32)
    labels[kept], shares[:, *kept] = found, steps / 255
    return labels, shares, affine


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--probabilities"]
    if len(words) not in (2, 3):
        sys.exit(__doc__)
    scans, output, regions = (*map(Path, words), Path("REGIONS"))[:3]
    here, devices = Path(__file__).parent, get_available_providers()
    plan, failed = json.loads((here / "plan.json").read_text()), []
    networks = [InferenceSession(here / name, providers=devices) for name in plan["networks"]]
    output.mkdir(parents=True, exist_ok=True)
    for case, paths in find_cases(scans, output).items():
        try:
            labels, shares, affine = segment(plan, networks, paths, regions / f"{case}.nii.gz")
        except Exception as error:  # the other cases go on
            failed.append(f"{case}: {error}")
            continue
        maps = {f"_{name}_probability": data for name, data in zip(plan["names"], shares, strict=True)}
        for end, data in {"": labels, **(maps if "--probabilities" in sys.argv else {})}.items():
            nib.save(nib.Nifti1Image(data, affine), output / f"{case}{end}.nii.gz")
    sys.exit("\n".join(failed) or 0)
