"""The rate of an annotation is found from its video, or refused; frames take the nearest rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foldwise.files import CaseError
from foldwise.settings import validate
from foldwise.store import Memory
from foldwise.systems.surgical.annotations import Track, write_phases, write_tools
from foldwise.systems.surgical.balance import numbering
from foldwise.systems.surgical.check import check_annotation
from foldwise.systems.surgical.prepare import cache_video
from foldwise.systems.surgical.rates import Timeline, fitting, found_rate
from foldwise.systems.surgical.settings import Cache, Data, Settings
from foldwise.systems.surgical.sheet import SurgicalCase, read_sheet
from foldwise.systems.surgical.system import Surgical
from foldwise.video import decode
from foldwise.video.decode import VideoInfo, probe
from foldwise.video.store import open_frames
from surgical_data import PHASES, TOOLS, data_settings
from videos import flat_frames, write_video

HERE = Path("p.txt")


def track(rows: Any, changes: int = 6) -> Track:
    """Rows whose phase changes a few times."""
    frames = np.array(rows)
    return Track(frames, (np.arange(len(frames)) * (changes + 1) // len(frames) % 3).astype(np.int8))


def film(frames: int, fps: float) -> Timeline:
    return Timeline.of(Path("v.mp4"), VideoInfo(frames, fps, 8, 8, frames / fps), 0)


@pytest.mark.parametrize(
    ("frames", "fps", "rows", "rate"),
    [
        # Cholec80: phases of each frame, tools of each 25th.
        (25 * 600, 25, range(25 * 600), None),
        (25 * 600 + 13, 25, range(0, 25 * 600 + 1, 25), None),
        # Converted from 25 to 30 frames per second, still with the old annotation.
        (30 * 600, 30, range(25 * 600), 25.0),
        # A row per second.
        (25 * 600 + 13, 25, range(600), 1.0),
        # NTSC: by its own frames, not by 30 per second.
        (17982, 30000 / 1001, range(17982), None),
        (17982, 30000 / 1001, range(0, 17982, 30), None),
        # The annotation ends 6 s before the video of 10 minutes.
        (25 * 600, 25, range(25 * 594), None),
    ],
)
def test_the_rate_of_a_film_is_found(frames: int, fps: float, rows: range, rate: float | None) -> None:
    video = film(frames, fps)
    found = found_rate({HERE: track(rows)}, video, video.kept(1))
    assert found == rate


def test_a_variable_rate_is_told_apart_from_a_nominal_one() -> None:
    """1 of 100 frames is missing: rows count time, or frames."""
    video = film(99 * 150, 24.75)
    assert found_rate({HERE: track(range(25 * 600))}, video, video.kept(1)) == 25
    assert found_rate({HERE: track(range(99 * 150))}, video, video.kept(1)) is None
    # If the annotation ends 4 or 10 s before the video, nothing tells; its last labels are 6 s apart.
    with pytest.raises(CaseError, match=r"own frames and at 25 per second, .*null or 25"):
        found_rate({HERE: track(range(99 * 149))}, video, video.kept(1))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        # The uncut video's, the first fifth, and one for another number per second.
        (range(250), "250 rows, the last for frame 249, for 125 frames of the video"),
        (
            range(35),
            "no rate fits .* of 5.0 s .*they would end after 3.5 s at 10 per second, 7.0 s at 5",
        ),
        # Not 24 per second for the first 96 %, nor 30 for a video of 6 s that was cut.
        (range(117), "4.7 s at the video's own frames"),
        (range(150), "150 rows, .*5.0 s at 30 per second.*; 30 per second are more rows than frames"),
        # Nor rows of 25 per second that end early.
        (range(0, 120, 5), "4.8 s at the video's own frames"),
        (range(0, 7 * 125, 7), "tried: its own frames, 25, 1, 30, 50, 60"),
    ],
)
def test_no_rate_fits(rows: range, words: str) -> None:
    video = film(125, 25)
    with pytest.raises(CaseError, match=words):
        found_rate({HERE: track(rows)}, video, video.kept(1))


def test_phases_and_tools_must_fit_at_one_rate() -> None:
    video = film(1500, 25)
    both = {Path("p.txt"): track(range(60)), Path("t.txt"): track(range(0, 1500, 25))}
    with pytest.raises(
        CaseError, match=r"p.txt: 60 rows.* 60.0 s at 1 per second, which does not fit the case's"
    ):
        found_rate(both, video, video.kept(1))
    assert fitting({Path("p.txt"): track(range(1500)), **dict([both.popitem()])}, video) == [None, 25]


def images(folder: Path, numbers: Any) -> Path:
    folder.mkdir()
    for number in numbers:
        shade = np.full((8, 8, 3), number * 3 % 256, np.uint8)
        Image.fromarray(shade).save(folder / f"{number:06}.png")
    return folder


@pytest.mark.parametrize(
    ("first", "rows", "rate"),
    [
        # Numbers from 1: rows by these numbers, by the second, or as in Cholec80.
        (1, range(1, 61), None),
        (1, range(60), 1.0),
        (1, range(1500), 25.0),
        (0, range(60), None),
        # The film was a little longer than its last image.
        (0, range(1512), 25.0),
    ],
)
def test_the_rate_of_images_is_found(tmp_path: Path, first: int, rows: range, rate: float | None) -> None:
    folder = images(tmp_path / "v", range(first, first + 60))
    video = Timeline.of(folder, probe(folder, rate=1), first)
    assert found_rate({HERE: track(rows)}, video, video.kept(1)) == rate


def test_two_rates_that_differ_are_refused(tmp_path: Path) -> None:
    """Every other row lacks, so rows 1, 3, …, 59 may count images from 1 or seconds from 0."""
    folder = images(tmp_path / "v", range(1, 61))
    video = Timeline.of(folder, probe(folder, rate=1), 1)
    rows = track(range(1, 61, 2))
    with pytest.raises(
        CaseError, match=r"p.txt: its rows fit .* own frames and at 1 per second, .*null or 1"
    ):
        found_rate({HERE: rows}, video, video.kept(1))
    # One phase throughout: both give the same labels.
    same = Track(rows.frames, np.zeros(len(rows.frames), np.int8))
    assert found_rate({HERE: same}, video, video.kept(1)) is None


def test_a_partial_annotation_that_fits_another_rate_by_chance_is_refused() -> None:
    """18,000 frames in 600 s; 14,985 rows: 599.4 s at 25 per second, or the first 83 % of the frames."""
    video = film(30 * 600, 30)
    words = (
        r"at 25 per second and at the video's own frames, .*599\.4 and 499\.5 s of 600\.0 s; .*to 25 or null"
    )
    with pytest.raises(CaseError, match=words):
        found_rate({HERE: track(range(14985))}, video, video.kept(1))
    # To the row at 25 per second; or the own frames would cover only 40 % of a film with 25.
    assert found_rate({HERE: track(range(15000))}, video, video.kept(1)) == 25
    video = film(25 * 600, 25)
    assert found_rate({HERE: track(range(5995))}, video, video.kept(1)) == 10


def case_of(folder: Path, video: Path, phases: Any = None, tools: Any = None) -> SurgicalCase:
    """A case whose phases and tools have the given rows."""
    paths: dict[str, Path] = {}
    if phases is not None:
        paths["phases"] = folder / "p.txt"
        write_phases(paths["phases"], phases, [PHASES[v] for v in track(phases).values])
    if tools is not None:
        paths["tools"] = folder / "t.txt"
        write_tools(paths["tools"], tools, TOOLS, np.stack([track(tools).values % 2] * 2, 1))
    lines = [",".join(["case", "video", *paths]), ",".join(["v", str(video), *map(str, paths.values())])]
    (folder / "s.csv").write_text("\n".join(lines) + "\n")
    [case] = read_sheet(data_of(folder)).cases
    return case


def data_of(folder: Path, **values: Any) -> Data:
    return validate(
        Data, {**data_settings(folder / "s.csv"), "annotation_fps": "auto", "images_fps": 1, **values}
    )


def test_an_explicit_rate_that_covers_little_is_refused_with_the_right_one(tmp_path: Path) -> None:
    """Cholec80 at one frame per second with phases numbered per second: 25 would keep 3 of 60 frames."""
    folder = images(tmp_path / "v", range(60))
    case, info = case_of(tmp_path, folder, range(60)), probe(folder, rate=1)
    [(text, warning), *_] = check_annotation(case, data_of(tmp_path, annotation_fps=25), Cache(), info)[0]
    assert not warning
    assert "p.txt: covers 4 % of the video: its rows end after 2.4 s of 60 s at 25 per second" in text
    assert "at the video's own frames it would cover it: set data.annotation_fps to null or 1" in text
    problems, _, facts = check_annotation(case, data_of(tmp_path), Cache(), info)
    assert problems == []
    assert facts["annotation_fps"] == "own frames"
    cache_video("v", folder, case.phases, None, data_of(tmp_path), Cache(size=(8, 8)), tmp_path / "v.h5")
    with open_frames(tmp_path / "v.h5") as file:
        np.testing.assert_array_equal(file["phase"], track(range(60)).values)
        assert file.attrs["rates"].tolist() == [0, 1]


def test_tool_rows_every_24_frames_lose_nothing(tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    write_video(video, flat_frames(250), fps=25)
    case = case_of(tmp_path, video, range(250), range(0, 250, 24))
    problems, _, _ = check_annotation(case, data_of(tmp_path), Cache(), probe(video))
    [(text, warning)] = problems
    assert warning
    assert "t.txt: its rows are usually 24 frames apart, the kept frames 25" in text
    cache_video("v", video, case.phases, case.tools, data_of(tmp_path), Cache(size=(8, 8)), tmp_path / "v.h5")
    with open_frames(tmp_path / "v.h5") as file:
        # By hand: frames 0, 25, …, 225 are nearest to rows 0, 24, …, 216: the first ten.
        np.testing.assert_array_equal(file["tool"][:, 0], track(range(0, 250, 24)).values[:10] % 2)


@pytest.mark.parametrize(
    ("rows", "late"), [(range(1, 11), "1 s"), (range(1, 251), "0.04 s"), (range(10), "")]
)
def test_rows_that_may_count_from_1(tmp_path: Path, rows: range, late: str) -> None:
    video = tmp_path / "v.mp4"
    write_video(video, flat_frames(250), fps=25)
    problems = check_annotation(case_of(tmp_path, video, rows), data_of(tmp_path), Cache(), probe(video))[0]
    assert [warning for _, warning in problems] == [True] * bool(late)
    assert all(f"if it counts from 1, its labels are {late} late" in text for text, _ in problems)


def test_an_annotation_with_few_rows_in_its_range_is_refused(tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    write_video(video, flat_frames(250), fps=25)
    case = case_of(tmp_path, video, [*range(50), *range(225, 250)])
    [(text, warning)] = check_annotation(case, data_of(tmp_path), Cache(), probe(video))[0]
    assert not warning
    assert "3 of 10 kept frames between its first and last row have a row" in text


def test_a_header_with_hidden_frames_does_not_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An mp4 cut without encoding again counts 250 frames and shows 125; the real stamps are judged."""
    video = tmp_path / "v.mp4"
    write_video(video, flat_frames(125), fps=25)
    case = case_of(tmp_path, video, range(250))
    wrong = VideoInfo(250, 50, 32, 48, 5.0)
    monkeypatch.setattr("foldwise.systems.surgical.prepare.probe", lambda *_, **__: wrong)
    rates: tuple[str | int | None, ...] = ("auto", None, 25)
    for rate in rates[:2]:
        with pytest.raises(CaseError, match=r"250 rows, the last for frame 249, for 125 frames"):
            cache_video("v", video, case.phases, None, data_of(tmp_path, annotation_fps=rate),
                        Cache(fps=25, size=(8, 8)), tmp_path / "v.h5")  # fmt: skip
    assert not (tmp_path / "v.h5").exists()
    # At the front door, once the header is read rightly.
    with pytest.raises(CaseError, match="250 rows, the last for frame 249, for 125 frames"):
        check_annotation(case, data_of(tmp_path), Cache(), decode.probe(video))
    right = case_of(tmp_path, video, range(125))
    for rate in rates:
        assert check_annotation(right, data_of(tmp_path, annotation_fps=rate), Cache(), probe(video))[0] == []


