"""Clips from sheet to prediction: checks, cache, items, networks, features, and the new index."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from experiments import unread
from foldwise.experiment.settings import Split
from foldwise.files import CaseError
from foldwise.hdf5 import content_of, open_hdf5
from foldwise.index import Index, make_index
from foldwise.settings import validate
from foldwise.store import Memory
from foldwise.systems import system_of
from foldwise.systems.clips.cache import cache_clip, group_of, label_of
from foldwise.systems.clips.encoding import make_vision
from foldwise.systems.clips.features import whole_numbers, write_features
from foldwise.systems.clips.footprint import FILE, features_bytes
from foldwise.systems.clips.index import update_index
from foldwise.systems.clips.items import evaluation_clips, seen
from foldwise.systems.clips.learner import ClipsLearner
from foldwise.systems.clips.predictions import read_prediction
from foldwise.systems.clips.regions import find_regions
from foldwise.systems.clips.settings import Cache, Data, Model, Regions, Settings
from foldwise.systems.clips.sheet import class_names, class_sentences, read_sheet
from foldwise.systems.clips.system import Clips
from tiny_clip import save_clip
from ultrasound import CLASSES, SMALL, frames_of, settings_of, write_clips
from videos import write_video

TASK = {"classes": CLASSES, "sentences": ["A high band.", "A low band."]}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder)
    return folder


@pytest.fixture(scope="module")
def caches(clips: Path) -> list[str]:
    """Caches of all cases, and files of regions next to them."""
    sheet = read_sheet(Data(sheet=clips / "clips.csv", classes=CLASSES))
    paths = []
    for case in sheet.cases:
        path = clips / "cache" / f"{case.name}.h5"
        cache_clip(case.name, case.video, case.label, Cache(size=32, encoding="raw"), path)
        regions = clips / "regions" / f"{case.name}.h5"
        find_regions(case.name, path, "", None, Regions(method="fan"), regions, regions.with_suffix(".json"))
        paths.append(str(path))
    return paths


def model(**more: Any) -> Model:
    return validate(Model, {**SMALL, **more})


def problems(folder: Path, edit: Callable[[str], str], **data: Any) -> str:
    """The check's problems with an edited copy of the sheet."""
    sheet = folder / "edited.csv"
    sheet.write_text(edit((folder / "clips.csv").read_text(encoding="utf-8")), encoding="utf-8")
    values = settings_of(sheet)
    values["data"] |= data
    settings = validate(Settings, values)
    return "\n".join(
        Clips().check(settings, read_sheet(settings.data), deep=True, memory=Memory(None)).problems
    )


