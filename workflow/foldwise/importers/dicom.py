"""Import a folder of DICOM files: images, with the RTSTRUCT and SEG objects or boxes that refer to them.

  foldwise import dicom archive --sheet data/lung.csv     # lists the structures
  foldwise import dicom archive --sheet data/lung.csv --structures 'Lung_*=lung,GTV*=tumour'
  foldwise import dicom archive --sheet data/lung.csv --boxes Annotation

Every image series of the given modality is a case; one without structures is only predicted. A folder next
to the sheet receives `series/<case>/` with links to the series' files in their original place, and
`labels/<case>.nii.gz` on the series' grid. Structures are selected by patterns of their names (`*` and `?`;
case-insensitive); where two classes overlap, the later one wins.

Patients get pseudonyms by a random key, which is kept next to the sheet in <sheet>.key;
<sheet>.patients.csv maps them back to PatientIDs. Only the owner can read these two files. The links point
to the original files, whose paths may contain names.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from foldwise.command import run
from foldwise.files import CaseError, apart, atomic_folder, put_back, refuse_foreign
from foldwise.importers.arguments import (
    Config,
    ExperimentName,
    Force,
    Import,
    Sheet,
    SkipBroken,
    Source,
    script,
)
from foldwise.importers.dicom_labels import Labels
from foldwise.importers.dicom_scan import Choice, Found, Series, scan
from foldwise.importers.dicom_structures import label_map, parse_structures
from foldwise.importers.pseudonyms import Names, kept_key, write_table
from foldwise.importers.sheets import (
    Dataset,
    Row,
    conclude,
    publish,
    refuse,
)
from foldwise.volumes.dicom_files import describe
from foldwise.volumes.dicom_series import read_series
from foldwise.volumes.dicom_structures import Grid, Structures
from foldwise.volumes.targets import IGNORE
from foldwise.volumes.volume import Volume, series_header, write_volume

LOG = logging.getLogger(__name__)


def choose(found: Found, choice: Choice) -> dict[Series, str]:
    """Each series, with the reason why it is left out; empty if it is imported."""
    return {one: choice.against(one) for one in found.series}


def described(chosen: dict[Series, str]) -> list[str]:
    """The choice of series in lines for the user."""
    taken = Counter(one.kind for one, reason in chosen.items() if not reason)
    kinds = ", ".join(f"{count} × {kind}" for kind, count in sorted(taken.items()))
    return [f"{taken.total()} of {len(chosen)} series are taken: {kinds or 'none'}"] + [
        f"left out: {one.folder}: {one.kind}, {one.slices} slices: {reason}"
        for one, reason in chosen.items()
        if reason
    ]


def import_series(
    found: Found, series: Sequence[Series], labels: Labels, names: Names, out: Path, required: bool = False
) -> Dataset:
    """Link series and write their label maps.

    A series without structures that cannot be used is left out with a remark; one with structures fails.

    Args:
        found: contents of the source.
        series: the chosen ones.
        labels: their structures.
        names: of patients and cases.
        out: folder to write, with subfolders `series` and `labels`.
        required: leave out series without structures.

    Raises:
        CaseError: no series can be used.
    """
    rows, remarks, failed = [], [*found.remarks, *labels.remarks], list(labels.problems)
    with atomic_folder(out) as temporary:
        named = {names.case(one.identity, one.uid): one for one in series}
        for case, one in sorted(named.items()):
            objects = labels.objects.get(one, [])
            labelled = bool(objects) or one in labels.unusable
            if required and not labelled:
                remarks.append(f"left out: {one.folder}: {one.kind}: without structures")
                continue
            LOG.info("case %s: %d slices", case, one.slices)
            fault: dict[str, str] = {}
            with apart(case, fault):
                label, seen = _write(one, objects, labels, found, case, temporary)
            if fault:
                shutil.rmtree(temporary / "series" / case, ignore_errors=True)
                (failed if labelled else remarks).append(f"left out: {fault[case]}")
                continue
            lacking = ", ".join(name for name in labels.classes if objects and name not in {*seen, IGNORE})
            if lacking:
                only = "left out" if required else "only predicted"
                what = "its voxels are background" if label else f"the case is {only}"
                remarks.append(f"case {case}: no structure for {lacking}; {what}")
            if required and label is None:
                shutil.rmtree(temporary / "series" / case)
                continue
            images = {"": out / "series" / case}
            rows.append(Row(case, images, out / label if label else None, names.patient(one.identity)))
        if not rows:
            refuse([*failed, *remarks], f"{out.name}: no series can be imported")
    ct = all(one.modality == "CT" for one in series)
    return Dataset(rows, labels.classes or {"foreground": 1}, ct=ct, remarks=remarks, failed=failed)


def _write(
    one: Series, objects: Sequence[Structures], labels: Labels, found: Found, case: str, folder: Path
) -> tuple[Path | None, set[str]]:
    """Link a series and write its label map; the label's path in the folder, and the classes in it."""
    if fault := labels.unusable.get(one) or one.fault:
        raise CaseError(fault)
    folders = {file.parent for file in one.files}
    if lost := {path: fault for path, fault in found.broken.items() if path.parent in folders}:
        raise CaseError(f"{one.folder}: {describe(lost)}")
    arranged = read_series(one.files, one.folder)
    links = folder / "series" / case
    links.mkdir(parents=True)
    for number, path in enumerate(one.files):
        (links / f"{number:05d}.dcm").symlink_to(path.resolve())
    header = series_header(arranged)
    places = {
        uid: [z for z, frame in enumerate(arranged.frames) if frame.file in files]
        for uid, files in one.instances.items()
    }
    voxels, seen = label_map(objects, labels.wanted, Grid(header, one.thickness, places))
    if not seen:
        return None, seen
    path = Path("labels") / f"{case}.nii.gz"
    write_volume(Volume(voxels, header.affine), folder / path)
    return path, seen


