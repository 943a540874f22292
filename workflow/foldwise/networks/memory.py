"""The space-time memory network: masks of slices already seen are read to segment the next one.

Oh et al. 2019 (arXiv:1904.00607), with the quality head of Zhou et al. 2021 (arXiv:2106.10686). Axes: B
batch, K objects, C channels, T memorised slices, H × W pixels of the input, h × w positions at stride 16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from foldwise.networks.resnets import Trunk, channels_of, last_stage

STRIDE = 16
# Probabilities are kept this far from 0 and 1 before taking their logarithm.
MARGIN = 1e-7


class MemoryNetwork(nn.Module):
    """Memory encoder, query encoder, reading, decoder and quality head."""

    def __init__(self, trunk: str, channels: int, keys: int, values: int, width: int) -> None:
        """Build a network with random weights.

        Args:
            trunk: name of a ResNet.
            channels: of the image.
            keys: channels of a key.
            values: channels of a value.
            width: channels of the decoder.
        """
        super().__init__()
        self.keys, self.values = keys, values
        self.memory_trunk = Trunk(trunk, channels, stages=3)
        self.mask_conv = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.rest_conv = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.query_trunk = Trunk(trunk, channels, stages=3)
        coarse = self.query_trunk.channels[-1]
        self.memory_key = nn.Conv2d(coarse, keys, 3, padding=1)
        self.memory_value = nn.Conv2d(coarse, values, 3, padding=1)
        self.query_key = nn.Conv2d(coarse, keys, 3, padding=1)
        self.query_value = nn.Conv2d(coarse, values, 3, padding=1)
        self.decoder = Decoder(2 * values, self.query_trunk.channels[:2], width)
        self.quality_head = QualityHead(trunk, coarse)

    def memorise(self, image: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys (B, K, C, 1, h, w) and values (B, K, C, 1, h, w) of slices with their masks.

        Args:
            image: (B, C, H, W).
            masks: (B, K, H, W), 0 to 1.
        """
        batch, objects = masks.shape[:2]
        mask = masks.flatten(0, 1)[:, None]
        image = image.repeat_interleave(objects, 0)
        coarse = self.memory_trunk(image, self.mask_conv(mask) + self.rest_conv(1 - mask))[-1]
        shape = (batch, objects)
        key = self.memory_key(coarse).unflatten(0, shape)
        return key[:, :, :, None], self.memory_value(coarse).unflatten(0, shape)[:, :, :, None]

    def encode(self, image: torch.Tensor) -> Query:
        """A slice's query to the memory, and the maps for its decoder: independent of all masks."""
        fine, middle, coarse = self.query_trunk(image)
        return Query(self.query_key(coarse), self.query_value(coarse), coarse, middle, fine)

    def segment(self, query: Query, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, H, W) of each object separately.

        Args:
            query: of B slices.
            keys: (B, K, C, T, h, w).
            values: (B, K, C, T, h, w).
        """
        batch, objects = keys.shape[:2]
        height, width = query.key.shape[2:]
        asked = query.key.flatten(2).transpose(1, 2)[:, None].expand(-1, objects, -1, -1)
        # (B, K, positions, C): soft-max over all memorised positions of key · query / √C.
        read = F.scaled_dot_product_attention(
            asked, keys.flatten(3).transpose(2, 3), values.flatten(3).transpose(2, 3)
        )
        read = read.transpose(2, 3).unflatten(3, (height, width)).flatten(0, 1)
        own = query.value.repeat_interleave(objects, 0)
        fine, middle = (part.repeat_interleave(objects, 0) for part in (query.fine, query.middle))
        logits: torch.Tensor = self.decoder(torch.cat([read, own], 1), middle, fine)
        return logits.unflatten(0, (batch, objects))

    def quality(self, query: Query, probabilities: torch.Tensor) -> torch.Tensor:
        """Logits (B, K) of the IoU expected of aggregated probabilities (B, K + 1, H, W)."""
        logits: torch.Tensor = self.quality_head(query.coarse, probabilities)
        return logits


class Query:
    """A slice's key, value and maps of strides 16, 8 and 4; the first axis of each is the batch."""

    def __init__(self, *parts: torch.Tensor) -> None:
        self.parts = parts
        self.key, self.value, self.coarse, self.middle, self.fine = parts

    def __getitem__(self, which: slice) -> Query:
        """Some slices of the batch."""
        return Query(*(part[which] for part in self.parts))