class TestCheck:
    """Wrong input is named before anything runs."""

    def test_right_input(self, clips: Path) -> None:
        assert problems(clips, lambda text: text) == ""
        assert problems(clips, lambda text: text.replace(",high", ",0").replace(",low", ",1")) == ""

    def test_no_video(self, clips: Path) -> None:
        (clips / "text.mp4").write_text("no video at all", encoding="utf-8")
        found = problems(
            clips, lambda text: text.replace("k1_0.avi", "text.mp4").replace("k2_0.mov", "none.mp4")
        )
        assert "line 3: case k1_0" in found
        assert "text.mp4: not readable as a video" in found
        assert "line 4: case k2_0" in found
        assert "none.mp4: no such file" in found

    def test_one_frame(self, clips: Path) -> None:
        write_video(clips / "still.mp4", frames_of("low", 0)[:1])
        found = problems(clips, lambda text: text.replace("k1_0.avi", "still.mp4"))
        assert "line 3: case k1_0" in found
        assert "only one frame" in found

    def test_labels_and_patients(self, clips: Path) -> None:
        found = problems(clips, lambda text: text.replace(",low", ",2", 1))
        assert "case k1_0: label '2' is not one of high, low (0 to 1)" in found
        found = problems(clips, lambda text: text.replace("k1_0,p1", "k1_0,p0"))
        assert "line 3: case k1_0: patient p0 is low here and high in case k0_0" in found
        both = "k6_0,p1,k1_0.avi,low,test\n"
        found = problems(
            clips,
            lambda text: (
                "\n".join(f"{x}," for x in text.split()).replace("label,", "label,split") + "\n" + both
            ),
        )
        assert "case k6_0: patient p1 is in the fixed test set and also in training, as case k1_0" in found

    def test_prompts(self, clips: Path) -> None:
        def with_box(box: str) -> str:
            return problems(
                clips,
                lambda text: (
                    text.replace("label\n", "label,box\n")
                    .replace("high\n", "high,\n")
                    .replace("low\n", f"low,{box}\n")
                ),
            )

        assert with_box("2 3 40 30") == ""
        assert "case k1_0: box '2 3 70 30' extends beyond the video, which is 64×48" in with_box("2 3 70 30")
        assert "expected four integers" in with_box("2 3 40")
        assert "is empty" in with_box("9 3 4 30")

    def test_class_without_cases(self, clips: Path) -> None:
        assert "class middle has no labelled" in problems(clips, str, classes=["high", "low", "middle"])

    def test_a_fold_that_lacks_a_class(self, tmp_path: Path) -> None:
        """The check names it: here one patient has all clips of class low."""
        sheet = write_clips(tmp_path, cases=8)
        sheet.write_text(re.sub(r"(k[357]_0),p\d", r"\1,p1", sheet.read_text("utf-8")), encoding="utf-8")

        def warnings(**more: Any) -> tuple[str, ...]:
            settings = validate(Settings, {**settings_of(sheet), **more})
            return (
                Clips().check(settings, read_sheet(settings.data), deep=False, memory=Memory(None)).warnings
            )

        _, entries = Clips().entries(Data(sheet=sheet, classes=CLASSES), tmp_path, tmp_path)
        index = make_index(entries, TASK, Split(folds=2, validation=0.5))
        tests = int("k1_0" in index.folds[1].test)
        assert warnings() == (
            f"class low has 1 patient(s): none to train on in fold {tests}; none to choose the epoch on in "
            f"fold 0, 1; none to test on in fold {1 - tests}",
        )
        splits = tmp_path / "splits.json"
        splits.write_text(json.dumps([{"test": ["k0_0"]}, {"test": ["k1_0"]}]))
        # A file that does not name all cases is a problem of its own, which the call reports elsewhere.
        assert warnings(split={"folds": 2, "file": str(splits)}) == ()

    def test_parts_are_prepared_again_for_what_concerns_them(self, clips: Path) -> None:
        def part_of(**more: Any) -> dict[str, Any]:
            given: dict[str, Any] = {"prepare": {"regions": {"method": "fan"}}, **more}
            found = unread(**settings_of(clips / "clips.csv", **given))
            part: dict[str, Any] = json.loads(found.depends.part(found.parts.folders[-1]))
            return part

        first = part_of()
        assert part_of(experiment="other", models={"other": {**SMALL, "input": "crop"}}) == first
        assert part_of(prepare={"regions": {"method": "threshold"}}) != first
        assert part_of(cache={"size": 48}) != first

        def encoded(**more: Any) -> dict[str, Any]:
            network = {"name": "EVL", "weights": "clip", "blocks": 2}
            return part_of(models={"evl": {**SMALL, "network": network, "features": {"views": 2}, **more}})

        assert encoded() != first
        assert encoded(optimiser={"name": "AdamW", "lr": 0.1}) == encoded()
        assert encoded(features={"views": 3}) != encoded()
        # A part's Snakemake writes files where the main one expects them.
        inner, outer = unread(**encoded()), unread(**{**encoded(), "experiment": "whole", "seed": 3})
        assert inner.preparation.made == outer.preparation.made

    def test_a_video_under_two_names(self, clips: Path) -> None:
        found = problems(clips, lambda text: text.replace("k2_0.mov", "./k0_0.mp4"))
        assert "line 4: case k2_0" in found
        assert "has the same content as" in found

    @pytest.mark.parametrize(
        ("size", "blocks", "message"),
        [
            (32, 3, ""),
            (64, 3, "takes frames of 32 px, but clip.size is 64"),
            (32, 4, "has 3 blocks, but 4 are required"),
        ],
    )
    def test_clip_of_another_size(self, tmp_path: Path, size: int, blocks: int, message: str) -> None:
        network = {"name": "EVL", "weights": str(save_clip(tmp_path / "clip")), "blocks": blocks}
        evl = {**SMALL, "network": network, "clip": {**SMALL["clip"], "size": size}}
        settings = validate(Settings, settings_of(write_clips(tmp_path), models={"evl": evl}))
        found = "\n".join(
            Clips().check(settings, read_sheet(settings.data), deep=True, memory=Memory(None)).problems
        )
        assert message in found
        assert bool(found) == bool(message)

    def test_missing_weights(self, clips: Path) -> None:
        values = settings_of(
            clips / "clips.csv", prepare={"regions": {"method": "medsam", "weights": "no.pth"}}
        )
        settings = validate(Settings, values)
        found = Clips().check(settings, read_sheet(settings.data), deep=True, memory=Memory(None)).problems
        assert found == ("prepare.regions.weights: no.pth: no such file or folder",)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"input": "crop"}, "models.small.input needs regions"),
            ({"features": {"views": 2}}, "features can only be stored for EVL or an"),
            ({"network": {"name": "EVL"}}, "EVL needs `weights`"),
            ({"input": "channel", "clip": {"rand_augment": {}}}, "RandAugment would move the frames"),
            ({"clip": {"every": 0}}, "a step of at least 1 frame"),
            ({"network": {"name": "ZeroShotCLIP", "weights": "x"}}, "models.small needs data.sentences"),
        ],
    )
    def test_settings_that_do_not_fit(self, clips: Path, change: dict[str, Any], message: str) -> None:
        values = settings_of(clips / "clips.csv", models={"small": {**SMALL, **change}})
        with pytest.raises(CaseError, match=message):
            validate(Settings, values)


