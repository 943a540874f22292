"""Packed models that were changed by hand: nothing outside of the folder is read, written or filled."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from foldwise.files import CaseError, write_json
from foldwise.portable.packed import found, pack
from foldwise.volumes.targets import Targets
from untrained import write_untrained

TASK = {"targets": Targets({"tumour": 1}).as_dict(), "channels": 1}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    folder = tmp_path / "results" / "tiny" / "unet"
    (folder / "fold0").mkdir(parents=True)
    write_untrained(folder / "fold0" / "model.pt", TASK)
    write_json(folder / "choice.json", {"chosen": {}})
    pack(folder, tmp_path / "m.foldwise")
    return tmp_path / "m.foldwise"


def rewrite(packed: Path, changes: Mapping[str, Any], compression: int = zipfile.ZIP_STORED) -> None:
    """Write the file again with other values in its model.json."""
    with zipfile.ZipFile(packed) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(members["model.json"]) | dict(changes)
    with zipfile.ZipFile(packed, "w", compression) as archive:
        for name, content in {**members, "model.json": json.dumps(about).encode()}.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": {"../../secret.pt": {}}}, "is not the name of a fold"),
        ({"folds": {"foldX.pt": {}}}, "is not the name of a fold"),
        ({"folds": {"fold7.pt": {}}}, r"does not hold 'fold7\.pt'"),
        ({"folds": {}}, "holds no model"),
        ({"beside": {"settings.weights": "/etc/passwd"}}, "does not hold '/etc/passwd'"),
        ({"hashes": {"fold0.pt": "0"}}, "is not what was written"),
    ],
)
def test_names_that_do_not_belong(packed: Path, tmp_path: Path, changes: Any, message: str) -> None:
    rewrite(packed, {})
    found(packed, tmp_path / "unpacked")
    rewrite(packed, changes)
    with pytest.raises(CaseError, match=rf"m\.foldwise: damaged: .*{message}"):
        found(packed, tmp_path / "unpacked")


def test_an_archive_that_would_fill_the_disk(packed: Path, tmp_path: Path) -> None:
    rewrite(packed, {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CaseError, match=r"fold0\.pt is compressed"):
        found(packed, tmp_path / "unpacked")
    assert not list((tmp_path / "unpacked").iterdir())


def test_what_torch_refuses_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_text("no model")
    with pytest.raises(CaseError, match=r"not a model of Foldwise \(.*\); train it again") as refused:
        found(tmp_path / "model.pt", tmp_path / "unpacked")
    assert "\n" not in str(refused.value)
