"""Accepted models: finite ones, of the required task, on cases that they never saw."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from foldwise.evaluate import marks, read_trained
from foldwise.files import CaseError
from foldwise.hdf5 import content_of, identity_of
from foldwise.index import Fold, Index
from foldwise.stages import features, test, train
from foldwise.systems.segmentation import learner
from foldwise.volumes.predictions import open_prediction
from foldwise.volumes.targets import Targets
from synthetic import write_cached_set
from untrained import noted_predictions, write_untrained

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of five cases: 0 is tested on c4, 1 on c0."""
    path = write_cached_set(tmp_path_factory.mktemp("set"))
    written = Index.read(path)
    folds = (written.folds[0], Fold(("c2", "c3", "c4"), ("c1",), ("c0",)))
    Index(written.task, written.entries, folds).write(path, path.with_suffix(".json"))
    return path


@pytest.fixture
def save(index: Path, tmp_path: Path) -> Save:
    """Writes a model's file as after training on a fold."""

    def write(name: str, fold: int = 0, **changed: Any) -> Path:
        known = Index.read(index)
        cases = [*known.folds[fold].train, *known.folds[fold].validation]
        learnt = [m for c in cases for m in marks(known[c], identity_of(known[c].cache)).values()]
        own = {"prepared": {"cache": {"spacing": None}}, "learnt": learnt}
        return write_untrained(tmp_path / name, known.task, fold, **own | changed)

    return write