class TestClasses:
    """The class map and the sentences, checked against each other."""

    def data(self, folder: Path, names: Any, sentences: str) -> Data:
        (folder / "map.json").write_text(json.dumps(names), encoding="utf-8")
        (folder / "classes.txt").write_text(sentences, encoding="utf-8")
        return Data(sheet=folder / "x.csv", classes=folder / "map.json", sentences=folder / "classes.txt")

    def test_read(self, tmp_path: Path) -> None:
        text = "This is the PNoCa 512 figure.\nThis is the PCAT0_512 figure.\n"
        data = self.data(tmp_path, ["PNoCa_512", "PCAT0_512"], text)
        assert class_names(data) == ["PNoCa_512", "PCAT0_512"]
        assert class_sentences(data)[1] == "This is the PCAT0_512 figure."

    @pytest.mark.parametrize(
        ("names", "sentences", "message"),
        [
            (["a", "b"], "One.\n", "line 2: the sentence of class b is missing"),
            (["a", "b"], "One.\n\nTwo.\n", "line 2: the sentence of class b is missing"),
            (["a", "b"], "1.\n2.\n3.\n", "3 sentences for 2 classes"),
            (["early", "late"], "The late one.\nThe early one.\n", "line 1 names late, but class 0 is early"),
            ({"a": 0}, "1.\n", "a JSON list of the classes' names"),
            (["a", "a"], "1.\n2.\n", "a JSON list of the classes' names"),
        ],
    )
    def test_wrong(self, tmp_path: Path, names: Any, sentences: str, message: str) -> None:
        with pytest.raises(CaseError, match=message):
            class_sentences(self.data(tmp_path, names, sentences))


