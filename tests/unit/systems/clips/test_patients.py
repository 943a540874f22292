"""Patients from their clips by learned attention: by hand, as the network on whole bags, and trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import default_collate

from foldwise.files import CaseError
from foldwise.hdf5 import open_hdf5
from foldwise.index import Entry
from foldwise.networks.mil import AttentionMIL
from foldwise.settings import validate
from foldwise.systems.clips import patients
from foldwise.systems.clips.items import Bags
from foldwise.systems.clips.learner import ClipsLearner
from foldwise.systems.clips.metrics import PATIENTS, summarise
from foldwise.systems.clips.patients import BAG, attended, per_patient, probabilities_of, shares_of
from foldwise.systems.clips.predictions import read_bag, read_prediction
from foldwise.systems.clips.results import ClipsResults
from foldwise.systems.clips.settings import Evaluate, Export, Model
from foldwise.training.steps import Items
from tiny_encoders import TINY, save
from ultrasound import CLASSES, SMALL

TASK = {"classes": CLASSES, "sentences": []}
WIDTH = TINY["hidden_size"]
MIL = {"name": "AttentionMIL", "hidden": 16}


class TestByHand:
    """Two clips: attention log 3 and 0, so three quarters and one quarter."""

    clips = np.array([[[math.log(3), 1.0, 0.0]], [[0.0, -1.0, 2.0]]])

    def test_patient(self) -> None:
        assert shares_of(self.clips) == pytest.approx([0.75, 0.25])
        # Logits 3/4 − 1/4 and 2/4.
        assert probabilities_of(self.clips) == pytest.approx([0.5, 0.5])
        # A clip with infinitely less attention does not count.
        alone = np.array([[[0.0, 0.0, math.log(3)]], [[-1e4, 9.0, 0.0]]])
        assert probabilities_of(alone) == pytest.approx([0.25, 0.75])

    def test_networks_are_averaged_as_probabilities(self) -> None:
        other = np.array([[[5.0, 0.0, math.log(4)]], [[5.0, 0.0, math.log(4)]]])
        both = np.concatenate([self.clips, other], axis=1)
        assert probabilities_of(both) == pytest.approx([(0.5 + 0.2) / 2, (0.5 + 0.8) / 2])
        assert shares_of(both) == pytest.approx([(0.75 + 0.5) / 2, (0.25 + 0.5) / 2])

    def test_joined_clips_count_as_much(self) -> None:
        """In any order, three clips are one that is attended with the third."""
        clips = np.random.default_rng(0).normal(size=(3, 4))
        joined = np.stack([attended(clips[:2]), clips[2]])
        np.testing.assert_allclose(attended(joined), attended(clips))
        np.testing.assert_allclose(attended(clips[::-1]), attended(clips))

    def test_table(self) -> None:
        rows = pd.DataFrame(
            {
                "model": "m",
                "group": ["p", "q", "p"],
                "fold": 0,
                "class": ["low", "high", "low"],
                "probability_high": [0.9, 0.8, 0.9],
                "probability_low": [0.1, 0.2, 0.1],
                BAG: ["[[0, 1, 0]]", "[[7, 5, 0]]", "[[1.0986122886681098, -1, 2]]"],
            }
        )
        table = per_patient(rows)
        # Of p, logits 1/4 − 3/4 and 6/4, so their difference is 2; of q, 5.
        low = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(5))]
        assert table["probability_low"].tolist() == pytest.approx(low)
        assert table[["group", "fold", "class"]].to_numpy().tolist() == [["p", 0, "low"], ["q", 0, "high"]]
        shares = patients.with_attention(rows)
        assert shares["attention"].tolist() == pytest.approx([0.25, 1, 0.75])
        assert BAG not in shares
        by = summarise(rows, ["accuracy"], 5).set_index("class")["mean"]
        assert by[PATIENTS] == 1
        # Without attention, p is wrong.
        by = summarise(rows.drop(columns=BAG), ["accuracy"], 5).set_index("class")["mean"]
        assert by[PATIENTS] == 0.5


def test_gated_attention() -> None:
    """The network's bag against the formula of the paper, with the module's own weights."""
    torch.manual_seed(0)
    network = AttentionMIL(5, 3, hidden=4).eval()
    bag = torch.randn(2, 6, 5)
    h = (bag - bag.mean(-1, keepdim=True)) / (bag.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    gate = 1 / (1 + torch.exp(-(h @ network.gate.weight.T + network.gate.bias)))
    inner = torch.tanh(h @ network.value.weight.T + network.value.bias) * gate
    powers = torch.exp(inner @ network.attention.weight[0])
    pooled = (powers[..., None] * h).sum(1) / powers.sum(1, keepdim=True)
    expected = pooled @ network.head.weight.T + network.head.bias
    with torch.no_grad():
        torch.testing.assert_close(network(bag), expected)
        torch.testing.assert_close(network(bag.flip(1)), expected)
        # Tokens of a clip: their mean is the only vector of a bag.
        tokens = torch.randn(2, 1, 3, 4, 5)
        torch.testing.assert_close(network(tokens), network(tokens.mean((2, 3))))


def write_features(path: Path, group: str, label: str, vectors: np.ndarray) -> str:
    """Stored features of a clip: vectors (views, width) as tokens of two steps and places around them."""
    around = np.array([0.5, -0.5])[:, None, None] * np.array([1, -1])[:, None]
    tokens = (vectors[:, None, None, None] + around).astype(np.float16)
    with h5py.File(path, "w") as file:
        file["train_tokens"] = file["test_tokens"] = tokens
        for key, text in (("label", label), ("group", group)):
            file[key] = np.array(list(text.encode()), np.uint8)
        file.attrs.update({"case": path.stem, "content": path.stem, "facts": '{"damaged": 0}'})
    return str(path)


def clips_of(folder: Path, count: int, seed: int, clips: int = 5) -> list[str]:
    """Patients of whom one clip, marked by the last channel, has the class in the first; others mislead."""
    random, paths = np.random.default_rng(seed), []
    for number in range(count):
        label, own = number % 2, int(random.integers(clips))
        for clip in range(clips):
            vectors = random.normal(0, 0.3, (2, WIDTH))
            vectors[:, 0] += 3 * ((-1) ** label if clip == own else random.choice([-1, 1]))
            vectors[:, -1] += 3 if clip == own else -3
            path = folder / f"s{seed}_{number}_{clip}.h5"
            paths.append(write_features(path, f"p{number}", CLASSES[label], vectors))
    return paths


def marked(path: str) -> bool:
    with open_hdf5(path) as file:
        return bool(file["test_tokens"][..., -1].mean() > 0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights")
    save("DINOv3ViTModel", path)
    return path


def model(weights: Path, network: dict[str, Any], **more: Any) -> Model:
    encoder = {"name": "transformers:DINOv3ViTModel", "weights": str(weights)}
    return validate(
        Model, {**SMALL, "encoder": encoder, "network": network, "features": {}, "bag": 5, **more}
    )


def trained(learner: ClipsLearner, items: Items, steps: int = 120, batch: int = 20) -> torch.nn.Module:
    torch.manual_seed(0)
    known = [items[number] for number in range(200)]
    network = learner.network().train()
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for step in range(steps):
        drawn = default_collate([known[(batch * step + place) % len(known)] for place in range(batch)])
        loss = learner.loss(network, drawn, torch.Generator())["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


def rows_of(learner: ClipsLearner, network: torch.nn.Module, paths: list[str], out: Path) -> pd.DataFrame:
    """Rows of metrics.csv of predicted clips."""
    rows = []
    for path in map(Path, paths):
        learner.predict([network], str(path), out / path.name)
        with open_hdf5(path) as file:
            label = bytes(file["label"][()]).decode()
        entry = Entry(path.stem, path.stem.rsplit("_", 1)[0], {}, str(path), {"label": label}, 1)
        [row] = ClipsResults().score_case(out / path.name, entry, TASK, Evaluate(), {})
        rows.append({"case": entry.case, "group": entry.group, "fold": 0, **row})
    return pd.DataFrame(rows)


def test_attention_finds_the_clip_that_counts(weights: Path, tmp_path: Path) -> None:
    """On new patients, of whom one clip of five has the class, against the mean of a probe's clips."""
    (tmp_path / "out").mkdir()
    train, test = clips_of(tmp_path, 40, 1), clips_of(tmp_path, 20, 2)
    truths = {}
    for name, network in (("mil", MIL), ("probe", {"name": "AttentiveProbe", "channels": 16, "heads": 2})):
        learner = ClipsLearner(model(weights, network), TASK)
        assert learner.count_items(learner.model, train) == (40 if name == "mil" else 200)
        found = trained(learner, learner.items(train, (0,)))
        rows = rows_of(learner, found, test, tmp_path / "out")
        table = per_patient(rows)
        truths[name] = np.mean([row[f"probability_{row['class']}"] for row in table.to_dict("records")])
        if name == "mil":
            shares = patients.with_attention(rows)["attention"]
            # By chance a fifth. It is small where nothing else in a patient speaks for the other class.
            assert shares[[marked(path) for path in test]].mean() > 0.5
            validated = learner.validate(found, test)
            assert validated["val_balanced_accuracy"] == 1
            assert validated["score"] == pytest.approx(truths["mil"])
    assert truths["mil"] > 0.9
    assert truths["probe"] < 0.75


