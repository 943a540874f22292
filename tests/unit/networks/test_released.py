"""Released weights under other names: OpenAI's CLIP archives, read as data, and EVL's checkpoints."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foldwise.files import CaseError
from foldwise.networks.clip import FrozenVision, ZeroShotCLIP
from foldwise.networks.evl import EVL
from foldwise.networks.evl_released import from_released
from foldwise.networks.openai_clip import read_openai_clip
from foldwise.networks.torchscript import read_torchscript
from foldwise.settings import Pretrained
from foldwise.training.pretrained import load_pretrained
from tiny_clip import HEADS, PATCH, SIZE, WIDTH, save_clip

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
EDGE, WORDS, LENGTH = 8, 20, 6
# Widths of both transformers; heads have 64 channels.
VISION, TEXT, JOINT = 128, 64, 10


class Gelu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A block under the names of OpenAI's code."""

    def __init__(self, width: int, mask: torch.Tensor | None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        layers = (
            ("c_fc", nn.Linear(width, 4 * width)),
            ("gelu", Gelu()),
            ("c_proj", nn.Linear(4 * width, width)),
        )
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.mask = mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.ln_1(x)
        x = x + self.attn(inner, inner, inner, need_weights=False, attn_mask=self.mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, depth: int, mask: torch.Tensor | None = None) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width, mask) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resblocks(x.transpose(0, 1)).transpose(0, 1)


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, VISION, EDGE // 2, EDGE // 2, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(VISION))
        self.positional_embedding = nn.Parameter(torch.randn(5, VISION))
        self.ln_pre, self.ln_post = nn.LayerNorm(VISION), nn.LayerNorm(VISION)
        self.transformer = Transformer(VISION, 2)
        self.proj = nn.Parameter(torch.randn(VISION, JOINT))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), patches], 1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class Clip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual = Visual()
        mask = torch.full((LENGTH, LENGTH), -math.inf).triu(1)
        self.transformer = Transformer(TEXT, 1, mask)
        self.token_embedding = nn.Embedding(WORDS, TEXT)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, TEXT))
        self.ln_final = nn.LayerNorm(TEXT)
        self.text_projection = nn.Parameter(torch.randn(TEXT, JOINT))
        self.logit_scale = nn.Parameter(torch.tensor(2.5))
        self.register_buffer("input_resolution", torch.tensor(EDGE))
        self.context_length = LENGTH

    def text(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.ln_final(self.transformer(self.token_embedding(tokens) + self.positional_embedding))
        return x[torch.arange(len(x)), tokens.argmax(1)] @ self.text_projection

    def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.visual(image), self.text(tokens)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Path]:
    """A network, and its archive in half precision, as OpenAI's are."""
    torch.manual_seed(0)
    network = Clip().eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_((weight + 0.05 * torch.randn(weight.shape)).half())
    traced = torch.jit.trace(
        network, (torch.randn(2, 3, EDGE, EDGE), torch.tensor([[18, 1, 2, 19, 0, 0]] * 2))
    )
    path = tmp_path_factory.mktemp("openai") / "ViT.pt"
    torch.jit.save(traced.half(), path)
    # It shares its weights with the trace; their values are exact in both precisions.
    return network.float(), path


