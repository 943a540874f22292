"""Frozen encoders of frames and clips, from transformers and torchvision, with weights from local files."""

from __future__ import annotations

from foldwise.files import CaseError
from foldwise.networks.encoder import Encoder
from foldwise.networks.encoders_torchvision import torchvision_encoder
from foldwise.networks.encoders_transformers import transformers_encoder
from foldwise.settings import Named

MAKERS = {"torchvision": torchvision_encoder, "transformers": transformers_encoder}


def load_encoder(named: Named) -> Encoder:
    """A frozen encoder with its weights.

    Args:
        named: `transformers:<class>` with `weights`, a folder saved by transformers or, for CLIPModel,
            OpenAI's archive; or `torchvision:<classifier>` with `weights`, a state dict in a file. Both take
            `size`, if the network allows several, and those of clips `frames`. For torchvision, further
            arguments are passed to the network.

    Raises:
        CaseError: an unknown name, no weights, weights of another network, or sizes that it cannot take.
    """
    library = named.name.rpartition(":")[0]
    if library not in MAKERS:
        raise CaseError(
            f"encoder {named.name}: write its library as prefix, {' or '.join(f'{one}:' for one in MAKERS)}"
        )
    if not named.arguments.get("weights"):
        raise CaseError(
            f"encoder {named.name}: set `weights` to a local file or folder; a frozen network without "
            "trained weights has no useful features"
        )
    return MAKERS[library](named)
