"""Write the predictions of new cases as files for other programs; the folder may hold files of the user."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd

from foldwise.command import Folder, Of, Output, run, stage
from foldwise.files import CaseError, apart, read_json, whole_folder
from foldwise.index import Entry, Index
from foldwise.published import Published, stamps_of
from foldwise.section import Section
from foldwise.systems.base import Rows, System


@stage
def publish(
    *,
    system: System[Any, Any],
    settings: Annotated[Section, Of("export")],
    source: Annotated[Folder, "sample sheet, or folder of cases, as for predict"],
    predictions: Annotated[Path, "folder of predictions"],
    index: Annotated[Path, "index of their cases (.pkl)"],
    predicted: Annotated[Path, "facts that predict wrote (.json)"],
    choice: Annotated[Path, "choice of the cross-validation (.json)"],
    scratch: Annotated[Folder | None, "folder for temporary files; default: the system's"] = None,
    folder: Annotated[Output, "folder of exported files to write"],
    facts: Annotated[Output, "record to write (.json)"],
) -> None:
    """Export the predictions of a part of the new cases."""
    about, chosen = read_json(predicted), read_json(choice)["chosen"]
    paths = {path.stem: path for path in whole_folder(predictions, ".h5")}
    entries = [entry for entry in Index.read(index).entries if entry.case in paths]
    failed: dict[str, str] = about["failed"]
    published = Published(folder, source, about["cases"], about["keys"], about["part"])
    with tempfile.TemporaryDirectory(dir=scratch, prefix="foldwise-") as temporary:
        tables, own = Path(temporary) / "tables", Path(temporary) / "cases"
        export = partial(system.results.export_case, export=settings, chosen=chosen)
        unexported, rows = _export(export, paths, entries, about["stamps"], failed, own)
        tables.mkdir()
        for name, listed in system.results.completed(rows).items():
            pd.DataFrame(listed).to_csv(tables / name, index=False)
        outputs = published.publish(own, tables, facts)
    names = [entry.case for entry in entries]
    result = {
        "cases": names,
        "failed": {**failed, **unexported},
        "remarks": about["remarks"],
        "chosen": chosen,
        "inputs": about["inputs"],
        "outputs": outputs,
        "device": about["device"],
        "seconds": about["seconds"],
        "provenance": about["provenance"],
    }
    published.write(facts, result)
    if failed or unexported:
        counts = [(len(failed), "predicted"), (len(unexported), "exported in full")]
        whole = len(about["keys"])
        what = " and ".join(f"{n} of {whole} cases could not be {how}" for n, how in counts if n)
        lines = "\n  ".join([*failed.values(), *unexported.values()])
        raise CaseError(f"{what}; all others are in {folder}:\n  {lines}")


def _export(
    export: Callable[..., Mapping[str, Rows]],
    predictions: Mapping[str, Path],
    entries: Sequence[Entry],
    stamps: Mapping[str, Sequence[str]],
    failed: dict[str, str],
    own: Path,
) -> tuple[dict[str, str], dict[str, list[Mapping[str, Any]]]]:
    """Export cases, but none whose files have changed since: exported files may refer to them.

    Args:
        export: as Results.export_case, from a prediction, an entry and a folder.
        predictions: case → prediction.
        entries: the cases.
        stamps: case → stamps of its files when it was predicted.
        failed: receives cases whose files changed.
        own: folder to write, with a folder for each case.

    Returns:
        Case → why some of its files could not be written; name of a table → its rows.
    """
    unexported: dict[str, str] = {}
    rows: dict[str, list[Mapping[str, Any]]] = {}
    own.mkdir()
    for entry in entries:
        place, found = own / entry.case, dict[str, Rows]()
        place.mkdir()
        with apart(entry.case, unexported):
            found.update(export(predictions[entry.case], entry, folder=place))
        if stamps_of(entry) != stamps[entry.case]:
            failed[entry.case] = f"case {entry.case}: its files changed since they were predicted; run again"
            unexported.pop(entry.case, None)
            shutil.rmtree(place)
            continue
        for name, each in found.items():
            rows.setdefault(name, []).extend(each)
    return unexported, rows


if __name__ == "__main__":
    run(publish.main)
