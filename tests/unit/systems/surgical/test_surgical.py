"""Annotations, preparation, networks, losses and predictions of the surgical system."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import Bernoulli, kl_divergence

from foldwise.files import CaseError
from foldwise.networks.mtrcnet import take_head
from foldwise.networks.tecno import TeCNO
from foldwise.settings import validate
from foldwise.store import Memory
from foldwise.systems.surgical.annotations import Track, read_phases, read_tools, write_phases, write_tools
from foldwise.systems.surgical.learner import SurgicalLearner
from foldwise.systems.surgical.losses import correlation_loss, phase_loss, tool_loss
from foldwise.systems.surgical.predictions import read_prediction
from foldwise.systems.surgical.prepare import cache_video
from foldwise.systems.surgical.schedule import schedule_step
from foldwise.systems.surgical.settings import Cache, Data, Model, Settings
from foldwise.systems.surgical.sheet import read_sheet
from foldwise.systems.surgical.system import Surgical
from foldwise.training.attempts import Attempts
from foldwise.training.budget import Budget
from foldwise.training.loop import Run, Trainer
from foldwise.video.decode import Frame
from foldwise.video.pixels import find_border
from foldwise.video.store import open_frames, write_frames
from foldwise.video.windows import Windows
from surgical_data import FPS, PHASES, TOOLS, data_settings, operation, write_operations
from videos import flat_frames

TASK = {"phases": list(PHASES), "tools": list(TOOLS)}
SMALL: dict[str, Any] = {
    "backbone": {"name": "shufflenet_v2_x0_5"},
    "window": 3,
    "crop": [28, 36],
    "hidden": 8,
    "batch_frames": 7,
    "training": {
        "epochs": 3,
        "steps_per_epoch": 2,
        "batch": 2,
        "examples": 0,
        "validation": {"samples": 2},
    },
}


def model(kind: str, **values: Any) -> Model:
    return validate(Model, {**SMALL, "kind": kind, **values})


# Annotations


def test_annotations_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_phases(tmp_path / "p.txt", [0, 25, 50], ["b", "a", "b"])
    assert (tmp_path / "p.txt").read_text() == "Frame\tPhase\n0\tb\n25\ta\n50\tb\n"
    track = read_phases(tmp_path / "p.txt", ("a", "b"))
    assert track.frames.tolist() == [0, 25, 50]
    assert track.values.tolist() == [1, 0, 1]
    write_tools(tmp_path / "t.txt", [0, 25], ("x", "y"), np.array([[0, 1], [1, 1]]))
    assert (tmp_path / "t.txt").read_text() == "Frame\tx\ty\n0\t0\t1\n25\t1\t1\n"
    assert read_tools(tmp_path / "t.txt", ("x", "y")).values.tolist() == [[0, 1], [1, 1]]


def test_rows_of_frames_without_annotation_are_unknown() -> None:
    track = Track(np.array([0, 25, 50]), np.array([2, 0, 1], np.int8))
    # A row within half of the usual step is near enough.
    assert track.at(np.array([50, 0, 10, 12, 13, 62, 63, 75])).tolist() == [1, 2, 2, 2, 0, 1, -1, -1]
    assert track.end == 75


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Frame\tPhase\n0\tPreparation\n1\tPreperation\n", "line 3: phase 'Preperation'.*`Preparation`"),
        ("Frame Phase\n0 Preparation\n0 Preparation\n", "line 3: frame 0 after frame 0"),
        ("Frame Phase\n0 Preparation x\n", "line 2: 3 cells, the header has 2"),
        ("Frame Tool\n0 Preparation\n", "line 1: 'Frame Tool'"),
        ("Frame Phase\nx Preparation\n", "line 2: 'x'"),
        ("Frame Phase\n", "no rows"),
    ],
)
def test_wrong_phase_files_get_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(CaseError, match=words):
        read_phases(tmp_path / "p.txt", PHASES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Frame\tHook\tGrasper\n0\t0\t1\n", "tools in another order: Hook, Grasper; data.tools are Grasper"),
        ("Frame\tGrasper\tClipper\n0\t0\t1\n", "other tools: Grasper, Clipper"),
        ("Frame\tGrasper\tHook\n0\t0\t0.3\n", "line 2: '0.3'"),
        ("Grasper\tHook\n0\t0\n", "expected `Frame`"),
    ],
)
def test_wrong_tool_files_get_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(CaseError, match=words):
        read_tools(tmp_path / "t.txt", TOOLS)


# Preparation


def prepared(tmp_path: Path, count: int = 1, **cache: Any) -> list[str]:
    sheet = write_operations(tmp_path / "source", count)
    data = validate(Data, data_settings(sheet))
    paths = []
    for case in read_sheet(data).cases:
        path = tmp_path / f"{case.name}.h5"
        settings = validate(Cache, {"fps": 1, "size": [32, 40], "cut_border": False, **cache})
        cache_video(case.name, case.video, case.phases, case.tools, data, settings, path)
        paths.append(str(path))
    return paths


def test_annotation_is_thinned_with_the_frames(tmp_path: Path) -> None:
    [path] = prepared(tmp_path)
    _, phases, tools = operation(0)
    with open_frames(path) as file:
        assert file["row"][()].tolist() == list(range(0, 120, FPS))
        np.testing.assert_array_equal(file["phase"], phases[::FPS])
        np.testing.assert_array_equal(file["tool"], tools[::FPS])
        assert list(file.attrs["phases"]) == list(PHASES)
        assert file.attrs["fps"] == 1


def test_frames_between_tool_rows_take_the_nearest(tmp_path: Path) -> None:
    [path] = prepared(tmp_path, fps=5, encoding="raw")
    _, phases, tools = operation(0)
    with open_frames(path) as file:
        np.testing.assert_array_equal(file["phase"], phases)
        # Rows are 5 frames apart: 2 frames on either side take theirs.
        nearest = (np.arange(len(phases) - 2) + 2) // FPS
        np.testing.assert_array_equal(file["tool"][:-2], tools[::FPS][nearest])
        assert (file["tool"][-2:] == -1).all()


def test_frames_after_the_end_of_the_annotation_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sheet = write_operations(tmp_path / "source", 1)
    data = validate(Data, data_settings(sheet))
    [case] = read_sheet(data).cases
    assert case.phases is not None
    lines = case.phases.read_text().splitlines()
    case.phases.write_text("\n".join(lines[: 1 + 98]) + "\n")
    dropped = cache_video(
        "op0", case.video, case.phases, case.tools, data, validate(Cache, {"fps": 1}), tmp_path / "v.h5"
    )
    # Frames 100, 105, 110 and 115 come after row 97; 95 is the last with a phase.
    assert dropped == 4
    assert "4 frame(s) after the end of the annotation left out" in caplog.text
    with open_frames(tmp_path / "v.h5") as file:
        assert file["row"][-1] == 95


def test_numbered_images_meet_their_rows(tmp_path: Path) -> None:
    folder = tmp_path / "video01"
    folder.mkdir()
    for number in (1, 2, 4):
        Image.fromarray(np.full((8, 8, 3), 50 * number, np.uint8)).save(folder / f"video01-{number}.png")
    write_phases(tmp_path / "p.txt", range(100), [PHASES[frame // 40] for frame in range(100)])
    data = validate(
        Data, {**data_settings(tmp_path / "s.csv"), "annotation_fps": 25, "images_fps": 1, "first_image": 1}
    )
    settings = validate(Cache, {"size": [8, 8], "encoding": "raw"})
    cache_video("v", folder, tmp_path / "p.txt", None, data, settings, tmp_path / "v.h5")
    with open_frames(tmp_path / "v.h5") as file:
        assert file["row"][()].tolist() == [0, 25, 75]
        assert file["phase"][()].tolist() == [0, 0, 1]
        assert (file["tool"][()] == -1).all()
        assert file["frames"][:, 0, 0, 0].tolist() == [50, 100, 200]


def test_the_black_border_is_found() -> None:
    frame = np.zeros((60, 100, 3), np.uint8)
    frame[5:50, 20:90] = 100
    noise = np.random.default_rng(0).integers(0, 12, (2, 60, 100, 3)).astype(np.uint8)
    assert find_border([frame + noise[0], noise[1]]) == (5, 50, 20, 90)
    assert find_border([noise[0]]) == (0, 60, 0, 100)


# Check


def problems(folder: Path, sheet: Path, **changed: Any) -> str:
    values = {"experiment": "e", "data": {**data_settings(sheet), **changed}, "split": {"folds": 2}}
    settings = validate(Settings, {**values, "system": "surgical"})
    return "\n".join(
        Surgical().check(settings, read_sheet(settings.data), deep=True, memory=Memory(None)).problems
    )


def test_a_sound_sheet_passes(tmp_path: Path) -> None:
    assert problems(tmp_path, write_operations(tmp_path, 4, seconds=4)) == ""


def test_every_wrong_input_gets_one_line(tmp_path: Path) -> None:
    sheet = write_operations(tmp_path, 9, seconds=4)
    with (tmp_path / "op0-phase.txt").open("a") as file:
        file.writelines(f"{frame}\tPreparation\n" for frame in range(20, 40))
    (tmp_path / "op1-phase.txt").write_text("Frame\tPhase\n0\tCutting\n")
    (tmp_path / "op2-tool.txt").write_text("Frame\tHook\tGrasper\n0\t0\t1\n")
    (tmp_path / "op3.mp4").write_bytes(b"no video")
    (tmp_path / "op4.mp4").unlink()
    (tmp_path / "op4.mp4").mkdir()
    text = sheet.read_text().replace("op5.mp4", "op6.mp4").replace("op7,op7", "op8,op8")
    (tmp_path / "op7-phase.txt").unlink()
    sheet.write_text(text)
    found = problems(tmp_path, sheet).splitlines()
    expected = [
        ("line 2: case op0:", "row for frame 20, but the video ends after 4 s (frame 19"),
        ("line 3: case op1:", "line 2: phase 'Cutting' is unknown"),
        ("line 4: case op2:", "tools in another order"),
        ("line 5: case op3:", "not readable as a video"),
        ("line 6: case op4:", "contains no images"),
        ("line 8: case op6:", "op6.mp4 of case op5, of another patient (op5, here op6)"),
        ("line 9: case op8:", "op7-phase.txt: no such file"),
        ("line 10:", "case op8: already on line 9"),
    ]
    assert len(found) == len(expected)
    for line, (begin, words) in zip(found, expected, strict=True):
        assert line.startswith(begin)
        assert words in line


def test_rare_phases_and_tools_are_named(tmp_path: Path) -> None:
    """Of four videos, one has the second tool; there are two folds."""
    sheet = write_operations(tmp_path, 4, seconds=4)
    for number in range(4):
        write_phases(tmp_path / f"op{number}-phase.txt", range(4), list(PHASES[:2]) * 2)
        tools = np.stack([np.ones(4, int), np.full(4, int(number == 2))], axis=1)
        write_tools(tmp_path / f"op{number}-tool.txt", range(4), TOOLS, tools)
    values = {"experiment": "e", "system": "surgical", "data": data_settings(sheet), "split": {"folds": 2}}
    settings = validate(Settings, values)
    warnings = Surgical().check(settings, read_sheet(settings.data), deep=False, memory=Memory(None)).warnings
    assert [line for line in warnings if line.startswith("class")] == [
        f"class {TOOLS[1]} has 1 patient(s) for 2 folds: some folds have none to test on"
    ]


def test_rows_without_an_image_are_found(tmp_path: Path) -> None:
    sheet = write_operations(tmp_path, 4, seconds=4)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (0, 1, 3):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / f"{number}.png")
    sheet.write_text(sheet.read_text().replace("op0.mp4", "images"))
    (one,) = problems(tmp_path, sheet).splitlines()
    assert "images: a folder of images needs their number per second; set data.images_fps" in one
    found = problems(tmp_path, sheet, images_fps=1).splitlines()
    assert len(found) == 2
    assert all("1 row(s) for frames without an image, the first is frame 10" in line for line in found)


# Networks and losses


def test_window_items_never_cross_videos(tmp_path: Path) -> None:
    paths = []
    for video, count in enumerate((5, 3, 9)):
        frames = [Frame(n, float(n), rgb) for n, rgb in enumerate(flat_frames(count, (12, 14)))]
        path = tmp_path / f"{video}.h5"
        arrays = {"where": np.stack([np.full(count, video), np.arange(count)], 1)}
        write_frames(path, str(video), frames, arrays=arrays)
        paths.append(str(path))
    windows = Windows(paths, 3, (7,), crop=(8, 9), flip=True, arrays=("where",))
    assert windows.total == 3 + 1 + 7
    passes = []
    for begin in (0, windows.total):
        seen = []
        for number in range(begin, begin + windows.total):
            item = windows[number]
            video, first = item["where"][0].tolist()
            assert item["where"].tolist() == [[video, first + n] for n in range(3)]
            assert item["frames"].shape == (3, 8, 9, 3)
            assert item["frames"][:, 0, 0, 0].tolist() == [8 + 4 * (first + n) for n in range(3)]
            seen.append((video, first))
        passes.append(seen)
        assert sorted(seen) == [(v, n) for v, c in enumerate((5, 3, 9)) for n in range(c - 2)]
    assert passes[0] != passes[1]
    with pytest.raises(CaseError, match="3 frame"):
        Windows(paths, 4, (7,), crop=(8, 9), flip=False)
    with pytest.raises(CaseError, match="smaller than the crop"):
        Windows(paths, 3, (7,), crop=(13, 9), flip=False)


def test_a_window_has_one_crop_and_one_mirroring(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (12, 14, 3), np.uint8)
    write_frames(tmp_path / "v.h5", "v", [Frame(n, float(n), image) for n in range(9)])
    windows = Windows([str(tmp_path / "v.h5")], 3, (1,), crop=(8, 9), flip=True)
    drawn = [windows[number]["frames"] for number in range(40)]
    assert all(torch.equal(item[0], item[1]) and torch.equal(item[0], item[2]) for item in drawn)
    different = {item[0].numpy().tobytes() for item in drawn}
    assert len(different) > 20
    mirrored = sum(
        any(np.array_equal(item[0].numpy()[:, ::-1], image[y : y + 8, x : x + 9])
            for y in range(5) for x in range(6))
        for item in drawn
    )  # fmt: skip
    assert 10 <= mirrored <= 30
    assert torch.equal(windows[17]["frames"], drawn[17])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_the_head_is_taken_off(name: str) -> None:
    import torchvision

    with torch.device("meta"):
        trunk, width = take_head(getattr(torchvision.models, name)())
        assert trunk(torch.empty(2, 3, 64, 64)).shape == (2, width)


def test_the_correlation_loss_is_the_divergence_of_bernoulli_variables() -> None:
    # p = 1/2, q = 3/4: 0.75 ln 1.5 + 0.25 ln 0.5.
    tool, mapped = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 3.0).log()
    assert correlation_loss(tool, mapped, "kl").item() == pytest.approx(0.130812, abs=1e-5)
    # 0.75 (ln 0.75 − 0.5), its absolute value.
    assert correlation_loss(tool, mapped, "released").item() == pytest.approx(0.590762, abs=1e-5)
    tool, mapped = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    whole = kl_divergence(Bernoulli(logits=mapped), Bernoulli(logits=tool)).sum() / 6
    assert correlation_loss(tool, mapped, "kl").item() == pytest.approx(whole.item(), rel=1e-5)
    assert correlation_loss(tool, tool, "kl").item() == pytest.approx(0, abs=1e-6)


def test_losses_leave_unknown_frames_out() -> None:
    logits = torch.tensor([[[0.0, 0.0], [5.0, -5.0], [0.0, 1.0]]])
    known = torch.tensor([[0, -1, 1]])
    # ln 2 and ln(1 + 1/e), in equal parts.
    expected = (0.693147 + 0.313262) / 2
    assert phase_loss(logits, known, None).item() == pytest.approx(expected, abs=1e-5)
    # Weights 3 and 1.
    expected = (3 * 0.693147 + 0.313262) / 4
    assert phase_loss(logits, known, torch.tensor([3.0, 1.0])).item() == pytest.approx(expected, abs=1e-5)
    assert phase_loss(logits, torch.full((1, 3), -1), None).item() == 0
    tools = torch.tensor([[[1, 0], [-1, -1], [0, 1]]])
    # First frame 2 ln 2, third frame ln 2 + ln(1 + 1/e).
    expected = (3 * 0.693147 + 0.313262) / 2
    assert tool_loss(logits, tools, None).item() == pytest.approx(expected, abs=1e-5)


def test_each_step_of_the_schedule_teaches_its_part() -> None:
    torch.manual_seed(0)
    system = SurgicalLearner(model("mtrcnet_cl"), TASK)
    network = system.network().train()
    batch = {
        "frames": torch.randint(0, 255, (2, 3, 28, 36, 3), dtype=torch.uint8),
        "phase": torch.tensor([[0, 0, 1], [2, 2, 2]]),
        "tool": torch.tensor([[[0, 1]] * 3, [[1, 1]] * 3]),
    }

    def taught(step: int) -> set[str]:
        network.zero_grad()
        batch["step"] = torch.full((2,), step)
        system.loss(network, batch, torch.Generator())["loss"].backward()
        return {".".join(n.split(".")[:2]) if n.startswith("head") else "trunk"
                for n, p in network.named_parameters() if p.grad is not None}  # fmt: skip

    rest = {"trunk", "head.lstm", "head.phase", "head.tool"}
    assert taught(1) == rest
    statistics = {n: b.clone() for n, b in network.named_buffers() if n.startswith("trunk")}
    assert taught(2) == {"head.mapping"}
    assert all(torch.equal(b, network.get_buffer(n)) for n, b in statistics.items())
    assert taught(3) == rest


def test_a_frozen_backbone_stays_as_it_is() -> None:
    system = SurgicalLearner(model("phase", backbone_lr=0), TASK)
    network = system.network().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    batch = {
        "frames": torch.randint(0, 255, (2, 3, 28, 36, 3), dtype=torch.uint8),
        "phase": torch.tensor([[0, 0, 1], [2, 2, 2]]),
        "step": torch.ones(2, dtype=torch.long),
    }
    optimiser = torch.optim.SGD(system.parameters(network), lr=0.1)
    system.loss(network, batch, torch.Generator())["loss"].backward()
    optimiser.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)


def test_the_schedule_is_a_function_of_the_item() -> None:
    training = {"epochs": 10, "steps_per_epoch": 3, "batch": 2, "accumulate": 2}
    settings = model("mtrcnet_cl", training=training, steps=[0.4, 0.2])
    steps = [schedule_step(settings, number) for number in range(10 * 12)]
    assert steps == [1] * 48 + [2] * 24 + [3] * 48
    short = model("mtrcnet_cl", steps=[0.9, 0.05])
    assert [schedule_step(short, number) for number in range(0, 12, 4)] == [1, 2, 3]
    assert schedule_step(model("mtrcnet"), 100) == 1


def test_the_temporal_network_sees_the_past_alone() -> None:
    torch.manual_seed(0)
    network = TeCNO(4, 3, stages=2, layers=3, channels=8).eval()
    features = torch.randn(1, 40, 4)
    before = network(features)
    assert before.shape == (2, 1, 40, 3)
    changed = features.clone()
    changed[:, 20] += 5
    differs = (network(changed) != before).any(-1)[:, 0]
    assert not differs[:, :20].any()
    assert differs[:, 20].all()
    # A stage looks back 2 · (1 + 2 + 4) frames; two stages twice as many.
    assert not differs[0, 20 + 15 :].any()
    assert not differs[1, 20 + 29 :].any()
    assert differs[1, 20 + 15 :].any()


def test_every_frame_of_a_video_is_predicted_by_its_window(tmp_path: Path) -> None:
    [path] = prepared(tmp_path)
    torch.manual_seed(1)
    system = SurgicalLearner(model("mtrcnet_cl"), TASK)
    network = system.network().eval()
    system.predict([network], path, tmp_path / "p.h5")
    predicted = read_prediction(tmp_path / "p.h5")
    assert predicted.phase.shape == (24, 3)
    assert predicted.tool.shape == (24, 2)
    with open_frames(path) as file, torch.no_grad():
        from foldwise.video.windows import blocks

        [frames] = blocks(file, 100, (28, 36))
        x = system.inputs(frames)
        for frame in (0, 1, 2, 10, 23):
            first = max(0, frame - 2)
            answer = network(x[None, first : first + 3])
            place = frame - first
            phase = answer["phase"][0, place].softmax(0).numpy()
            tool = (answer["tool"][0, place].sigmoid() + answer["mapped"][0, place].sigmoid()).numpy() / 2
            np.testing.assert_allclose(predicted.phase[frame], phase, atol=1e-5)
            np.testing.assert_allclose(predicted.tool[frame], tool, atol=1e-5)


def test_a_video_shorter_than_the_window_is_predicted(tmp_path: Path) -> None:
    [path] = prepared(tmp_path)
    system = SurgicalLearner(model("mtrcnet", window=50), TASK)
    system.predict([system.network()], path, tmp_path / "p.h5")
    assert read_prediction(tmp_path / "p.h5").phase.sum(1) == pytest.approx(np.ones(24))


def test_predictions_of_several_networks_are_averaged(tmp_path: Path) -> None:
    [path] = prepared(tmp_path)
    system = SurgicalLearner(model("mtrcnet"), TASK)
    networks = [system.network() for _ in range(2)]
    for number, chosen in enumerate((networks[:1], networks[1:], networks)):
        system.predict(chosen, path, tmp_path / f"{number}.h5")
    one, two, both = (read_prediction(tmp_path / f"{number}.h5") for number in range(3))
    np.testing.assert_allclose(both.phase, (one.phase + two.phase) / 2, atol=1e-6)
    np.testing.assert_allclose(both.tool, (one.tool + two.tool) / 2, atol=1e-6)


def test_class_weights_come_from_the_training_videos(tmp_path: Path) -> None:
    paths = []
    for video, (phases, tools) in enumerate((([0, 0, 1, -1], [0, 0, 1, 1]), ([0, 0, 1, 1], [0, 0, 0, -1]))):
        frames = [Frame(n, float(n), rgb) for n, rgb in enumerate(flat_frames(4, (32, 40)))]
        tool = np.stack([tools, np.zeros(4)], 1).astype(np.int8)
        arrays: dict[str, np.ndarray] = {"phase": np.array(phases, np.int8), "tool": tool}
        path = tmp_path / f"{video}.h5"
        attrs = {"phases": list(PHASES), "rates": [1.0]}
        write_frames(path, str(video), frames, arrays=arrays, attrs=attrs)
        paths.append(str(path))
    training = {**SMALL["training"], "steps_per_epoch": None}
    fitted = SurgicalLearner.fitted(model("mtrcnet", tool_weights="balanced", training=training), paths)
    # 4 frames of phase 0, 3 of phase 1: the median is 3.5. Tool 0: 5 without, 2 with; tool 1 never.
    assert fitted.phase_weights == pytest.approx([3.5 / 4, 3.5 / 3, 1])
    assert fitted.tool_weights == pytest.approx([2.5, 1])
    # Two videos of 4 frames have two windows of 3 each.
    assert fitted.training.steps_per_epoch == 2


def test_validation_without_annotation_has_no_score(tmp_path: Path) -> None:
    frames = [Frame(n, float(n), rgb) for n, rgb in enumerate(flat_frames(4, (32, 40)))]
    unknown: dict[str, np.ndarray] = {"phase": np.full(4, -1, np.int8), "tool": np.full((4, 2), -1, np.int8)}
    unknown["run"] = np.zeros(4, np.int32)
    write_frames(tmp_path / "a.h5", "a", frames, arrays=unknown, attrs={"phases": list(PHASES)})
    system = SurgicalLearner(model("mtrcnet"), TASK)
    assert np.isnan(system.validate(system.network(), [str(tmp_path / "a.h5")])["score"])


class _StopsAfter(Budget):
    """A time limit that is reached after some steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(None)
        self.left = steps

    def spent_on(self, seconds: float) -> None:
        self.left -= 1

    @property
    def reason(self) -> str | None:
        return "stopped" if self.left <= 0 else None