def test_clips_together_are_the_network_on_the_bag(weights: Path, tmp_path: Path) -> None:
    """Two networks and two patients of three clips with two views each: exactly the mean of their bags."""
    learner = ClipsLearner(model(weights, MIL), TASK)
    paths = clips_of(tmp_path, 2, 3, clips=3)
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(learner.network().eval())
    bags = {f"p{number}": np.zeros((0, WIDTH), np.float32) for number in range(2)}
    (tmp_path / "out").mkdir()
    tables: dict[str, list[Any]] = {"predictions.csv": []}
    for path in map(Path, paths):
        prediction = tmp_path / "out" / path.name
        learner.predict(networks, str(path), prediction)
        bag, (mean, views) = read_bag(prediction), read_prediction(prediction)
        assert bag is not None
        assert (bag.shape, views.shape) == ((2, 3), (2, 2))
        group = path.stem.split("_")[1]
        entry = Entry(path.stem, f"p{group}", {}, str(path), {"label": ""}, 1)
        exported = ClipsResults().export_case(prediction, entry, Export(), {}, tmp_path)
        tables["predictions.csv"].extend(exported["predictions.csv"])
        with open_hdf5(path) as file:
            vectors = file["test_tokens"][()].astype(np.float32).mean((1, 2, 3))
        bags[entry.group] = np.concatenate([bags[entry.group], vectors])
        # A clip by itself: the mean of its views, each a bag of one.
        with torch.no_grad():
            alone = [
                n(torch.from_numpy(vectors)[:, None], torch.empty(0)).softmax(1).mean(0) for n in networks
            ]
        np.testing.assert_allclose(mean, torch.stack(alone).mean(0), atol=1e-6)
    found = ClipsResults().completed(tables)
    table = pd.DataFrame(found["patients.csv"]).set_index("group")
    assert table[["clips", "by"]].to_numpy().tolist() == [[3, "attention"]] * 2
    for group, bag in bags.items():
        with torch.no_grad():
            each = [n(torch.from_numpy(bag)[None], torch.empty(0)).softmax(1)[0] for n in networks]
        expected = torch.stack(each).mean(0)
        own = table.loc[group, [f"probability_{name}" for name in CLASSES]].astype(float)
        np.testing.assert_allclose(own, expected, atol=1e-6)
    clips = pd.DataFrame(found["predictions.csv"])
    assert BAG not in clips
    np.testing.assert_allclose(clips.groupby("group")["attention"].sum(), 1)
    assert clips["attention"].nunique() == 6


