"""Random weights in place of those that must not be redistributed: run by `warm.Warm`.

`weights/` below the current folder receives an ImageNet ResNet-50 of real size, a CLIP of ViT-B/16's frames,
patches and blocks but a width of 32 instead of 768, and a MedSAM of 64 instead of 1024 pixels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torchvision

from sam_weights import tiny_weights
from tiny_clip import save_clip


def main() -> None:
    folder = Path("weights")
    folder.mkdir(exist_ok=True)
    if "resnet50" in sys.argv:
        torch.save(torchvision.models.resnet50().state_dict(), folder / "resnet50.pt")
    if "clip" in sys.argv:
        save_clip(folder / "clip-vit-base-patch16", size=224, patch=16, width=32, blocks=12)
    if "medsam" in sys.argv:
        torch.save({"model": tiny_weights()}, folder / "medsam_vit_b.pth")


if __name__ == "__main__":
    main()
