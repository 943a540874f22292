"""Damaged videos: refused by name, or without their damaged frames; healthy ones are as they were."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from foldwise.files import CaseError
from foldwise.video.damage import Damage
from foldwise.video.decode import probe, read_frames
from videos import flat_frames, write_video


def textured(count: int) -> np.ndarray:
    """A soft texture that moves, with the frame's number as eight squares, white for 1."""
    coarse = np.random.default_rng(0).integers(20, 235, (6, 12, 3)).astype(np.uint8)
    texture = coarse.repeat(8, 0).repeat(8, 1)
    frames = np.stack([np.roll(texture, n, 1) for n in range(count)])
    for n in range(count):
        for bit in range(8):
            frames[n, :16, 12 * bit : 12 * bit + 12] = 230 if n >> bit & 1 else 20
    return frames


def number_in(rgb: np.ndarray) -> int:
    squares = [rgb[4:12, 12 * bit + 3 : 12 * bit + 9].mean() > 125 for bit in range(8)]
    return sum(int(square) << bit for bit, square in enumerate(squares))


def remux(source: Path, target: Path, keep: Callable[[int, float], bool]) -> Path:
    """Copy the packets of a stream by place and time, without encoding again."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        written = new.add_stream_from_template(stream)
        for place, packet in enumerate(old.demux(stream)):
            if packet.dts is not None and keep(place, float(packet.pts * packet.time_base)):
                packet.stream = written
                new.mux(packet)
    return target


def zeroed(path: Path, target: Path, shares: tuple[float, ...]) -> Path:
    """As left by downloads and copies: zeros in the middle, the rest unchanged."""
    raw = bytearray(path.read_bytes())
    for share in shares:
        start = int(share * len(raw))
        raw[start : start + len(raw) // 50] = bytes(len(raw) // 50)
    target.write_bytes(raw)
    return target


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [("c.mp4", "libx264", {"movflags": "faststart"}), ("c.avi", "mpeg4", {}), ("c.mkv", "libx264", {})],
)
def test_a_cut_off_file_says_after_which_frame(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (100, 32, 48, 3), np.uint8)
    path = write_video(tmp_path / name, noise, codec=codec, options=options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CaseError, match=r"(decoding stops after frame|damaged: frame) (3|4|5)\d") as caught:
        list(read_frames(path))
    assert str(path) in str(caught.value)


STREAMS = {
    "h264.mkv": "libx264",
    "h264.ts": "libx264",
    "mpeg2.ts": "mpeg2video",
    "h264.mp4": "libx264",
    "vp9.webm": "libvpx-vp9",
    "wmv2.wmv": "wmv2",
    "mjpeg.mov": "mjpeg",
}


@pytest.mark.parametrize("name", STREAMS)
def test_what_is_lost_is_named_and_the_rest_keeps_its_times(tmp_path: Path, name: str) -> None:
    codec = STREAMS[name]
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    whole = write_video(tmp_path / name, textured(120), codec=codec, gop=20, pixels=pixels)
    every = [frame.number for frame in read_frames(whole, damage=Damage(whole, "drop"))]
    assert every == list(range(120))
    holes = zeroed(whole, tmp_path / f"holes_{name}", (0.4, 0.7))
    with pytest.raises(CaseError, match=r"damaged: frames? \d+.* at \d+\.\d\d s: .*cache\.on_damage: drop"):
        list(read_frames(holes))
    damage = Damage(holes, "drop")
    kept = list(read_frames(holes, damage=damage))
    assert 0 < damage.count == 120 - len(kept) < 90
    for frame in kept:
        assert frame.time_s == pytest.approx(number_in(frame.rgb) / 25, abs=0.002)
        assert frame.number == number_in(frame.rgb)


@pytest.mark.parametrize("name", ["mpeg2.mpg", "mpeg4.avi"])
def test_where_later_times_would_be_unknown_damage_is_always_refused(tmp_path: Path, name: str) -> None:
    codec = {"mpg": "mpeg2video", "avi": "mpeg4"}[name[-3:]]
    whole = write_video(tmp_path / name, textured(120), codec=codec, gop=20)
    holes = zeroed(whole, tmp_path / f"holes_{name}", (0.3, 0.5))
    with pytest.raises(CaseError, match=r"frames cannot be left out, since .* has no time stamps"):
        list(read_frames(holes, damage=Damage(holes, "drop")))


def test_what_is_decoded_from_a_lost_frame_is_no_frame(tmp_path: Path) -> None:
    """Packets 32 to 34 are missing; FFmpeg shows what depends on them as if nothing had happened."""
    whole = write_video(tmp_path / "a.mp4", textured(100), gop=25)
    cut = remux(whole, tmp_path / "b.ts", lambda place, time: not 32 <= place < 35)
    damage = Damage(cut, "drop")
    kept = [(frame.number, number_in(frame.rgb)) for frame in read_frames(cut, damage=damage)]
    assert all(number == shown for number, shown in kept)
    assert {number for number, _ in kept} >= {*range(25), *range(50, 100)}
    assert damage.count == 100 - len(kept) >= 15


@pytest.mark.parametrize("name", ["b.mp4", "b.mov", "b.mkv", "b.ts"])
def test_what_h264_decodes_from_lost_frames_is_found_without_their_times(tmp_path: Path, name: str) -> None:
    """In MP4 a gap may be intended; but `frame_num` does not go on where packets are missing."""
    whole = write_video(tmp_path / "a.mp4", textured(100), gop=25, options={"bf": "2"})
    cut = remux(whole, tmp_path / name, lambda place, time: not 32 <= place < 35)
    with pytest.raises(CaseError, match=r"damaged: frame \d+ at 1\.\d\d s: "):
        list(read_frames(cut))
    damage = Damage(cut, "drop")
    kept = [(round(25 * frame.time_s), number_in(frame.rgb)) for frame in read_frames(cut, damage=damage)]
    assert all(time == shown for time, shown in kept)
    assert {time for time, _ in kept} >= {*range(25), *range(50, 100)}


@pytest.mark.parametrize(
    "options",
    [
        "open-gop=1:bframes=3:b-pyramid=normal",
        "intra-refresh=1:ref=4:slices=4",
        "tff=1:bframes=2",
        "cqm=jvt:nal-hrd=cbr:vbv-maxrate=500:vbv-bufsize=500",
    ],
)
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p"])
def test_healthy_h264_has_no_lost_frames(tmp_path: Path, options: str, pixels: str) -> None:
    times = [Fraction(n, 25) for n in range(60) if n not in (20, 33, 34)]
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"x264-params": f"keyint=15:{options}"})
        stream.height, stream.width, stream.pix_fmt = 48, 96, pixels
        stream.codec_context.time_base = Fraction(1, 25)
        for values, time in zip(textured(57), times, strict=True):
            frame = av.VideoFrame.from_ndarray(values, format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 25), int(25 * time)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert [number_in(frame.rgb) for frame in read_frames(path)] == list(range(57))


def test_a_stream_may_start_and_end_within_a_group(tmp_path: Path) -> None:
    """As cut without encoding again; and a transport stream does not start at 0."""
    whole = write_video(tmp_path / "a.mp4", textured(100), gop=25, options={"bf": "3"})
    for name in ("b.mkv", "b.ts"):
        cut = remux(whole, tmp_path / name, lambda place, time: 10 <= place < 93)
        found = [(frame.time_s, number_in(frame.rgb)) for frame in read_frames(cut)]
        assert found[0] == (0, 25)
        assert probe(cut).frames == len(found) >= 66
        assert [time for time, _ in found] == pytest.approx([(n - 25) / 25 for _, n in found], abs=0.002)


def test_a_frame_that_an_edit_list_hides_is_not_counted(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", textured(100), options={"bf": "2"})
    with (
        av.open(str(whole)) as old,
        av.open(str(tmp_path / "cut.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as new,
    ):
        stream = old.streams.video[0]
        target, offset = new.add_stream_from_template(stream), int(2 / stream.time_base)
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, target
                new.mux(packet)
    found = probe(tmp_path / "cut.mp4")
    assert (found.frames, found.fps, found.duration_s) == (50, 25, 2)
    frames = list(read_frames(tmp_path / "cut.mp4"))
    assert [number_in(frame.rgb) for frame in frames] == list(range(50, 100))
    assert frames[0].time_s == 0


def test_frames_of_an_avi_with_b_frames_are_evenly_spaced(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", textured(40), options={"bf": "3"})
    frames = list(read_frames(path))
    assert [number_in(frame.rgb) for frame in frames] == list(range(40))
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(40) / 25)


def test_a_gif_without_delays_is_shown_as_browsers_do(tmp_path: Path) -> None:
    first, *others = [Image.fromarray(np.full((8, 8), 40 * n, np.uint8)) for n in range(4)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=0)
    found = [(frame.time_s, int(frame.rgb[0, 0, 0])) for frame in read_frames(tmp_path / "a.gif")]
    assert found == [(pytest.approx(n / 10), 40 * n) for n in range(4)]


def test_a_damaged_picture_of_an_avi_is_left_out(tmp_path: Path) -> None:
    """The number of packets is right, so the times of the others are, too."""
    path = write_video(tmp_path / "a.avi", textured(60), codec="mjpeg", pixels="yuvj420p")
    with av.open(str(path)) as container:
        packet = next(p for n, p in enumerate(container.demux(video=0)) if n == 30)
        place, size = packet.pos + 8, packet.size
    raw = bytearray(path.read_bytes())
    raw[place + size // 4 : place + size * 3 // 4] = bytes(size * 3 // 4 - size // 4)
    path.write_bytes(raw)
    with pytest.raises(CaseError, match=r"frame 30 at 1\.20 s: .*, or leave damaged frames out"):
        list(read_frames(path))
    damage = Damage(path, "drop")
    found = [(frame.number, number_in(frame.rgb)) for frame in read_frames(path, damage=damage)]
    assert found == [(n, n) for n in range(60) if n != 30]
    assert damage.count == 1


def test_a_gif_that_was_cut_off(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.gif", textured(20), codec="gif")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CaseError, match="decoding stops after frame"):
        list(read_frames(path))


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_gif_whose_blocks_lead_nowhere(tmp_path: Path, share: float) -> None:
    """FFmpeg takes a byte of the hole for the end of the file, or skips what follows."""
    path = write_video(tmp_path / "a.gif", textured(40), codec="gif")
    holes = zeroed(path, tmp_path / "b.gif", (share,))
    with pytest.raises(CaseError, match="decoding stops after frame"):
        list(read_frames(holes))
    path.write_bytes(path.read_bytes() + bytes(99))  # filled up to a block of a disk
    assert len(list(read_frames(path))) == 40


@pytest.mark.parametrize(("name", "codec"), [("a.wmv", "wmv2"), ("a.avi", "mpeg4")])
def test_frames_that_an_encoder_dropped_are_a_gap(tmp_path: Path, name: str, codec: str) -> None:
    """A WMV numbers the frames that were encoded, an AVI has empty places for the others."""
    places = [n for n in range(120) if n % 9 != 5 and n not in range(60, 64)]
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = 48, 96, "yuv420p", 2_000_000
        stream.codec_context.time_base, stream.codec_context.gop_size = Fraction(1, 25), 25
        for place, values in enumerate(textured(120)):
            if place in places:
                frame = av.VideoFrame.from_ndarray(values, format="rgb24")
                frame.time_base, frame.pts = Fraction(1, 25), place
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert probe(path).frames == len(places)
    found = list(read_frames(path))
    assert [number_in(frame.rgb) for frame in found] == places
    assert [frame.time_s for frame in found] == pytest.approx(np.array(places) / 25, abs=0.002)
    with pytest.raises(CaseError, match="damaged: frame"):
        list(read_frames(zeroed(path, tmp_path / f"holes_{name}", (0.4, 0.7))))


def test_gaps_of_an_mp4_are_meant(tmp_path: Path) -> None:
    """A recording without its still frames is not damaged; the container gives the number of frames."""
    times = [Fraction(n, 25) for n in range(100) if n not in range(40, 60)]
    path = write_video(tmp_path / "still.mp4", flat_frames(80, (16, 16)) // 2, times=times)
    assert len(list(read_frames(path))) == 80
