"""Classes by name, from an allow-list of namespaces: networks, losses, optimisers and schedules."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import math
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from foldwise.files import CaseError
from foldwise.settings import Named

# Weights are local files; otherwise transformers would ask its hub about some of them, and wait.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

WEIGHTS = {"weight", "pos_weight", "class_weight"}
# Where a plain name is looked up, in this order. MONAI uses some of torchvision's names for 3-D networks.
NAMESPACES = {
    "network": ("monai.networks.nets", "torchvision.models", "foldwise.networks.efficientnet_lite"),
    "frame network": ("torchvision.models", "foldwise.networks.efficientnet_lite", "monai.networks.nets"),
    "clip network": (
        "torchvision.models.video",
        "foldwise.networks.frames",
        "foldwise.networks.evl",
        "foldwise.networks.probe",
        "foldwise.networks.mil",
        "foldwise.networks.clip",
        "monai.networks.nets",
    ),
    "temporal network": (
        "foldwise.networks.tecno",
        "foldwise.networks.trans_svnet",
        "foldwise.networks.recurrent",
        "foldwise.networks.state_space",
    ),
    "loss": ("monai.losses", "torch.nn"),
    "optimiser": ("torch.optim",),
    "scheduler": ("torch.optim.lr_scheduler",),
}
KINDS = {"optimiser": torch.optim.Optimizer, "scheduler": torch.optim.lr_scheduler.LRScheduler}


def build(kind: str, named: Named, *positional: Any, **filled_in: Any) -> Any:
    """Create an object of a named class.

    Args:
        kind: a key of `NAMESPACES`.
        named: the class, optionally with its library as prefix (`monai:resnet50`), and its arguments.
        positional: leading arguments.
        filled_in: arguments passed if the class takes them and `named` does not set them.

    Raises:
        CaseError: an unknown name (the nearest known one is suggested) or wrong arguments.
    """
    builder = _find(kind, named)
    accepted = _parameters(builder)
    arguments = {key: value for key, value in filled_in.items() if key in accepted} | named.arguments
    if kind == "loss":
        # Weights of classes; no loss accepts them as a list.
        for key in WEIGHTS & arguments.keys():
            arguments[key] = torch.as_tensor(arguments[key], dtype=torch.float32)
    try:
        built = builder(*positional, **arguments)
    except CaseError:
        raise
    except Exception as error:  # wrong arguments raise any type
        raise CaseError(
            f"{kind} {named.name}: {first_line(error)}; its arguments: {', '.join(accepted)}"
        ) from error
    if not isinstance(built, KINDS.get(kind, nn.Module)):
        raise CaseError(f"{kind}: {named.name} is not one; it returns a {type(built).__name__}")
    return built


def build_head(kind: str, named: Named, features: Sequence[int], *positional: Any, **filled_in: Any) -> Any:
    """`build` for a network on features, which also refuses arguments that only fail in use.

    Args:
        kind: as in `build`.
        named: likewise.
        features: shape of a small batch of features.
        positional: as in `build`.
        filled_in: likewise.

    Raises:
        CaseError: as `build`; or the network cannot take the features.
    """
    for key, value in named.arguments.items():
        # All others are counts, some of which would fail silently.
        if key != "dropout" and isinstance(value, int) and value < 1:
            raise CaseError(f"{kind} {named.name}: {key}: expected 1 or more, not {value}")
    head = build(kind, named, *positional, **filled_in)
    try:
        with torch.no_grad():  # and no drop-out, so no random number is drawn
            head.eval()(torch.zeros(*features))
    except Exception as error:  # wrong shapes raise any type
        if not needs_numbers(error):
            given = ", ".join(f"{key}: {value}" for key, value in named.arguments.items()) or "no arguments"
            raise CaseError(f"{kind} {named.name}: fails in use with {given}: {first_line(error)}") from error
    return head.train()


def arguments_of(kind: str, named: Named) -> list[str]:
    """Names of the arguments that a named class takes.

    Raises:
        CaseError: an unknown name.
    """
    return _parameters(_find(kind, named))


def shapes_only(make: Callable[[], nn.Module]) -> nn.Module:
    """A network without values, on the meta device."""
    try:
        with torch.device("meta"):
            return make()
    except Exception as error:
        if not needs_numbers(error):
            raise
        # Some networks need values while they are built, such as MONAI's SwinUNETR.
        return make().to("meta")


def needs_numbers(error: Exception) -> bool:
    """Whether a pass on shapes alone failed because an operation does not support it."""
    return isinstance(error, NotImplementedError) or "meta tensor" in str(error)


def first_line(error: Exception) -> str:
    """An error's message, without the advice or the traceback that libraries add."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def ramp(*shape: int) -> torch.Tensor:
    """Network outputs from −3 to 3 on which to try a loss, on the CPU."""
    return torch.linspace(-3, 3, math.prod(shape), device="cpu").reshape(shape).requires_grad_()


