"""Predict new cases with the trained models of an experiment, and export them.

A case goes through the same preparation as the training cases; the models' files define it. A restarted
command continues with the remaining cases.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

from foldwise.command import Folder, Of, Output, run, stage
from foldwise.evaluate import Trained, clear, is_whole, read_trained, unfinished
from foldwise.files import CaseError, file_hash, naming, read_json, source_files, source_hash, write_json
from foldwise.index import Entry
from foldwise.provenance import provenance
from foldwise.published import Published
from foldwise.record import used
from foldwise.section import Section
from foldwise.settings import dump
from foldwise.systems.base import System


@stage
def predict(
    *,
    system: System[Any, Any],
    settings: Annotated[Section, Of("export")],
    models: Annotated[list[Path], "model.pt of each fold"],
    source: Annotated[Folder, "sample sheet, or folder of cases"],
    choice: Annotated[Path, "choice of the cross-validation (.json)"],
    part: Annotated[int, "number of the part of the cases, from 0"] = 0,
    parts: Annotated[int, "number of parts"] = 1,
    scratch: Annotated[Folder | None, "folder for temporary files; default: the system's"] = None,
    state: Annotated[Path, "folder for unfinished work"],
    folder: Annotated[Output, "folder of exported files to write"],
    facts: Annotated[Output, "record to write (.json)"],
) -> None:
    """Predict and export a part of the cases."""
    if not 0 <= part < parts:
        raise CaseError(f"--part {part}: must be 0 to {parts - 1}")
    chosen = read_json(choice)["chosen"]
    trained = read_trained(models, system=system.name)
    everything = system.new_entries(source)
    entries = everything[part::parts]
    used(*(path for entry in entries for files in entry.files.values() for path in files))
    # Predictions by other models, or of other files with the same name, never mix with these.
    hashes, own = [file_hash(path) for path in models], state / f"{part}of{parts}"
    work = {entry.case: unfinished(own, hashes, entry.case, _content(entry)) for entry in entries}
    predictions = {case: place / f"{case}.h5" for case, place in work.items()}
    keys = {case: path.name for case, path in work.items()}
    published = Published(folder, source, [entry.case for entry in everything], keys, own.name)
    published.forget()
    missing = [entry for entry in entries if not is_whole(predictions[entry.case])]
    logging.info("%d cases, %d of them to do", len(entries), len(missing))
    unexported: list[str] = []
    with tempfile.TemporaryDirectory(dir=scratch, prefix="foldwise-") as temporary:
        failed = _predict(system, trained, missing, predictions, Path(temporary))
        exported = Path(temporary) / "export"
        exported.mkdir()
        done = [entry for entry in entries if entry.case not in failed]
        try:
            system.results.export(predictions, done, settings, chosen, exported)
        except CaseError as error:
            unexported.append(str(error))
        published.publish(exported)
    if failed or unexported:
        what = (
            f"{len(failed)} of {len(entries)} cases could not be predicted" if failed else "an export failed"
        )
        lines = "\n  ".join([*failed.values(), *unexported])
        raise CaseError(f"{what}; all others are in {folder}:\n  {lines}")
    origin = provenance(settings=dump(settings), inputs=models)
    write_json(facts, {"cases": [entry.case for entry in entries], "chosen": chosen, **origin})
    clear(own)
    clear(state)


def _predict(
    system: System[Any, Any],
    trained: Trained,
    missing: list[Entry],
    predictions: Mapping[str, Path],
    scratch: Path,
) -> dict[str, str]:
    """Predict the missing cases; case → why it failed."""
    failed: dict[str, str] = {}
    if not missing:
        return failed
    with closing(_prepared(system, missing, trained.states[0], scratch)) as ready:
        for entry, path in ready:
            try:
                if isinstance(path, CaseError):
                    raise path
                with naming(entry.case):
                    trained.learner.predict(trained.networks, str(path), predictions[entry.case])
            except CaseError as error:
                failed[entry.case] = str(error)
                logging.error("%s", error)
                continue
            logging.info("predicted %s", entry.case)
            shutil.rmtree(path.parent)
    return failed


def _content(entry: Entry) -> list[Any]:
    """Everything a new case's prediction depends on: the content and names of its files, and its row."""
    paths = [Path(path) for kind in sorted(entry.files) for path in entry.files[kind]]
    # An image's name may give its time.
    names = [file.name for path in paths for file in source_files(path)]
    return [source_hash(paths), names, {kind: len(each) for kind, each in entry.files.items()}, entry.facts]


def _prepared(
    system: System[Any, Any], entries: list[Entry], state: Mapping[str, Any], scratch: Path
) -> Generator[tuple[Entry, Path | CaseError]]:
    """Caches of the cases, in order; the next one is prepared while the current one is predicted."""

    def make(entry: Entry) -> Path | CaseError:
        try:
            with naming(entry.case):
                return system.prepare_new(entry, state, scratch / entry.case)
        except CaseError as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make, entries[0])
        for number, entry in enumerate(entries):
            cache = coming.result()
            if number + 1 < len(entries):
                coming = pool.submit(make, entries[number + 1])
            yield entry, cache


if __name__ == "__main__":
    run(predict.main)