def test_gaps_and_rates_are_in_the_facts_and_notes(tmp_path: Path) -> None:
    """A sparse folder: seconds 0 to 9, 40 to 44 and 60."""
    folder = images(tmp_path / "v", [*range(10), *range(40, 45), 60])
    case_of(tmp_path, folder, [*range(10), *range(40, 45), 60])
    settings = validate(
        Settings, {"experiment": "e", "system": "surgical", "data": data_of(tmp_path).model_dump(mode="json")}
    )
    checked = Surgical().check(settings, read_sheet(settings.data), deep=False, memory=Memory(None))
    facts = checked.facts["v"]
    assert facts["annotation_fps"] == "own frames"
    assert (facts["gaps"], facts["longest_gap_s"], facts["mean_fps"]) == (2, 31, 0.25)
    # 9 s and 4 s of 60 s.
    assert facts["covered"] == pytest.approx(13 / 60, abs=1e-4)
    assert "annotation_fps: auto found own frames in 1 video(s)" in checked.notes
    [warning] = [text for text in checked.warnings if "gap" in text]
    assert "16 frames, 0.25 per second instead of 1; 2 gap(s), the longest of 31 s; 22 % of" in warning


def test_new_videos_are_numbered_as_the_training_videos(tmp_path: Path) -> None:
    """The first rate that fits all: 25 per second of 25 and 30 frames per second; else their own frames."""
    paths = []
    for name, fps, rows in (("a", 25, 50), ("b", 30, 50), ("c", 30, 60)):
        folder = tmp_path / name
        folder.mkdir()
        write_video(folder / "v.mp4", flat_frames(2 * fps), fps=fps)
        case = case_of(folder, folder / "v.mp4", range(rows))
        paths.append(str(folder / "v.h5"))
        small = Cache(size=(8, 8))
        cache_video("v", case.video, case.phases, None, data_of(folder), small, Path(paths[-1]))
    assert numbering(paths[:1]) is None
    assert numbering(paths[:2]) == 25
    assert numbering(paths) is None
