"""Frozen encoders against the libraries' own networks, tiny or with few frames, with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.video.mvit import MSBlockConfig

from foldwise.files import CaseError
from foldwise.networks import encoders_torchvision
from foldwise.networks.encoder import Encoder
from foldwise.networks.encoders import load_encoder
from foldwise.networks.encoders_torchvision import _encode
from foldwise.settings import Named, validate
from tiny_encoders import CLIPS, FRAMES, SAVED, TINY, save


def load(name: str, weights: Path | str | None, **arguments: Any) -> Encoder:
    return load_encoder(validate(Named, {"name": name, "weights": str(weights or ""), **arguments}))


class TestTransformers:
    """Folders saved by transformers."""

    @pytest.mark.parametrize("kind", SAVED)
    def test_same_outputs(self, kind: str, tmp_path: Path) -> None:
        model = save(kind, tmp_path)
        encoder = load(f"transformers:{kind}", tmp_path)
        size = 64 if "ConvNext" in kind else 32
        shape = (2, 3, 4, size, size) if kind in CLIPS else (2, 3, size, size)
        assert (encoder.size, encoder.frames) == (size, 4 if kind in CLIPS else None)
        x = torch.randn(shape)
        with torch.no_grad():
            if kind == "VJEPA2Model":
                out = model(pixel_values_videos=x.transpose(1, 2))
            else:
                out = model(pixel_values=x.transpose(1, 2) if kind in CLIPS else x)
        tokens, pooled = encoder(x)
        expected = out.last_hidden_state[:, SAVED[kind][1] :]
        assert tokens.shape == (2, encoder.steps, encoder.grid[0] * encoder.grid[1], encoder.width)
        torch.testing.assert_close(tokens.flatten(1, 2), expected)
        torch.testing.assert_close(pooled, expected.mean(1) if kind in CLIPS else out.pooler_output)
        assert not tokens.requires_grad
        assert encoder.digest.shape == (32,)

    @pytest.mark.parametrize("kind", ["CLIPModel", "SiglipModel"])
    def test_the_image_part_of_a_pair(self, kind: str, tmp_path: Path) -> None:
        cls = getattr(transformers, kind)
        text = {**TINY, "vocab_size": 30, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1}
        model = cls(cls.config_class(vision_config=FRAMES, text_config=text)).eval()
        model.save_pretrained(tmp_path)
        x = torch.randn(2, 3, 32, 32)
        with torch.no_grad():
            expected = model.vision_model(x).pooler_output
        torch.testing.assert_close(load(f"transformers:{kind}", tmp_path)(x).pooled, expected)

    def test_preprocessing_of_the_folder(self, tmp_path: Path) -> None:
        save("Dinov2Model", tmp_path)
        encoder = load("transformers:Dinov2Model", tmp_path)
        assert (encoder.mean, encoder.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        described = {
            "image_mean": [0.1, 0.2, 0.3],
            "image_std": [1, 2, 3],
            "crop_size": {"height": 48, "width": 48},
        }
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(described), encoding="utf-8")
        encoder = load("transformers:Dinov2Model", tmp_path)
        assert (encoder.mean, encoder.std, encoder.size) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0), 48)
        assert encoder(torch.zeros(1, 3, 48, 48)).tokens.shape == (1, 1, 36, 24)
        assert load("transformers:Dinov2Model", tmp_path, size=64).grid == (8, 8)
        described = {"rescale_factor": 1 / 127.5}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(described), encoding="utf-8")
        with pytest.raises(CaseError, match="pixels must be divided by 255"):
            load("transformers:Dinov2Model", tmp_path)

    def test_other_numbers_of_frames(self, tmp_path: Path) -> None:
        save("VJEPA2Model", tmp_path / "vjepa")
        encoder = load("transformers:VJEPA2Model", tmp_path / "vjepa", frames=8)
        assert encoder(torch.zeros(1, 3, 8, 32, 32)).tokens.shape == (1, 4, 16, 24)
        with pytest.raises(CaseError, match="takes a multiple of 2 frames, not 5"):
            load("transformers:VJEPA2Model", tmp_path / "vjepa", frames=5)
        save("VideoMAEModel", tmp_path / "mae")
        with pytest.raises(CaseError, match="takes exactly 4 frames, not 8"):
            load("transformers:VideoMAEModel", tmp_path / "mae", frames=8)

    def test_weights_of_a_task_are_left_out(self, tmp_path: Path) -> None:
        arguments = {**SAVED["VideoMAEModel"][0], "decoder_hidden_size": 12, "decoder_num_attention_heads": 2}
        arguments |= {"decoder_intermediate_size": 16, "decoder_num_hidden_layers": 1}
        model = transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**arguments)).eval()
        model.save_pretrained(tmp_path)
        x = torch.randn(1, 3, 4, 32, 32)
        with torch.no_grad():
            expected = model.videomae(x.transpose(1, 2)).last_hidden_state
        found = load("transformers:VideoMAEModel", tmp_path)(x).tokens
        torch.testing.assert_close(found.flatten(1, 2), expected)

    def test_half_precision_is_widened(self, tmp_path: Path) -> None:
        save("Dinov2Model", tmp_path).half().save_pretrained(tmp_path)
        assert (
            load("transformers:Dinov2Model", tmp_path)(torch.zeros(1, 3, 32, 32)).pooled.dtype
            == torch.float32
        )

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            ("transformers:CLIPVisionModel", {}, "says 'dinov2', .*set transformers:Dinov2Model"),
            ("transformers:Dinov2Modell", {}, "did you mean Dinov2Model"),
            ("transformers:Siglip2VisionModel", {}, "not one of .*SiglipVisionModel"),
            ("transformers:AutoModel", {}, "not one of"),
            ("transformers:Dinov2Model", {"size": 33}, "take frames of a multiple of 8 pixels, not 33"),
            ("transformers:Dinov2Model", {"trust_remote_code": True}, "does not take `trust_remote_code`"),
            ("timm:vit", {}, "write its library as prefix, torchvision: or transformers:"),
            ("Dinov2Model", {}, "write its library as prefix"),
        ],
    )
    def test_refused(self, name: str, arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
        save("Dinov2Model", tmp_path)
        with pytest.raises(CaseError, match=message):
            load(name, tmp_path, **arguments)

    def test_wrong_weights(self, tmp_path: Path) -> None:
        model = save("CLIPVisionModel", tmp_path)
        with pytest.raises(CaseError, match="take frames of 32 pixels, not 40"):
            load("transformers:CLIPVisionModel", tmp_path, size=40)
        file, state = tmp_path / "model.safetensors", model.state_dict()
        save_file({**state, "other.weight": torch.ones(2)}, file, {"format": "pt"})
        with pytest.raises(CaseError, match=r"has 1 weights that .* not have, e\.g\. other\.weight"):
            load("transformers:CLIPVisionModel", tmp_path)
        first, *others = sorted(state)
        save_file({name: state[name] for name in others}, file, {"format": "pt"})
        with pytest.raises(CaseError, match=f"1 weights are missing, e.g. .*{first}"):
            load("transformers:CLIPVisionModel", tmp_path)
        save_file({**state, first: state[first] * torch.nan}, file, {"format": "pt"})
        with pytest.raises(CaseError, match="contain NaN"):
            load("transformers:CLIPVisionModel", tmp_path)
        file.unlink()
        torch.save(state, tmp_path / "pytorch_model.bin")
        with pytest.raises(CaseError, match="not readable as CLIPVisionModel"):
            load("transformers:CLIPVisionModel", tmp_path)

    def test_inputs_of_another_shape(self, tmp_path: Path) -> None:
        save("CLIPVisionModel", tmp_path)
        encoder = load("transformers:CLIPVisionModel", tmp_path)
        for shape in ((1, 3, 32, 40), (1, 3, 4, 32, 32), (1, 1, 32, 32)):
            with pytest.raises(CaseError, match=r"takes frames of 3×32×32 \(channels first\), not "):
                encoder(torch.zeros(shape))


# The input, and T', tokens of a step and width; of networks that are small enough to be loaded from a file.
NETWORKS: dict[str, tuple[tuple[int, ...], tuple[int, int, int]]] = {
    "resnet18": ((64, 64), (1, 4, 512)),
    "efficientnet_b0": ((64, 64), (1, 4, 1280)),
    "regnet_y_400mf": ((64, 64), (1, 4, 440)),
    "r3d_18": ((8, 32, 32), (1, 4, 512)),
    "s3d": ((16, 224, 224), (2, 49, 1024)),
}
swin: dict[str, Any] = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]}
# The others' classes, with few channels and layers.
CLASSES: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...], tuple[int, int, int]]] = {
    "ConvNeXt": (
        lambda: models.ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)]),
        (32, 32),
        (1, 16, 16),
    ),
    "SwinTransformer": (
        lambda: models.SwinTransformer(patch_size=[4, 4], window_size=[4, 4], **swin),
        (32, 32),
        (1, 16, 16),
    ),
    "VisionTransformer": (lambda: models.VisionTransformer(32, 8, 2, 2, 12, 16), (32, 32), (1, 16, 12)),
    "SwinTransformer3d": (
        lambda: models.video.SwinTransformer3d(
            patch_size=[2, 4, 4],
            window_size=[2, 4, 4],
            **swin,
        ),
        (4, 32, 32),
        (2, 16, 16),
    ),
    "MViT": (
        lambda: models.video.MViT(
            (32, 32),
            4,
            [MSBlockConfig(2, 96, 96, [3] * 3, [3] * 3, [1] * 3, [1] * 3)] * 2,
            False,
            True,
            False,
            False,
        ),
        (4, 32, 32),
        (2, 64, 96),
    ),
}


def last_layer(model: torch.nn.Module) -> Any:
    return [part for part in model.modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv3d)][-1]


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights."""
    path = tmp_path_factory.mktemp("resnet") / "resnet18.pth"
    torch.save(models.resnet18(weights=None).state_dict(), path)
    return path