class TestCache:
    """Decoded frames with their class."""

    def test_shrunk_with_label(self, caches: list[str]) -> None:
        with open_hdf5(caches[1]) as file:
            # 48×64 with the shorter side resized to 32.
            assert (file.attrs["frames"], file.attrs["height"], file.attrs["width"]) == (8, 32, 43)
            assert (file.attrs["source_width"], file.attrs["source_height"]) == (64, 48)
            assert label_of(file) == "low"

    def test_label_and_patient_are_part_of_the_content(self, clips: Path, tmp_path: Path) -> None:
        contents = set()
        for label, group in (("high", "p"), ("low", "p"), ("", "p"), ("high", "q")):
            path = tmp_path / f"{label}{group}.h5"
            cache_clip("k", clips / "k0_0.mp4", label, Cache(size=32), path, group=group)
            contents.add(content_of(path))
            with open_hdf5(path) as file:
                assert (label_of(file), group_of(file)) == (label, group)
        assert len(contents) == 4

    def test_thinned_to_one_frame(self, clips: Path, tmp_path: Path) -> None:
        with pytest.raises(CaseError, match=r"case k: .*only one frame"):
            cache_clip("k", clips / "k0_0.mp4", "", Cache(fps=1), tmp_path / "k.h5")
        assert not (tmp_path / "k.h5").exists()