def _back(one: Series, reason: str, names: Names, cases: set[str]) -> tuple[str, ...]:
    """The row of a series in the table that leads back to patients."""
    case = names.case(one.identity, one.uid)
    if not reason and case not in cases:
        case, reason = "", "could not be imported"
    facts = (names.patient(one.identity), one.patient, one.uid, str(one.folder.resolve()))
    return ("" if reason else case, *facts, reason)


def thickness_range(text: str) -> tuple[float, float] | None:
    """Smallest and largest slice thickness from "1-3" or "2.5"; None for an empty text.

    Raises:
        CaseError: neither form.
    """
    least, _, most = text.partition("-")
    try:
        return (float(least), float(most or least)) if text else None
    except ValueError:
        raise CaseError(f"--thickness {text!r}: expected millimetres, e.g. 1-3 or 2.5") from None


def command(
    source: Source,
    sheet: Sheet,
    config: Config = None,
    name: ExperimentName = None,
    force: Force = False,
    skip_broken: SkipBroken = False,
    structures: Annotated[
        str,
        typer.Option(
            help="Structures and their classes, e.g. 'Lung_*=lung,GTV*=tumour'; default: list the structures."
        ),
    ] = "",
    boxes: Annotated[
        Path | None,
        typer.Option(help="Folder of <SOPInstanceUID>.xml files of Pascal VOC; boxes are filled."),
    ] = None,
    labels: Annotated[
        Literal["use", "require", "ignore"],
        typer.Option(help="require: leave out series without structures; ignore: import only the images."),
    ] = "use",
    modality: Annotated[str, typer.Option(help="Modality of the images.")] = "CT",
    series: Annotated[str, typer.Option(help="Pattern of the images' SeriesDescription, e.g. '*T1*'.")] = "*",
    thickness: Annotated[str, typer.Option(help="SliceThickness in mm, e.g. 1-3 (default: any).")] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder of links and labels to write (default: the sheet's name).")
    ] = None,
    min_slices: Annotated[int, typer.Option(help="Leave out series with fewer slices.")] = 5,
    names: Annotated[
        Literal["pseudonyms", "id"],
        typer.Option(help="Names of patients: pseudonyms by the key, or their PatientIDs."),
    ] = "pseudonyms",
    key: Annotated[
        Path | None, typer.Option(help="File of the key, created if missing (default: <sheet>.key).")
    ] = None,
) -> None:
    """Import a folder of DICOM files."""
    to = Import(source, sheet, config, name, force, skip_broken)
    folder, table = out or sheet.with_suffix(""), sheet.with_suffix(".patients.csv")
    to.refuse_paths(
        [("--out", folder), ("the table of patients", table)], [("--boxes", boxes), ("--key", key)]
    )
    refuse_foreign(folder)
    wanted = parse_structures(structures)
    found = scan(source)
    chosen = choose(found, Choice(modality, series, thickness_range(thickness), min_slices))
    print("\n".join(described(chosen)))
    taken = [one for one, reason in chosen.items() if not reason]
    if not taken:
        kinds = Counter(one.modality for one in found.series)
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing usable"
        refuse([*found.remarks, f"found: {listed}"], f"{source}: no {modality} series is taken")
    objects = Labels(wanted)
    if labels != "ignore":
        if boxes:
            objects.add_boxes(boxes, taken)
        if structures or not boxes:
            objects.add_structures(found, taken)
        objects.refuse_unmatched(source)
    patients = Names(kept_key(key or sheet.with_suffix(".key")) if names == "pseudonyms" else None)
    with put_back(folder):
        dataset = import_series(found, taken, objects, patients, folder, labels == "require")
        failed = publish(dataset, to)
        cases = {row.case for row in dataset.rows}
        write_table(table, [_back(one, reason, patients, cases) for one, reason in chosen.items()])
    conclude(failed, to)


main = script(command)

if __name__ == "__main__":
    run(main)
