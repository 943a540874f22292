"""The file of a trained model: its weights, and what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from foldwise.files import CaseError
from foldwise.networks import first_line
from foldwise.training.pretrained import refuse_not_finite


class ModelFile(TypedDict):
    """The contents of a model's file; earlier versions wrote fewer keys.

    Attributes:
        network: the weights by name.
        settings: of the model, completed by values from its training cases.
        system: name of its system.
        task: what it predicts: classes or regions with their names and values, channels.
        package: package of the system, with its version.
        prepared: the sections that define how a case is prepared for it.
        beside: place in `prepared` of a path → hash of what was there during training (foldwise.beside).
        fingerprint: of its training.
        fold: number of its fold.
        learnt: marks of the cases that it was trained on, or whose scores chose its epoch (evaluate.marks).
        held_out: marks of the names of the cases that its fold held out.
        epoch: the epoch of the weights.
        score: of the validation cases in that epoch; NaN if it is undefined.
    """

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # type: ignore[misc]

    network: dict[str, torch.Tensor]
    settings: dict[str, Any]
    system: str
    task: dict[str, Any]
    package: NotRequired[str]
    prepared: NotRequired[dict[str, Any]]
    beside: NotRequired[dict[str, str]]
    fingerprint: NotRequired[str]
    fold: NotRequired[int]
    learnt: NotRequired[list[str]]
    held_out: NotRequired[list[str]]
    epoch: NotRequired[int]
    score: NotRequired[float]


_CONTENTS = TypeAdapter(ModelFile)


def read_model(path: Path) -> ModelFile:
    """Read a file that the train stage wrote; nothing in it is executed.

    Raises:
        CaseError: the model is missing, not one of Foldwise, or its weights are not finite.
    """
    try:
        state = _CONTENTS.validate_python(torch.load(path, map_location="cpu", weights_only=True))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        reason = f"{where}: {error.errors()[0]['msg']}"
        raise CaseError(f"{path}: not a model of Foldwise ({reason}); train it again") from None
    except Exception as error:  # torch raises many types for a file that is not its own
        raise CaseError(f"{path}: not a model of Foldwise ({first_line(error)}); train it again") from error
    refuse_not_finite(state["network"], path)
    return state
