"""`foldwise import`: known data sets to a sheet and an experiment; the commands are in foldwise.importers."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# Modules of foldwise.importers, with dashes.
FORMATS = ("bids", "brats", "cholec80", "cholect50", "clip-lists", "decathlon", "dicom", "unet3d-config")


class _Format(TyperCommand):
    """An importer, which is imported when it is called, since some libraries take seconds to load."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        from foldwise.importers.arguments import app_of

        module = importlib.import_module(f"foldwise.importers.{_module(str(self.name))}")
        command = typer.main.get_command(app_of(module.command))
        return command.make_context(info_name, args, parent, **extra)


class _Formats(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return list(FORMATS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in FORMATS:
            return None
        path = Path(__file__).parents[1] / "importers" / f"{_module(cmd_name)}.py"
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        return _Format(cmd_name, callback=None, help=doc.partition("\n")[0])


def _module(name: str) -> str:
    return name.replace("-", "_")


importing = typer.Typer(
    cls=_Formats,
    no_args_is_help=True,
    help="Import a data set in a known layout: write a sample sheet and a first experiment, and check both.",
)
