"""Classes by name, from an allow-list of namespaces: networks, losses, optimisers and schedules."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
from typing import Any

import torch

from foldwise.files import CaseError
from foldwise.settings import Named

# Weights are local files; transformers would else ask its hub about some of them, and wait.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

WEIGHTS = {"weight", "pos_weight", "class_weight"}
# What builders that take **kwargs hand on to a class, by package.
HANDED_ON = {
    "torchvision": ("num_classes",),
    "monai": ("spatial_dims", "n_input_channels", "num_classes"),
}
NAMESPACES = {
    "network": ("monai.networks.nets", "torchvision.models", "foldwise.networks.efficientnet_lite"),
    "clip network": (
        "torchvision.models.video",
        "foldwise.networks.frames",
        "foldwise.networks.evl",
        "foldwise.networks.clip",
        "monai.networks.nets",
    ),
    "loss": ("monai.losses", "torch.nn"),
    "optimiser": ("torch.optim",),
    "scheduler": ("torch.optim.lr_scheduler",),
}


def build(kind: str, named: Named, *positional: Any, **filled_in: Any) -> Any:
    """Make an object of a named class.

    Args:
        kind: a key of `NAMESPACES`.
        named: the class and its arguments.
        positional: leading arguments.
        filled_in: arguments given where the class takes them and `named` does not set them.

    Raises:
        CaseError: an unknown name (the nearest known one is offered) or wrong arguments.
    """
    made = _find(kind, named.name)
    accepted = list(inspect.signature(made).parameters)
    if "kwargs" in accepted:
        accepted += HANDED_ON.get(made.__module__.split(".")[0], ())
    arguments = {key: value for key, value in filled_in.items() if key in accepted} | named.arguments
    if kind == "loss":
        # Weights of classes; no loss takes them as a list.
        for key in WEIGHTS & arguments.keys():
            arguments[key] = torch.as_tensor(arguments[key], dtype=torch.float32)
    try:
        return made(*positional, **arguments)
    except (TypeError, ValueError) as error:
        known = [name for name in accepted if name not in ("self", "args", "kwargs")]
        raise CaseError(f"{kind} {named.name}: {error}; its arguments: {', '.join(known)}") from error


def _find(kind: str, name: str) -> Any:
    known: list[str] = []
    for namespace in NAMESPACES[kind]:
        module = importlib.import_module(namespace)
        public = [key for key in dir(module) if not key.startswith("_") and callable(getattr(module, key))]
        if name in public:
            return getattr(module, name)
        known += public
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise CaseError(f"{kind}: no {name!r} in {' or '.join(NAMESPACES[kind])}{hint}")