@pytest.fixture
def tested(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Calls the stage; returns the cases that it predicted."""

    def call(
        model: Path, fold: int = 0, of: Path = index, settings: str = "{}", share: str = "predictions"
    ) -> list[str]:
        out = {name: tmp_path / "out" / name for name in ("predictions", "facts")}
        named = {"index": of, "fold": fold, "share": share, "model": model, "state": tmp_path / "state"}
        flags = [text for name, value in {**named, **out}.items() for text in (f"--{name}", str(value))]
        monkeypatch.setattr(sys, "argv", ["test", "--settings", settings, *flags])
        test.predict_fold.main()
        return sorted(path.stem for path in out["predictions"].glob("*.h5"))

    return call


def broken(network: dict[str, torch.Tensor], value: float) -> dict[str, torch.Tensor]:
    name = [name for name in network if name.endswith("conv.weight")][-1]
    return {**network, name: torch.full_like(network[name], value)}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(
    save: Save, tested: Callable[..., Any], tmp_path: Path, value: float
) -> None:
    network = torch.load(save("model.pt"), weights_only=True)["network"]
    with pytest.raises(CaseError, match=r"model\.pt: 1 of \d+ tensors .*NaN.*\(.*conv\.weight\)"):
        tested(save("model.pt", network=broken(network, value)))
    assert not (tmp_path / "out").exists()


def test_numbers_that_overflow_name_the_case(save: Save, tested: Callable[..., Any], tmp_path: Path) -> None:
    network = torch.load(save("model.pt"), weights_only=True)["network"]
    with pytest.raises(CaseError, match="case c4: the network's output is NaN or infinite"):
        tested(save("model.pt", network=broken(network, 3e38)))
    assert not (tmp_path / "out").exists()


def test_a_fold_s_model_is_tested_on_its_own_fold(
    index: Path, save: Save, tested: Callable[..., Any], tmp_path: Path
) -> None:
    assert tested(save("model.pt")) == ["c4"]
    assert tested(save("other.pt", fold=1), fold=1) == ["c0"]
    with pytest.raises(CaseError, match=r"other\.pt: the model of fold 1; --fold 0 was given"):
        tested(tmp_path / "other.pt", fold=0)
    # Regardless of the fold in the file: here its split held c4 out, but another split does not.
    entry = Index.read(index)["c4"]
    identity = identity_of(entry.cache)
    for kind, why in (("case", "that case"), ("patient", "another case"), ("content", "the same data")):
        with pytest.raises(CaseError, match=f"cannot be tested on case c4: {why}"):
            tested(save("model.pt", learnt=[marks(entry, identity)[kind]]))


@pytest.mark.parametrize("fold", [-1, 2])
@pytest.mark.parametrize("stage", ["train", "test"])
def test_folds_that_are_not_there(
    index: Path,
    tmp_path: Path,
    save: Save,
    tested: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    fold: int,
    stage: str,
) -> None:
    names = {name: tmp_path / name for name in ("state", "model", "log", "provenance")}
    flags = [text for name, path in names.items() for text in (f"--{name}", str(path))]
    with pytest.raises(CaseError, match=f"--fold {fold}: the index has the folds 0 to 1"):
        if stage == "test":
            tested(save("model.pt"), fold=fold)
        monkeypatch.setattr(sys, "argv", ["train", "--index", str(index), "--fold", str(fold), *flags])
        train.train.main()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"channels": 2}, "channels: 2, and 1"),
        ({"targets": {"classes": {"nodule": 1}, "regions": {}}}, "targets.classes: .*nodule.*tumour"),
    ],
)
def test_a_model_of_other_data(
    index: Path,
    save: Save,
    tested: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    message: str,
) -> None:
    model = save("model.pt", task={**Index.read(index).task, **changed})
    with pytest.raises(CaseError, match=rf"model\.pt: was trained on different data \({message}"):
        tested(model)
    flags = ["--index", str(index), "--model", str(model), "--state", "state", "--folder", "bank"]
    monkeypatch.setattr(sys, "argv", ["features", *flags])
    with pytest.raises(CaseError, match="was trained on different data"):
        features.features.main()


def test_a_model_of_an_earlier_version_is_still_read(
    save: Save, tested: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    state = torch.load(save("model.pt"), weights_only=True)
    path = save("old.pt")
    torch.save({key: state[key] for key in ("network", "settings", "system", "task")}, path)
    with caplog.at_level("WARNING"):
        assert tested(path) == ["c4"]
    assert "did not record its training cases" in caplog.text


def test_only_models_of_one_experiment_are_averaged(index: Path, save: Save, tmp_path: Path) -> None:
    first = save("a.pt")
    settings = torch.load(first, weights_only=True)["settings"]
    task = Index.read(index).task
    # Folds may differ in length of training and in pretrained weights.
    training = {**settings["training"], "epochs": 7, "steps_per_epoch": 3}
    same = save("b.pt", fold=1, settings={**settings, "training": training})
    assert len(read_trained([first, same]).networks) == 2
    two = Targets({"tumour": 1, "cyst": 2}).as_dict()
    turned = Targets({"cyst": 2, "tumour": 1}).as_dict()
    for changed, message in (
        ({"task": {**task, "channels": 2}}, r"different task \(channels: 1, and 2\)"),
        ({"settings": {**settings, "patch": [16, 16, 32]}}, r"different network or setting \(patch: "),
        (
            {"prepared": {"cache": {"spacing": [1, 1, 1]}}},
            r"different preparation \(cache.spacing: None, and",
        ),
        ({"system": "interactive", "settings": {}}, r"different system \(segmentation, and interactive\)"),
    ):
        other = save("c.pt", fold=1, **changed)
        with pytest.raises(
            CaseError, match=rf"a\.pt and .*c\.pt are not models of one experiment: {message}"
        ):
            read_trained([first, other])
    pair = [save(f"{n}.pt", task={**task, "targets": each}) for n, each in enumerate((two, turned))]
    with pytest.raises(CaseError, match=r"targets.classes: tumour, cyst, and cyst, tumour"):
        read_trained(pair)
    (tmp_path / "copy.pt").write_bytes(first.read_bytes())
    with pytest.raises(CaseError, match=r"a\.pt and .*copy\.pt are the same model"):
        read_trained([first, tmp_path / "copy.pt"])


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cases that are predicted, in order."""
    return noted_predictions(monkeypatch)


def probabilities(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in folder.rglob("*.h5"):
        with open_prediction(path) as file:
            found[str(file.attrs["case"])] = file["probability"][()]
    return found


def test_unfinished_work_is_of_these_very_data(
    tmp_path: Path,
    save: Save,
    tested: Callable[..., list[str]],
    predicted: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job stops after it predicted; then c4 is prepared again, from another scan: that of c5."""
    model, index = save("model.pt"), write_cached_set(tmp_path / "set", 6)
    caches = index.parent / "caches"

    def stopped(**more: str) -> list[str]:
        def stop(*_: Any) -> None:
            raise RuntimeError("killed")

        predicted.clear()
        with monkeypatch.context() as patch, pytest.raises(RuntimeError):
            patch.setattr(test, "atomic_folder", stop)
            tested(model, of=index, **more)
        return list(predicted)

    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "thesis.tex").touch()
    assert stopped() == ["c4", "c5"]
    first = probabilities(tmp_path / "state")
    assert (first["c4"] != first["c5"]).any()
    # How scores are computed changes no prediction; c3 is the validation case.
    assert stopped(settings="{tolerance_mm: 3, postprocess: largest_component}") == []
    assert stopped(share="validation") == ["c3"]
    # A truncated file is predicted again.
    for path in (tmp_path / "state").glob("*.h5"):
        with open_prediction(path) as file:
            case = str(file.attrs["case"])
        if case == "c5":
            path.write_bytes(path.read_bytes()[:-1])
    assert stopped() == ["c5"]
    # Equal voxels in a scan of another size: the prediction refers to the scan's grid.
    with h5py.File(caches / "c4.h5", "r+") as file:
        content, lineage = file.attrs["content"], json.loads(file.attrs["lineage"])
        file.attrs["lineage"] = json.dumps({**lineage, "source_shape": [30, 30, 30]})
    assert content_of(caches / "c4.h5") == content
    assert stopped() == ["c4"]
    with h5py.File(caches / "c5.h5", "r") as new, h5py.File(caches / "c4.h5", "r+") as file:
        file["image"][()], file["label"][()] = new["image"][()], new["label"][()]
        file.attrs.update({**new.attrs, "case": "c4"})
    predicted.clear()
    tested(model, of=index)
    assert predicted == ["c4"]
    last = probabilities(tmp_path / "out")
    assert (last["c4"] == first["c5"]).all()
    assert (last["c5"] == first["c5"]).all()
    # At the end, only unfinished work is removed.
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("where", ["read", "infer", "write_steps"])
def test_a_case_that_fails_leaves_the_others_to_the_next_job(
    where: str,
    tmp_path: Path,
    save: Save,
    tested: Callable[..., list[str]],
    predicted: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, index = save("model.pt"), write_cached_set(tmp_path / "set", 6)
    owner: Any = learner if where == "write_steps" else learner.SegmentationLearner
    step = getattr(owner, where)

    def fail(*given: Any) -> Any:
        if any("c4" in (one if isinstance(one, str) else getattr(one, "case", "")) for one in given):
            raise MemoryError("a large scan")
        return step(*given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, where, fail)
        with pytest.raises(CaseError, match=r"1 of 2 cases failed.*\n  case c4: MemoryError: a large scan"):
            tested(model, of=index)
    before = ["c4", "c5"] if where == "write_steps" else ["c5"]
    assert predicted == before
    tested(model, of=index)
    assert predicted == [*before, "c4"]
