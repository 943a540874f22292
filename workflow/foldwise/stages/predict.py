"""Predict new cases with the trained models of an experiment, and export them.

A case goes through the same preparation as the training cases; the models' files define it. A restarted
command continues with the remaining cases.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from foldwise.command import Folder, Of, Output, run, stage
from foldwise.evaluate import Trained, read_trained, remarks_of, warn_of_learnt, with_fingerprint
from foldwise.files import (
    CaseError,
    apart,
    file_hash,
    read_json,
    short_hash,
    source_files,
    stamp_of,
    write_json,
)
from foldwise.index import Entry
from foldwise.provenance import provenance
from foldwise.published import Published
from foldwise.record import used
from foldwise.section import Section
from foldwise.settings import dump
from foldwise.store import Store
from foldwise.systems.base import REMARKS, System


@stage(gpus=1)
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
    state: Annotated[Store, "folder for unfinished work"],
    folder: Annotated[Output, "folder of exported files to write"],
    facts: Annotated[Output, "record to write (.json)"],
) -> None:
    """Predict and export a part of the cases."""
    if not 0 <= part < parts:
        raise CaseError(f"--part {part}: must be 0 to {parts - 1}")
    chosen = read_json(choice)["chosen"]
    trained = read_trained(models, system=system.name)
    everything = system.new_cases(source, prepared=trained.states[0].get("prepared", {})).entries
    hashes = [file_hash(path) for path in models]
    mine, failed = everything[part::parts], dict[str, str]()
    cases = []
    for entry in mine:
        with apart(entry.case, failed):
            cases.append(_NewCase(entry, hashes))
    used(*(path for case in cases for files in case.entry.files.values() for path in files))
    # What an earlier call made of a case that cannot be read now is outdated, too.
    keys = {entry.case: "" for entry in mine} | {case.name: short_hash(case.made_of, 16) for case in cases}
    published = Published(folder, source, [entry.case for entry in everything], keys, f"{part}of{parts}")
    with tempfile.TemporaryDirectory(dir=scratch, prefix="foldwise-") as temporary:
        predictions = _predict(system, trained, cases, state, Path(temporary) / "prepared", failed)
        done = [case for case in cases if case.name in predictions]
        tables, own = Path(temporary) / "tables", Path(temporary) / "cases"
        export = partial(system.results.export, predictions, export=settings, chosen=chosen)
        unexported = _export(export, done, failed, tables, own)
        published.publish(own, tables)
    if failed or unexported:
        counts = [(len(failed), "predicted"), (len(unexported), "exported in full")]
        what = " and ".join(f"{n} of {len(mine)} cases could not be {how}" for n, how in counts if n)
        lines = "\n  ".join([*failed.values(), *unexported.values()])
        raise CaseError(f"{what}; all others are in {folder}:\n  {lines}")
    origin = provenance(settings=dump(settings), inputs=models)
    remarks = {name: found for name, path in predictions.items() if (found := remarks_of(path))}
    names = [case.name for case in cases]
    write_json(facts, {"cases": names, "remarks": remarks, "chosen": chosen, "provenance": origin})
    published.add(facts)
    state.clear(but={entry.case for entry in everything} - keys.keys())


class _NewCase:
    """A new case, and everything that its prediction is made from.

    Attributes:
        entry: the case.
        name: its name.
        made_of: hashes of the models; content and names of its files, since an image's name may give its
            time; its row.
    """

    def __init__(self, entry: Entry, models: list[str]) -> None:
        self.entry, self.name = entry, entry.case
        self._written = self._last_written()
        named = [[file.name, file_hash(file)] for file in self._files]
        self.made_of = [models, named, {kind: len(each) for kind, each in entry.files.items()}, entry.facts]

    def refuse_changed(self) -> None:
        """Ensure that the files are still those whose hashes are known.

        Raises:
            CaseError: one was written or replaced.
        """
        if self._last_written() != self._written:
            raise CaseError(f"case {self.name}: its files changed while they were read; run again")

    @property
    def _files(self) -> list[Path]:
        paths = [Path(path) for _, each in sorted(self.entry.files.items()) for path in each]
        return [file for path in paths for file in source_files(path)]

    def _last_written(self) -> list[str]:
        return [stamp_of(file) for file in self._files]


def _predict(
    system: System[Any, Any],
    trained: Trained,
    cases: list[_NewCase],
    state: Store,
    scratch: Path,
    failed: dict[str, str],
) -> dict[str, Path]:
    """Predict the cases that no earlier call has predicted; case → prediction, without those that failed."""
    found = {case.name: state.get(case.name, *case.made_of) for case in cases}
    predictions = {name: path for name, path in found.items() if path is not None}
    missing = [case for case in cases if case.name not in predictions]
    logging.info("%d cases, %d of them to do", len(cases), len(missing))
    with closing(_prepared(system, missing, trained.states[0], scratch)) as ready:
        for case, cache in ready:
            with apart(case.name, failed):
                prepared = cache()
                warn_of_learnt(case.entry, prepared, trained.states)
                predict = partial(trained.learner.predict, trained.networks, str(prepared))
                noted = scratch / case.name / REMARKS
                remarks = read_json(noted) if noted.exists() else []
                write = partial(with_fingerprint, predict, case.made_of, remarks=remarks)
                predictions[case.name] = state.put(write, case.name, *case.made_of)
                logging.info("predicted %s", case.name)
            shutil.rmtree(scratch / case.name, ignore_errors=True)
    return predictions


def _export(
    export: Callable[..., dict[str, str]],
    cases: Sequence[_NewCase],
    failed: dict[str, str],
    tables: Path,
    own: Path,
) -> dict[str, str]:
    """Export cases; once more without those whose files changed, to which exported files may refer.

    Args:
        export: exports entries; returns case → why it failed.
        cases: with a prediction.
        failed: receives cases whose files changed.
        tables: folder of tables to write.
        own: folder to write, with a folder for each case.

    Returns:
        Case → why some of its files could not be written.
    """
    for folder in (tables, own):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    unexported = export([case.entry for case in cases], folder=tables, own=own)
    for case in cases:
        with apart(case.name, failed):
            case.refuse_changed()
    rest = [case for case in cases if case.name not in failed]
    return unexported if len(rest) == len(cases) else _export(export, rest, failed, tables, own)


def _prepared(
    system: System[Any, Any], cases: list[_NewCase], state: Mapping[str, Any], scratch: Path
) -> Generator[tuple[_NewCase, Callable[[], Path]]]:
    """The cases, in order, each with a function that returns its cache or raises what prevented it.

    The next cache is prepared while the current one is predicted.
    """

    def make(case: _NewCase) -> Path:
        cache = system.prepare_new(case.entry, state, scratch / case.name)
        case.refuse_changed()
        return cache

    with ThreadPoolExecutor(1) as pool:
        coming = [pool.submit(make, case) for case in cases[:1]]
        for number, case in enumerate(cases):
            ready = coming.pop()
            wait([ready])
            coming += [pool.submit(make, following) for following in cases[number + 1 : number + 2]]
            yield case, ready.result


if __name__ == "__main__":
    run(predict.main)