def test_bags(tmp_path: Path, weights: Path) -> None:
    """Each clip of a patient as often as the others, another view each time, and one item per patient."""
    paths = [
        write_features(
            tmp_path / f"{n}.h5", "ab"[n > 1], CLASSES[n > 1], np.full((9, WIDTH), n) + np.eye(9, WIDTH)
        )
        for n in range(5)
    ]
    bags = Bags(paths, model(weights, MIL, bag=4), CLASSES, (5,))
    assert len(bags) == 2
    seen = {}
    for number in range(2):
        item = bags[number]
        assert item["clip"].shape == (4, WIDTH)
        # Vectors are the clip's number, and 1 more in the view's channel.
        clips, views = item["clip"].floor().min(1).values.int().tolist(), item["clip"].argmax(1)
        seen[int(item["label"])] = clips
        assert len({*zip(clips, views.tolist(), strict=True)}) == 4
    assert sorted(seen[0]) == [0, 0, 1, 1]
    assert len({*seen[1]}) == 3
    assert {*seen[1]} == {2, 3, 4}
    assert any(not torch.equal(bags[n]["clip"], bags[n + 2]["clip"]) for n in range(2))


def test_classes_are_balanced_by_patient(tmp_path: Path, weights: Path) -> None:
    vectors = np.zeros((1, WIDTH))
    paths = [write_features(tmp_path / f"{n}.h5", "aaab"[n], CLASSES[n == 3], vectors) for n in range(4)]
    fitted = ClipsLearner.fit(model(weights, MIL, class_weights="balanced"), paths)
    assert fitted.class_weights == {"high": 1, "low": 1}


def test_features_are_required(weights: Path) -> None:
    with pytest.raises(CaseError, match=r"AttentionMIL learns from stored features.*features: {views: 4}"):
        model(weights, MIL, features=None)
