"""The command `foldwise score-phases` as a module: python -m foldwise.metrics.phases."""

from __future__ import annotations

import typer

from foldwise import command
from foldwise.commands.scoring import score_phases

if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(score_phases)
    command.run(app)
