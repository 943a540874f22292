"""A CLIP of a few channels with random weights and its tokenizer, saved as by transformers."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

SIZE, PATCH, WIDTH, HEADS, BLOCKS = 32, 8, 16, 2, 3
START, END = "<|startoftext|>", "<|endoftext|>"


def save_clip(
    folder: Path,
    seed: int = 0,
    *,
    size: int = SIZE,
    patch: int = PATCH,
    width: int = WIDTH,
    blocks: int = BLOCKS,
) -> Path:
    """Write config, weights and tokenizer; by default 4×4 patches and three blocks."""
    letters = [*string.ascii_lowercase, *string.digits, ".", ",", "_"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), START, END]
    config = CLIPConfig(
        vision_config={
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": blocks,
            "num_attention_heads": HEADS,
            "image_size": size,
            "patch_size": patch,
        },
        text_config={
            "hidden_size": WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": HEADS,
            "vocab_size": len(words),
            "max_position_embeddings": 24,
            "bos_token_id": len(words) - 2,
            "eos_token_id": len(words) - 1,
            "pad_token_id": len(words) - 1,
        },
        projection_dim=8,
    )
    torch.manual_seed(seed)
    model = CLIPModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            # Larger than usual, so that outputs differ clearly between inputs.
            if weight.ndim > 1:
                weight.normal_(std=0.3)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(
        json.dumps({word: n for n, word in enumerate(words)}), encoding="utf-8"
    )
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}),
        encoding="utf-8",
    )
    return folder
