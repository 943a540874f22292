"""The file of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from foldwise.files import CaseError
from foldwise.training.pretrained import refuse_not_finite


def read_model(path: Path) -> dict[str, Any]:
    """Read a file that the train stage wrote; nothing in it is executed.

    Raises:
        CaseError: the model is missing, not one of Foldwise, or its weights are not finite.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["network"], state["settings"], state["task"], state["system"]
    except Exception as error:
        raise CaseError(f"{path}: not a model of Foldwise ({error}); train it again") from error
    refuse_not_finite(state["network"], path)
    return dict(state)
