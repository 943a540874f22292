"""Segmentation without marks: any program's label map as the first round.

Either a segmentation model of Foldwise, or the template of a command, which runs without a shell, such as
`TotalSegmentator -i {scan} -o {mask} --ml` or `nnUNetv2_predict -i {scans} -o {folder} -d 4 -c 3d_fullres`.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import numpy as np

from foldwise.files import CaseError
from foldwise.systems.interactive.engines import Request, Scan
from foldwise.systems.interactive.engines.choice import Options, channel_of
from foldwise.systems.interactive.engines.proposals import read_label_map, read_masks
from foldwise.volumes.targets import Targets, label_type
from foldwise.volumes.volume import Volume, write_volume

# In a template: the scan's file, a folder with a file for each channel as nnU-Net names them, the label map
# to write, and a folder to write it or masks to.
SCAN, SCANS, MASK, FOLDER = "{scan}", "{scans}", "{mask}", "{folder}"
NAME = "scan.nii.gz"
# How often a person may stop, and how long a program may take to end then. s.
TICK, GRACE = 0.2, 5.0
# Lines of a failed program's output that a message holds.
LAST = 8


def opened(scan: Scan, options: Options) -> Automatic:
    """The engine on a scan, with the model or the command of the options."""
    if not is_template(options.automatic):
        # An image file may hold all channels of a model.
        image = np.moveaxis(scan.image, 0, -1) if len(scan.image) > 1 else scan.image[0]
        names = model_names(Path(options.automatic))
        words = [sys.executable, "-m", "foldwise", "predict", options.automatic, SCAN, FOLDER]
        return Automatic(scan, {NAME: image}, words, names)
    words = words_of(options.automatic)
    if any(SCANS in word for word in words):
        files = {f"scans/scan_{number:04d}.nii.gz": image for number, image in enumerate(scan.image)}
    else:
        files = {NAME: channel_of(scan, options, "automatic")}
    return Automatic(scan, files, words, options.names)


def is_template(text: str) -> bool:
    """Whether a text is a command, not the path of a model."""
    return "{" in text or (" " in text and not Path(text).exists())


def words_of(template: str) -> list[str]:
    """The words of a command's template.

    Raises:
        CaseError: quotes that do not match, or a missing placeholder.
    """
    try:
        words = shlex.split(template)
    except ValueError as error:
        raise CaseError(f"--automatic {template!r}: {error}") from error
    given = [place for place in (SCAN, SCANS, MASK, FOLDER) if any(place in word for word in words)]
    if len(given) != 2 or given[0] not in (SCAN, SCANS) or given[1] not in (MASK, FOLDER):
        raise CaseError(
            f"--automatic {template!r}: must contain {SCAN}, the scan's file, or {SCANS}, a folder with a "
            f"file for each channel; and {MASK}, the label map to write, or {FOLDER}, a folder to write to"
        )
    return words


def model_names(path: Path) -> dict[int, str]:
    """Value → name of the classes of a segmentation model.

    Raises:
        CaseError: no model is there, or it is of another system.
    """
    # Imported only here, since they import torch.
    from foldwise.portable.packed import SUFFIX, about, found
    from foldwise.training.model_file import read_model

    if path.is_file() and path.suffix == SUFFIX:
        facts = about(path)
        system, task = facts.system, facts.task
    else:
        state = read_model(found(path, path).models[0])
        system, task = state["system"], state["task"]
    if system != "segmentation":
        raise CaseError(f"{path}: a model of the system {system}; engine automatic needs one of segmentation")
    return {value: name for name, value in Targets.from_dict(task["targets"]).classes.items()}


class Automatic:
    """A program that segments a scan by itself."""

    name = "automatic"

    def __init__(
        self,
        scan: Scan,
        files: Mapping[str, np.ndarray],
        words: Sequence[str],
        names: Mapping[int, str],
    ) -> None:
        """Nothing runs yet.

        Args:
            scan: gives the grid.
            files: name → (x, y, z) or (x, y, z, channels): what the program reads.
            words: the command, with placeholders.
            names: value in its label map → name; what else it finds is named by its files, or by the value.
        """
        self._scan, self._files, self._words, self._names = scan, files, words, names

    def propose(
        self, request: Request, known: Mapping[int, str] | None = None
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Run the program, once for all objects.

        Args:
            request: only its progress is used, which can stop the program.
            known: number → name of the session's objects. Objects of the same name get their numbers, all
                others the next free ones.

        Returns:
            Object numbers (x, y, z), and the name of each object that was found, also of known ones.

        Raises:
            CaseError: the program is missing, fails, or writes nothing that fits; with its last lines.
            StoppedError: the person stopped it.
        """
        with tempfile.TemporaryDirectory(prefix="foldwise-") as temporary:
            folder = Path(temporary)
            places = {SCAN: folder / NAME, SCANS: folder / "scans"}
            places |= {MASK: folder / "mask.nii.gz", FOLDER: folder / "found"}
            # Programs that are given a folder may expect it.
            for place in (SCANS, FOLDER):
                places[place].mkdir()
            for name, image in self._files.items():
                write_volume(Volume(_storable(image), self._scan.affine), folder / name)
            words = [_filled(word, places) for word in self._words]
            output = run(words, folder / "output.txt", lambda: request.progress(0.0))
            values, names = self._read(places, shlex.join(words), output)
        return self._numbered(values, {**names, **self._names}, known or {})

    def segment(self, request: Request) -> NoReturn:
        """Refuse: marks do not change what the program finds.

        Raises:
            CaseError: always, with what to do instead.
        """
        raise CaseError(
            "engine automatic: has nothing to add to its proposal, since it does not look at marks; choose "
            "another engine for corrections, such as classical"
        )

    def _read(
        self, places: Mapping[str, Path], command: str, output: str
    ) -> tuple[np.ndarray, dict[int, str]]:
        masks, one = places[FOLDER], places[FOLDER] / NAME
        if places[MASK].exists():
            return read_label_map(places[MASK], self._scan)
        # foldwise predict and nnU-Net name the label map like the scan.
        if one.exists():
            return read_label_map(one, self._scan)
        if any(masks.iterdir()):
            return read_masks(masks, self._scan)
        raise CaseError(f"`{command}` ended without an error, but wrote no mask{output}")

    def _numbered(
        self, values: np.ndarray, names: Mapping[int, str], known: Mapping[int, str]
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Values as numbers of objects."""
        numbers = {name.casefold(): number for number, name in known.items()}
        found = [value for value in np.unique(values).tolist() if value]
        if not found:
            raise CaseError("engine automatic: found nothing in this scan; mark the objects yourself")
        objects: dict[int, str] = {}
        table: dict[int, int] = {}
        for value in found:
            name = names.get(value) or f"label {value}"
            free = max([0, *numbers.values()]) + 1
            table[value] = numbers.setdefault(name.casefold(), free)
            objects[table[value]] = known.get(table[value], name)
        labels = np.zeros(values.shape, label_type(max(objects)))
        places = np.searchsorted([0, *found], values)
        labels[:] = np.array([0, *(table[value] for value in found)], labels.dtype)[places]
        return labels, objects


def run(words: Sequence[str], log: Path, progress: Callable[[], None]) -> str:
    """Run a program in a process group of its own, and return the end of its output, for a message.

    Args:
        words: the program and its arguments.
        log: file for its output.
        progress: called while it runs; an exception ends the program and all that it started.

    Raises:
        CaseError: it is missing, or fails.
    """
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise CaseError(f"{words[0]}: cannot be run ({error.strerror}); is it installed?") from error
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(TICK)
                    break
                progress()
        except BaseException:
            _end(process)
            raise
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST:]
    last = "".join(f"\n  {line}" for line in lines)
    if process.returncode:
        how = f"code {process.returncode}" if process.returncode > 0 else f"signal {-process.returncode}"
        raise CaseError(f"`{shlex.join(words)}` ended with {how}{last or ' and said nothing'}")
    return f"; it said:{last}" if last else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a program and all processes of its group."""
    for what in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, what)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def _filled(word: str, places: Mapping[str, Path]) -> str:
    for place, path in places.items():
        word = word.replace(place, str(path))
    return word


def _storable(image: np.ndarray) -> np.ndarray:
    """An image in a type of NIfTI that all programs read."""
    if image.dtype.kind == "b":
        return image.view(np.uint8)
    small = image.dtype.itemsize <= 2 or image.dtype in (np.int32, np.float32)
    return image if small and image.dtype != np.float16 else image.astype(np.float64)
