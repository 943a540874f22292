"""Files that a model names: what they contained when it was trained is what they must contain."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from foldwise.beside import BESIDE, contents_beside, refuse_replaced
from foldwise.command import Output
from foldwise.files import CaseError
from foldwise.portable.packed import pack
from foldwise.stages.predict import predict
from foldwise.store import Store
from foldwise.systems import system_of
from foldwise.training.model_file import read_model
from foldwise.volumes.targets import Targets
from untrained import write_untrained

PLACES = system_of("clips").beside


def state_of(weights: Path) -> dict[str, Any]:
    """What a model's file keeps of its preparation, as training writes it."""
    prepared = {"cache": {}, "prepare": {"regions": {"method": "sam2_video", "weights": str(weights)}}}
    return {"prepared": prepared, BESIDE: contents_beside(PLACES, {"prepared": prepared})}


def test_weights_in_their_place_or_another(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    (folder / "config.json").write_bytes(b"{}")
    state = state_of(folder)
    assert list(state[BESIDE]) == ["prepared.prepare.regions.weights"]
    refuse_replaced(state)
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert state_of(moved)[BESIDE] == state[BESIDE]
    (folder / "model.safetensors").write_bytes(b"2")
    with pytest.raises(CaseError, match=f"^{folder}: not what it was when the model was trained"):
        refuse_replaced(state)
    shutil.rmtree(folder)
    with pytest.raises(CaseError, match=f"^{folder}: missing"):
        refuse_replaced(state)


def test_new_cases_and_packing_refuse_replaced_files(tmp_path: Path) -> None:
    folder = tmp_path / "fold0"
    folder.mkdir()
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"1")
    model = write_untrained(folder / "model.pt", {"targets": Targets({"a": 1}).as_dict(), "channels": 1})
    torch.save({**read_model(model), **state_of(weights)}, model)
    weights.write_bytes(b"2")
    with pytest.raises(CaseError, match="not what it was"):
        pack(tmp_path, tmp_path / "m.foldwise")
    written: dict[str, Any] = {name: Output(tmp_path / name) for name in ("predictions", "index", "facts")}
    given: dict[str, Any] = {"models": [model], "source": tmp_path, "published": tmp_path / "out"}
    with pytest.raises(CaseError, match="not what it was"):
        predict(system=system_of("segmentation"), state=Store(tmp_path / "state"), **given, **written)


def test_models_without_such_files() -> None:
    """Also those of earlier versions, whose files do not tell."""
    none = {"prepare": {"regions": {"method": "fan", "weights": None}}}
    assert contents_beside(PLACES, {"prepared": none}) == {}
    assert contents_beside(PLACES, {"prepared": {}}) == {}
    refuse_replaced({"prepared": none})
