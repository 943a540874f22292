"""Models of transformers from local folders; no code of a folder is executed, and no server is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils.logging import disable_progress_bar

from foldwise.files import CaseError, read_json
from foldwise.training.pretrained import refuse_not_finite

# One for each file of weights, in logs and beside the bars of a command.
disable_progress_bar()


def read_config(folder: Path) -> Any:
    """The configuration of a saved model.

    Raises:
        CaseError: the folder has none that the installed transformers knows.
    """
    if not (folder / "config.json").is_file():
        what = "no config.json in it" if folder.is_dir() else "no such folder"
        raise CaseError(f"{folder}: not a folder with a model of transformers ({what})")
    try:
        return transformers.AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # a wrong file raises any of several types
        raise CaseError(
            f"{folder}: not a folder with a model of transformers (config.json); {error}"
        ) from error


def refuse_other_type(folder: Path, asked: str, kind: Any) -> None:
    """Refuse a folder whose model is not of the class that is needed.

    Args:
        folder: with config.json.
        asked: what needs it, e.g. a setting.
        kind: the class of transformers.

    Raises:
        CaseError: another model, or none.
    """
    path = folder / "config.json"
    found = read_json(path).get("model_type") if path.is_file() else None
    if found != kind.config_class.model_type:
        what = f"a model of type {found!r}" if found else "no folder with a model of transformers"
        raise CaseError(f"{folder}: is {what}; {asked} needs {kind.__name__}")


def load_saved(kind: Any, folder: Path, unused: Sequence[str] = ()) -> Any:
    """A model with the weights of a folder, in float32.

    Args:
        kind: a class of transformers.
        folder: saved by transformers, with safetensors.
        unused: first parts of the names of weights that the folder may have in addition, e.g. `classifier`.

    Raises:
        CaseError: the weights cannot be read, are not finite, or are not exactly those of the class.
    """
    if not folder.is_dir():
        raise CaseError(f"{folder}: no such folder; the weights must be a folder saved by transformers")
    try:
        model, about = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            output_loading_info=True,
            use_safetensors=True,
            dtype=torch.float32,
        )
    except Exception as error:  # wrong files raise any of half a dozen types
        raise CaseError(f"{folder}: not readable as {kind.__name__} ({error})") from error
    if lost := sorted(about["missing_keys"]):
        raise CaseError(
            f"{folder}: is not a complete {kind.__name__}; {len(lost)} weights are missing, e.g. {lost[0]}"
        )
    if foreign := sorted(k for k in about["unexpected_keys"] if k.partition(".")[0] not in unused):
        raise CaseError(
            f"{folder}: is not a {kind.__name__}; it has {len(foreign)} weights that this class does not "
            f"have, e.g. {foreign[0]}"
        )
    refuse_not_finite(model.state_dict(), folder)
    return model


def weights_digest(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """SHA-256 of weights by name, as 32 uint8 numbers."""
    digest = hashlib.sha256()
    for name, value in weights.items():
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
