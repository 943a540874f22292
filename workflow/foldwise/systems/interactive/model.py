"""A trained interactive model from its file, and its engine on a prepared scan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from foldwise.device import chosen_device
from foldwise.files import CaseError, file_hash
from foldwise.settings import validate
from foldwise.systems.interactive.engines.memory import MemoryEngine
from foldwise.systems.interactive.network import InteractiveNetwork
from foldwise.systems.interactive.placement import Placement
from foldwise.systems.interactive.settings import Model
from foldwise.training.model_file import ModelFile, read_model
from foldwise.volumes.cache import lineage_of, open_case
from foldwise.volumes.geometry import Lineage
from foldwise.volumes.patches import normalise, scaling
from foldwise.volumes.targets import Targets


@dataclass(frozen=True)
class Trained:
    """A model of the interactive system.

    Attributes:
        network: in evaluation mode, on the available device.
        settings: of the model.
        targets: their names are the objects.
        state: contents of the file, including how scans are prepared.
        digest: hash of the file.
    """

    network: InteractiveNetwork
    settings: Model
    targets: Targets
    state: ModelFile
    digest: str


def build_network(settings: Model, channels: int) -> InteractiveNetwork:
    """The network of the settings, with random weights."""
    trunk = settings.trunk
    return InteractiveNetwork(
        trunk.name,
        channels,
        keys=trunk.keys,
        values=trunk.values,
        width=trunk.width,
        hint_width=trunk.hint_width,
    )


def read_trained(path: Path) -> Trained:
    """Read a model's file.

    Raises:
        CaseError: not a model of the interactive system, or its weights do not fit its trunk.
    """
    state = read_model(path)
    if state.get("system") != "interactive":
        raise CaseError(
            f"{path}: a model of the system {state.get('system')}; expected one of the interactive system"
        )
    settings = validate(Model, state["settings"], origin=str(path))
    network = build_network(settings, state["task"]["channels"])
    try:
        network.load_state_dict(state["network"])
    except RuntimeError as error:
        raise CaseError(
            f"{path}: its weights do not fit its trunk {settings.trunk.name} "
            f"({str(error).splitlines()[-1].strip()})"
        ) from None
    device = chosen_device()
    return Trained(
        network.to(device).eval(),
        settings,
        Targets.from_dict(state["task"]["targets"]),
        state,
        file_hash(path),
    )


@dataclass(frozen=True)
class Prepared:
    """A prepared scan.

    Attributes:
        image: (channels, x, y, z), normalised, in RAS.
        spacing: mm.
        lineage: the transformation back to the source.
    """

    image: torch.Tensor
    spacing: tuple[float, float, float]
    lineage: Lineage


def read_prepared(path: Path | str, settings: Model) -> Prepared:
    """Read a prepared scan."""
    with open_case(path) as file:
        image = normalise(torch.from_numpy(file["image"][()]), scaling(file, settings.intensity))
        x, y, z = (float(step) for step in file.attrs["spacing"])
        return Prepared(image, (x, y, z), lineage_of(file))


def engine_of(
    network: InteractiveNetwork, prepared: Prepared, settings: Model, placement: Placement | None = None
) -> MemoryEngine:
    """A model's engine on a prepared scan."""
    return MemoryEngine(
        network,
        prepared.image,
        prepared.spacing,
        size=settings.size,
        capacity=settings.memory.capacity,
        placement=placement,
    )