def trained(folder: Path, settings: Model, paths: list[str], *stops: int) -> dict[str, torch.Tensor]:
    """Weights of a training in jobs that stop after some steps, and a last job that finishes it."""
    run = Run(settings, paths[:1], paths[1:], (0, 0), "f", folder)
    for number, steps in enumerate([*stops, 1000], start=1):
        folder.mkdir(exist_ok=True)
        attempts = Attempts(folder / "attempts.jsonl", number)
        trainer = Trainer(run, SurgicalLearner(settings, TASK), attempts, _StopsAfter(steps))
        trainer.fit()
    assert trainer.finished
    assert trainer.best is not None
    return dict(trainer.best["network"])


@pytest.mark.slow
def test_a_schedule_that_is_broken_off_ends_bit_equal(tmp_path: Path) -> None:
    paths = prepared(tmp_path, 2)
    training = {**SMALL["training"], "epochs": 4, "steps_per_epoch": 2, "validate_every": 2}
    fitted = SurgicalLearner.fitted(model("mtrcnet_cl", training=training), paths[:1])
    whole = trained(tmp_path / "whole", fitted, paths)
    parts = trained(tmp_path / "parts", fitted, paths, 1, 3)
    assert int(whole["step"]) == 3
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_the_backbone_learns_at_its_own_rate(tmp_path: Path) -> None:
    system = SurgicalLearner(model("phase", backbone_lr=0.05, optimiser={"name": "AdamW", "lr": 2e-3}), TASK)
    network = system.network()
    head, trunk = system.parameters(network)
    assert "lr" not in head
    assert trunk["lr"] == pytest.approx(1e-4)
    count = len(head["params"]) + len(trunk["params"])
    assert count == len(list(network.parameters()))


