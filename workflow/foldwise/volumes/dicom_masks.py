"""Contours of an RTSTRUCT and segments of a SEG as masks on the grid of an image series."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement

from foldwise.files import CaseError
from foldwise.volumes.grids import LPS_TO_RAS, plane_distances
from foldwise.volumes.volume import Header

# Contours are text of limited length; coordinates closer than this, in voxels, count as equal.
ROUNDING = 3
# Corners this close to a voxel's centre, along both axes, are meant to be there.
CENTRE = 0.01
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


class NoContourError(CaseError):
    """A structure consists of points or open lines."""


def rasterise(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Voxels (x, y) with centres inside an odd number of polygons, or of a polygon's windings.

    Points along a contour belong to its structure (DICOM PS3.3, C.8.8.6.3). Programs that draw contours from
    masks often go from centre to centre of the outer voxels: all centres on such edges are inside. A centre
    that any other edge happens to meet is inside if the polygon lies towards larger x, or y.

    Args:
        polygons: corners in voxel indices, (n, 2) each; closed implicitly.
        shape: shape of the slice.
    """
    mask = np.zeros(shape, bool)
    # Only where the polygons are.
    reached = np.concatenate([np.zeros((0, 2)), *polygons])
    if not len(reached):
        return mask
    low = np.clip(np.floor(reached.min(0)), 0, shape).astype(int)
    high = np.clip(np.ceil(reached.max(0)) + 1, low, shape).astype(int)
    mask[low[0] : high[0], low[1] : high[1]] = _filled([each - low for each in polygons], tuple(high - low))
    return mask


