"""What the commands of all stages share: their settings argument, their log, and how they fail."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from foldwise.files import CaseError
from foldwise.systems import NAMES, part


def written(text: str) -> Path:
    """The type of an argument that names what a command writes: nothing that another argument names."""
    return Path(text)


class _Parser(argparse.ArgumentParser):
    """Refuses to write where it reads, or two things in one place."""

    def parse_args(self, *given: Any, **more: Any) -> Any:
        args = super().parse_args(*given, **more)
        named = [
            (
                action.option_strings[0] if action.option_strings else action.metavar,
                path,
                action.type is written,
            )
            for action in self._actions
            for path in _paths(getattr(args, action.dest, None))
        ]
        for number, (first, path, writes) in enumerate(named):
            for second, other, also in named[:number]:
                if (writes or also) and os.path.realpath(path) == os.path.realpath(other):
                    raise CaseError(f"{second} and {first} are both {path}; nothing was read or written")
        return args


def _paths(value: Any) -> Iterable[Path]:
    return [path for path in (value if isinstance(value, list) else [value]) if isinstance(path, Path)]


def parser(doc: str | None, section: type[BaseModel] | None = None) -> argparse.ArgumentParser:
    """A parser with a module's docstring as help and, for a section, `--settings` with its keys explained."""
    lines = []
    for key, field in section.model_fields.items() if section else ():
        default = "required" if field.is_required() else f"default {field.default!r}"
        lines.append(f"  {key}: {field.description} ({default})")
    made = _Parser(
        description=doc,
        epilog="keys of --settings:\n" + "\n".join(lines) if lines else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if section:
        made.add_argument("--settings", default="{}", help="YAML or JSON text, or the name of such a file")
    return made


def system_parser(doc: str | None, section: str) -> argparse.ArgumentParser:
    """A parser for a stage of every system: `--system`, and `--settings` with the keys of its section.

    Args:
        doc: the module's docstring.
        section: name of the section in the system's settings.
    """
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--system", default=NAMES[0], choices=NAMES, help="family of experiments")
    system = chosen.parse_known_args()[0].system
    made = parser(doc, getattr(part(system, "settings"), section))
    made.add_argument("--system", default=NAMES[0], choices=NAMES, help="family of experiments")
    return made


def run(main: Callable[[], int | None]) -> None:
    """Run a stage's main: log to standard error, and print a CaseError without its traceback."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    if job := os.environ.get("SLURM_JOB_ID"):
        # The report finds the jobs of an experiment by this line.
        logging.info("Slurm job %s on %s", job, os.uname().nodename)
    try:
        sys.exit(main() or 0)
    except CaseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
