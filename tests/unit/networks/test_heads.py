"""Heads on stored features: each learns what needs its context, and online ones do not see the future."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import cont2discrete
from torch import nn

from foldwise.files import CaseError
from foldwise.networks import build, trans_svnet
from foldwise.networks.evl import EVLDecoder
from foldwise.networks.probe import AttentiveProbe
from foldwise.networks.recurrent import GRU
from foldwise.networks.state_space import CHUNK, DiagonalSSM
from foldwise.networks.tecno import TeCNO
from foldwise.networks.temporal import Mode, clip_windows
from foldwise.networks.trans_svnet import TransSVNet
from foldwise.settings import Named, validate

WIDTH, CLASSES, COUNT = 4, 5, 24
Make = Callable[[Mode], nn.Module]
HEADS: dict[str, Make] = {
    "TeCNO": lambda mode: TeCNO(WIDTH, CLASSES, layers=5, channels=16, dropout=0.0, mode=mode),
    "GRU": lambda mode: GRU(WIDTH, CLASSES, hidden=12, layers=2, dropout=0.0, mode=mode),
    "DiagonalSSM": lambda mode: DiagonalSSM(
        WIDTH, CLASSES, channels=16, states=8, layers=2, dropout=0.0, mode=mode
    ),
    "TransSVNet": lambda mode: TransSVNet(
        WIDTH, CLASSES, window=8, heads=2, depth=8, mode=mode, layers=5, channels=16, dropout=0.0
    ),
}
each_head = pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)


def videos(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with one large value in the first channel; and the frame where it is."""
    generator = torch.Generator().manual_seed(seed)
    features = 0.3 * torch.randn(count, COUNT, WIDTH, generator=generator)
    place = torch.randint(5, COUNT - 5, (count,), generator=generator)
    # Like those of an encoder, they have a large mean, which the value does not hide.
    features += torch.tensor([0.0, 3, -3, 0])
    features[torch.arange(count), place, 0] += 4
    return features, place


def seen(place: torch.Tensor) -> torch.Tensor:
    """Class 1 from that frame on: a frame alone does not show it."""
    return (torch.arange(COUNT) >= place[:, None]).long()


def train(head: nn.Module, features: torch.Tensor, wanted: torch.Tensor, steps: int) -> list[float]:
    optimiser = torch.optim.Adam(head.parameters(), lr=2e-2)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        stages = head(features)
        terms = [nn.functional.cross_entropy(one.flatten(0, -2), wanted.flatten()) for one in stages]
        loss = torch.stack(terms).mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def accuracy(head: nn.Module, features: torch.Tensor, wanted: torch.Tensor) -> float:
    with torch.no_grad():
        return float((head.eval()(features)[-1].argmax(-1) == wanted).float().mean())


class TestTemporalHeads:
    """What holds for every network over the frames of a video."""

    @each_head
    def test_online_learns_from_the_past(self, make: Make) -> None:
        torch.manual_seed(0)
        head = make("online")
        features, place = videos(16, 1)
        losses = train(head, features, seen(place), 60)
        assert losses[-1] < 0.25 * losses[0]
        others, place = videos(16, 2)
        assert accuracy(head, others, seen(place)) > 0.95

    @each_head
    def test_only_offline_learns_from_the_future(self, make: Make) -> None:
        """The wanted class is whether the large value comes within the next five frames."""
        found = []
        modes: tuple[Mode, Mode] = ("online", "offline")
        for mode in modes:
            torch.manual_seed(0)
            head = make(mode)
            for seed in (3, 4):
                features, place = videos(24, seed)
                ahead = place[:, None] - torch.arange(COUNT)
                wanted = ((ahead > 0) & (ahead <= 5)).long()
                if seed == 3:
                    train(head, features, wanted, 90)
            found.append(accuracy(head, features, wanted))
        assert found[1] > 0.94
        assert found[0] < 0.91

    @each_head
    def test_causality(self, make: Make) -> None:
        torch.manual_seed(0)
        features, _ = videos(2, 5)
        changed, now = features.clone(), 13
        changed[:, now:] = 5 * torch.randn(changed[:, now:].shape)
        online, offline = make("online").eval(), make("offline").eval()
        with torch.no_grad():
            before, after = online(features), online(changed)
            assert torch.equal(before[:, :, :now], after[:, :, :now])
            assert not torch.allclose(before[:, :, now:], after[:, :, now:], atol=1e-3)
            # A video that ends there: other sizes of matrices, so not to the last bit.
            torch.testing.assert_close(online(features[:, :now]), before[:, :, :now], atol=1e-5, rtol=1e-4)
            assert not torch.allclose(offline(features)[:, :, :now], offline(changed)[:, :, :now], atol=1e-4)

    @each_head
    @pytest.mark.parametrize("mode", ["online", "offline"])
    def test_gradients_and_shapes(self, make: Make, mode: Mode) -> None:
        torch.manual_seed(0)
        head = make(mode)
        features, place = videos(3, 6)
        stages = head(features)
        assert stages.shape[1:] == (3, COUNT, CLASSES)
        logits = stages.flatten(0, 1).transpose(1, 2)
        nn.functional.cross_entropy(logits, seen(place).repeat(len(stages), 1)).backward()
        assert all(p.grad is not None and p.grad.any() for p in head.parameters())

    @each_head
    def test_resumed_training_is_the_same(self, make: Make) -> None:
        torch.manual_seed(0)
        head = make("online")
        features, place = videos(4, 7)
        wanted = seen(place)
        straight, optimiser = copy.deepcopy(head), None
        results = []
        for interrupted in (False, True):
            head = copy.deepcopy(straight)
            optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
            for step in range(4):
                if interrupted and step == 2:
                    file = io.BytesIO()
                    torch.save({"head": head.state_dict(), "optimiser": optimiser.state_dict()}, file)
                    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
                    head = make("online")
                    head.load_state_dict(state["head"])
                    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2)
                    optimiser.load_state_dict(state["optimiser"])
                optimiser.zero_grad()
                nn.functional.cross_entropy(head(features)[-1].flatten(0, 1), wanted.flatten()).backward()
                optimiser.step()
            results.append(head.state_dict())
        assert all(torch.equal(results[0][name], value) for name, value in results[1].items())


