"""Decoding of videos and image folders, and the frame cache."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from PIL import Image

from foldwise.files import CaseError
from foldwise.index import Entry
from foldwise.systems.new import NewCases
from foldwise.video.decode import Frame, probe, read_frames, sample_frames
from foldwise.video.sheet import is_sheet, videos_in
from foldwise.video.store import open_frames, read, write_frames
from foldwise.video.stream import outline
from videos import flat_frames, write_video


def numbers_in(frames: Iterator[Frame]) -> list[int]:
    """Frame numbers encoded in grey values; lossy codecs change them slightly."""
    return [round((float(np.median(frame.rgb)) - 8) / 4) for frame in frames]


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.mov", "mpeg4"),
        ("a.avi", "mpeg4"),
        ("a.mpg", "mpeg2video"),
        ("a.webm", "libvpx"),
        ("a.gif", "gif"),
    ],
)
def test_every_container_gives_its_frames_in_order(tmp_path: Path, name: str, codec: str) -> None:
    # GIFs have times in hundredths of a second, and a palette with few greys.
    path = write_video(tmp_path / name, flat_frames(40), codec=codec)
    info = probe(path)
    assert (info.frames, info.height, info.width) == (40, 32, 48)
    assert info.duration_s == pytest.approx(1.6, abs=0.05)
    assert info.fps == pytest.approx(25, abs=1)
    frames = list(read_frames(path))
    assert [frame.number for frame in frames] == list(range(40))
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(40) / 25, abs=1e-3)
    assert frames[0].rgb.shape == (32, 48, 3)
    assert frames[0].rgb.dtype == np.uint8
    if codec != "gif":
        assert numbers_in(iter(frames)) == list(range(40))


def test_reordered_frames_come_in_presentation_order(tmp_path: Path) -> None:
    path = write_video(tmp_path / "b.mp4", flat_frames(30), options={"bf": "3", "g": "12"})
    assert numbers_in(read_frames(path)) == list(range(30))


@pytest.mark.parametrize(
    ("fps", "expected"),
    [
        (25, range(0, 60)),
        (5, range(0, 60, 5)),
        (1, [0, 25, 50]),
        (100, range(0, 60)),
        # Ticks every 0.1 s lie at frames 0, 2.5, 5, 7.5 …; the earlier of two equally near.
        (10, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37, 40, 42, 45, 47, 50, 52, 55, 57]),
        # 25 / 7 = 3.571 frames: 0, 3.57, 7.14, 10.7, 14.3, 17.9, 21.4, 25, 28.6, …
        (7, [0, 4, 7, 11, 14, 18, 21, 25, 29, 32, 36, 39, 43, 46, 50, 54, 57]),
    ],
)
def test_thinning_takes_the_frames_nearest_in_time(
    tmp_path: Path, fps: float, expected: list[int] | range
) -> None:
    path = write_video(tmp_path / "a.mp4", flat_frames(60))
    kept = list(read_frames(path, fps=fps))
    assert [frame.number for frame in kept] == list(expected)
    assert numbers_in(iter(kept)) == list(expected)


def test_a_variable_rate_is_sampled_evenly_in_time(tmp_path: Path) -> None:
    # 20 frames per second for one second, then 5 per second for two, then a gap of two seconds.
    times = [Fraction(n, 20) for n in range(20)] + [1 + Fraction(n, 5) for n in range(10)]
    times += [5 + Fraction(n, 5) for n in range(3)]
    path = write_video(tmp_path / "v.mkv", flat_frames(33), times=times)
    assert [f.time_s for f in read_frames(path)] == pytest.approx([float(t) for t in times])
    kept = [frame.time_s for frame in read_frames(path, fps=2)]
    # Ticks 0, .5, 1, 1.5 (as near to 1.4 as to 1.6), 2, 2.5 (2.4), 3 (2.8), nothing new until 5.
    assert kept == pytest.approx([0, 0.5, 1, 1.4, 2, 2.4, 2.8, 5, 5.4])


def test_frames_are_edited_before_they_are_given(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", flat_frames(3))
    shapes = {frame.rgb.shape for frame in read_frames(path, edit=lambda rgb: rgb[4:12, :20])}
    assert shapes == {(8, 20, 3)}


def image_folder(folder: Path, numbers: list[int], size: tuple[int, int] = (8, 10)) -> Path:
    folder.mkdir()
    for number in numbers:
        Image.fromarray(np.full((*size, 3), number, np.uint8)).save(folder / f"video07-{number}.png")
    return folder


def test_numbered_images_are_a_video(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "v", [1, 2, 3, 9, 10, 11])
    (folder / "readme.txt").write_text("not an image")
    frames = list(read_frames(folder, rate=2, first=1))
    assert [(frame.number, int(frame.rgb[0, 0, 0])) for frame in frames] == [
        (n, n) for n in (1, 2, 3, 9, 10, 11)
    ]
    assert [frame.time_s for frame in frames] == [0, 0.5, 1, 4, 4.5, 5]
    assert [frame.number for frame in read_frames(folder, rate=2, first=1, fps=1)] == [1, 3, 9, 11]
    info = probe(folder, rate=2)
    assert (info.frames, info.height, info.width, info.fps) == (6, 8, 10, 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such video file"),
        (lambda path: path.write_bytes(b""), "not readable as a video"),
        (lambda path: path.write_bytes(np.random.default_rng(0).bytes(4000)), "not readable as a video"),
        (lambda path: path.mkdir(), "contains no images"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, make: object, words: str) -> None:
    path = tmp_path / "x.mp4"
    make(path)  # type: ignore[operator]
    with pytest.raises(CaseError, match=words):
        probe(path, rate=1)
    with pytest.raises(CaseError, match=words):
        list(read_frames(path, rate=1))


def test_a_container_without_frames_or_video_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "zero.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()
    text = tmp_path / "notes.txt"
    text.write_text("a line of text\n" * 50)
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
    for path, words in (
        (tmp_path / "zero.avi", "without frames"),
        (text, "contains no video"),
        (tmp_path / "a.wav", "contains no video"),
    ):
        with pytest.raises(CaseError, match=words):
            probe(path)
        with pytest.raises(CaseError, match=words):
            list(read_frames(path))


def test_images_of_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(CaseError, match=r"0\.png: an image with more than 8 bits"):
        probe(tmp_path, rate=1)
    with pytest.raises(CaseError, match=r"0\.png: an image with more than 8 bits"):
        list(read_frames(tmp_path, rate=1))


def test_wrong_image_folders_are_refused(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "v", [1, 2])
    with pytest.raises(CaseError, match=r"needs their number per second; set data\.images_fps"):
        list(read_frames(folder))
    with pytest.raises(CaseError, match="before the first image's number 2"):
        list(read_frames(folder, rate=1, first=2))
    (folder / "other-2.png").write_bytes((folder / "video07-2.png").read_bytes())
    with pytest.raises(CaseError, match="same number"):
        list(read_frames(folder, rate=1))
    (folder / "other-2.png").write_bytes(b"no image")
    (folder / "video07-2.png").unlink()
    with pytest.raises(CaseError, match=r"other-2\.png: not readable as an image"):
        list(read_frames(folder, rate=1))
    Image.new("RGB", (4, 4)).save(folder / "other-2.png")
    with pytest.raises(CaseError, match="frame 2 is 4×4, earlier ones are 10×8"):
        list(read_frames(folder, rate=1))
    Image.new("RGB", (4, 4)).save(folder / "title.png")
    with pytest.raises(CaseError, match="no number in the name"):
        probe(folder, rate=1)


def noisy(count: int) -> list[Frame]:
    values = np.random.default_rng(1).integers(0, 255, (count, 20, 30, 3), np.uint8)
    return [Frame(3 * n, n / 5, rgb) for n, rgb in enumerate(values)]


def test_raw_frames_are_read_exactly(tmp_path: Path) -> None:
    frames = noisy(11)
    phases = np.arange(11, dtype=np.int8)
    attrs = {"phases": ["a", "b"], "fps": 5.0}
    count = write_frames(tmp_path / "v.h5", "v", iter(frames), attrs=attrs, arrays={"phase": phases})
    assert count == 11
    with open_frames(tmp_path / "v.h5") as file:
        stack = np.stack([frame.rgb for frame in frames])
        for wanted in ([0], range(11), [9, 2, 2, 10], range(4, 8), [3, 4, 7], []):
            np.testing.assert_array_equal(read(file, list(wanted)), stack[list(wanted)])
        np.testing.assert_array_equal(file["phase"], phases)
        np.testing.assert_array_equal(file["number"], 3 * np.arange(11))
        assert dict(file.attrs)["case"] == "v"
        assert (file.attrs["frames"], file.attrs["height"], file.attrs["width"]) == (11, 20, 30)
        with pytest.raises(IndexError, match="frames 11"):
            read(file, [11])
        with pytest.raises(IndexError, match="frames -1"):
            read(file, [-1])


def test_jpeg_frames_are_those_of_an_independent_decoder(tmp_path: Path) -> None:
    smooth = np.indices((40, 50)).sum(0).astype(np.uint8)
    frames = [Frame(n, float(n), np.stack([smooth + n, smooth, 255 - smooth], -1)) for n in range(9)]
    write_frames(tmp_path / "v.h5", "v", iter(frames), encoding="jpeg", quality=95)
    with open_frames(tmp_path / "v.h5") as file:
        assert file.attrs["fps"] == pytest.approx(1)
        found = read(file, [8, 3, 4])
        begin, end = file["offsets"][3:5]
        (tmp_path / "three.jpg").write_bytes(file["jpeg"][begin:end].tobytes())
    np.testing.assert_array_equal(found[1], np.asarray(Image.open(tmp_path / "three.jpg")))
    original = np.stack([frames[n].rgb for n in (8, 3, 4)]).astype(int)
    assert np.abs(found - original).mean() < 3


def test_content_tells_frames_and_labels_apart(tmp_path: Path) -> None:
    frames = noisy(4)

    def content(name: str, frames: list[Frame], phase: int, encoding: str) -> str:
        arrays = {"phase": np.full(len(frames), phase)}
        write_frames(tmp_path / name, "v", frames, encoding=encoding, arrays=arrays)  # type: ignore[arg-type]
        with open_frames(tmp_path / name) as file:
            return str(file.attrs["content"])

    for encoding in ("raw", "jpeg"):
        same = content("a.h5", frames, 1, encoding)
        assert same == content("b.h5", frames, 1, encoding)
        assert same != content("c.h5", frames, 2, encoding)
        assert same != content("d.h5", frames[::-1], 1, encoding)


def test_arrays_may_wait_for_the_frames(tmp_path: Path) -> None:
    write_frames(tmp_path / "v.h5", "v", noisy(5), arrays=lambda number, time: {"twice": 2 * number})
    with open_frames(tmp_path / "v.h5") as file:
        np.testing.assert_array_equal(file["twice"], 6 * np.arange(5))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Frame]:
        yield from itertools.islice(noisy(5), 3)
        raise CaseError("stops")

    with pytest.raises(CaseError, match="stops"):
        write_frames(tmp_path / "v.h5", "v", broken())
    with pytest.raises(CaseError, match="case v: no frame"):
        write_frames(tmp_path / "v.h5", "v", [])
    with pytest.raises(CaseError, match="case v: frame 1 is 5×4, earlier ones are 30×20"):
        write_frames(tmp_path / "v.h5", "v", [noisy(1)[0], Frame(1, 1.0, np.zeros((4, 5, 3), np.uint8))])
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_no_frame_caches(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with pytest.raises(CaseError, match="not a readable HDF5 file"):
        open_frames(path)
    with h5py.File(path, "w") as file:
        file["frames"] = np.zeros(3)
    with pytest.raises(CaseError, match="not from this version"):
        open_frames(path)


def test_new_videos(tmp_path: Path) -> None:
    """One video, a folder of videos, and folders of images, of which one may be the source itself."""
    images = tmp_path / "op 1"
    images.mkdir()
    (images / "1.png").touch()
    (tmp_path / "b.mp4").touch()
    assert videos_in(tmp_path) == {"b": tmp_path / "b.mp4", "op 1": images}
    assert videos_in(tmp_path / "b.mp4") == {"b": tmp_path / "b.mp4"}
    assert videos_in(images) == {"op 1": images}
    with pytest.raises(CaseError, match="no such file or folder"):
        videos_in(tmp_path / "none")
    assert [is_sheet(path) for path in (tmp_path, tmp_path / "b.mp4", images / "1.png")] == [
        False,
        False,
        False,
    ]
    case = NewCases.of(images, [Entry("op 1", "op 1", {"video": (str(images),)}, "", {}, 0)])
    assert case.lines == ["1 case(s), e.g. op 1 ← op 1"]


def test_new_videos_of_odd_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is named as the user names it; what holds no images is no video, e.g. the output's folder."""
    images = tmp_path / "store" / "00017"
    images.mkdir(parents=True)
    for path in (images / "0.PNG", tmp_path / "a.MTS", tmp_path / "b.ts"):
        path.touch()
    (tmp_path / "out" / ".unfinished").mkdir(parents=True)
    (tmp_path / "patient 7").symlink_to(images)
    assert videos_in(tmp_path / "patient 7") == {"patient 7": tmp_path / "patient 7"}
    assert videos_in(tmp_path) == {
        "a": tmp_path / "a.MTS",
        "b": tmp_path / "b.ts",
        "patient 7": tmp_path / "patient 7",
    }
    monkeypatch.chdir(images)
    assert list(videos_in(Path())) == ["00017"]
    (tmp_path / "b.mp4").touch()
    with pytest.raises(CaseError, match=r"b\.mp4 and b\.ts are two videos with one name"):
        videos_in(tmp_path)
    with pytest.raises(CaseError, match=r"0\.PNG: is an image; expected the folder of its video's images"):
        videos_in(images / "0.PNG")


def test_images_of_two_sizes(tmp_path: Path) -> None:
    """They are refused even if an edit would make them equal."""
    for number, size in enumerate(((8, 6), (8, 6), (4, 3))):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    with pytest.raises(CaseError, match="frame 2 is 4×3, earlier ones are 8×6; all frames must have"):
        list(read_frames(tmp_path, rate=1, edit=lambda rgb: rgb[:2, :2]))
    with pytest.raises(CaseError, match=r"2\.png is 4×3, earlier ones are 8×6"):
        sample_frames(tmp_path, 3, rate=1)


def test_packets_are_not_read_again_unless_the_file_changes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", flat_frames(5))
    first = outline(path)
    assert outline(path) is first
    write_video(path, flat_frames(7))
    assert len(outline(path).stamps) == 7
