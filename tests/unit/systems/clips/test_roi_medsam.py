"""MedSAM's checkpoints in transformers' classes, and MedSAM's conventions for images and boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SamModel

from foldwise.files import CaseError
from foldwise.networks.medsam import MedSAM, from_original, load_medsam
from sam_weights import original_shapes, tiny_weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the form of MedSAM's training."""
    path = tmp_path_factory.mktemp("medsam") / "medsam.pth"
    torch.save({"model": tiny_weights(), "epoch": 3}, path)
    return path


class TestConversion:
    """Layer by layer, from the original names."""

    def test_real_names_and_shapes(self) -> None:
        """All of medsam_vit_b's weights are used, and transformers' ViT-B has no others."""
        shapes = original_shapes()
        # Image encoder and mask decoder: the 93.73 million trained by MedSAM.
        trained = [torch.Size(s).numel() for n, s in shapes.items() if not n.startswith("prompt_encoder")]
        assert sum(trained) == 93_729_252
        model = from_original({name: torch.empty(s, device="meta") for name, s in shapes.items()})
        vision: Any = model.config.vision_config
        assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (768, 12, 12)
        assert (vision.image_size, vision.window_size, vision.global_attn_indexes) == (
            1024,
            14,
            [2, 5, 8, 11],
        )
        with torch.device("meta"):
            expected = SamModel(type(model.config)()).state_dict()
        assert {n: v.shape for n, v in model.state_dict().items()} == {
            n: v.shape for n, v in expected.items()
        }

    def test_computes_what_the_original_does(self) -> None:
        """Numbers from Meta's package segment-anything with the same weights, image and box."""
        model = from_original(tiny_weights()).eval()
        places = torch.arange(3 * 64 * 64, dtype=torch.float64)
        image = (0.5 + 0.5 * torch.sin(places * 0.37)).reshape(1, 3, 64, 64).float()
        with torch.no_grad():
            outputs = model(
                pixel_values=image,
                input_boxes=torch.tensor([[[10.0, 12.0, 50.0, 40.0]]]),
                multimask_output=False,
            )
        mask = outputs.pred_masks[0, 0, 0]
        assert mask.shape == (16, 16)
        np.testing.assert_allclose(mask[::5, ::5].numpy(), EXPECTED_MASK, rtol=0, atol=5e-6)
        assert float(outputs.iou_scores[0, 0, 0]) == pytest.approx(EXPECTED_SCORE, rel=1e-4)

    def test_file_of_training(self, checkpoint: Path) -> None:
        model = load_medsam(checkpoint)
        assert torch.equal(
            model.state_dict()["vision_encoder.layers.1.attn.qkv.weight"],
            tiny_weights()["image_encoder.blocks.1.attn.qkv.weight"],
        )

    def test_folder_of_transformers(self, checkpoint: Path, tmp_path: Path) -> None:
        load_medsam(checkpoint).save_pretrained(tmp_path)
        again = load_medsam(tmp_path)
        assert torch.equal(again.state_dict()["mask_decoder.iou_token.weight"],
                           tiny_weights()["mask_decoder.iou_token.weight"])  # fmt: skip
        again.mask_decoder.iou_token.weight.data[0, 0] = float("nan")
        again.save_pretrained(tmp_path)
        with pytest.raises(CaseError, match=r"contain NaN .*\(mask_decoder\.iou_token\.weight\)"):
            load_medsam(tmp_path)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("mask_decoder.iou_token.weight", None, "mask_decoder.iou_token.weight is missing"),
            ("image_encoder.pos_embed", None, "vision_encoder.pos_embed is missing"),
            ("image_encoder.extra", torch.zeros(1), "vision_encoder.extra does not belong to SAM"),
            ("mask_decoder.iou_token.weight", torch.zeros(1, 8), r"is \(1, 8\), expected \(1, 16\)"),
        ],
    )
    def test_other_weights(self, name: str, value: torch.Tensor | None, message: str) -> None:
        weights = tiny_weights()
        if value is None:
            del weights[name]
        else:
            weights[name] = value
        with pytest.raises(CaseError, match=message):
            from_original(weights, "x.pth")

    def test_nothing_is_executed(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.pth"
        torch.save({"model": Path("x")}, path)
        with pytest.raises(CaseError, match="not readable as plain weights"):
            load_medsam(path)

    def test_a_folder_of_another_network(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "sam2_video"}', encoding="utf-8")
        with pytest.raises(CaseError, match=r"of type 'sam2_video'; .*method: medsam needs SamModel"):
            load_medsam(tmp_path)
        (tmp_path / "config.json").unlink()
        with pytest.raises(CaseError, match="no folder with a model of transformers"):
            load_medsam(tmp_path)


class TestConventions:
    """Inputs and outputs of the network."""

    def test_pixels(self, checkpoint: Path) -> None:
        """The whole image, squeezed to a square, from 0 to 1; a flat one is 0."""
        network = MedSAM(load_medsam(checkpoint))
        row = np.linspace(40, 200, 256).round().astype(np.uint8)
        ramp = np.broadcast_to(row[None, :, None], (96, 256, 3))
        pixels = network.pixels(ramp).cpu()
        assert pixels.shape == (1, 3, 64, 64)
        assert (float(pixels.min()), float(pixels.max())) == (0, 1)
        torch.testing.assert_close(pixels[0, 0, 0], pixels[0, 2, 63], rtol=0, atol=1.1 / 160)
        # Column c of 64 covers columns 4c to 4c + 3 of 256.
        np.testing.assert_allclose(pixels[0, 0, 10], (np.arange(64) * 4 + 1.5) / 255, atol=0.01)
        assert not network.pixels(np.full((30, 90, 3), 7, np.uint8)).any()

    def test_box_and_mask_are_the_images(self, checkpoint: Path) -> None:
        """Boxes are scaled by 64/width and 64/height, and the mask is on the image's grid."""
        network = MedSAM(load_medsam(checkpoint))
        image = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)
        found = network(image, (12, 6, 60, 42))
        assert found.mask.shape == (48, 96)
        with torch.no_grad():
            outputs = network.model(
                pixel_values=network.pixels(image),
                input_boxes=torch.tensor([[[8.0, 8.0, 40.0, 56.0]]], device=network.device),
                multimask_output=False,
            )
        logits = torch.nn.functional.interpolate(
            outputs.pred_masks[:, 0].sigmoid(), (48, 96), mode="bilinear", align_corners=False
        )
        assert np.array_equal(found.mask, logits[0, 0].cpu().numpy() > 0.5)
        assert found.score == pytest.approx(float(outputs.iou_scores[0, 0, 0]))


EXPECTED_MASK = [
    [-0.0105943, -0.0117104, -0.0103758, -0.012458],
    [-0.0103722, -0.0099108, -0.0103526, -0.0085878],
    [-0.010643, -0.0123482, -0.0109375, -0.0114393],
    [-0.0099949, -0.0091563, -0.0100668, -0.009984],
]
EXPECTED_SCORE = -18.92076301574707