def first_system(head: DiagonalSSM) -> Any:
    return head.layers[0].get_submodule("forwards")


class TestDiagonalSSM:
    """The system by an independent library, in chunks, and frame by frame."""

    def test_against_scipy(self) -> None:
        torch.manual_seed(1)
        system = first_system(DiagonalSSM(3, 2, channels=2, states=3, layers=1))
        with torch.no_grad():
            system.log_decay += 0.3 * torch.randn(2, 3)
        count = 2 * CHUNK + 9
        inputs = torch.randn(2, count, 2)
        with torch.no_grad():
            found = system(inputs).double().numpy()
        for channel in range(2):
            decay, frequency, out = (
                getattr(system, name).detach().double().numpy()[channel]
                for name in ("log_decay", "frequency", "out")
            )
            a, c = np.diag(-np.exp(decay) + 1j * frequency), out[None, :, 0] + 1j * out[None, :, 1]
            step = math.exp(float(system.log_step.detach()[channel]))
            a, b, c, _, _ = cont2discrete((a, np.ones((3, 1)), c, np.zeros((1, 1))), step, "zoh")
            for batch in range(2):
                state = np.zeros((3, 1), complex)
                for t in range(count):
                    u = float(inputs[batch, t, channel])
                    state = a @ state + b * u
                    expected = 2 * (c @ state).real.item() + float(system.through.detach()[channel]) * u
                    assert found[batch, t, channel] == pytest.approx(expected, rel=1e-3, abs=1e-4)

    def test_step_by_step(self) -> None:
        torch.manual_seed(2)
        head = DiagonalSSM(3, 2, channels=8, states=4, layers=3).eval()
        features = torch.randn(2, CHUNK + 30, 3)
        state = None
        with torch.no_grad():
            whole = head(features)[0]
            for t in range(features.shape[1]):
                logits, state = head.step(features[:, t], state)
                torch.testing.assert_close(logits, whole[:, t], atol=1e-4, rtol=1e-3)

    def test_an_input_never_grows_whatever_is_learned(self) -> None:
        system = first_system(DiagonalSSM(2, 2, channels=4, states=4, layers=1))
        with torch.no_grad():
            system.log_decay.copy_(torch.linspace(-30, 5, 16).view(4, 4))
            system.log_step.fill_(2)
            once = torch.zeros(1, 5000, 4)
            once[:, 0] = 1
            bound = 2 * system._discrete()[1].abs().sum(1)
            assert (system(once)[0, 1:].abs() <= bound * 1.001).all()

    def test_half_precision_around_it(self) -> None:
        torch.manual_seed(3)
        system = first_system(DiagonalSSM(2, 2, channels=4, states=4, layers=1))
        inputs = torch.randn(1, 100, 4).bfloat16()
        with torch.no_grad():
            with torch.autocast("cpu", torch.bfloat16):
                found = system(inputs)
            assert found.dtype == torch.bfloat16
            torch.testing.assert_close(found, system(inputs.float()).bfloat16())