def rewritten(source: Path, target: Path, change: dict[str, bytes]) -> Path:
    """An archive with other contents of some files."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change.get(name.partition("/")[2], old.read(name)))
    return target


class TestOpenAI:
    """Archives of TorchScript, whose code is not executed."""

    def test_same_outputs(self, archive: tuple[Clip, Path]) -> None:
        network, path = archive
        model = read_openai_clip(path).eval()
        image = torch.randn(3, 3, EDGE, EDGE)
        tokens = torch.tensor([[18, 3, 19, 0, 0, 0], [18, 4, 5, 6, 19, 0], [18, 9, 8, 7, 2, 19]])
        with torch.no_grad():
            images, texts = network(image, tokens)
            found = model.get_image_features(image).pooler_output
            torch.testing.assert_close(found, images, atol=1e-4, rtol=1e-4)
            found = model.get_text_features(tokens).pooler_output
            torch.testing.assert_close(found, texts, atol=1e-4, rtol=1e-4)
        assert torch.equal(model.logit_scale, network.logit_scale)
        assert {p.dtype for p in model.parameters()} == {torch.float32}

    def test_a_folder_of_transformers_with_these_weights_is_the_same(
        self, archive: tuple[Clip, Path], tmp_path: Path
    ) -> None:
        read_openai_clip(archive[1]).save_pretrained(tmp_path)
        vision = FrozenVision(archive[1], 2)
        assert torch.equal(FrozenVision(tmp_path, 2).digest, vision.digest)
        assert (vision.size, vision.grid, vision.width, vision.heads) == (EDGE, 2, VISION, 2)

    def test_all_numbers_of_an_archive(self, archive: tuple[Clip, Path]) -> None:
        network, path = archive
        found = read_torchscript(path)
        expected = network.state_dict()
        # The mask of the text transformer is an attribute of its blocks, not a weight.
        assert {name for name in found if not name.endswith("mask")} == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(found[name].float(), value.float(), rtol=0, atol=0)

    @pytest.mark.parametrize("attack", ["os.system", "builtins.exec", "in a module"])
    def test_a_malicious_pickle_is_not_executed(
        self, archive: tuple[Clip, Path], tmp_path: Path, attack: str
    ) -> None:
        mark = tmp_path / "executed"
        code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
        call = (
            b"cos\nsystem\n" + f"(S'touch {mark}'\ntR.".encode()
            if attack == "os.system"
            else b"cbuiltins\nexec\n(S" + repr(code).encode() + b"\ntR."
        )
        if attack == "in a module":
            call = b"c__torch__\nClip\n)\x81}S'visual'\n" + call[:-1] + b"sb."
        path = rewritten(archive[1], tmp_path / "bad.pt", {"data.pkl": b"\x80\x02" + call})
        with pytest.raises(CaseError, match=r"it refers to .*nothing in it was executed"):
            read_openai_clip(path)
        # The same bytes would act in an ordinary reader.
        if attack == "builtins.exec":
            pickle.loads(call)
            assert mark.exists()
        else:
            assert not mark.exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"data/0": b"12"}, "does not have"),
            ({"data.pkl": b"\x80\x02}."}, "the root is not a module"),
            ({"data.pkl": b"\x80\x02c__torch__\nClip\n)\x81}b."}, "it has no logit_scale"),
            ({"data.pkl": b"junk"}, "not readable as a TorchScript archive"),
        ],
    )
    def test_damaged(
        self, archive: tuple[Clip, Path], tmp_path: Path, change: dict[str, bytes], message: str
    ) -> None:
        with pytest.raises(CaseError, match=message):
            read_openai_clip(rewritten(archive[1], tmp_path / "bad.pt", change))

    def test_other_files(self, tmp_path: Path, archive: tuple[Clip, Path]) -> None:
        (tmp_path / "text.pt").write_text("no archive", encoding="utf-8")
        with pytest.raises(CaseError, match="not readable as a TorchScript archive"):
            read_openai_clip(tmp_path / "text.pt")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "linear.pt")
        with pytest.raises(CaseError, match="not a CLIP archive with a vision transformer"):
            read_openai_clip(tmp_path / "linear.pt")
        with pytest.raises(CaseError, match="ZeroShotCLIP needs CLIP's tokenizer"):
            ZeroShotCLIP(str(archive[1]), ["a sentence"])


FRAMES, GRID, LAYERS, KINETICS = 3, SIZE // PATCH, 2, 7


def released(seed: int) -> dict[str, torch.Tensor]:
    """Random weights with the names and shapes of a released decoder."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "decoder.cls_token": (WIDTH,),
        "proj.0.weight": (WIDTH,),
        "proj.0.bias": (WIDTH,),
        "proj.2.weight": (KINETICS, WIDTH),
        "proj.2.bias": (KINETICS,),
    }
    for number in range(LAYERS):
        layer = f"decoder.decoder_layers.{number}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{layer}attn.{name}.weight": (WIDTH, WIDTH), f"{layer}attn.{name}.bias": (WIDTH,)}
        for name in ("norm1", "norm2", "norm3"):
            shapes |= {f"{layer}{name}.weight": (WIDTH,), f"{layer}{name}.bias": (WIDTH,)}
        shapes |= {f"{layer}mlp.fc1.weight": (4 * WIDTH, WIDTH), f"{layer}mlp.fc1.bias": (4 * WIDTH,)}
        shapes |= {f"{layer}mlp.fc2.weight": (WIDTH, 4 * WIDTH), f"{layer}mlp.fc2.bias": (WIDTH,)}
        shapes |= {
            f"decoder.temporal_conv.{number}.weight": (WIDTH, 1, 3),
            f"decoder.temporal_conv.{number}.bias": (WIDTH,),
            f"decoder.temporal_pos_embed.{number}": (FRAMES, WIDTH),
            f"decoder.cross_attention.{number}.w1": ((2 * GRID - 1) ** 2, WIDTH),
            f"decoder.cross_attention.{number}.w2": ((2 * GRID - 1) ** 2, WIDTH),
        }
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def expected_logits(w: dict[str, torch.Tensor], vision: FrozenVision, clip: torch.Tensor) -> torch.Tensor:
    """The released network's answer to a clip (3, T, size, size), from its formulas."""
    tokens, attention = (part[0] for part in vision.features(clip[None]))
    x = w["decoder.cls_token"]
    for number in range(LAYERS):
        own = tokens[number]
        kernel = w[f"decoder.temporal_conv.{number}.weight"][:, 0]
        memory = own + w[f"decoder.temporal_conv.{number}.bias"]
        memory = memory + w[f"decoder.temporal_pos_embed.{number}"][:, None]
        memory[1:] += own[:-1] * kernel[:, 0]
        memory += own * kernel[:, 1]
        memory[:-1] += own[1:] * kernel[:, 2]
        for q in range(GRID**2):
            for k in range(GRID**2):
                # Offsets count from the key to the query.
                rows, columns = q // GRID - k // GRID + GRID - 1, q % GRID - k % GRID + GRID - 1
                for side, name in enumerate(("w1", "w2")):
                    vector = w[f"decoder.cross_attention.{number}.{name}"][rows * (2 * GRID - 1) + columns]
                    memory[:, 1 + q] += attention[number, side, :, q, k, None] * vector
        layer = {k: v for k, v in w.items() if k.startswith(f"decoder.decoder_layers.{number}.")}
        layer = {name.removeprefix(f"decoder.decoder_layers.{number}."): v for name, v in layer.items()}

        def norm(y: torch.Tensor, name: str, layer: dict[str, torch.Tensor] = layer) -> torch.Tensor:
            return nn.functional.layer_norm(y, (WIDTH,), layer[f"{name}.weight"], layer[f"{name}.bias"])

        def linear(y: torch.Tensor, name: str, layer: dict[str, torch.Tensor] = layer) -> torch.Tensor:
            return y @ layer[f"{name}.weight"].T + layer[f"{name}.bias"]

        seen = norm(memory.flatten(0, 1), "norm3")
        query, keys, values = (
            linear(norm(x, "norm1"), "attn.q_proj"),
            linear(seen, "attn.k_proj"),
            linear(seen, "attn.v_proj"),
        )
        depth = WIDTH // HEADS
        mixed = []
        for head in range(HEADS):
            part = slice(head * depth, (head + 1) * depth)
            mixed.append((keys[:, part] @ query[part] / math.sqrt(depth)).softmax(0) @ values[:, part])
        x = x + linear(torch.cat(mixed), "attn.out_proj")
        hidden = linear(norm(x, "norm2"), "mlp.fc1")
        x = x + linear(hidden * torch.sigmoid(1.702 * hidden), "mlp.fc2")
    x = nn.functional.layer_norm(x, (WIDTH,), w["proj.0.weight"], w["proj.0.bias"])
    return x @ w["proj.2.weight"].T + w["proj.2.bias"]


