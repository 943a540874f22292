"""Predict new cases with the trained models of an experiment; `publish` writes their files.

A case goes through the same preparation as the training cases; the models' files define it. A case that fails
leaves the others, and is named by `publish`. A restarted command continues with the remaining cases.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from foldwise.beside import refuse_replaced
from foldwise.command import Folder, Output, run, stage
from foldwise.device import name_of
from foldwise.evaluate import Trained, read_trained, remarks_of, warn_of_learnt, with_fingerprint
from foldwise.files import (
    CaseError,
    apart,
    atomic_folder,
    file_hash,
    read_json,
    short_hash,
    write_json,
)
from foldwise.index import Entry, Index
from foldwise.overlap import Unwritten, overlapped
from foldwise.progress import advanced
from foldwise.provenance import provenance
from foldwise.published import Published, files_of, stamps_of
from foldwise.record import unread, used
from foldwise.store import Store
from foldwise.systems.base import REMARKS, System


@stage(gpus=1)
def predict(
    *,
    system: System[Any, Any],
    models: Annotated[list[Path], "model.pt of each fold"],
    source: Annotated[Folder, "sample sheet, or folder of cases"],
    images_fps: Annotated[float | None, "images per second of folders of images"] = None,
    part: Annotated[int, "number of the part of the cases, from 0"] = 0,
    parts: Annotated[int, "number of parts"] = 1,
    scratch: Annotated[Folder | None, "folder for temporary files; default: the system's"] = None,
    state: Annotated[Store, "folder for unfinished work"],
    published: Annotated[Folder, "folder of exported files, from which outdated ones are removed"],
    predictions: Annotated[Output, "folder of <case>.h5 to write"],
    index: Annotated[Output, "index of these cases to write (.pkl)"],
    facts: Annotated[Output, "facts for publish, and provenance (.json)"],
) -> None:
    """Predict a part of the cases."""
    if not 0 <= part < parts:
        raise CaseError(f"--part {part}: must be 0 to {parts - 1}")
    trained = read_trained(models, system=system.name)
    for each in trained.states:
        refuse_replaced(each)
    prepared = {**trained.states[0].get("prepared", {}), "images_fps": images_fps}
    everything = system.new_cases(source, prepared=prepared).entries
    hashes = [file_hash(path) for path in models]
    groups = {name: number for number, name in enumerate(dict.fromkeys(each.group for each in everything))}
    # A patient's cases are in one part, for tables of patients.
    mine = [entry for entry in everything if groups[entry.group] % parts == part]
    failed = dict[str, str]()
    cases = []
    for entry in mine:
        with apart(entry.case, failed):
            cases.append(_NewCase(entry, hashes))
    # What an earlier call made of a case that cannot be read now is outdated, too.
    keys = {entry.case: "" for entry in mine} | {case.name: case.key for case in cases}
    names = [entry.case for entry in everything]
    Published(published, source, names, keys, f"{part}of{parts}")
    with tempfile.TemporaryDirectory(dir=scratch, prefix="foldwise-") as temporary:
        prepare = partial(system.prepare_new, state=trained.states[0])
        work = _Work(prepare, trained, state.put, Path(temporary))
        for case in cases:
            work.add(case, state.get(case.name, *case.made_of))
        logging.info("%d cases, %d of them to do", len(cases), len(cases) - len(work.predictions))
        advanced("cases", len(work.predictions), len(cases))
        overlapped([case.name for case in cases], work.read, work.infer, failed)
    made = {name: path for name, path in work.predictions.items() if name not in failed}
    for entry in mine:
        note = unread if entry.case in failed else used
        note(*(path for each in entry.files.values() for path in each))
    with atomic_folder(predictions) as folder:
        state.give(made, folder)
    Index(dict(trained.task), tuple(mine), ()).write(index)
    about = {
        "part": f"{part}of{parts}",
        "cases": names,
        "keys": keys,
        "stamps": {case.name: case.stamps for case in cases},
        "failed": failed,
        "remarks": {name: found for name, path in made.items() if (found := remarks_of(path))},
        "inputs": {entry.case: entry.files for entry in mine},
        "device": name_of(next(trained.networks[0].parameters()).device),
        "seconds": {name: round(seconds, 2) for name, seconds in work.seconds.items()},
    }
    origin = provenance(settings=trained.states[0]["settings"], inputs=models)
    write_json(facts, {**about, "provenance": origin})
    if not failed:  # else the next call finds here what was predicted
        state.clear(but={*names} - keys.keys())


class _NewCase:
    """A new case, and everything that its prediction is made from.

    Attributes:
        entry: the case.
        name: its name.
        made_of: hashes of the models; content and names of its files, since an image's name may give its
            time; its row.
        key: a hash of it.
        stamps: of its files.
    """

    def __init__(self, entry: Entry, models: list[str]) -> None:
        self.entry, self.name = entry, entry.case
        self.stamps = stamps_of(entry)
        named = [[file.name, file_hash(file)] for file in files_of(entry)]
        self.made_of = [models, named, {kind: len(each) for kind, each in entry.files.items()}, entry.facts]
        self.key = short_hash(self.made_of, 16)

    def refuse_changed(self) -> None:
        """Ensure that the files are still those whose hashes are known.

        Raises:
            CaseError: one was written or replaced.
        """
        if stamps_of(self.entry) != self.stamps:
            raise CaseError(f"case {self.name}: its files changed while they were read; run again")


class _Work:
    """Prepares and predicts cases, in three steps, of which the first and the last may overlap.

    Attributes:
        predictions: case → file of its prediction.
        seconds: case → time that its steps took together, if it was predicted now.
    """

    def __init__(
        self, prepare: Callable[..., Path], trained: Trained, keep: Callable[..., Path], scratch: Path
    ) -> None:
        """Name the folder.

        Args:
            prepare: as System.prepare_new, from an entry and a folder.
            trained: the models.
            keep: keeps a prediction, as Store.put.
            scratch: an existing folder.
        """
        self._prepare, self._trained, self._keep, self._scratch = prepare, trained, keep, scratch
        self._steps = trained.steps
        self._cases: dict[str, _NewCase] = {}
        self.predictions: dict[str, Path] = {}
        self.seconds: dict[str, float] = {}

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
        with self._step(name):
            cache = self._prepare(case.entry, folder=self._scratch / name)
            case.refuse_changed()
            warn_of_learnt(case.entry, cache, self._trained.states)
            return self._steps.read(str(cache))

    def infer(self, name: str, known: Any) -> Unwritten | None:
        """Predict a case, unless it is; what remains is to keep the prediction."""
        if name in self.predictions:
            return None
        with self._step(name):
            made = self._steps.infer(known)
        return Unwritten(partial(self._put, name, made), made.nbytes)

    def _put(self, name: str, made: Unwritten) -> None:
        case, noted = self._cases[name], self._scratch / name / REMARKS
        with self._step(name):
            remarks = read_json(noted) if noted.exists() else []
            write = partial(with_fingerprint, made.write, case.made_of, remarks=remarks)
            self.predictions[name] = self._keep(write, name, *case.made_of)
        logging.info("predicted %s", name)
        advanced("cases", len(self.predictions), len(self._cases))
        shutil.rmtree(self._scratch / name, ignore_errors=True)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """Add up the time of a case, whose files are removed if it fails."""
        started = time.monotonic()
        try:
            yield
            self.seconds[name] = self.seconds.get(name, 0) + time.monotonic() - started
        except BaseException:
            shutil.rmtree(self._scratch / name, ignore_errors=True)
            raise


if __name__ == "__main__":
    run(predict.main)