class TestTorchvision:
    """State dicts of torchvision's classifiers."""

    @pytest.mark.parametrize("name", NETWORKS)
    def test_tokens_and_the_vector_before_the_last_layer(self, name: str, tmp_path: Path) -> None:
        edges, (steps, count, width) = NETWORKS[name]
        torch.manual_seed(0)
        # A file with other classes: the last layer is not used.
        model = models.get_model(name, weights=None, num_classes=5).eval()
        torch.save(model.state_dict(), tmp_path / "weights.pth")
        frames = {"frames": edges[0]} if len(edges) == 3 else {}
        encoder = load(f"torchvision:{name}", tmp_path / "weights.pth", size=edges[-1], **frames)
        assert encoder.frames == (edges[0] if frames else None)
        assert (encoder.steps, encoder.grid, encoder.width) == (steps, (count**0.5,) * 2, width)
        x = torch.randn(1, 3, *edges)
        tokens, pooled = encoder(x)
        last = last_layer(model)
        with torch.no_grad():
            torch.testing.assert_close(pooled @ last.weight.flatten(1).T + last.bias, model(x))
        if name != "s3d":  # whose pooling has windows that overlap
            torch.testing.assert_close(tokens.mean((1, 2)), pooled, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("name", CLASSES)
    def test_other_classes(self, name: str) -> None:
        make, edges, shape = CLASSES[name]
        torch.manual_seed(0)
        model: Any = make().eval()
        x = torch.randn(2, 3, *edges)
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(0.2 * torch.randn(weight.shape))
            tokens, pooled = _encode(edges[0] if len(edges) == 3 else None, model, x)
            assert tokens.shape == (2, *shape)
            torch.testing.assert_close(last_layer(model)(pooled), model(x))
            if name.startswith("Swin"):
                torch.testing.assert_close(tokens.mean((1, 2)), pooled)
            if name == "ConvNeXt":
                normalised = torch.nn.functional.layer_norm(
                    tokens.mean((1, 2)), (16,), model.classifier[0].weight, model.classifier[0].bias, 1e-6
                )
                torch.testing.assert_close(normalised, pooled)
            if name == "VisionTransformer":
                embedded = torch.cat([model.class_token.expand(2, -1, -1), model._process_input(x)], 1)
                torch.testing.assert_close(tokens[:, 0], model.encoder(embedded)[:, 1:])

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("convnext_tiny", (224, None, 1, (7, 7), 768)),
            ("swin_t", (224, None, 1, (7, 7), 768)),
            ("resnet50", (224, None, 1, (7, 7), 2048)),
            ("vit_b_16", (224, None, 1, (14, 14), 768)),
            ("r2plus1d_18", (112, 16, 2, (7, 7), 512)),
            ("swin3d_t", (224, 16, 8, (7, 7), 768)),
            ("mvit_v2_s", (224, 16, 8, (7, 7), 768)),
            ("s3d", (224, 16, 2, (7, 7), 1024)),
        ],
    )
    def test_sizes(self, name: str, found: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        """Of the library's networks, without their weights."""
        digest = torch.zeros(32, dtype=torch.uint8)
        monkeypatch.setattr(encoders_torchvision, "_load", lambda model, path, name: digest)
        with torch.device("meta"):
            encoder = load(f"torchvision:{name}", "weights.pth")
        assert (encoder.size, encoder.frames, encoder.steps, encoder.grid, encoder.width) == found

    def test_places_of_tokens(self, resnet18: Path) -> None:
        """Rows, then columns: what is in an input's lower left changes the tokens there."""
        encoder = load("torchvision:resnet18", resnet18)
        x = torch.zeros(2, 3, 224, 224)
        x[1, :, 200:, :24] = 5
        tokens = encoder(x).tokens[:, 0]
        row, column = divmod(int((tokens[1] - tokens[0]).norm(dim=1).argmax()), 7)
        assert row == 6
        assert column < 2
        assert (encoder.mean, encoder.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

    def test_the_digest_is_that_of_what_is_used(self, tmp_path: Path) -> None:
        model = models.get_model("regnet_y_400mf", weights=None)
        digests = []
        for name in ("", "fc.bias", "stem.1.bias"):
            state = {key: value + (key == name) for key, value in model.state_dict().items()}
            save_file(state, tmp_path / "w.safetensors")
            encoder = load("torchvision:regnet_y_400mf", tmp_path / "w.safetensors", size=32)
            digests.append(encoder.digest.tolist())
        assert digests[0] == digests[1] != digests[2]

    @pytest.mark.parametrize(
        ("name", "arguments", "message"),
        [
            ("torchvision:resnt18", {}, "did you mean resnet18"),
            ("torchvision:fcn_resnet50", {}, "no classifier in torchvision.models"),
            ("torchvision:vgg11", {}, "a VGG is not supported, only ResNet"),
            ("torchvision:resnet18", {"wide": 3}, "'wide'"),
            ("torchvision:vit_b_32", {"size": 100}, "cannot take inputs of 3×100×100"),
            (
                "torchvision:mvit_v2_s",
                {"frames": 8},
                "cannot take inputs of 3×8×224×224 .*set `size` or `frames`",
            ),
            ("torchvision:resnet34", {}, "not weights of torchvision:resnet34; the file lacks 80"),
            ("torchvision:r3d_18", {}, "not weights of torchvision:r3d_18"),
        ],
    )
    def test_refused(self, name: str, arguments: dict[str, Any], message: str, resnet18: Path) -> None:
        with pytest.raises(CaseError, match=message):
            load(name, resnet18, **arguments)

    def test_no_weights(self) -> None:
        with pytest.raises(CaseError, match="set `weights` to a local file or folder"):
            load("torchvision:resnet18", None)
