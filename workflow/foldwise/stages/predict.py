"""Predict new cases with the trained models of an experiment, and export them.

A case goes through the same preparation as the training cases did; the models' files say how. A killed
command goes on with the cases that are left.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from foldwise.command import run, system_parser
from foldwise.evaluate import is_whole, read_model, read_trained
from foldwise.files import (
    CaseError,
    atomic_folder,
    file_hash,
    naming,
    publish,
    read_json,
    short_hash,
    write_json,
)
from foldwise.index import Entry
from foldwise.provenance import provenance
from foldwise.settings import dump, parse
from foldwise.systems import part


def main() -> None:
    """Read the command line."""
    made = system_parser(__doc__, "Export")
    made.add_argument("--models", required=True, type=Path, nargs="+", help="model.pt of each fold")
    made.add_argument("--source", required=True, type=Path, help="sample sheet, or folder of cases")
    made.add_argument("--choice", required=True, type=Path, help="the choice of the cross-validation (.json)")
    made.add_argument("--part", type=int, default=0, help="which part of the cases, from 0")
    made.add_argument("--parts", type=int, default=1, help="number of parts")
    made.add_argument("--scratch", type=Path, help="folder for temporary files; default: the system's")
    made.add_argument("--state", required=True, type=Path, help="folder for unfinished work")
    made.add_argument("--folder", required=True, type=Path, help="folder of exported files to write")
    made.add_argument("--facts", required=True, type=Path, help="what was done, to write (.json)")
    args = made.parse_args()
    export = parse(part(args.system, "settings").Export, args.settings)
    chosen = read_json(args.choice)["chosen"]
    entries = part(args.system, "new").new_entries(args.source)[args.part :: args.parts]
    # Predictions of other models never mix with these.
    work = args.state / short_hash([file_hash(path) for path in args.models], 16)
    predictions = {entry.case: work / f"{entry.case}.h5" for entry in entries}
    missing = [entry for entry in entries if not is_whole(predictions[entry.case])]
    logging.info("%d cases, %d of them to do", len(entries), len(missing))
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="foldwise-") as scratch:
        if missing:
            trained, state = read_trained(args.models), read_model(args.models[0])
            with closing(_prepared(args.system, missing, state, Path(scratch))) as ready:
                for entry, path in ready:
                    if isinstance(path, CaseError):
                        failed[entry.case] = str(path)
                        logging.error("%s", path)
                        continue
                    trained.system.predict(trained.networks, str(path), predictions[entry.case])
                    logging.info("predicted %s", entry.case)
                    shutil.rmtree(path.parent)
        exported = Path(scratch) / "export"
        done = [entry for entry in entries if entry.case not in failed]
        with atomic_folder(exported) as folder:
            part(args.system, "results").export(predictions, done, export, chosen, folder)
        publish(exported, args.folder)
    if failed:
        raise CaseError(
            f"{len(failed)} of {len(entries)} cases could not be predicted; the others are in "
            f"{args.folder}:\n  " + "\n  ".join(failed.values())
        )
    facts = provenance(settings=dump(export), inputs=args.models)
    write_json(args.facts, {"cases": [entry.case for entry in entries], "chosen": chosen, **facts})
    for path in predictions.values():
        path.unlink()


def _prepared(
    system: str, entries: list[Entry], state: Mapping[str, Any], scratch: Path
) -> Generator[tuple[Entry, Path | CaseError]]:
    """Caches of the cases, in order; the next one is made while the present one is predicted."""
    prepare_case = part(system, "new").prepare_case

    def make(entry: Entry) -> Path | CaseError:
        try:
            with naming(entry.case):
                made: Path = prepare_case(entry, state, scratch / entry.case)
        except CaseError as error:
            return error
        return made

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make, entries[0])
        for number, entry in enumerate(entries):
            made = coming.result()
            if number + 1 < len(entries):
                coming = pool.submit(make, entries[number + 1])
            yield entry, made


if __name__ == "__main__":
    run(main)