def _filled(polygons: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """As `rasterise`, with all of the slice looked at."""
    toggles = np.zeros((shape[0] + 1, shape[1]), np.int32)
    on_edge = np.zeros(shape, bool)
    for polygon in polygons:
        corners, whole = np.round(polygon, ROUNDING), np.rint(polygon)
        centres = (np.abs(polygon - whole) <= CENTRE).all(1)
        corners[centres] = whole[centres]
        ends = np.stack([corners, np.roll(corners, -1, axis=0)], axis=1)
        _mark(on_edge, ends[centres & np.roll(centres, -1)].astype(int))
        # Both directions along an edge must give the same crossing, or keyholes leave a trace.
        down = ends[:, 0, 1] > ends[:, 1, 1]
        ends[down] = ends[down, ::-1]
        (x0, y0), (x1, y1) = ends[:, 0].T, ends[:, 1].T
        first, last = (np.clip(np.ceil(y), 0, shape[1]).astype(int) for y in (y0, y1))
        rows = last - first
        edge = np.repeat(np.arange(len(ends)), rows)
        row = np.arange(rows.sum()) - np.repeat(np.cumsum(rows) - rows, rows) + first[edge]
        x = x0[edge] + (row - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        np.add.at(toggles, (np.clip(np.ceil(np.round(x, ROUNDING)), 0, shape[0]).astype(int), row), 1)
    return (np.cumsum(toggles[:-1], axis=0) % 2).astype(bool) | on_edge


def _mark(mask: np.ndarray, ends: np.ndarray) -> None:
    """Set the voxels (x, y) whose centres lie on edges (n, 2, 2) between whole numbers."""
    across = ends[:, 1] - ends[:, 0]
    steps = np.gcd(*across.T)
    edge = np.repeat(np.arange(len(ends)), steps + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    voxels = ends[edge, 0] + across[edge] // np.maximum(steps, 1)[edge, None] * step[:, None]
    mask[tuple(voxels[((voxels >= 0) & (voxels < mask.shape)).all(1)].T)] = True


def contour_mask(
    contours: Sequence[pydicom.Dataset],
    name: str,
    header: Header,
    thickness: float = 0,
    say: Callable[[str], None] = lambda remark: None,
) -> np.ndarray:
    """A structure of an RTSTRUCT on a scan's grid.

    Args:
        contours: items of its ContourSequence; open ones and points are skipped.
        name: for messages.
        header: of the scan: a series, or its slices stacked along another axis, as files of other formats do.
        thickness: thickness of its slices, in mm; 0: their distance.
        say: takes remarks on what is left out or missing.

    Raises:
        NoContourError: no contour encloses anything.
        CaseError: a contour does not lie in a slice.
    """
    lps_to_index = np.linalg.inv(header.affine) @ LPS_TO_RAS
    closed = []
    for contour in contours:
        if str(contour.get("ContourGeometricType", "")) in CLOSED:
            points = _points(contour, name)
            index = (np.c_[points, np.ones(len(points))] @ lps_to_index.T)[:, :3]
            # Of a voxel alone, and of a line of them, a contour from centre to centre is a point or a line.
            if len(points) >= 3 or (len(points) and (np.abs(index - np.rint(index)) <= CENTRE).all()):
                closed.append((points, index))
    if not closed:
        raise NoContourError(f"{name}: has no closed contour")
    if others := len(contours) - len(closed):
        say(f"{name}: {others} of its {len(contours)} contours are points or open lines, and left out")
    # Contours are flat across the slices.
    across = int(np.sum([np.ptp(index, axis=0) for _, index in closed], axis=0).argmin())
    # At a right angle to the slices, also if the stack is tilted.
    spacing = plane_distances(header.affine)[across]
    # Half a slice is less than half the distance only if slices have gaps between them.
    reach = min(thickness or spacing, spacing) / spacing / 2
    count, flat = header.shape[across], [axis for axis in range(3) if axis != across]
    slices: dict[int, dict[bytes, np.ndarray]] = defaultdict(dict)
    heights: dict[int, list[float]] = defaultdict(list)
    for points, index in closed:
        height = float(index[:, across].mean())
        where = f"{name}: the contour through ({', '.join(f'{v:g}' for v in points[0])}) mm"
        if np.ptp(index[:, across]) > reach:
            raise CaseError(f"{where} does not lie in a slice of the series")
        place = round(height)
        if not 0 <= place < count or abs(height - place) > reach + 1e-3:
            away = (height - min(max(place, 0), count - 1)) * spacing
            raise CaseError(f"{where} lies {abs(away):.2f} mm from the nearest slice")
        heights[place].append(height)
        # The same contour twice would cancel itself out.
        corners = np.round(index[:, flat], ROUNDING)
        slices[place][corners.tobytes()] = corners
    for place, found in heights.items():
        if np.ptp(found) > 0.1:
            raise CaseError(
                f"{name}: two layers of contours in slice {place}; it was drawn on a finer series"
            )
    width, length = (header.shape[axis] for axis in flat)
    # Slice by slice in memory: others are many times slower to write.
    stack = np.zeros((count, width, length), bool)
    for place, polygons in slices.items():
        stack[place] = rasterise(list(polygons.values()), (width, length))
    if remark := _gaps(np.flatnonzero(stack.any((1, 2)))):
        say(f"{name} {remark}")
    return np.moveaxis(stack, 0, across)


def _points(contour: pydicom.Dataset, name: str) -> np.ndarray:
    """The points (n, 3) of a contour; decoded at once, since pydicom takes seconds for a million numbers.

    Raises:
        CaseError: they are not triples of numbers.
    """
    data = contour.get_item("ContourData")
    text = data.value if isinstance(data, RawDataElement) else contour.get("ContourData")
    try:
        if isinstance(text, bytes):
            text = text.strip(b" \0")
            text = text.split(b"\\") if text else []
        return np.array(text or [], float).reshape(-1, 3)
    except ValueError as error:
        raise CaseError(f"{name}: the points of a contour are not triples of numbers ({error})") from None


def _gaps(drawn: np.ndarray) -> str:
    """What is missing between the first and last slice with contours, in words, or ""."""
    if len(drawn) < 2 or not (without := int(drawn[-1] - drawn[0] + 1 - len(drawn))):
        return ""
    text = f"has contours on {len(drawn)} slices and none on {without} between them, which stay empty"
    if (every := int(np.median(np.diff(drawn)))) == 1:
        return text
    return f"{text}: it was drawn on about one slice in {every}, so most of its volume is not labelled"


class Segments:
    """The segments of a SEG as masks on a scan's grid; its frames may have any order and axes."""

    def __init__(self, segmentation: hd.seg.Segmentation, header: Header, path: Path) -> None:
        """Look up the frames of every segment.

        Args:
            segmentation: the SEG as read.
            header: of the scan.
            path: of the SEG, for messages.
        """
        self._segmentation, self._path, self._shape = segmentation, path, header.shape[:3]
        self._lps_to_index = np.linalg.inv(header.affine) @ LPS_TO_RAS
        self._kind = str(segmentation.SegmentationType)
        self._frames: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
        shared = segmentation.SharedFunctionalGroupsSequence[0]
        for number, frame in enumerate(segmentation.PerFrameFunctionalGroupsSequence, start=1):
            # Any segment may be on a frame of a label map.
            owner = 0
            if self._kind != "LABELMAP":
                identified = _group("SegmentIdentificationSequence", frame, shared)
                owner = int(identified.ReferencedSegmentNumber)
            self._frames[owner].append((number, _frame_affine(frame, shared)))

    def __call__(self, number: int) -> np.ndarray:
        """The mask of a segment.

        Raises:
            CaseError: a frame does not lie on the scan's voxels.
        """
        mask = np.zeros(self._shape, bool)
        for i, affine in self._frames[0 if self._kind == "LABELMAP" else number]:
            stored = self._segmentation.get_stored_frame(i)
            if self._kind == "LABELMAP":
                inside = stored == number
            elif self._kind == "FRACTIONAL":
                inside = stored >= 0.5 * int(self._segmentation.MaximumFractionalValue)
            else:
                inside = stored > 0
            to_index = self._lps_to_index @ affine
            rows, columns = inside.shape
            corners = np.array([[c, r, 1] for c in (0, columns - 1) for r in (0, rows - 1)]) @ to_index.T
            steps = np.round(np.abs(to_index[:3, :2])).sum(axis=0)
            if np.abs(corners - np.round(corners)).max() > 0.1 or (steps != 1).any():
                raise CaseError(f"{self._path}: frame {i} does not lie on the voxels of the series")
            y, x = np.nonzero(inside)
            voxels = np.round(np.c_[x, y, np.ones(len(x))] @ to_index.T)[:, :3].astype(int)
            if len(voxels) and ((voxels < 0) | (voxels >= self._shape)).any():
                raise CaseError(f"{self._path}: frame {i} extends outside the series")
            mask[tuple(voxels.T)] = True
        return mask


def _frame_affine(frame: pydicom.Dataset, shared: pydicom.Dataset) -> np.ndarray:
    """4×3: (column, row, 1) of a frame to homogeneous millimetres in LPS."""
    orientation = _group("PlaneOrientationSequence", frame, shared).ImageOrientationPatient
    spacing = _group("PixelMeasuresSequence", frame, shared).PixelSpacing
    affine = np.zeros((4, 3))
    # DICOM gives the distance of rows before that of columns.
    affine[:3, 0] = np.array(orientation[:3], float) * float(spacing[1])
    affine[:3, 1] = np.array(orientation[3:], float) * float(spacing[0])
    affine[:3, 2] = np.array(_group("PlanePositionSequence", frame, shared).ImagePositionPatient, float)
    affine[3, 2] = 1
    return affine


def _group(keyword: str, frame: pydicom.Dataset, shared: pydicom.Dataset) -> pydicom.Dataset:
    return (frame if keyword in frame else shared)[keyword][0]
