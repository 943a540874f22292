"""Classes by name, from an allow-list of namespaces: networks, losses, optimisers and schedules."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import math
import os
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from foldwise.files import CaseError
from foldwise.settings import Named

# Weights are local files; transformers would else ask its hub about some of them, and wait.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

WEIGHTS = {"weight", "pos_weight", "class_weight"}
# Where a plain name is looked up, in this order. MONAI has names of torchvision's, for networks in 3-D.
NAMESPACES = {
    "network": ("monai.networks.nets", "torchvision.models", "foldwise.networks.efficientnet_lite"),
    "frame network": ("torchvision.models", "foldwise.networks.efficientnet_lite", "monai.networks.nets"),
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
KINDS = {"optimiser": torch.optim.Optimizer, "scheduler": torch.optim.lr_scheduler.LRScheduler}


def build(kind: str, named: Named, *positional: Any, **filled_in: Any) -> Any:
    """Make an object of a named class.

    Args:
        kind: a key of `NAMESPACES`.
        named: the class, with its library in front if wanted (`monai:resnet50`), and its arguments.
        positional: leading arguments.
        filled_in: arguments given where the class takes them and `named` does not set them.

    Raises:
        CaseError: an unknown name (the nearest known one is offered) or wrong arguments.
    """
    made = _find(kind, named)
    accepted = _parameters(made)
    arguments = {key: value for key, value in filled_in.items() if key in accepted} | named.arguments
    if kind == "loss":
        # Weights of classes; no loss takes them as a list.
        for key in WEIGHTS & arguments.keys():
            arguments[key] = torch.as_tensor(arguments[key], dtype=torch.float32)
    try:
        built = made(*positional, **arguments)
    except CaseError:
        raise
    except Exception as error:  # wrong arguments raise any kind
        raise CaseError(
            f"{kind} {named.name}: {first_line(error)}; its arguments: {', '.join(accepted)}"
        ) from error
    if not isinstance(built, KINDS.get(kind, nn.Module)):
        raise CaseError(f"{kind}: {named.name} is none, it makes a {type(built).__name__}")
    return built


def shapes_only(make: Callable[[], nn.Module]) -> nn.Module:
    """A network without numbers, on the meta device."""
    try:
        with torch.device("meta"):
            return make()
    except Exception as error:
        if not needs_numbers(error):
            raise
        # Some look at numbers while they are built, such as MONAI's SwinUNETR.
        return make().to("meta")


def needs_numbers(error: Exception) -> bool:
    """Whether a pass on shapes alone failed since some operation knows no such form."""
    return isinstance(error, NotImplementedError) or "meta tensor" in str(error)


def first_line(error: Exception) -> str:
    """What an error says, without the advice or the traceback that libraries add."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def ramp(*shape: int) -> torch.Tensor:
    """Outputs of a network to try a loss on, from −3 to 3, on the CPU."""
    return torch.linspace(-3, 3, math.prod(shape), device="cpu").reshape(shape).requires_grad_()


def try_loss(loss: nn.Module, outputs: torch.Tensor, wanted: torch.Tensor) -> None:
    """Refuse a loss that cannot be learnt from.

    Args:
        loss: as training uses it.
        outputs: a batch of a network's, from `ramp`.
        wanted: what they are compared with.

    Raises:
        CaseError: it does not take them, or gives no finite number with a gradient.
    """
    name = type(loss).__name__
    try:
        made = loss(outputs, wanted).sum()
        made.backward()
    except Exception as error:  # wrong shapes and arguments raise any kind
        raise CaseError(
            f"loss {name}: takes no outputs of shape {tuple(outputs.shape)} with a truth of shape "
            f"{tuple(wanted.shape)}: {first_line(error)}"
        ) from error
    if not math.isfinite(value := float(made.detach())):
        raise CaseError(f"loss {name}: is {value} for usual outputs")


def explicit(kind: str, named: Named) -> Named:
    """A named class with its library in front, where several have the name; a model file keeps it so."""
    library = _find(kind, named).__module__.split(".")[0]
    if ":" in named.name or len(_homes(kind, named.name)) < 2:
        return named
    return named.model_copy(update={"name": f"{library}:{named.name}"})


def as_recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model file, with MONAI in front of a frame network's name where MONAI has it.

    Files have the library there since torchvision is looked at first; without it, MONAI was.
    """
    network = settings.get("network") or {}
    frames = network.get("network")
    if not isinstance(frames, dict) or not _homes("frame network", f"monai:{frames['name']}"):
        return dict(settings)
    return {**settings, "network": {**network, "network": {**frames, "name": f"monai:{frames['name']}"}}}


def _find(kind: str, named: Named) -> Any:
    """The class or builder; of several of that name, the first that takes the arguments."""
    found = _homes(kind, named.name)
    if not found:
        prefix = named.name.rpartition(":")[0]
        spaces = _spaces(kind, prefix)
        if not spaces:
            libraries = ", ".join(f"{space.split('.')[0]}:" for space in _spaces(kind, ""))
            raise CaseError(f"{kind}: {named.name}: {prefix!r} is no library; known are {libraries} or none")
        known = [key for space in spaces for key in _public(space)]
        near = difflib.get_close_matches(named.plain, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise CaseError(f"{kind}: no {named.plain!r} in {' or '.join(spaces)}{hint}")
    return next((made for made in found if named.arguments.keys() <= {*_parameters(made)}), found[0])


def _homes(kind: str, name: str) -> list[Any]:
    """All of a kind that have a name, which may begin with the library to look in."""
    prefix, _, name = name.rpartition(":")
    return [known[name] for space in _spaces(kind, prefix) if name in (known := _public(space))]


def _spaces(kind: str, prefix: str) -> list[str]:
    return [space for space in NAMESPACES[kind] if space.split(".")[0] == prefix or not prefix]


@functools.cache
def _public(space: str) -> dict[str, Any]:
    """What may be named of a module: its own classes and builders."""
    module = importlib.import_module(space)
    members = {key: getattr(module, key) for key in dir(module) if not key.startswith("_")}
    own = (key for key, made in members.items() if getattr(made, "__module__", "").startswith(space))
    return {key: members[key] for key in own if callable(members[key])}


def _parameters(made: Any) -> list[str]:
    """Names of arguments, also of those that **kwargs hand on to a base class, or to the class returned."""
    names: list[str] = []
    while made is not None:
        parameters = inspect.signature(made).parameters.values()
        names += [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
        if inspect.isclass(made):
            made = made.__mro__[1]
        else:
            returned = typing.get_type_hints(made).get("return")
            made = returned if inspect.isclass(returned) else None
    return list(dict.fromkeys(names))
