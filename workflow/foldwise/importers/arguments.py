"""What the commands of all importers share: their arguments, the files that they write, and `python -m`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from foldwise.command import refuse_twice
from foldwise.files import CaseError

Source = Annotated[Path, typer.Argument(help="Folder of the data; never changed.")]
Sheet = Annotated[Path, typer.Option(help="Sample sheet to write (.csv or .tsv).")]
Config = Annotated[Path | None, typer.Option(help="Experiment to write (default: next to the sheet).")]
ExperimentName = Annotated[str | None, typer.Option(help="Name of the experiment (default: the sheet's).")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files of an earlier import.")]
SkipBroken = Annotated[
    bool,
    typer.Option("--skip-broken", help="Cases that cannot be used give only a warning, not exit code 1."),
]
GroupRegex = Annotated[
    str | None, typer.Option(help="Regular expression; its first group, in a case's name, is the patient.")
]


@dataclass(frozen=True)
class Import:
    """What is imported, and where to: the arguments that all importers share.

    Attributes:
        source: folder or file of the data.
        sheet: to write.
        config: experiment to write; None: next to the sheet.
        name: of the experiment; None: the sheet's.
        force: whether files of an earlier import are overwritten.
        skip_broken: whether cases that cannot be used are no error.
    """

    source: Path
    sheet: Path
    config: Path | None = None
    name: str | None = None
    force: bool = False
    skip_broken: bool = False

    @property
    def experiment(self) -> Path:
        """File of the experiment to write."""
        return self.config or self.sheet.with_suffix(".yaml")

    def refuse_paths(
        self, writes: Sequence[tuple[str, Path]] = (), reads: Sequence[tuple[str, Path | None]] = ()
    ) -> None:
        """Refuse paths that cannot be used.

        Args:
            writes: option and path of what the importer writes, too.
            reads: the same of what it reads, too.

        Raises:
            CaseError: no such data, not the name of a sheet, one path for two purposes, or a file exists and
                `--force` is not given.
        """
        outputs = [("--sheet", self.sheet), ("--config", self.experiment), *writes]
        inputs = [("the source", self.source), *((flag, path) for flag, path in reads if path is not None)]
        refuse_twice([(*one, True) for one in outputs] + [(*one, False) for one in inputs])
        if not self.source.exists():
            raise CaseError(f"{self.source}: no such file or folder")
        if self.sheet.suffix not in (".csv", ".tsv"):
            raise CaseError(f"--sheet {self.sheet}: the name of a sheet must end in .csv or .tsv")
        there = [str(path) for _, path in outputs if path.exists()]
        if there and not self.force:
            raise CaseError(f"{', '.join(there)}: exists already; --force overwrites")


def app_of(function: Callable[..., None]) -> typer.Typer:
    """The command of an importer's function; its help is the docstring of the module."""
    app = typer.Typer(
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    doc = inspect.getdoc(inspect.getmodule(function)) or ""
    # Lines of examples stay lines, those of other paragraphs are joined.
    parts = [f"\b\n{part}" if part.startswith("  ") else " ".join(part.split()) for part in doc.split("\n\n")]
    app.command(help="\n\n".join(parts))(function)
    return app


def script(function: Callable[..., None]) -> Callable[[], int]:
    """A function that reads the command line, for `python -m` and `foldwise.command.run`."""

    def main() -> int:
        try:
            app_of(function)()
        except SystemExit as end:
            if end.code:
                raise
        return 0

    return main
