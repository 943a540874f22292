"""Weights to start from: which fit, which do not, and that nothing is executed."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from foldwise.files import CaseError
from foldwise.networks.frames import FrameAverage
from foldwise.settings import Pretrained, validate
from foldwise.systems.surgical.learner import SurgicalLearner
from foldwise.systems.surgical.settings import Model as SurgicalModel
from foldwise.training.pretrained import load_pretrained, read_weights


def network(inputs: int = 1, outputs: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(inputs, 4, 3), nn.ReLU(), nn.Conv3d(4, outputs, 1))


def save(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


@pytest.mark.parametrize("place", [(), ("network",), ("state_dict",), ("model", "state_dict")])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_weights_are_found_wherever_they_lie(tmp_path: Path, place: tuple[str, ...], prefix: str) -> None:
    torch.manual_seed(0)
    theirs, ours = network(), network()
    state: Any = {prefix + name: value for name, value in theirs.state_dict().items()}
    for key in place:
        state = {key: state, "epoch": 3}
    report = load_pretrained(ours, Pretrained(file=save(tmp_path / "w.pt", state)))
    assert report["matched"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))


def test_other_shapes_and_names_are_listed_and_left_alone(tmp_path: Path) -> None:
    state = {**network(inputs=1, outputs=5).state_dict(), "extra": torch.zeros(1)}
    del state["0.bias"]
    ours = network(outputs=2)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    report = load_pretrained(ours, Pretrained(file=save(tmp_path / "w.pt", state)))
    assert report == {
        "matched": ["0.weight"],
        "other_shape": ["2.weight", "2.bias"],
        "not_in_file": ["0.bias"],
        "not_in_network": ["extra"],
    }
    after = ours.state_dict()
    assert torch.equal(after["0.weight"], state["0.weight"])
    assert all(torch.equal(after[name], before[name]) for name in ("0.bias", "2.weight", "2.bias"))


def test_what_a_module_stores_beside_its_weights_does_not_count(tmp_path: Path) -> None:
    """Of the 5 weights 4 are in the file; the hash of 1,000 numbers is no weight."""

    class Hashed(nn.Linear):
        def get_extra_state(self) -> torch.Tensor:
            return torch.zeros(1000)

        def set_extra_state(self, state: torch.Tensor) -> None: ...

    path = save(tmp_path / "w.pt", {"weight": torch.zeros(1, 4)})
    report = load_pretrained(Hashed(4, 1), Pretrained(file=path, minimum=0.8))
    assert report == {"matched": ["weight"], "other_shape": [], "not_in_file": ["bias"], "not_in_network": []}


def test_too_little_is_refused(tmp_path: Path) -> None:
    """Of 108 + 4 + 8 + 2 weights only the last ten fit."""
    path = save(tmp_path / "w.pt", {k: v for k, v in network(inputs=2).state_dict().items() if k != "0.bias"})
    with pytest.raises(CaseError, match=r"fits 8\.2% .* 50\.0% .*0\.bias.*0\.weight"):
        load_pretrained(network(), Pretrained(file=path))
    assert load_pretrained(network(), Pretrained(file=path, minimum=0.05))["matched"] == [
        "2.weight",
        "2.bias",
    ]


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    save(tmp_path / "trap.pt", {"network": Trap()})
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CaseError, match=r"missing\.pt: no such file"):
        read_weights(tmp_path / "missing.pt")
    for name in ("trap.pt", "trap.pkl"):
        with pytest.raises(CaseError, match=rf"{name}: not readable as plain weights"):
            read_weights(tmp_path / name)
    with pytest.raises(CaseError, match="contains no state dict"):
        read_weights(save(tmp_path / "empty.pt", {"epoch": 3}))


def test_weights_that_are_not_finite(tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in network().state_dict().items()}
    name = next(iter(state))
    state[name].view(-1)[0] = float("nan")
    with pytest.raises(CaseError, match=rf"w\.pt: 1 of {len(state)} tensors .*\({name}\)"):
        load_pretrained(network(), Pretrained(file=save(tmp_path / "w.pt", state)))


def clip_network(name: str) -> nn.Module:
    return FrameAverage({"name": name}, 3)


def surgical_network(name: str) -> nn.Module:
    model = validate(SurgicalModel, {"backbone": {"name": name}, "kind": "tool"})
    return SurgicalLearner(model, {"phases": ["a"], "tools": ["b"]}).build_network()


@pytest.mark.parametrize("made", [clip_network, surgical_network])
@pytest.mark.parametrize(
    ("name", "head"),
    [("resnet18", "fc."), ("mobilenet_v3_small", "classifier.3."), ("densenet121", "classifier.")],
)
def test_a_librarys_file_fits_where_its_network_is_a_part(
    tmp_path: Path, made: Callable[[str], nn.Module], name: str, head: str
) -> None:
    state = torchvision.models.get_model(name).state_dict()
    # As in torchvision's file of a DenseNet.
    given = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): v for key, v in state.items()}
    assert name != "densenet121" or given.keys() != state.keys()
    ours = made(name)
    report = load_pretrained(ours, Pretrained(file=save(tmp_path / "w.pt", given)))
    part = "frame." if made is clip_network else "trunk."
    wanted = {part + key: value for key, value in state.items() if not key.startswith(head)}
    assert set(report["matched"]) == set(wanted)
    after = ours.state_dict()
    assert all(torch.equal(after[key], value) for key, value in wanted.items())
    own = sum(value.numel() for key, value in after.items() if not key.startswith(("head.", part + head)))
    assert sum(after[key].numel() for key in report["matched"]) > 0.99 * own


def test_a_part_takes_nothing_from_the_whole(tmp_path: Path) -> None:
    """Two equal parts and the file of the whole: each weight comes from its own name."""
    whole = nn.ModuleDict({"a": network(), "b": network()})
    ours = nn.ModuleDict({"a": network(), "b": network()})
    load_pretrained(ours, Pretrained(file=save(tmp_path / "w.pt", whole.state_dict())))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), ours.parameters(), strict=True))
