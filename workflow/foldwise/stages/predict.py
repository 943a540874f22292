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

from foldwise.command import run, system_parser, written
from foldwise.evaluate import clear, is_whole, read_trained, unfinished
from foldwise.files import CaseError, file_hash, naming, read_json, source_files, source_hash, write_json
from foldwise.index import Entry
from foldwise.provenance import provenance
from foldwise.published import Published
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
    made.add_argument("--folder", required=True, type=written, help="folder of exported files to write")
    made.add_argument("--facts", required=True, type=written, help="what was done, to write (.json)")
    args = made.parse_args()
    if not 0 <= args.part < args.parts:
        raise CaseError(f"--part {args.part}: there are the parts 0 to {args.parts - 1}")
    export = parse(part(args.system, "settings").Export, args.settings)
    chosen = read_json(args.choice)["chosen"]
    trained = read_trained(args.models, system=args.system)
    everything = part(args.system, "new").new_entries(args.source)
    entries = everything[args.part :: args.parts]
    # Predictions of other models, or of other files under the same name, never mix with these.
    models, state = [file_hash(path) for path in args.models], args.state / f"{args.part}of{args.parts}"
    work = {entry.case: unfinished(state, models, entry.case, _content(entry)) for entry in entries}
    predictions = {case: folder / f"{case}.h5" for case, folder in work.items()}
    names, keys = [entry.case for entry in everything], {case: path.name for case, path in work.items()}
    published = Published(args.folder, args.source, names, keys, state.name)
    published.forget()
    missing = [entry for entry in entries if not is_whole(predictions[entry.case])]
    logging.info("%d cases, %d of them to do", len(entries), len(missing))
    failed: dict[str, str] = {}
    unexported: list[str] = []
    with tempfile.TemporaryDirectory(dir=args.scratch, prefix="foldwise-") as scratch:
        if missing:
            with closing(_prepared(args.system, missing, trained.states[0], Path(scratch))) as ready:
                for entry, path in ready:
                    try:
                        if isinstance(path, CaseError):
                            raise path
                        with naming(entry.case):
                            trained.system.predict(trained.networks, str(path), predictions[entry.case])
                    except CaseError as error:
                        failed[entry.case] = str(error)
                        logging.error("%s", error)
                        continue
                    logging.info("predicted %s", entry.case)
                    shutil.rmtree(path.parent)
        exported = Path(scratch) / "export"
        exported.mkdir()
        done = [entry for entry in entries if entry.case not in failed]
        try:
            part(args.system, "results").export(predictions, done, export, chosen, exported)
        except CaseError as error:
            unexported.append(str(error))
        published.publish(exported)
    if failed or unexported:
        what = (
            f"{len(failed)} of {len(entries)} cases could not be predicted" if failed else "an export failed"
        )
        lines = "\n  ".join([*failed.values(), *unexported])
        raise CaseError(f"{what}; everything else is in {args.folder}:\n  {lines}")
    facts = provenance(settings=dump(export), inputs=args.models)
    write_json(args.facts, {"cases": [entry.case for entry in entries], "chosen": chosen, **facts})
    clear(state)
    clear(args.state)


def _content(entry: Entry) -> list[Any]:
    """What a new case's prediction depends on: the content of its files, their names, and its row."""
    paths = [Path(path) for kind in sorted(entry.files) for path in entry.files[kind]]
    # An image's name may say its time.
    names = [file.name for path in paths for file in source_files(path)]
    return [source_hash(paths), names, {kind: len(each) for kind, each in entry.files.items()}, entry.facts]


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
