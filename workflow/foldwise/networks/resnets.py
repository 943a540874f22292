"""torchvision's ResNets as trunks: any number of channels, the maps of every stride, local weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision
from torch import nn

from foldwise.files import CaseError
from foldwise.training.pretrained import read_weights

# torchvision's names of a ResNet's parts in a trunk.
OWN = ("conv1.", "bn1.", "layer")
RESNETS = ("resnet18", "resnet34", "resnet50")


class Trunk(nn.Module):
    """A ResNet (He et al. 2016, arXiv:1512.03385) up to one of its four stages.

    Parameters have torchvision's names, so that its weights fit.

    Attributes:
        channels: of the map of each stage.
    """

    def __init__(self, name: str, inputs: int, stages: int) -> None:
        """Build a trunk with random weights.

        Args:
            name: one of `RESNETS`.
            inputs: channels of the image.
            stages: 1 to 4; the last one's map has stride 4, 8, 16 or 32.
        """
        super().__init__()
        resnet = torchvision.models.get_model(name, weights=None)
        self.conv1 = nn.Conv2d(inputs, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1, self.relu, self.maxpool = resnet.bn1, resnet.relu, resnet.maxpool
        self.stages = stages
        for number in range(1, stages + 1):
            self.add_module(f"layer{number}", resnet.get_submodule(f"layer{number}"))
        self.channels = channels_of(name)[:stages]

    def forward(self, image: torch.Tensor, added: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Maps of all stages, finest first.

        Args:
            image: (batch, inputs, h, w).
            added: (batch, 64, h/2, w/2), added to the output of the first convolution.
        """
        here = self.conv1(image)
        if added is not None:
            here = here + added
        here = self.maxpool(self.relu(self.bn1(here)))
        maps = []
        for number in range(1, self.stages + 1):
            here = self.get_submodule(f"layer{number}")(here)
            maps.append(here)
        return maps


def channels_of(name: str) -> list[int]:
    """Channels of the four stages of a ResNet."""
    with torch.device("meta"):  # only a shape is asked for
        expansion = torchvision.models.get_model(name, weights=None).fc.in_features // 512
    return [expansion * width for width in (64, 128, 256, 512)]


def last_stage(name: str) -> nn.Module:
    """The fourth stage alone, with random weights: (batch, channels of the third, h, w) to half the size."""
    return torchvision.models.get_model(name, weights=None).get_submodule("layer4")


def load_trunk(module: nn.Module, path: Path, images: int, name: str) -> None:
    """Load a state dict of a torchvision ResNet into a trunk, or into a module that holds only `layer4`.

    The first convolution gets grey images: its colour filters are summed and distributed over the image's
    channels; further channels (hints) start at zero.

    Args:
        module: changed in place.
        path: a state dict; nothing in it is executed.
        images: number of first inputs that are image channels.
        name: name of the ResNet, for the message.

    Raises:
        CaseError: the file is not readable, or belongs to another ResNet.
    """
    found = read_weights(path)
    own = module.state_dict()
    for key, value in own.items():
        if key.endswith("num_batches_tracked") or not key.startswith(OWN):
            continue
        given = found.get(key)
        if key == "conv1.weight" and given is not None and given.shape[2:] == value.shape[2:]:
            filters = torch.zeros_like(value)
            filters[:, :images] = given.sum(1, keepdim=True) / images
            given = filters
        if given is None or given.shape != value.shape:
            shape = "missing" if given is None else f"of shape {tuple(given.shape)}"
            raise CaseError(
                f"{path}: not the weights of {name}: {key} is {shape}, expected {tuple(value.shape)}; "
                f"give the weights of this trunk, or name the trunk of these weights"
            )
        own[key] = given
    module.load_state_dict(own)
