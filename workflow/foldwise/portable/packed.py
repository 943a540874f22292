"""A trained model in one file, `<name>.foldwise`: all that predicting new cases needs.

The file is a zip archive without compression: model.json says what it is, fold<k>.pt are the models of the
folds (training/model_file.py), and files/ holds what they read beside, such as frozen weights. Nothing in it
is executed.
"""

from __future__ import annotations

import logging
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from foldwise import __version__
from foldwise.beside import files_beside, refuse_replaced
from foldwise.files import CaseError, atomic_path, file_hash, read_json, write_json
from foldwise.section import Strict
from foldwise.settings import validate
from foldwise.systems import system_of
from foldwise.texts import parse_json
from foldwise.training.model_file import ModelFile, read_model

SUFFIX = ".foldwise"
ABOUT = "model.json"
FORMAT = 1
# Of a training's provenance; not the machine, its paths and its jobs, which concern nobody elsewhere.
_PROVENANCE = ("foldwise", "commit", "python", "packages", "time", "seed")


class About(Strict):
    """The contents of model.json.

    Attributes:
        format: version of the file's form.
        foldwise: version of Foldwise that wrote the file.
        name: of the model.
        experiment: its experiment.
        system: name of its system.
        package: package of the system, with its version.
        task: what it predicts: classes or regions with their names and values, channels.
        prepared: how a case is prepared for it.
        settings: of the model.
        chosen: what the cross-validation chose for new cases, e.g. post-processing.
        folds: facts of each fold's model: epoch, score and provenance.
        hashes: SHA-256 of every other file in the archive.
        beside: files that the models read: their place in a model's file → folder or file in the archive.
    """

    format: int
    foldwise: str
    name: str
    experiment: str
    system: str
    package: str
    task: dict[str, Any]
    prepared: dict[str, Any]
    settings: dict[str, Any]
    chosen: dict[str, Any]
    folds: dict[str, dict[str, Any]]
    hashes: dict[str, str]
    beside: dict[str, str]


@dataclass(frozen=True)
class Source:
    """A trained model that is ready to be used.

    Attributes:
        models: file of each fold.
        chosen: what the cross-validation chose for new cases.
        name: of the model.
    """

    models: tuple[Path, ...]
    chosen: Mapping[str, Any]
    name: str


def found(path: Path, folder: Path, folds: Sequence[int] = ()) -> Source:
    """The trained model at a path.

    Args:
        path: a packed file, a model's folder in the results, or one fold's model.pt.
        folder: for what is unpacked.
        folds: numbers of the folds to take; none: all.

    Raises:
        CaseError: no model is there, it is damaged, or a fold is missing.
    """
    if path.is_dir():
        return Source(tuple(_taken(path, _folds(path), folds).values()), _choice(path), path.name)
    if not path.is_file():
        raise CaseError(
            f"{path}: no such model; expected a {SUFFIX} file, a model.pt, or results/<experiment>/<model>"
        )
    if path.suffix == SUFFIX:
        whole = _unpacked(path, folder)
        known = {int(model.stem.removeprefix("fold")): model for model in whole.models}
        return replace(whole, models=tuple(_taken(path, known, folds).values()))
    state = read_model(path)
    system = system_of(state["system"])
    evaluate = system.section("evaluate")()
    return Source((path,), system.results.choices(evaluate)[0], path.stem)


def one_fold(path: Path, folder: Path, system: str) -> Path:
    """The model of a single fold at a path, for what uses no others; of several, the first.

    Raises:
        CaseError: no model is there, or it is damaged, or packed and of another system.
    """
    if path.suffix != SUFFIX and not path.is_dir():
        return path
    if path.is_file() and (other := about(path).system) != system:
        raise CaseError(f"{path}: a model of the system {other}; expected one of the {system} system")
    models = found(path, folder).models
    if len(models) > 1:
        logging.info("%s: holds %d models; %s is used", path, len(models), models[0].stem)
    return models[0]


def pack(source: Path, path: Path, folds: Sequence[int] = ()) -> About:
    """Write a model of an experiment into one file.

    Args:
        source: the model's folder in the results.
        path: file to write; an earlier one is replaced.
        folds: numbers of the folds to take; none: all.

    Raises:
        CaseError: the folder is not one of a finished model, or a fold or a file that it reads is missing or
            was replaced.
    """
    if path.suffix != SUFFIX:
        raise CaseError(f"{path}: the name of a packed model ends in {SUFFIX}")
    if source.is_file():
        raise CaseError(f"{source}: is a file; give the model's folder in the results, of which it was made")
    taken = _taken(source, _folds(source), folds)
    states = {number: read_model(model) for number, model in taken.items()}
    first = next(iter(states.values()))
    refuse_replaced(first)
    beside = files_beside(system_of(first["system"]).beside, first)
    within: dict[str, Path] = {f"fold{number}.pt": model for number, model in taken.items()}
    named = {}
    for number, (place, file) in enumerate(beside.items()):
        if not file.exists():
            raise CaseError(f"{source}: its models read {file}, which is missing; put it there again")
        named[place] = f"files/{number}/{file.name}"
        within |= {f"files/{number}/{name}": each for name, each in _whole(file)}
    about = About(
        format=FORMAT,
        foldwise=__version__,
        name=source.name,
        experiment=source.parent.name,
        system=first["system"],
        package=first.get("package", ""),
        task=first["task"],
        prepared=first.get("prepared", {}),
        settings=first["settings"],
        chosen=_choice(source),
        folds={f"fold{number}.pt": _facts(taken[number], state) for number, state in states.items()},
        hashes={name: file_hash(file) for name, file in within.items()},
        beside=named,
    )
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(ABOUT, about.model_dump_json(indent=2) + "\n")
        for name, file in within.items():
            archive.write(file, name)
    return about


