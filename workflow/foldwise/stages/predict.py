"""Predict new cases with the trained models of an experiment, and export them.

A case goes through the same preparation as the training cases; the models' files define it. A restarted
command continues with the remaining cases.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

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
from foldwise.overlap import Unwritten, overlapped
from foldwise.provenance import provenance
from foldwise.published import Published
from foldwise.record import used
from foldwise.section import Section
from foldwise.settings import dump
from foldwise.store import Store
from foldwise.systems.base import REMARKS, Rows, System


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
        prepare = partial(system.prepare_new, state=trained.states[0])
        export = partial(system.results.export_case, export=settings, chosen=chosen)
        work = _Work(prepare, trained, export, state.put, Path(temporary))
        for case in cases:
            work.add(case, state.get(case.name, *case.made_of))
        logging.info("%d cases, %d of them to do", len(cases), len(cases) - len(work.predictions))
        overlapped([case.name for case in cases], work.read, work.infer, failed)
        # Exported files may refer to a case's files, so these must still be as they were.
        for case in cases:
            if case.name in work.predictions:
                with apart(case.name, failed):
                    case.refuse_changed()
        predictions, unexported = work.predictions, work.unexported
        work.gather(failed)
        published.publish(work.own, work.tables)
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


class _Work:
    """Prepares, predicts and exports cases, in three steps, of which the first and the last may overlap.

    Attributes:
        own: folder with a folder of exported files for each case.
        tables: folder of the tables of all cases.
        predictions: case → file of its prediction.
        unexported: case → why some of its files could not be written.
    """

    def __init__(
        self,
        prepare: Callable[..., Path],
        trained: Trained,
        export: Callable[..., Mapping[str, Rows]],
        keep: Callable[..., Path],
        scratch: Path,
    ) -> None:
        """Name the folders.

        Args:
            prepare: as System.prepare_new, from an entry and a folder.
            trained: the models.
            export: as Results.export_case, from a prediction, an entry and a folder.
            keep: keeps a prediction, as Store.put.
            scratch: an existing folder.
        """
        self._prepare, self._trained, self._export, self._keep = prepare, trained, export, keep
        self._steps = trained.steps
        self.own, self.tables, self._prepared = (scratch / name for name in ("cases", "tables", "prepared"))
        self.own.mkdir()
        self.tables.mkdir()
        self._cases: dict[str, _NewCase] = {}
        self.predictions: dict[str, Path] = {}
        self.unexported: dict[str, str] = {}
        self._rows: dict[str, dict[str, list[Mapping[str, Any]]]] = {}

    def add(self, case: _NewCase, prediction: Path | None) -> None:
        """Add a case, and its prediction by an earlier call."""
        self._cases[case.name] = case
        if prediction is not None:
            self.predictions[case.name] = prediction

    def read(self, name: str) -> Any:
        """Prepare a case that is not predicted yet, and read what its prediction needs."""
        if name in self.predictions:
            return None
        case = self._cases[name]
        with self._removed_if_failed(name):
            cache = self._prepare(case.entry, folder=self._prepared / name)
            case.refuse_changed()
            warn_of_learnt(case.entry, cache, self._trained.states)
            return self._steps.read(str(cache))

    def infer(self, name: str, known: Any) -> Unwritten:
        """Predict a case, unless it is; what remains is to keep the prediction, and to export it."""
        if name in self.predictions:
            return Unwritten(partial(self._exported, name), 0)
        with self._removed_if_failed(name):
            made = self._steps.infer(known)
        return Unwritten(partial(self._put, name, made), made.nbytes)

    def gather(self, failed: Container[str]) -> None:
        """Write the tables; forget what was exported of cases that failed."""
        tables: dict[str, list[Mapping[str, Any]]] = {}
        for name in self._cases:
            if name in failed:
                shutil.rmtree(self.own / name, ignore_errors=True)
                self.unexported.pop(name, None)
                continue
            for table, rows in self._rows.get(name, {}).items():
                tables.setdefault(table, []).extend(rows)
        for table, rows in tables.items():
            pd.DataFrame(rows).to_csv(self.tables / table, index=False)

    def _put(self, name: str, made: Unwritten) -> None:
        case, noted = self._cases[name], self._prepared / name / REMARKS
        with self._removed_if_failed(name):
            remarks = read_json(noted) if noted.exists() else []
            write = partial(with_fingerprint, made.write, case.made_of, remarks=remarks)
            self.predictions[name] = self._keep(write, name, *case.made_of)
        logging.info("predicted %s", name)
        shutil.rmtree(self._prepared / name, ignore_errors=True)
        self._exported(name)

    def _exported(self, name: str) -> None:
        folder = self.own / name
        folder.mkdir()
        with apart(name, self.unexported):
            found = self._export(self.predictions[name], self._cases[name].entry, folder=folder)
            self._rows[name] = {table: list(rows) for table, rows in found.items()}

    @contextmanager
    def _removed_if_failed(self, name: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            shutil.rmtree(self._prepared / name, ignore_errors=True)
            raise


if __name__ == "__main__":
    run(predict.main)
