"""`foldwise predict`: new cases by a trained model."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer


def predict(
    model: Annotated[
        Path,
        typer.Argument(
            help="A .foldwise file, a model's folder in the results (results/<experiment>/<model>), or the "
            "model.pt of one fold."
        ),
    ],
    source: Annotated[
        Path, typer.Argument(help="A folder of scans, videos or clips, a single one, or a sample sheet.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write; your own files in it stay.")],
    export: Annotated[
        str, typer.Option(help="Settings of the section `export`, as YAML, e.g. '{probabilities: true}'.")
    ] = "{}",
    images_fps: Annotated[
        float | None,
        typer.Option(
            help="Images per second of videos that are folders of numbered images; default: as in training."
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "gpu", "cpu"],
        typer.Option(help="What to compute on; auto: a free GPU, if there is one."),
    ] = "auto",
) -> None:
    """Predict new cases with a trained model: label maps or scores, measurements.csv, and manifest.json.

    The models of all folds are averaged. A case that fails does not affect the others. After an interruption,
    the same command continues where it stopped.
    """
    from foldwise.command import Output
    from foldwise.files import CaseError, write_json
    from foldwise.portable.packed import found
    from foldwise.published import refuse_among
    from foldwise.sampling import gpu_job
    from foldwise.settings import parse_values, validate
    from foldwise.stages import predict as stage
    from foldwise.stages.publish import publish
    from foldwise.store import Store
    from foldwise.systems import system_of
    from foldwise.training.model_file import read_model

    if not source.exists():
        raise CaseError(f"{source}: no such file or folder; expected cases, or a sample sheet")
    unfinished = out / ".unfinished"
    with ExitStack() as refused:
        if not unfinished.exists():
            refused.callback(shutil.rmtree, unfinished, ignore_errors=True)
        trained = found(model, unfinished / "model")
        state = read_model(trained.models[0])
        system = system_of(state["system"])
        section = system.section("export")
        defaults = {"measurements": True} if "measurements" in section.model_fields else {}
        given = parse_values(export, "--export")
        given = {**defaults, **given} if isinstance(given, dict) else given
        settings = validate(section, given, origin="--export")
        prepared = {**state.get("prepared", {}), "images_fps": images_fps}
        new = system.new_cases(source, state["task"], prepared)
        refuse_among(out, new.entries)
        refused.pop_all()
    for line in new.lines:
        logging.info("%s", line)
    choice, facts = unfinished / "choice.json", unfinished / "predicted.json"
    predictions, index = unfinished / "predictions", unfinished / "index.pkl"
    write_json(choice, {"chosen": dict(trained.chosen)})
    with gpu_job(1, take=True, device=device), _bar():
        stage.predict(
            system=system,
            models=list(trained.models),
            source=source,
            images_fps=images_fps,
            state=Store(unfinished / "state"),
            published=out,
            predictions=Output(predictions),
            index=Output(index),
            facts=Output(facts),
        )
    publish(
        system=system,
        settings=settings,
        source=source,
        predictions=predictions,
        index=index,
        predicted=facts,
        choice=choice,
        folder=Output(out),
        facts=Output(out / "manifest.json"),
    )
    shutil.rmtree(unfinished)
    print(out / "manifest.json")


@contextmanager
def _bar() -> Iterator[None]:
    """Show in a terminal how many cases are done, and how much of the present one."""
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from foldwise.progress import listening

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        logger, tasks = logging.getLogger(), {}
        before, logger.handlers = logger.handlers, [RichHandler(console=console, show_path=False)]

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        try:
            with listening(show):
                yield
        finally:
            logger.handlers = before
