"""Tools and phases from windows of frame features: a linear tool branch, and an LSTM for the phase.

Jin et al., Multi-task recurrent convolutional network with correlation loss for surgical video analysis,
Medical Image Analysis 59, 101572 (2020).
"""

from __future__ import annotations

import torch
from torch import nn

from foldwise.files import CaseError


class MTRCNet(nn.Module):
    """The branches of the multi-task network; with one omitted, its single-task forms.

    Outputs are logits: `phase` (B, S, phases), `tool` (B, S, tools), and with a mapping `mapped` (B, S,
    tools), the tools that the phase branch's state implies.
    """

    def __init__(
        self, width: int, *, phases: int, tools: int, hidden: int = 512, mapping: bool = False
    ) -> None:
        """Build the branches.

        Args:
            width: features of a frame.
            phases: number of phases; 0 omits the branch.
            tools: number of tools; 0 omits the branch.
            hidden: width of the LSTM, and of the tool branch if there is a mapping.
            mapping: from the phase branch's state to tools, for the correlation loss.
        """
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, batch_first=True) if phases else None
        self.phase = nn.Linear(hidden, phases) if phases else None
        self.tool: nn.Module | None = None
        if tools:
            deep = [nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, tools)]
            self.tool = nn.Sequential(*deep) if mapping else nn.Linear(width, tools)
        self.mapping = nn.Linear(hidden, tools) if mapping else None
        self.apply(_xavier)

    def forward(self, features: torch.Tensor, step: int = 1) -> dict[str, torch.Tensor]:
        """Logits of windows of features (B, S, width).

        Args:
            features: of the frames, in order.
            step: of the training schedule. 1: the mapping gets no gradient, since no loss uses it; 2:
                only the mapping gets one; 3: the mapping is frozen, and its output is a fixed target.
        """
        logits = {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and step != 2):
            if self.tool is not None:
                logits["tool"] = self.tool(features)
            if self.lstm is None or self.phase is None:
                return logits
            state = self.lstm(features)[0]
            if self.mapping is not None:
                state = torch.relu(state)
            logits["phase"] = self.phase(state)
        if self.mapping is not None:
            mapped = self.mapping(state.detach())
            logits["mapped"] = mapped.detach() if step == 3 else mapped
        return logits


def take_head(network: nn.Module) -> tuple[nn.Module, int]:
    """A classifier without its last linear layer, and the number of features that it then returns.

    Raises:
        CaseError: it has no linear layer.
    """
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise CaseError(f"{type(network).__name__} does not end in a linear layer; use a classifier")
    last = network.get_submodule(layers[-1])
    assert isinstance(last, nn.Linear)
    parent, _, name = layers[-1].rpartition(".")
    setattr(network.get_submodule(parent), name, nn.Identity())
    return network, last.in_features


def _xavier(part: nn.Module) -> None:
    if isinstance(part, nn.Linear):
        nn.init.xavier_uniform_(part.weight)
        nn.init.zeros_(part.bias)
    elif isinstance(part, nn.LSTM):
        for name, value in part.named_parameters():
            if name.startswith("weight"):
                nn.init.xavier_normal_(value)
            else:
                nn.init.zeros_(value)