class TestInputs:
    """The frame, its crop, a blanked background, or the region as a channel."""

    @pytest.fixture
    def region(self, caches: list[str], tmp_path: Path) -> str:
        """A file of regions whose box is columns 10 to 25 of 43 and rows 8 to 24 of 32."""
        path = tmp_path / "regions" / "k0_0.h5"
        settings = Regions(method="threshold", key_every=100)
        find_regions("k0_0", Path(caches[0]), "15 12 37 36", None, settings, path, tmp_path / "facts.json")
        return str(path)

    def test_modes(self, region: str, caches: list[str]) -> None:
        numbers = np.array([2, 5, 5])
        with open_hdf5(region) as file, open_hdf5(caches[0]) as cache:
            whole = seen(file, numbers, model())
            masks = torch.from_numpy(file["masks"][()][numbers].astype(bool))
            assert torch.equal(whole, seen(cache, numbers, model()))
            x0, y0, x1, y1 = (int(edge) for edge in file.attrs["region_box"])
            assert 10 <= x0 < x1 <= 25
            assert 8 <= y0 < y1 <= 24
            crop = seen(file, numbers, model(input="crop", margin=0))
            assert torch.equal(crop, whole[..., y0:y1, x0:x1])
            blank = seen(file, numbers, model(input="blank"))
            assert not blank[~masks[:, None].expand_as(blank)].any()
            inside = masks[:, None].expand_as(blank)
            assert torch.equal(blank[inside], whole[inside])
            channel = seen(file, numbers, model(input="channel"))
            assert torch.equal(channel[:, :3], whole)
            assert torch.equal(channel[:, 3], masks * 255)

    def test_no_region_is_seen_whole(self, caches: list[str], tmp_path: Path) -> None:
        path = tmp_path / "r" / "k.h5"
        settings = Regions(method="threshold", smallest=1.0)
        found = find_regions("k", Path(caches[0]), "", None, settings, path, tmp_path / "k.json")
        assert found.review == "no region found"
        with open_hdf5(path) as file:
            for mode in ("crop", "blank"):
                whole = seen(file, np.array([0]), model())
                assert torch.equal(seen(file, np.array([0]), model(input=mode)), whole)

    def test_testing_views(self, caches: list[str]) -> None:
        clip = {**SMALL["clip"], "spatial_views": 3, "temporal_views": 2}
        with open_hdf5(caches[0]) as file:
            views = list(evaluation_clips(file, model(clip=clip)))
        assert [view.shape for view in views] == [(3, 3, 3, 32, 32)] * 2

    def test_fourth_channel_begins_without_effect(self, caches: list[str]) -> None:
        torch.manual_seed(0)
        plain = ClipsLearner(model(), TASK).network().eval()
        torch.manual_seed(0)
        mixed = ClipsLearner(model(input="channel"), TASK).network().eval()
        clip = torch.randn(1, 4, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(mixed(clip), plain(clip[:, :3]))
        assert set(plain.state_dict()) < set(mixed.state_dict())


class TestItems:
    """Training items are pure functions of their number."""

    def test_every_case_once_per_pass(self, caches: list[str]) -> None:
        items = ClipsLearner(model(), TASK).items(caches, (0, 1))
        labels = [int(items[number]["label"]) for number in range(12)]
        assert sorted(labels[:6]) == sorted(labels[6:]) == [0, 0, 0, 1, 1, 1]

    def test_the_same_again(self, caches: list[str]) -> None:
        one, other = (ClipsLearner(model(), TASK).items(caches, (0, 1)) for _ in range(2))
        other[3], other[0]
        assert torch.equal(one[7]["clip"], other[7]["clip"])
        third = ClipsLearner(model(), TASK).items(caches, (0, 2))
        assert not torch.equal(one[7]["clip"], third[7]["clip"])

    def test_mirror_is_applied(self, caches: list[str]) -> None:
        clip = {**SMALL["clip"], "area": [1, 1], "frames": 1, "every": 1000}
        plain = ClipsLearner(model(clip={**clip, "mirror": False}), TASK).items(caches[:1], (0,))
        mirrored = ClipsLearner(model(clip={**clip, "mirror": True}), TASK).items(caches[:1], (0,))
        flips = [torch.equal(mirrored[n]["clip"], plain[n]["clip"].flip(-1)) for n in range(12)]
        same = [torch.equal(mirrored[n]["clip"], plain[n]["clip"]) for n in range(12)]
        assert all(a or b for a, b in zip(flips, same, strict=True))
        assert 0 < sum(flips) < 12


class TestLearner:
    """Networks, loss and prediction."""

    def test_class_weights_balance(self, caches: list[str]) -> None:
        three = [caches[0], caches[1], caches[3]]
        values = {**SMALL, "class_weights": "balanced", "training": {"steps_per_epoch": None, "batch": 2}}
        fitted = ClipsLearner.fitted(validate(Model, values), three)
        # Of three cases one is high and two are low: 3 / (2 · 1) and 3 / (2 · 2).
        assert fitted.class_weights == {"high": 1.5, "low": 0.75}
        assert fitted.training.steps_per_epoch == 2

    def test_top_k_of_two_classes(self, caches: list[str]) -> None:
        learner = ClipsLearner(model(), TASK)
        items = learner.items(caches, (0,))
        values = learner.loss(learner.network(), default_collate([items[0], items[1]]), torch.Generator())
        assert set(values) == {"loss", "top1", "top2"}
        assert float(values["top2"]) == 1

    def test_views_are_averaged(self, caches: list[str], tmp_path: Path) -> None:
        clip = {**SMALL["clip"], "temporal_views": 2, "spatial_views": 3}
        learner = ClipsLearner(model(clip=clip), TASK)
        networks = [learner.network().eval(), learner.network().eval()]
        learner.predict(networks, caches[2], tmp_path / "k.h5")
        mean, views = read_prediction(tmp_path / "k.h5")
        with open_hdf5(caches[2]) as file, torch.no_grad():
            expected = [
                torch.stack([network(squares).softmax(1) for network in networks]).mean(0)
                for squares in evaluation_clips(file, learner.model)
            ]
        np.testing.assert_allclose(views, torch.cat(expected), rtol=1e-5)
        np.testing.assert_allclose(mean, torch.cat(expected).mean(0), rtol=1e-5)

    @pytest.mark.parametrize(
        ("name", "frames", "size"),
        [("r2plus1d_18", 4, 32), ("s3d", 16, 224), ("swin3d_t", 2, 32), ("mvit_v2_s", 16, 224)],
    )
    def test_torchvisions_networks(self, name: str, frames: int, size: int) -> None:
        values = {
            **SMALL,
            "network": {"name": name},
            "clip": {"frames": frames, "size": size, "rand_augment": None},
        }
        learner = ClipsLearner(validate(Model, values), TASK)
        with torch.device("meta"):
            assert learner.build_network()(learner.sample()).shape == (2, 2)

    @pytest.mark.parametrize("name", ["s3d", "mvit_v2_s"])
    def test_clips_too_small_for_the_network(self, name: str) -> None:
        values = {**SMALL, "network": {"name": name}, "clip": {"frames": 2, "size": 32, "rand_augment": None}}
        with pytest.raises(CaseError, match=f"{name} cannot take clips of 2 frames of 32×32"):
            ClipsLearner(validate(Model, values), TASK).network()

    def test_unknown_network(self) -> None:
        with pytest.raises(CaseError, match="did you mean r2plus1d_18"):
            ClipsLearner(model(network={"name": "r2plus1d"}), TASK).network()

    def test_no_epoch_is_chosen_without_a_class(self, caches: list[str]) -> None:
        """A network that never predicts the missing class would score best."""
        learner = ClipsLearner(model(), TASK)
        network = learner.network()
        scores = learner.validate(network, caches)
        high = learner.validate(network, caches[::2])
        assert 0 < scores["score"] < 1
        assert np.isnan(high["score"])
        assert np.isfinite(high["val_log_loss"])

    def test_learns_where_the_band_is(self, caches: list[str]) -> None:
        torch.manual_seed(0)
        learner = ClipsLearner(model(), TASK)
        network = learner.network()
        items = learner.items(caches[:4], (0,))
        optimiser = torch.optim.AdamW(network.parameters(), 0.02)
        for step in range(40):
            optimiser.zero_grad()
            network.train()
            batch = default_collate([items[4 * step + n] for n in range(4)])
            learner.loss(network, batch, torch.Generator())["loss"].backward()
            optimiser.step()
        assert learner.validate(network, caches[4:])["val_balanced_accuracy"] == 1


class TestFeatures:
    """A frozen network's features, stored once."""

    def test_stored_and_direct_agree(self, caches: list[str], tmp_path: Path) -> None:
        weights = save_clip(tmp_path / "clip")
        network = {"name": "EVL", "weights": str(weights), "blocks": 2}
        with_features = model(network=network, features={"views": 2})
        path = tmp_path / "features" / "k0_0.h5"
        write_features(caches[0], with_features, make_vision(with_features), path)
        torch.manual_seed(0)
        stored = ClipsLearner(with_features, TASK)
        trained = stored.network().eval()
        with torch.no_grad():
            for weight in trained.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        direct = ClipsLearner(model(network=network), TASK)
        stored.predict([trained], str(path), tmp_path / "stored.h5")
        direct.predict([trained], caches[0], tmp_path / "direct.h5")
        np.testing.assert_allclose(
            read_prediction(tmp_path / "stored.h5")[1], read_prediction(tmp_path / "direct.h5")[1], atol=0.01
        )
        items = stored.items([str(path)], (0,))
        batch = default_collate([items[0], items[1]])
        assert batch["clip"].shape == (2, 2, 3, 17, 16)
        assert torch.isfinite(stored.loss(trained, batch, torch.Generator())["loss"])
        again = tmp_path / "again.h5"
        write_features(caches[0], with_features, make_vision(with_features), again)
        assert content_of(again) == content_of(path)

    @pytest.mark.parametrize(
        ("more", "precision", "shapes"),
        [
            ({}, "int8", [(2, 2, 3, 17, 16), (2, 2, 2, 3, 16, 16)]),
            ({"pool": 2}, "float16", [(2, 2, 3, 5, 16), (2, 2, 2, 3, 4, 4)]),
            ({"pool": 2, "attention": False}, "int8", [(2, 2, 3, 5, 16), None]),
        ],
    )
    def test_smaller_features(
        self, caches: list[str], tmp_path: Path, more: Any, precision: str, shapes: list[Any]
    ) -> None:
        """What is stored takes less space, and predicts what the same network does without storage."""
        network = {"name": "EVL", "weights": str(save_clip(tmp_path / "clip")), "blocks": 2, **more}
        settings = model(network=network, features={"views": 2, "precision": precision})
        path = tmp_path / "features" / "k0_0.h5"
        write_features(caches[0], settings, make_vision(settings), path)
        with open_hdf5(path) as file:
            found = [file[n].shape if n in file else None for n in ("train_tokens", "train_attention")]
            assert found == shapes
            assert file["test_tokens"].dtype == precision
        learner, direct = ClipsLearner(settings, TASK), ClipsLearner(model(network=network), TASK)
        torch.manual_seed(0)
        trained = learner.network().eval()
        with torch.no_grad():
            for weight in trained.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        learner.predict([trained], str(path), tmp_path / "stored.h5")
        direct.predict([trained], caches[0], tmp_path / "direct.h5")
        np.testing.assert_allclose(
            read_prediction(tmp_path / "stored.h5")[1], read_prediction(tmp_path / "direct.h5")[1], atol=0.02
        )
        batch = default_collate([learner.items([str(path)], (0,))[n] for n in (0, 1)])
        assert torch.isfinite(learner.loss(trained, batch, torch.Generator())["loss"])

    def test_whole_numbers(self) -> None:
        values = np.random.default_rng(0).normal(size=(3, 5, 40)).astype(np.float16)
        values[1, 2] = 0
        whole, scale = whole_numbers(values)
        assert (whole.dtype, scale.shape) == (np.int8, (3, 5, 1))
        largest = np.abs(values.astype(float)).max(-1, keepdims=True)
        assert (np.abs(whole * scale.astype(float) - values) <= largest / 253.9).all()
        assert not whole[1, 2].any()

    @pytest.mark.parametrize("more", [{}, {"pool": 2}, {"attention": False}])
    @pytest.mark.parametrize("precision", ["float16", "int8"])
    def test_forecast_of_disk_space(
        self, caches: list[str], tmp_path: Path, more: Any, precision: str
    ) -> None:
        """Never much below the file's size; above it, by as much as these features can be compressed."""
        weights = save_clip(tmp_path / "clip", size=64, width=256)
        network = {"name": "EVL", "weights": str(weights), "blocks": 2, **more}
        clip = {**SMALL["clip"], "size": 64}
        settings = model(network=network, features={"views": 8, "precision": precision}, clip=clip)
        path = tmp_path / "features" / "k0_0.h5"
        write_features(caches[0], settings, make_vision(settings), path)
        assert 0.9 < (features_bytes(settings) + FILE) / path.stat().st_size < 1.6

    def test_other_size(self, tmp_path: Path) -> None:
        network = {"name": "EVL", "weights": str(save_clip(tmp_path)), "blocks": 2}
        with pytest.raises(CaseError, match="clips are 64 px, these CLIP weights need 32"):
            make_vision(model(network=network, features={}, clip={**SMALL["clip"], "size": 64}))


class TestIndex:
    """Folds by patient, stratified by class; and the new index of accepted cases."""

    def index(self, tmp_path: Path) -> Index:
        sheet = tmp_path / "clips.csv"
        lines = ["case,group,video,label"]
        # Ten patients of class high with one clip, five of class low with three.
        lines += [f"h{n},h{n},x.mp4,high" for n in range(10)]
        lines += [f"l{n}_{k},l{n},x.mp4,low" for n in range(5) for k in range(3)]
        sheet.write_text("\n".join(lines), encoding="utf-8")
        task, entries = Clips().entries(Data(sheet=sheet, classes=CLASSES), tmp_path, tmp_path)
        return make_index(entries, task, Split(folds=5))

    def test_every_fold_has_its_share_of_each_class(self, tmp_path: Path) -> None:
        index = self.index(tmp_path)
        assert index.task == {"classes": CLASSES, "sentences": []}
        for fold in index.folds:
            labels = [index[case].facts["label"] for case in fold.test]
            assert labels.count("high") == 2
            assert labels.count("low") == 3

    def test_new_index(self, tmp_path: Path) -> None:
        index = self.index(tmp_path)
        before = [fold.test for fold in index.folds]
        facts = {entry.case: {"review": "", "iou": 0.8} for entry in index.entries}
        facts["h3"] = {"review": "no region found", "iou": None}
        updated = update_index(index, facts, tmp_path / "regions")
        assert [e.case for e in updated.entries] == [e.case for e in index.entries]
        assert "mask" not in updated["h3"].files
        assert updated["h3"].facts["review"] == "no region found"
        assert updated["h4"].files["mask"] == (str(tmp_path / "regions" / "h4.h5"),)
        for old, new in zip(index.folds, updated.folds, strict=True):
            # The case under review is tested and validated on, but not trained on.
            assert (new.test, new.validation) == (old.test, old.validation)
            assert set(new.train) == set(old.train) - {"h3"}
        assert [fold.test for fold in index.folds] == before
        assert "mask" not in index["h4"].files
        assert {e.case: e.classes for e in updated.entries} == {
            e.case: (e.facts["label"],) for e in index.entries
        }

    def test_a_fold_left_empty(self, tmp_path: Path) -> None:
        index = self.index(tmp_path)
        facts = {
            e.case: {"review": "x" if e.case in index.folds[1].train else "", "iou": None}
            for e in index.entries
        }
        with pytest.raises(CaseError, match="fold 1 is left without a case to train on"):
            update_index(index, facts, tmp_path)


def test_a_folder_of_images_is_a_clip_like_any_other(tmp_path: Path) -> None:
    """Eight images, 4 per second, of which 2 per second are kept; numbered from 1."""
    folder = tmp_path / "new" / "op 1"
    folder.mkdir(parents=True)
    for number in range(1, 9):
        Image.fromarray(np.full((32, 48, 3), 20 * number, np.uint8)).save(folder / f"{number}.png")
    cache = validate(Cache, {"size": 16, "fps": 2, "encoding": "raw", "interpolation": "box"})
    with pytest.raises(CaseError, match="op 1: a folder of images needs their number per second"):
        cache_clip("a", folder, "high", cache, tmp_path / "a.h5")
    assert cache_clip("a", folder, "high", cache, tmp_path / "a.h5", rate=4) == 4
    with open_hdf5(tmp_path / "a.h5") as file:
        assert file["number"][()].tolist() == [1, 3, 5, 7]
        assert file["time_s"][()].tolist() == [0, 0.5, 1, 1.5]
        assert file["frames"][:, 0, 0, 0].tolist() == [20, 60, 100, 140]
        assert file["frames"].shape == (4, 16, 24, 3)
        assert file.attrs["damaged"] == 0


@pytest.mark.parametrize("system", ["clips", "surgical"])
def test_the_rate_of_new_images_is_not_guessed(tmp_path: Path, system: str) -> None:
    folder = tmp_path / "op1"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "1.png")
    with pytest.raises(CaseError, match=r"op1: a folder of images needs .* foldwise predict --images-fps"):
        system_of(system).new_cases(tmp_path, prepared={"data": {"images_fps": None}})
    for prepared in ({"images_fps": 2, "data": {"images_fps": 5}}, {"data": {"images_fps": 2}}):
        (entry,) = system_of(system).new_cases(folder, prepared=prepared).entries
        assert entry.facts["images_fps"] == 2