def try_loss(loss: nn.Module, outputs: torch.Tensor, wanted: torch.Tensor) -> None:
    """Refuse a loss that cannot be used for training.

    Args:
        loss: loss as used in training.
        outputs: a batch of network outputs, from `ramp`.
        wanted: truth to compare them with.

    Raises:
        CaseError: it does not accept them, or does not return a finite number with a gradient.
    """
    name = type(loss).__name__
    try:
        loss_value = loss(outputs, wanted).sum()
        loss_value.backward()
    except Exception as error:  # wrong shapes and arguments raise any type
        raise CaseError(
            f"loss {name}: does not accept outputs of shape {tuple(outputs.shape)} with a truth of shape "
            f"{tuple(wanted.shape)}: {first_line(error)}"
        ) from error
    if not math.isfinite(value := float(loss_value.detach())):
        raise CaseError(f"loss {name}: is {value} for typical outputs")


def explicit(kind: str, named: Named) -> Named:
    """A named class with its library as prefix, if several have the name; model files store it this way."""
    library = _find(kind, named).__module__.split(".")[0]
    if ":" in named.name or len(_homes(kind, named.name)) < 2:
        return named
    return named.model_copy(update={"name": f"{library}:{named.name}"})


def as_recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a model file, with MONAI as prefix of a frame network's name if MONAI has it.

    Files have included the library since torchvision is searched first; before, it was MONAI.
    """
    network = settings.get("network") or {}
    frames = network.get("network")
    if not isinstance(frames, dict) or not _homes("frame network", f"monai:{frames['name']}"):
        return dict(settings)
    return {**settings, "network": {**network, "network": {**frames, "name": f"monai:{frames['name']}"}}}


def _find(kind: str, named: Named) -> Any:
    """The class or builder; of several with that name, the first that takes the arguments."""
    found = _homes(kind, named.name)
    if not found:
        prefix = named.name.rpartition(":")[0]
        spaces = _spaces(kind, prefix)
        if not spaces:
            libraries = ", ".join(f"{space.split('.')[0]}:" for space in _spaces(kind, ""))
            raise CaseError(
                f"{kind}: {named.name}: {prefix!r} is not a known library; use {libraries} or none"
            )
        known = [key for space in spaces for key in _public(space)]
        near = difflib.get_close_matches(named.plain, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise CaseError(f"{kind}: no {named.plain!r} in {' or '.join(spaces)}{hint}")
    return next((one for one in found if named.arguments.keys() <= {*_parameters(one)}), found[0])


def _homes(kind: str, name: str) -> list[Any]:
    """All builders of a kind with a given name, which may have its library as prefix."""
    prefix, _, name = name.rpartition(":")
    return [known[name] for space in _spaces(kind, prefix) if name in (known := _public(space))]


def _spaces(kind: str, prefix: str) -> list[str]:
    return [space for space in NAMESPACES[kind] if space.split(".")[0] == prefix or not prefix]


@functools.cache
def _public(space: str) -> dict[str, Any]:
    """Names usable from a module: its own classes and builders."""
    module = importlib.import_module(space)
    members = {key: getattr(module, key) for key in dir(module) if not key.startswith("_")}
    own = (key for key, member in members.items() if getattr(member, "__module__", "").startswith(space))
    return {key: members[key] for key in own if callable(members[key])}


def _parameters(callee: Any) -> list[str]:
    """Names of arguments, including those that **kwargs pass on to a base class, or to the returned class."""
    names: list[str] = []
    while callee is not None:
        parameters = inspect.signature(callee).parameters.values()
        names += [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            break
        if inspect.isclass(callee):
            callee = callee.__mro__[1]
        else:
            returned = typing.get_type_hints(callee).get("return")
            callee = returned if inspect.isclass(returned) else None
    return list(dict.fromkeys(names))
