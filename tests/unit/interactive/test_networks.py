"""The networks and losses of the interactive system, against independent formulas."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from foldwise.files import CaseError
from foldwise.networks.hints import HintNetwork
from foldwise.networks.memory import MemoryNetwork, aggregate
from foldwise.networks.resnets import Trunk, channels_of, load_trunk
from foldwise.systems.interactive.losses import cross_entropy, lovasz_softmax, pyramid_loss, soft_iou
from foldwise.systems.interactive.network import InteractiveNetwork, Mode, propagation_loss


def memory_network(trunk: str = "resnet18", channels: int = 1) -> MemoryNetwork:
    torch.manual_seed(0)
    return MemoryNetwork(trunk, channels, keys=4, values=6, width=8).eval()


@pytest.mark.parametrize(("trunk", "channels"), [("resnet18", 1), ("resnet50", 2)])
@pytest.mark.parametrize("size", [32, 48])
def test_shapes_at_any_size_on_any_trunk(trunk: str, channels: int, size: int) -> None:
    network = memory_network(trunk, channels)
    image, masks = torch.rand(2, channels, size, size), torch.rand(2, 3, size, size)
    keys, values = network.memorise(image, masks)
    assert keys.shape == (2, 3, 4, 1, size // 16, size // 16)
    assert values.shape == (2, 3, 6, 1, size // 16, size // 16)
    query = network.encode(image)
    logits = network.segment(query, keys, values)
    assert logits.shape == (2, 3, size, size)
    probabilities = aggregate(logits).softmax(1)
    assert probabilities.shape == (2, 4, size, size)
    assert network.quality(query, probabilities).shape == (2, 3)
    hints = HintNetwork(trunk, channels, 5, 8).eval()
    assert hints(torch.rand(2, channels + 5, size, size)).shape == (2, 5, size, size)


def test_reading_is_a_soft_max_over_all_memorised_positions() -> None:
    """Against the explicit sum: w = soft-max of key · query / √C, read = Σ w · value."""
    network = memory_network()
    seen = {}

    class Spy(nn.Module):
        def forward(self, joined: torch.Tensor, middle: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
            seen["joined"] = joined
            return torch.zeros(len(joined), 32, 32)

    network.decoder = Spy()  # type: ignore[assignment]
    query = network.encode(torch.rand(1, 1, 32, 32))
    keys, values = torch.randn(1, 2, 4, 3, 2, 2), torch.randn(1, 2, 6, 3, 2, 2)
    network.segment(query, keys, values)
    for number in range(2):
        for row in range(2):
            for column in range(2):
                asked = query.key[0, :, row, column]
                weights = torch.einsum("cthw,c->thw", keys[0, number], asked) / 2  # √4
                weights = weights.flatten().softmax(0).reshape(weights.shape)
                read = torch.einsum("cthw,thw->c", values[0, number], weights)
                assert torch.allclose(seen["joined"][number, :6, row, column], read, atol=1e-5)
                assert torch.equal(seen["joined"][number, 6:, row, column], query.value[0, :, row, column])


def test_memory_order_does_not_matter_but_content_does() -> None:
    network = memory_network()
    image = torch.rand(3, 1, 32, 32)
    keys, values = network.memorise(image, torch.rand(3, 1, 32, 32))

    def joined(order: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([keys[[n]] for n in order], 3), torch.cat([values[[n]] for n in order], 3)

    query = network.encode(torch.rand(1, 1, 32, 32))
    first = network.segment(query, *joined([0, 1, 2]))
    assert torch.allclose(first, network.segment(query, *joined([2, 0, 1])), atol=1e-5)
    assert not torch.allclose(first, network.segment(query, *joined([0, 0, 1])), atol=1e-5)


def test_mask_and_its_complement_are_both_seen() -> None:
    """Memorising depends on the mask, even if only the convolution of the rest has weights."""
    network = memory_network()
    nn.init.zeros_(network.mask_conv.weight)
    image = torch.rand(1, 1, 32, 32)
    empty, full = (network.memorise(image, torch.full((1, 1, 32, 32), v))[1] for v in (0.0, 1.0))
    assert not torch.allclose(empty, full)


def test_soft_aggregation() -> None:
    """Two objects of 0.9 and 0.5: odds 9 and 1, background 0.05 with odds 1/19; then normalised."""
    logits = torch.logit(torch.tensor([0.9, 0.5])).reshape(1, 2, 1, 1)
    odds = np.array([1 / 19, 9, 1])
    found = aggregate(logits).softmax(1).flatten().numpy()
    assert np.allclose(found, odds / odds.sum(), atol=1e-5)


def test_one_object_is_sharpened_evenly() -> None:
    found = aggregate(torch.tensor([-30.0, 0.0, 30.0]).reshape(1, 1, 3, 1)).softmax(1)
    assert torch.allclose(found[0, 1].flatten(), torch.tensor([0, 0.5, 1]), atol=1e-5)
    assert torch.isfinite(found).all()


def test_cross_entropy() -> None:
    probabilities = torch.tensor([[0.25, 1.0, 0.0]])[:, None, :, None].repeat(1, 2, 1, 1)
    probabilities[:, 0] = 1 - probabilities[:, 1]
    target = torch.tensor([[[1], [1], [1]]])
    wanted = -np.log([0.251, 1.001, 0.001]).mean()
    assert np.isclose(cross_entropy(probabilities, target).item(), wanted, atol=1e-5)


def jaccard_of_errors(truth: np.ndarray, errors: np.ndarray) -> float:
    """The Lovász extension by its definition: each error is weighted by its increase of the Jaccard loss."""
    order = np.argsort(-errors)
    total = 0.0
    before = 0.0
    wrong = np.zeros(len(truth), bool)
    for place in order:
        wrong[place] = True
        found = truth ^ wrong
        now = 1 - (truth & found).sum() / (truth | found).sum()
        total += errors[place] * (now - before)
        before = now
    return total


def test_lovasz_is_the_extension_of_the_jaccard_loss() -> None:
    random = np.random.default_rng(0)
    target = random.integers(0, 2, (2, 3, 4))
    target[1] = 0  # only background: only its class counts
    object_ = random.random((2, 3, 4)).astype(np.float32)
    probabilities = np.stack([1 - object_, object_], 1)
    wanted = []
    for image in range(2):
        per_class = []
        for number in range(2):
            truth = (target[image] == number).ravel()
            if truth.any():
                errors = np.abs(truth - probabilities[image, number].ravel())
                per_class.append(jaccard_of_errors(truth, errors))
        wanted.append(np.mean(per_class))
    found = lovasz_softmax(torch.from_numpy(probabilities), torch.from_numpy(target))
    assert np.isclose(found.item(), np.mean(wanted), atol=1e-5)


def test_lovasz_of_hard_masks_is_the_jaccard_loss() -> None:
    target = torch.tensor([[[1, 1, 1, 0, 0, 0]]])
    found = torch.tensor([[[1, 1, 0, 1, 0, 0]]])
    hard = torch.stack([1 - found, found], 1).float()
    assert np.isclose(lovasz_softmax(hard, target).item(), 1 - 2 / 4, atol=1e-6)


def test_soft_iou() -> None:
    found = torch.tensor([0.5, 1.0, 0.0, 0.25]).reshape(1, 1, 2, 2)
    truth = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 2, 2)
    assert np.isclose(soft_iou(found, truth).item(), (1.5 + 1) / (2.25 + 1))
    assert soft_iou(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)).item() == 1


def test_pyramid_loss_sums_over_predictions() -> None:
    logits = torch.zeros(2, 5, 4, 4)
    assert np.isclose(pyramid_loss(logits, torch.ones(2, 4, 4)).item(), 5 * np.log(2))


@pytest.mark.parametrize("mode", get_args(Mode))
def test_what_is_memorised(mode: Mode) -> None:
    """The reference with its truth; then truth, prediction, or the choice by IoU."""
    torch.manual_seed(0)
    network = memory_network()
    network.train()
    kept: list[torch.Tensor] = []
    memorise = network.memorise

    def spy(image: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept.append(masks.detach())
        return memorise(image, masks)

    network.memorise = spy  # type: ignore[method-assign]
    image, mask = torch.rand(2, 3, 1, 32, 32), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    mask[:, :, 8:20, 8:20] = 1
    # A soft IoU is never above 1: with this threshold, the truth is always stored.
    losses_ = propagation_loss(network, image, mask, 1, mode, 1.0, "both")
    assert len(kept) == 2  # the last slice is not memorised
    assert torch.equal(kept[0], (mask[:, :1] == 1).float())
    assert torch.equal(kept[1], (mask[:, 1:2] == 1).float()) == (mode != "recurrent")
    assert set(losses_) == {"propagation_loss", "quality_loss"}
    if mode == "threshold":
        kept.clear()
        propagation_loss(network, image, mask, 1, mode, 0.0, "both")
        assert not torch.equal(kept[1], (mask[:, 1:2] == 1).float())


def test_every_weight_learns() -> None:
    network = InteractiveNetwork("resnet18", 1, keys=4, values=4, width=4, hint_width=8)
    # Zero at first, on purpose; layers before it learn from the second step on.
    nn.init.ones_(network.memory.quality_head.head.weight)
    batch = {
        "image": torch.rand(2, 3, 1, 32, 32),
        "mask": torch.randint(0, 3, (2, 3, 32, 32), dtype=torch.uint8),
        "hint_input": torch.rand(2, 6, 32, 32),
        "hint_target": torch.rand(2, 32, 32) > 0.5,
    }
    losses_ = network(batch, 2, "recurrent", 0.5, "both")
    parts = losses_["propagation_loss"] + losses_["quality_loss"] + losses_["hint_loss"]
    assert torch.isclose(losses_["loss"], parts)
    losses_["loss"].backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not without


def test_grey_trunk_sees_what_the_colour_one_sees(tmp_path: Path) -> None:
    """A grey image in the loaded trunk gives the same as its three copies in torchvision's network."""
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18().eval()
    torch.save(resnet.state_dict(), tmp_path / "weights.pt")
    trunk = Trunk("resnet18", inputs=1 + 5, stages=4).eval()
    load_trunk(trunk, tmp_path / "weights.pt", images=1, name="resnet18")
    image = torch.rand(1, 1, 64, 64)
    # Hint channels start with zero weights, so their contents do not matter yet.
    found = trunk(torch.cat([image, torch.rand(1, 5, 64, 64)], 1))[-1]
    wanted = nn.Sequential(*list(resnet.children())[:-2])(image.expand(1, 3, -1, -1))
    assert torch.allclose(found, wanted, atol=1e-4)
    assert channels_of("resnet50") == [256, 512, 1024, 2048]


def test_weights_of_another_trunk_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CaseError, match="not the weights of resnet34"):
        load_trunk(Trunk("resnet34", 1, 4), tmp_path / "weights.pt", 1, "resnet34")