PAIR: dict[str, dict[str, Any]] = {"b": {"kind": "phase"}, "a": {"kind": "temporal", "features": "b"}}


def test_settings_that_contradict_each_other_are_refused() -> None:
    base = {"experiment": "e", "system": "surgical", "data": {"sheet": "s.csv"}}
    for models, words in (
        ({"a": {"kind": "temporal"}}, "set one of them"),
        ({"a": {"kind": "temporal", "features": "b"}}, "not a model with a backbone"),
        ({"a": {"kind": "mtrcnet_cl", "training": {"patience": 3}}}, "patience"),
        ({"a": {"kind": "mtrcnet_cl", "training": {"epochs": 2}}}, "three steps"),
        ({"a": {"crop": [300, 300]}}, "larger than the frames"),
        ({"a": {"phase_weights": [1, 2]}}, "2 weights for 7 names"),
        ({"a": {"phase_weights": [-1] * 7}}, "greater than or equal to 0"),
        ({"a": {"kind": "phase", "head": {"name": "GRU"}}}, "a.head has no effect with kind: phase"),
        ({**PAIR, "a": {**PAIR["a"], "window": 20}}, "a.window has no effect with kind: temporal"),
        ({**PAIR, "a": {**PAIR["a"], "crop": [8, 8]}}, "a.crop: the backbone is that of b"),
    ):
        with pytest.raises(CaseError, match=words):
            validate(Settings, {**base, "models": models})
    with pytest.raises(CaseError, match="learns tools"):
        validate(Settings, {**base, "data": {"sheet": "s.csv", "tools": []}})
    with pytest.raises(CaseError, match="no frame would have a neighbour"):
        validate(Settings, {**base, "cache": {"fps": 1, "longest_step": 0.5}})
    settings = validate(Settings, {**base, "models": PAIR})
    # What is set again as it is, or asks for nothing, is no contradiction.
    same = {"backbone": {"name": "resnet50"}, "augmentation": None, "crop": [224, 224]}
    validate(Settings, {**base, "models": {**PAIR, "a": {**PAIR["a"], **same}}})
    assert settings.models["a"].training.batch == 1
    assert settings.models["b"].training.batch == 8
