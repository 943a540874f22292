"""EVL on a frozen CLIP against its formulas written as loops, and the zero-shot baseline."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPModel, CLIPTokenizer

from foldwise.files import CaseError
from foldwise.networks.clip import FrozenVision, ZeroShotCLIP
from foldwise.networks.evl import EVL, DecoderLayer, TemporalTerms
from foldwise.networks.frames import FrameAverage
from tiny_clip import BLOCKS, HEADS, PATCH, SIZE, WIDTH, save_clip

FRAMES, GRID = 3, SIZE // PATCH
PATCHES = GRID**2
SENTENCES = ["This is the first figure.", "This is the second figure.", "This is a third one."]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return torch.randn(2, 3, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def randomised(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, without zero weights."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))
    return network.eval()


class TestFeatures:
    """The features of the frozen transformer."""

    def test_tokens_are_the_last_blocks_outputs(self, weights: Path, clips: torch.Tensor) -> None:
        features = FrozenVision(weights, 2).features(clips)
        model = CLIPModel.from_pretrained(weights).vision_model.eval()
        assert features.tokens.shape == (2, 2, FRAMES, 1 + PATCHES, WIDTH)
        for frame in range(FRAMES):
            with torch.no_grad():
                hidden = model(clips[:, :, frame], output_hidden_states=True).hidden_states
            for block in range(2):
                expected = hidden[BLOCKS - 2 + block + 1]
                torch.testing.assert_close(features.tokens[:, block, frame], expected)

    def test_attention_between_neighbours(self, weights: Path, clips: torch.Tensor) -> None:
        features = FrozenVision(weights, 1).features(clips)
        model = CLIPModel.from_pretrained(weights).vision_model.eval()
        layer = model.encoder.layers[-1]
        depth = WIDTH // HEADS
        with torch.no_grad():
            queries, keys = [], []
            for frame in range(FRAMES):
                before = model(clips[:, :, frame], output_hidden_states=True).hidden_states[-2]
                normed = layer.layer_norm1(before)
                queries.append(layer.self_attn.q_proj(normed))
                keys.append(layer.self_attn.k_proj(normed))
        for frame, (side, neighbour) in ((1, (0, 0)), (1, (1, 2)), (2, (0, 1)), (0, (1, 1))):
            expected = torch.zeros(2, PATCHES, PATCHES)
            for head in range(HEADS):
                part = slice(head * depth, (head + 1) * depth)
                for q in range(PATCHES):
                    scores = (queries[frame][:, 1 + q, None, part] * keys[neighbour][:, 1:, part]).sum(-1)
                    expected[:, q] += (scores / math.sqrt(depth)).softmax(-1) / HEADS
            torch.testing.assert_close(features.attention[:, 0, side, frame], expected)
        assert not features.attention[:, 0, 0, 0].any()
        assert not features.attention[:, 0, 1, FRAMES - 1].any()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda folder: shutil.rmtree(folder),
                r"not a folder with a model of transformers \(no such folder\)$",
            ),
            (lambda folder: (folder / "model.safetensors").unlink(), "not readable as CLIPModel"),
            (
                lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99),
                "not readable as CLIPModel",
            ),
        ],
    )
    def test_wrong_folder(self, tmp_path: Path, change: object, message: str) -> None:
        folder = save_clip(tmp_path / "clip")
        change(folder)  # type: ignore[operator]
        with pytest.raises(CaseError, match=message):
            FrozenVision(folder, 1)

    def test_weights_that_are_not_finite(self, weights: Path, tmp_path: Path) -> None:
        model = CLIPModel.from_pretrained(weights)
        model.visual_projection.weight.data[0, 0] = float("nan")
        model.save_pretrained(tmp_path)
        with pytest.raises(CaseError, match=r"contain NaN .*\(visual_projection\.weight\)"):
            FrozenVision(tmp_path, 1)

    def test_too_many_blocks(self, weights: Path) -> None:
        with pytest.raises(CaseError, match="has 3 blocks, but 4 are required"):
            FrozenVision(weights, 4)

    def test_clips_of_another_size(self, weights: Path) -> None:
        with pytest.raises(CaseError, match="48×48, these CLIP weights need 32×32"):
            FrozenVision(weights, 1).features(torch.zeros(1, 3, 2, 48, 48))


class TestTemporalTerms:
    """Temporal convolution, positions, and attention weighted by relative offset, as explicit loops."""

    def test_against_loops(self) -> None:
        grid, frames, width = 2, 3, 5
        terms = randomised(TemporalTerms(width, frames, grid))
        assert isinstance(terms, TemporalTerms)
        generator = torch.Generator().manual_seed(3)
        tokens = torch.randn(2, frames, 1 + grid**2, width, generator=generator)
        attention = torch.rand(2, 2, frames, grid**2, grid**2, generator=generator)
        kernel, bias = terms.convolution.weight[:, 0], terms.convolution.bias
        assert bias is not None
        expected = tokens.clone()
        for t in range(frames):
            for tap in (-1, 0, 1):
                if 0 <= t + tap < frames:
                    expected[:, t] += tokens[:, t + tap] * kernel[:, tap + 1]
            expected[:, t] += bias + terms.position[t]
            for q in range(grid**2):
                for k in range(grid**2):
                    rows, columns = k // grid - q // grid, k % grid - q % grid
                    place = (rows + grid - 1) * (2 * grid - 1) + columns + grid - 1
                    for side in (0, 1):
                        weight = attention[:, side, t, q, k, None]
                        expected[:, t, 1 + q] += weight * terms.offsets[side, place]
        torch.testing.assert_close(terms(tokens, attention), expected)

    def test_begin_without_effect(self) -> None:
        tokens = torch.randn(1, 4, 10, 6)
        enriched = TemporalTerms(6, 4, 3)(tokens, torch.rand(1, 2, 4, 9, 9))
        torch.testing.assert_close(enriched, tokens)


class TestEVL:
    """The decoder on the frozen backbone."""

    def test_stored_features_give_the_same(self, weights: Path, clips: torch.Tensor) -> None:
        network = randomised(EVL(str(weights), 3, FRAMES, blocks=2))
        assert isinstance(network, EVL)
        with torch.no_grad():
            direct = network(clips)
            features = network.features(clips)
            torch.testing.assert_close(network(*features), direct)
            rounded = network(*(part.half() for part in features))
        assert direct.shape == (2, 3)
        assert not torch.allclose(direct[0], direct[1], atol=1e-3)
        torch.testing.assert_close(rounded, direct, atol=0.02, rtol=0.02)

    def test_sees_the_order_of_frames(self, weights: Path, clips: torch.Tensor) -> None:
        network = randomised(EVL(str(weights), 3, FRAMES, blocks=2))
        with torch.no_grad():
            assert not torch.allclose(network(clips), network(clips.flip(2)), atol=1e-3)

    def test_trains_the_decoder_alone(self, weights: Path, clips: torch.Tensor) -> None:
        network = EVL(str(weights), 3, FRAMES, blocks=2)
        width = WIDTH
        assert isinstance(network.layers[0], DecoderLayer)
        assert network.layers[0].attention.num_heads == HEADS
        mlp = 2 * (4 * width * width) + 5 * width
        layer = 4 * width * width + 4 * width + mlp + 6 * width
        terms = 3 * width + width + FRAMES * width + 2 * (2 * GRID - 1) ** 2 * width
        head = 2 * width + 3 * width + 3
        assert sum(p.numel() for p in network.parameters()) == 2 * (layer + terms) + width + head
        before = FrozenVision(weights, 2).digest
        loss = network(clips).square().sum()
        loss.backward()
        assert all(p.grad is not None for p in network.parameters())
        assert torch.equal(network._frozen[0].digest, before)

    def test_knows_its_backbone(self, weights: Path, tmp_path: Path) -> None:
        state = EVL(str(weights), 3, FRAMES, blocks=2).state_dict()
        assert not any("encoder" in name for name in state)
        EVL(str(weights), 3, FRAMES, blocks=2).load_state_dict(state)
        other = EVL(str(save_clip(tmp_path / "other", seed=1)), 3, FRAMES, blocks=2)
        with pytest.raises(CaseError, match="trained on CLIP weights other"):
            other.load_state_dict(state)

    def test_other_number_of_frames(self, weights: Path, clips: torch.Tensor) -> None:
        with pytest.raises(CaseError, match="clips have 3 frames, but the network was built for 4"):
            EVL(str(weights), 3, 4, blocks=2)(clips)


class TestZeroShot:
    """Classes by their sentences."""

    def test_cosines_of_sentences_and_frames(self, weights: Path, clips: torch.Tensor) -> None:
        network = ZeroShotCLIP(str(weights), SENTENCES)
        model = CLIPModel.from_pretrained(weights).eval()
        tokenizer = CLIPTokenizer.from_pretrained(weights)
        with torch.no_grad():
            for number, sentence in enumerate(SENTENCES):
                text = model.get_text_features(**tokenizer([sentence], return_tensors="pt")).pooler_output[0]
                for clip in range(2):
                    frames = model.get_image_features(clips[clip].transpose(0, 1)).pooler_output
                    mean = sum(frame / frame.norm() for frame in frames) / FRAMES
                    cosine = torch.nn.functional.cosine_similarity(mean, text, dim=0)
                    expected = model.logit_scale.exp() * cosine
                    torch.testing.assert_close(network(clips)[clip, number], expected, rtol=1e-4, atol=1e-4)

    def test_training_keeps_the_ranking(self, weights: Path, clips: torch.Tensor) -> None:
        network = ZeroShotCLIP(str(weights), SENTENCES)
        assert [name for name, _ in network.named_parameters()] == ["log_scale"]
        before = network(clips).argsort(1)
        optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(3):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(clips), torch.tensor([0, 2])).backward()
            optimiser.step()
        assert torch.equal(network(clips).argsort(1), before)

    def test_a_sentence_that_would_be_cut(self, weights: Path) -> None:
        # The tokens of this tokenizer are letters; a beginning and an end are added.
        ZeroShotCLIP(str(weights), ["a" * 22, "b"])
        with pytest.raises(CaseError, match=f"'{'a' * 23}' has 25 tokens, but this CLIP reads 24"):
            ZeroShotCLIP(str(weights), ["b", "a" * 23])

    def test_no_sentences(self, weights: Path) -> None:
        with pytest.raises(CaseError, match="a sentence per class"):
            ZeroShotCLIP(str(weights), [])


def test_frame_average_is_the_mean_of_frames() -> None:
    network = FrameAverage({"name": "resnet18"}, 4).eval()
    clip = torch.randn(1, 3, 2, 32, 32)
    with torch.no_grad():
        expected = (network.frame(clip[:, :, 0]) + network.frame(clip[:, :, 1])) / 2
        torch.testing.assert_close(network(clip), expected)
    assert expected.shape == (1, 4)
    with pytest.raises(CaseError, match="needs `network"):
        FrameAverage({}, 3)


class Trap:
    """Executes code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def test_nothing_in_a_folder_is_executed(tmp_path: Path) -> None:
    folder = save_clip(tmp_path / "clip")
    (folder / "model.safetensors").unlink()
    torch.save({"weights": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(CaseError, match="not readable as CLIPModel"):
        FrozenVision(folder, 1)
    # Code in the folder, which transformers would run for users who trust it.
    (folder / "trap.py").write_text("raise SystemExit('executed')", encoding="utf-8")
    config = {"model_type": "trap", "auto_map": {"AutoConfig": "trap.Config"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CaseError, match="not a folder with a model of transformers"):
        FrozenVision(folder, 1)


class TestPooled:
    """Squares of patches read as one."""

    def test_means_of_tokens_and_sums_of_attention(self, weights: Path, clips: torch.Tensor) -> None:
        whole, pooled = FrozenVision(weights, 2).features(clips), FrozenVision(weights, 2, 2).features(clips)
        torch.testing.assert_close(pooled.tokens[..., 0, :], whole.tokens[..., 0, :])
        squares = [
            [row * GRID + column for row in (top, top + 1) for column in (left, left + 1)]
            for top in range(0, GRID, 2)
            for left in range(0, GRID, 2)
        ]
        for number, patches in enumerate(squares):
            own = whole.tokens[..., [1 + patch for patch in patches], :].mean(-2)
            torch.testing.assert_close(pooled.tokens[..., 1 + number, :], own)
            for other, seen in enumerate(squares):
                share = whole.attention[..., patches, :][..., seen].sum(-1).mean(-1)
                torch.testing.assert_close(pooled.attention[..., number, other], share)

    def test_without_attention_the_decoder_leaves_its_term_out(
        self, weights: Path, clips: torch.Tensor
    ) -> None:
        bare, whole = (
            EVL(str(weights), 2, FRAMES, blocks=2, dropout=0, attention=used) for used in (False, True)
        )
        missing, unexpected = whole.load_state_dict(randomised(bare).state_dict(), strict=False)
        assert (missing, unexpected) == (["temporal.0.offsets", "temporal.1.offsets"], [])
        randomised(whole.temporal)
        for own, other in zip(bare.temporal, whole.temporal, strict=True):
            own.load_state_dict(other.state_dict(), strict=False)
        features = whole.eval().features(clips)
        nothing = torch.zeros_like(features.attention)
        torch.testing.assert_close(bare(clips), whole(features.tokens, nothing))
        assert not torch.allclose(bare(clips), whole(clips))

    def test_a_grid_that_it_does_not_divide(self, weights: Path) -> None:
        with pytest.raises(CaseError, match="pool: 3 does not divide its grid of 4×4 patches"):
            FrozenVision(weights, 2, 3)
