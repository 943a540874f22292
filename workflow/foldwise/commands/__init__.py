"""The command `foldwise`: what people type. Each module here reads the arguments of one or two commands.

The stages of the workflow are commands of their own (foldwise.command), which rules call.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from foldwise import __version__
from foldwise.commands.annotate import annotate
from foldwise.commands.doctor import doctor
from foldwise.commands.export import export
from foldwise.commands.importing import importing
from foldwise.commands.predict import predict
from foldwise.commands.run import PASSED_ON, demo, run
from foldwise.commands.scoring import score_phases
from foldwise.commands.status import status

app = typer.Typer(
    name="foldwise",
    help="Medical scans and videos in; cross-validated, tested, exported models out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"foldwise {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that come before a command."""


app.command(context_settings=PASSED_ON)(run)
app.command(context_settings=PASSED_ON)(demo)
app.add_typer(importing, name="import")
app.command()(predict)
app.command()(export)
app.command()(annotate)
app.command()(score_phases)
app.command()(doctor)
app.command()(status)


def main() -> None:
    """Run the command; what is wrong with its input is printed without a traceback."""
    try:
        from foldwise import command
    except ImportError as error:
        sys.exit(f"error: {error}; `python -m foldwise.doctor` says which packages are missing or broken")
    command.run(app)