class TestReleasedEVL:
    """Checkpoints of the authors, by `pretrained`."""

    @staticmethod
    def checkpoint(path: Path, weights: dict[str, torch.Tensor]) -> Path:
        state: Any = {"model": {f"module.{name}": value for name, value in weights.items()}}
        torch.save({**state, "optimizer": {"state": {}}, "next_step": 50000}, path)
        return path

    def test_same_outputs(self, tmp_path: Path) -> None:
        folder = save_clip(tmp_path / "clip")
        weights = released(1)
        file = self.checkpoint(tmp_path / "evl.pth", weights)
        network = EVL(str(folder), KINETICS, FRAMES, blocks=LAYERS).eval()
        report = load_pretrained(network, Pretrained(file=file, minimum=0.99))
        # The backbone's hash is no weight.
        assert not report["other_shape"] + report["not_in_network"] + report["not_in_file"]
        clips = torch.randn(2, 3, FRAMES, SIZE, SIZE)
        with torch.no_grad():
            found = network(clips)
            for number in range(2):
                expected = expected_logits(weights, network._frozen[0], clips[number])
                torch.testing.assert_close(found[number], expected, atol=1e-4, rtol=1e-3)

    def test_other_classes_keep_their_own_head(self, tmp_path: Path) -> None:
        folder = save_clip(tmp_path / "clip")
        file = self.checkpoint(tmp_path / "evl.pth", released(1))
        network = EVL(str(folder), 3, FRAMES, blocks=LAYERS)
        head = network.state_dict()["head.2.weight"].clone()
        report = load_pretrained(network, Pretrained(file=file, minimum=0.9))
        assert sorted(report["other_shape"]) == ["head.2.bias", "head.2.weight"]
        assert torch.equal(network.state_dict()["head.2.weight"], head)
        torch.testing.assert_close(network.query.detach(), released(1)["decoder.cls_token"])
        # Another number of frames: only the positions of frames do not fit.
        longer = EVL(str(folder), KINETICS, FRAMES + 1, blocks=LAYERS)
        report = load_pretrained(longer, Pretrained(file=file, minimum=0.5))
        assert report["other_shape"] == ["temporal.0.position", "temporal.1.position"]

    def test_incomplete_or_unknown(self) -> None:
        weights = released(1)
        assert from_released({"trunk.weight": torch.ones(1)}).keys() == {"trunk.weight"}
        with pytest.raises(CaseError, match="has a weight that EVL does not have: backbone"):
            from_released({**weights, "backbone.cls_token": torch.ones(1)})
        del weights["decoder.temporal_conv.1.bias"]
        with pytest.raises(CaseError, match=r"lacks 'decoder\.temporal_conv\.1\.bias'"):
            from_released(weights)