class TestTransSVNet:
    """The last stage against its formulas, written for one frame."""

    @pytest.mark.parametrize(("mode", "before"), [("online", 3), ("offline", 2)])
    def test_against_a_frame_at_a_time(
        self, mode: Mode, before: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trans_svnet, "BLOCK", 4)
        torch.manual_seed(4)
        head = TransSVNet(5, 3, window=4, heads=2, depth=6, mode=mode, layers=2, channels=4).eval()
        for norm in (part for part in head.modules() if isinstance(part, nn.LayerNorm)):
            nn.init.normal_(norm.weight)
        features = torch.randn(1, 10, 5)
        with torch.no_grad():
            stages = head(features)
            assert stages.shape == (3, 1, 10, 3)
            for t in range(10):
                rows = [
                    stages[1, 0, s] if 0 <= s < 10 else torch.zeros(3)
                    for s in range(t - before, t - before + 4)
                ]
                memory = self.layer(head.encoder, torch.stack(rows), torch.stack(rows))
                query = torch.tanh(head.query(features[0, t]))[None]
                expected = head.leave(self.layer(head.decoder, query, memory))[0]
                torch.testing.assert_close(stages[2, 0, t], expected)

    @staticmethod
    def layer(layer: Any, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        parts = []
        for head in range(2):
            rows = slice(6 * head, 6 * head + 6)
            q, k, v = (
                given @ part.weight[rows].T + part.bias[rows]
                for part, given in ((layer.queries, x), (layer.keys, memory), (layer.values, memory))
            )
            parts.append((q @ k.T / math.sqrt(6)).softmax(1) @ v)
        x = layer.attended(x + layer.out(torch.cat(parts, 1)))
        return layer.fed(x + layer.feed(x))

    def test_tecno_learns_as_alone(self) -> None:
        torch.manual_seed(5)
        head = TransSVNet(5, 3, window=4, layers=2, channels=4)
        head(torch.randn(1, 10, 5))[-1].square().sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in head.tecno.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_by_name(name: str) -> None:
    head = build("temporal network", validate(Named, {"name": name}), WIDTH, CLASSES, mode="offline")
    assert head(torch.zeros(1, 3, WIDTH)).shape[1:] == (1, 3, CLASSES)
    with pytest.raises(CaseError, match="'hiden'"):
        build("temporal network", validate(Named, {"name": name, "hiden": 3}), WIDTH, CLASSES)


def test_windows_of_clips() -> None:
    one, run = np.zeros(4), np.array([0, 0, 0, 1, 1])
    # Of two runs, none sees the other's frames.
    assert clip_windows(run, 3, "online").tolist()[2:] == [[0, 1, 2], [3, 3, 3], [3, 3, 4]]
    assert clip_windows(run, 3, "offline").tolist()[2:] == [[1, 2, 2], [3, 3, 4], [3, 4, 4]]
    assert clip_windows(one, 3, "online").tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert clip_windows(one, 3, "offline").tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    assert clip_windows(np.zeros(5), 2, "online", every=2).tolist() == [
        [0, 0],
        [0, 1],
        [0, 2],
        [1, 3],
        [2, 4],
    ]
    assert clip_windows(np.zeros(3), 4, "offline")[1].tolist() == [0, 0, 1, 2]
    # No clip of a frame contains a later one.
    assert (clip_windows(np.zeros(50), 7, "online", 3).max(1) == np.arange(50)).all()


class TestClipHeads:
    """The attentive probe, and EVL's decoder, on tokens of any encoder."""

    @staticmethod
    def train(head: nn.Module, tokens: torch.Tensor, label: torch.Tensor, steps: int = 60) -> float:
        optimiser = torch.optim.Adam(head.parameters(), lr=3e-3)
        for _ in range(steps):
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(tokens), label).backward()
            optimiser.step()
        with torch.no_grad():
            return float((head.eval()(tokens).argmax(1) == label).float().mean())

    def test_the_probe_finds_a_token(self) -> None:
        """The class is which of two vectors is somewhere among 24 tokens."""
        torch.manual_seed(6)
        tokens, label = 0.5 * torch.randn(48, 4, 6, 8), torch.arange(48) % 2
        signs = torch.eye(8)[:2] * 5
        frame, patch = torch.randint(4, (48,)), torch.randint(6, (48,))
        tokens[torch.arange(48), frame, patch] += signs[label]
        probe = AttentiveProbe(8, 2, channels=16, heads=2, dropout=0.0)
        train_, test = slice(0, 32), slice(32, 48)
        assert self.train(probe, tokens[train_], label[train_]) == 1
        with torch.no_grad():
            assert (probe(tokens[test]).argmax(1) == label[test]).float().mean() > 0.9
            # Order within the clip is not seen.
            torch.testing.assert_close(probe(tokens.flip(1)), probe(tokens))
        probe.train()(tokens).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in probe.parameters())
        again = AttentiveProbe(8, 2, channels=16, heads=2, dropout=0.0)
        again.load_state_dict(probe.state_dict())
        assert torch.equal(again(tokens), probe(tokens))

    def test_evls_decoder_sees_the_order_without_attention_between_frames(self) -> None:
        """The class is whether a vector comes before or after another."""
        torch.manual_seed(7)
        tokens, label = 0.3 * torch.randn(32, 1, 4, 3, 8), torch.arange(32) % 2
        signs = torch.eye(8)[:2] * 3
        for clip in range(32):
            first, second = (1, 2) if label[clip] else (2, 1)
            tokens[clip, 0, first, 0] += signs[0]
            tokens[clip, 0, second, 0] += signs[1]
        decoder = EVLDecoder(8, 2, 2, 4, blocks=1, dropout=0.0)
        assert self.train(decoder, tokens, label) == 1
        assert not any("offsets" in name for name in decoder.state_dict())
        decoder.zero_grad()
        decoder(tokens).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in decoder.parameters())
        with pytest.raises(CaseError, match="clips have 3 frames, but the network was built for 4"):
            decoder(tokens[:, :, :3])
