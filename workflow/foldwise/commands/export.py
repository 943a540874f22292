"""`foldwise export`: a trained model in one file, or in a form for other programs; a data set for nnU-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    source: Annotated[
        Path,
        typer.Argument(
            help="A model's folder in the results (results/<experiment>/<model>), a .foldwise file or a "
            "model.pt; with --nnunet an experiment (.yaml)."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="File (.foldwise) or folder to write.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write a folder that predicts without Foldwise and PyTorch.")
    ] = False,
    bundle: Annotated[bool, typer.Option("--bundle", help="Write a bundle for MONAI's tools.")] = False,
    nnunet: Annotated[
        bool, typer.Option("--nnunet", help="Write a raw data set for nnU-Net, from an experiment's sheet.")
    ] = False,
    fold: Annotated[
        list[int] | None,
        typer.Option(help="Only the model of this fold; may be repeated. Default: all."),
    ] = None,
    channel: Annotated[
        list[str] | None, typer.Option(help="With --nnunet: name of a channel; repeat it for each, in order.")
    ] = None,
) -> None:
    """Export a model as one file for `foldwise predict` or for other programs, or data for nnU-Net."""
    from foldwise.files import CaseError

    if onnx + bundle + nnunet > 1:
        raise CaseError("--onnx, --bundle and --nnunet: give one of them")
    if channel and not nnunet:
        raise CaseError("--channel: is for --nnunet alone")
    if nnunet:
        if fold:
            raise CaseError("--fold: is for models; --nnunet exports an experiment's data")
        _data(source, target, channel)
    elif onnx or bundle:
        _portable(source, target, fold or (), onnx)
    else:
        from foldwise.portable.packed import pack

        facts = pack(source, target, fold or ())
        size = target.stat().st_size / 2**20
        print(f"{target}: {len(facts.folds)} model(s) of {facts.system}, {size:.1f} MiB")


def _portable(source: Path, target: Path, folds: list[int] | tuple[()], onnx: bool) -> None:
    import tempfile

    from foldwise.evaluate import read_trained
    from foldwise.portable.packed import found

    with tempfile.TemporaryDirectory(prefix="foldwise-") as scratch:
        model = found(source, Path(scratch) / "model", folds)
        trained = read_trained(list(model.models))
        if onnx:
            from foldwise.portable.onnx import export_onnx

            export_onnx(trained, model.chosen, target)
        else:
            from foldwise.portable.bundle import export_bundle

            export_bundle(trained, model.chosen, target, model.name)
    print(f"{target}: {len(trained.networks)} network(s)")


def _data(source: Path, target: Path, channels: list[str] | None) -> None:
    from foldwise.experiment.configs import read_configs
    from foldwise.experiment.open import open_experiment
    from foldwise.portable.nnunet import export_nnunet

    for line in export_nnunet(open_experiment(read_configs([source]), main=False), target, channels):
        print(line)