def about(path: Path) -> About:
    """What a packed file holds.

    Raises:
        CaseError: it is not one, or of a later version.
    """
    with _archive(path) as archive:
        values = parse_json(archive.read(ABOUT).decode(), str(path))
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CaseError(
            f"{path}: Foldwise {__version__} reads packed models of form {FORMAT}; this one was written by "
            f"another version, or is damaged: {str(values)[:80]}"
        )
    facts = validate(About, values, origin=str(path))
    if wrong := [name for name in facts.folds if not re.fullmatch(r"fold\d+\.pt", name)]:
        raise CaseError(f"{path}: damaged: {wrong[0]!r} is not the name of a fold's model")
    files = [PurePosixPath(name) for name in facts.hashes]
    held = {str(each) for file in files for each in (file, *file.parents)}
    if lost := [name for name in (*facts.folds, *facts.beside.values()) if name not in held]:
        raise CaseError(f"{path}: damaged: it does not hold {lost[0]!r}")
    if not facts.folds:
        raise CaseError(f"{path}: damaged: it holds no model")
    return facts


def _unpacked(path: Path, folder: Path) -> Source:
    """The models in a packed file, written into a folder; those of an earlier call are used again."""
    facts = about(path)
    done = folder / "unpacked.json"
    if not (done.exists() and read_json(done) == facts.hashes):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with _archive(path) as archive:
            for name, digest in facts.hashes.items():
                _extract(archive, path, name, folder)
                if file_hash(folder / name) != digest:
                    raise CaseError(f"{path}: damaged: {name} is not what was written; copy the file again")
        write_json(done, facts.hashes)
    # Also those of an earlier call, perhaps from another working folder.
    for fold in facts.folds if facts.beside else ():
        _redirect(folder / fold, {place: folder.absolute() / name for place, name in facts.beside.items()})
    return Source(tuple(folder / name for name in facts.folds), facts.chosen, facts.name)


def _extract(archive: zipfile.ZipFile, path: Path, name: str, folder: Path) -> None:
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or name not in archive.namelist():
        raise CaseError(f"{path}: damaged: {name!r} is not a file that belongs to a model")
    # A small file that unpacks to terabytes would fill the disk.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise CaseError(
            f"{path}: {name} is compressed, but Foldwise compresses nothing; export the model again"
        )
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as inner, target.open("wb") as outer:
        shutil.copyfileobj(inner, outer)


def _redirect(model: Path, files: Mapping[str, Path]) -> None:
    """Let a model's file name the unpacked files that it reads."""
    state: Any = read_model(model)
    for place, file in files.items():
        *outer, last = place.split(".")
        section = state
        for key in outer:
            section = section[key]
        section[last] = str(file)
    torch.save(state, model)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
        raise CaseError(f"{path}: not a packed model, or damaged ({error}); copy the file again") from error


def _folds(folder: Path) -> dict[int, Path]:
    """Number of each finished fold → its model."""
    models = {
        int(one[1]): path
        for path in sorted(folder.glob("fold*/model.pt"))
        if (one := re.fullmatch(r"fold(\d+)", path.parent.name))
    }
    if not models:
        raise CaseError(
            f"{folder}: has no trained model (fold0/model.pt, …); expected results/<experiment>/<model>"
        )
    return dict(sorted(models.items()))


def _taken(source: Path, known: Mapping[int, Path], folds: Sequence[int]) -> dict[int, Path]:
    """The models of some folds; of all if none is named."""
    if absent := [str(number) for number in folds if number not in known]:
        have = ", ".join(map(str, known))
        raise CaseError(f"{source}: has no model of fold {', '.join(absent)}; it has those of {have}")
    return {number: known[number] for number in folds or known}


def _choice(folder: Path) -> dict[str, Any]:
    path = folder / "choice.json"
    if not path.exists():
        raise CaseError(f"{path}: missing; run the experiment to its end, which writes it")
    chosen: dict[str, Any] = read_json(path)["chosen"]
    return chosen


def _facts(model: Path, state: ModelFile) -> dict[str, Any]:
    path = model.with_name("provenance.json")
    origin = read_json(path) if path.exists() else {}
    kept = {key: origin[key] for key in _PROVENANCE if key in origin}
    return {key: state.get(key) for key in ("fold", "epoch", "score", "fingerprint")} | {"provenance": kept}


def _whole(path: Path) -> Iterator[tuple[str, Path]]:
    """A file, or all files of a folder, by their names in the archive."""
    if path.is_dir():
        for file in sorted(each for each in path.rglob("*") if each.is_file()):
            yield f"{path.name}/{file.relative_to(path).as_posix()}", file
    else:
        yield path.name, path
