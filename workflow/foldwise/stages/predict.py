"""Predict new scans with the trained models of an experiment: label maps in each scan's own grid.

A scan goes through the same preparation as the training cases did; the models' files say how. A killed
command goes on with the scans that are left.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from foldwise.command import parser, run
from foldwise.evaluate import networks, read_model
from foldwise.export import export_case
from foldwise.files import (
    CaseError,
    atomic_folder,
    atomic_path,
    file_hash,
    read_json,
    short_hash,
    write_json,
)
from foldwise.provenance import provenance
from foldwise.settings import Cache, Export, Prepare, dump, parse, validate
from foldwise.sheet import Case, read_new_cases
from foldwise.stages.lung_mask import lung_mask
from foldwise.volumes.prepare import cache_case, crop_case


def main() -> None:
    """Read the command line."""
    made = parser(__doc__, Export)
    made.add_argument("--models", required=True, type=Path, nargs="+", help="model.pt of each fold")
    made.add_argument("--source", required=True, type=Path, help="sample sheet, or folder of scans")
    made.add_argument("--postprocess", type=Path, help="the choice of the cross-validation (.json)")
    made.add_argument("--part", type=int, default=0, help="which part of the scans, from 0")
    made.add_argument("--parts", type=int, default=1, help="number of parts")
    made.add_argument("--scratch", type=Path, help="folder for temporary files; default: the system's")
    made.add_argument("--state", required=True, type=Path, help="folder for unfinished work")
    made.add_argument("--folder", required=True, type=Path, help="folder of <case>.nii.gz to write")
    made.add_argument("--facts", required=True, type=Path, help="what was done, to write (.json)")
    args = made.parse_args()
    export = parse(Export, args.settings)
    state = read_model(args.models[0])
    prepare = validate(Prepare, state["prepare"], origin=str(args.models[0]))
    cache = validate(Cache, state["cache"], origin=str(args.models[0]))
    chosen = read_json(args.postprocess)["postprocess"] if args.postprocess else []

    cases = read_new_cases(args.source)[args.part :: args.parts]
    # Predictions of other models, or exported otherwise, never mix with these.
    work = args.state / short_hash([*map(file_hash, args.models), chosen, dump(export)], 16)
    missing = [case for case in cases if not (work / f"{case.name}.nii.gz").exists()]
    logging.info("%d scans, %d of them to do", len(cases), len(missing))
    failed: list[str] = []
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="foldwise-") as scratch:
        if missing:
            system, trained, targets = networks(args.models)
            wanted = (prepare, cache, targets.classes, state["channels"])
            with closing(_prepared(missing, *wanted, Path(scratch))) as ready:
                for case, path in ready:
                    if isinstance(path, CaseError):
                        failed.append(str(path))
                        logging.error("%s", path)
                        continue
                    prediction = path.with_name("prediction") / path.name
                    system.predict(trained, str(path), prediction)
                    _export(case, prediction, chosen, export, work)
                    logging.info("predicted %s", case.name)
                    shutil.rmtree(path.parent)
    args.folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        for file in sorted(work.glob(f"{case.name}.*")) + sorted(
            work.glob(f"{case.name}_*_probability.nii.gz")
        ):
            shutil.move(file, args.folder / file.name)
    if failed:
        raise CaseError(
            f"{len(failed)} of {len(cases)} scans could not be predicted; the others are in "
            f"{args.folder}:\n  " + "\n  ".join(failed)
        )
    facts = provenance(settings=dump(export), inputs=args.models)
    write_json(args.facts, {"cases": [case.name for case in cases], "postprocess": chosen, **facts})


def _export(case: Case, prediction: Path, postprocess: list[str], settings: Export, folder: Path) -> None:
    """Export a case to scratch, then bring its files over; the label map comes last and says it is done."""
    made = prediction.parent
    export_case(prediction, postprocess, settings, made, case.images[0])
    prediction.unlink()
    for file in sorted(made.iterdir(), key=lambda file: file.name == f"{case.name}.nii.gz"):
        with atomic_path(folder / file.name) as temporary:
            shutil.copyfile(file, temporary)


def _prepared(
    cases: list[Case],
    prepare: Prepare,
    cache: Cache,
    classes: dict[str, int],
    channels: int,
    scratch: Path,
) -> Generator[tuple[Case, Path | CaseError]]:
    """Caches of the cases, in order; the next one is made while the present one is predicted."""

    def make(case: Case) -> Path | CaseError:
        try:
            return prepare_case(case, prepare, cache, classes, channels, scratch / case.name)
        except CaseError as error:
            return CaseError(f"case {case.name}: {error}")

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make, cases[0])
        for number, case in enumerate(cases):
            made = coming.result()
            if number + 1 < len(cases):
                coming = pool.submit(make, cases[number + 1])
            yield case, made


def prepare_case(
    case: Case, prepare: Prepare, cache: Cache, classes: dict[str, int], channels: int, folder: Path
) -> Path:
    """Make a new scan's cache as the workflow would, and return its path.

    Raises:
        CaseError: the scan cannot be used.
    """
    inside = None
    if prepare.lung_mask is not None:
        mask, region = folder / "mask.nii.gz", folder / "region.nii.gz"
        lung_mask(case.name, case.images[0], None, prepare.lung_mask, mask, region, folder / "lungs.json")
        inside = {"region": region, "lungs": mask}.get(prepare.crop.to)
    with atomic_folder(folder / "crop") as cropped:
        crop_case(case.images, None, None, inside, prepare.crop, classes, cropped)
    found = read_json(folder / "crop" / "crop.json")["channels"]
    if found != channels:
        raise CaseError(f"{found} image channel(s), the model takes {channels}")
    path = folder / f"{case.name}.h5"
    cache_case(case.name, folder / "crop", cache, classes, path)
    return path


if __name__ == "__main__":
    run(main)
