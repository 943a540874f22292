"""The contents of a trained model's file, as JSON: a separate command, run by `warm.Warm`.

Its arguments are the file and the fold. The network is built again as in training, with the same random
weights; so differences from the file are changes by training.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from foldwise.settings import validate
from foldwise.systems import system_of
from foldwise.training.model_file import read_model
from foldwise.training.pretrained import load_pretrained
from foldwise.training.steps import step_seed


def main() -> None:
    path, fold = Path(sys.argv[1]), int(sys.argv[2])
    model = read_model(path)
    settings = validate(system_of(model["system"]).model, model["settings"])
    torch.manual_seed(step_seed((0, fold), 0))
    network = system_of(model["system"]).learner(settings, model["task"]).network()
    if settings.pretrained:
        load_pretrained(network, settings.pretrained)
    after = model["network"]
    parts = {"": network, **dict(network.named_children())}
    changed = {
        name: not torch.equal(value, after[name])
        for name, value in network.named_parameters()
        if value.requires_grad
    }
    facts = {
        "finite": all(value.isfinite().all().item() for value in after.values() if value.is_floating_point()),
        "parts": {
            name: {
                "class": f"{type(module).__module__}.{type(module).__qualname__}",
                "weights": sum(value.numel() for value in module.parameters()),
                "tensors": sum(key.startswith(name) for key in changed),
                "changed": sum(value for key, value in changed.items() if key.startswith(name)),
            }
            for name, module in parts.items()
        },
    }
    network.load_state_dict(after)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