class ResidualBlock(nn.Module):
    """ReLU, convolution, ReLU, convolution, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, here: torch.Tensor) -> torch.Tensor:
        """(batch, width, h, w) to the same shape."""
        return here + self.second(F.relu(self.first(F.relu(here))))


class Refine(nn.Module):
    """A finer map of the trunk joined to the coarser one of the decoder."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(channels, width, 3, padding=1)
        self.before, self.after = ResidualBlock(width), ResidualBlock(width)

    def forward(self, finer: torch.Tensor, coarser: torch.Tensor) -> torch.Tensor:
        """(batch, channels, 2h, 2w) and (batch, width, h, w) to (batch, width, 2h, 2w)."""
        up = F.interpolate(coarser, finer.shape[2:], mode="bilinear", align_corners=False)
        refined: torch.Tensor = self.after(self.before(self.lateral(finer)) + up)
        return refined


class Decoder(nn.Module):
    """Atrous pyramid, then two refinements: from stride 16 to logits at stride 1."""

    def __init__(self, channels: int, finer: list[int], width: int) -> None:
        super().__init__()
        self.pyramid = ASPP(channels, [2, 4, 8], width)
        self.block = ResidualBlock(width)
        self.refine8, self.refine4 = Refine(finer[1], width), Refine(finer[0], width)
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, coarse: torch.Tensor, middle: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        """Maps of strides 16, 8 and 4 to logits (batch, H, W)."""
        here = self.block(self.pyramid(coarse))
        here = self.refine4(fine, self.refine8(middle, here))
        logits = self.head(F.relu(here))
        return F.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)[:, 0]


class QualityHead(nn.Module):
    """From a slice's appearance and its segmentation to the expected IoU of the segmentation."""

    def __init__(self, trunk: str, channels: int) -> None:
        super().__init__()
        self.join = nn.Conv2d(channels + 2, channels, 3, padding=1)
        self.layer4 = last_stage(trunk)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(channels_of(trunk)[3], 1000)
        self.head = nn.Linear(1000, 1)
        # The first masks are all wrong: zeros here keep the previous units from being driven to zero for
        # good.
        nn.init.zeros_(self.head.weight)

    def forward(self, coarse: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, h, w) and probabilities (B, K + 1, H, W), background first, to logits (B, K)."""
        objects = probabilities.shape[1] - 1
        best = probabilities.argmax(1, keepdim=True)
        numbers = torch.arange(1, objects + 1, device=best.device)[None, :, None, None]
        sure = probabilities.amax(1, keepdim=True).expand(-1, objects, -1, -1)
        seen = torch.stack([(best == numbers).to(coarse), sure], 2)
        seen = F.interpolate(seen.flatten(0, 1), coarse.shape[2:], mode="bilinear", antialias=True)
        here = self.join(torch.cat([coarse.repeat_interleave(objects, 0), seen], 1))
        pooled = self.pool(self.layer4(here)).flatten(1)
        logits: torch.Tensor = self.head(F.relu(self.hidden(pooled)))
        return logits[:, 0].unflatten(0, (-1, objects))


def aggregate(logits: torch.Tensor) -> torch.Tensor:
    """Soft aggregation of separately segmented objects: logits (B, K + 1, H, W), background first.

    With p the objects' probabilities, the background's is Π(1 − p); the soft-max of all these logits is the
    segmentation (Oh et al. 2019, §3.4).

    Args:
        logits: (B, K, H, W) of each object separately.
    """
    apart = logits.float().sigmoid()
    nothing = (1 - apart).prod(1, keepdim=True)
    return torch.cat([nothing, apart], 1).clamp(MARGIN, 1 - MARGIN).logit()
