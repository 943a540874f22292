"""Pictures as they are shown: upright, on black, resized."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from foldwise.video.decode import probe, read_frames, sample_frames
from foldwise.video.images import read_image
from foldwise.video.pixels import resized, rgb_of, turned

# Four different quarters: top left, top right, bottom left, bottom right.
QUARTERS = np.array([[40, 90], [150, 220]], np.uint8)


def coded(path: Path, degrees: int, hflip: bool, vflip: bool) -> None:
    picture = QUARTERS.repeat(16, 0).repeat(24, 1)[..., None].repeat(3, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.bit_rate = 2_000_000
        stream.set_display_rotation(degrees, hflip, vflip)
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("degrees", "hflip", "vflip", "shown"),
    [
        # Counter-clockwise, as FFmpeg counts.
        (90, False, False, [[90, 220], [40, 150]]),
        (-90, False, False, [[150, 40], [220, 90]]),
        (180, False, False, [[220, 150], [90, 40]]),
        (0, True, False, [[90, 40], [220, 150]]),
        (0, False, True, [[150, 220], [40, 90]]),
    ],
)
def test_a_video_is_turned_as_its_container_says(
    tmp_path: Path, degrees: int, hflip: bool, vflip: bool, shown: list[list[int]]
) -> None:
    path = tmp_path / "a.mp4"
    coded(path, degrees, hflip, vflip)
    for rgb in (next(read_frames(path)).rgb, sample_frames(path, 1)[0]):
        height, width = rgb.shape[:2]
        found = rgb[height // 4 :: height // 2, width // 4 :: width // 2, 0]
        np.testing.assert_allclose(found.astype(int), shown, atol=4)
    assert (probe(path).height, probe(path).width) == (height, width)
    assert (height, width) == ((48, 32) if abs(degrees) == 90 else (32, 48))


def test_an_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x112] = 6  # the camera was turned: show it a quarter clockwise
    Image.fromarray(QUARTERS.repeat(4, 1)).save(folder / "0.png", exif=exif)
    (frame,) = read_frames(folder, rate=1)
    assert frame.rgb[::4, :, 0].tolist() == [[150, 40], [220, 90]]
    assert (probe(folder, rate=1).height, probe(folder, rate=1).width) == (8, 2)


def test_what_is_transparent_is_black(tmp_path: Path) -> None:
    """As scanners show it; FFmpeg and Pillow keep white, or noise, under full transparency."""
    rgba = np.full((4, 8, 10, 4), 255, np.uint8)
    rgba[:, :, :5, :3] = 90
    rgba[:, :, 5:, 3] = 0
    for n in range(4):
        rgba[n, 0, 0, :3] = 30 * n
    pictures = [Image.fromarray(frame, "RGBA") for frame in rgba]
    gif = tmp_path / "fan.gif"
    pictures[0].save(gif, save_all=True, append_images=pictures[1:], duration=40, disposal=2)
    folder = tmp_path / "frames"
    folder.mkdir()
    for n, picture in enumerate(pictures):
        picture.save(folder / f"{n}.png")
    for frames in (list(read_frames(gif)), list(read_frames(folder, rate=25))):
        assert len(frames) == 4
        for frame in frames:
            assert (frame.rgb[:, 5:] == 0).all()
            assert (frame.rgb[1:, :5] == 90).all()
    assert (sample_frames(gif, 1)[0][:, 5:] == 0).all()


def test_half_transparent_is_half_as_bright(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2, 4), (200, 100, 50, 128), np.uint8), "RGBA").save(tmp_path / "0.png")
    (frame,) = read_frames(tmp_path, rate=1)
    # 200 · 128 / 255 = 100.4, 50.2, 25.1
    assert frame.rgb[0, 0].tolist() == [100, 50, 25]


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mov", "png", "rgba"),
        ("a.mkv", "ffv1", "yuva420p"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
    ],
)
def test_a_transparent_video_is_on_black(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    rgba = np.full((32, 48, 4), (200, 200, 200, 255), np.uint8)
    rgba[:, 16:32, 3], rgba[:, 32:, 3] = 128, 0
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=5)
        stream.height, stream.width, stream.pix_fmt = 32, 48, pixels
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, format="rgba")))
        container.mux(stream.encode())
    frames = list(read_frames(tmp_path / name))
    assert len(frames) == 3
    np.testing.assert_allclose(frames[1].rgb[16, [8, 24, 40], 0].astype(int), [200, 100, 0], atol=3)


@pytest.mark.parametrize("mode", ["LA", "P", "RGB", "L"])
def test_every_form_of_transparency_of_an_image(tmp_path: Path, mode: str) -> None:
    grey = np.array([[60, 200]], np.uint8)
    image = Image.fromarray(grey)
    if mode == "LA":
        image.putalpha(Image.fromarray(np.array([[255, 0]], np.uint8)))
        image.save(tmp_path / "0.png")
    else:
        transparent = {"P": 1, "L": 200, "RGB": (200, 200, 200)}[mode]
        image = image.convert("RGB").quantize(2) if mode == "P" else image.convert(mode)
        if mode == "P":
            transparent = image.getpixel((1, 0))
        image.save(tmp_path / "0.png", transparency=transparent)
    assert read_image(tmp_path / "0.png")[0].tolist() == [[60] * 3, [0] * 3]


def test_interpolation() -> None:
    """Of four pixels to two: the second of each pair, or means of more and more of their neighbours."""
    rgb = np.array([0, 100, 200, 40], np.uint8)[None, :, None].repeat(3, 2)
    assert resized(rgb, (1, 2), "nearest")[0, :, 0].tolist() == [100, 40]
    assert resized(rgb, (1, 2), "box")[0, :, 0].tolist() == [50, 120]
    # Weights 3, 3, 1 of the pixels in reach, of 8 without a border.
    assert resized(rgb, (1, 2), "bilinear")[0, :, 0].tolist() == [round(500 / 7), round(820 / 7)]
    assert resized(rgb, (1, 4), "lanczos") is rgb
    assert len({int(resized(rgb, (1, 2), name)[0, 0, 0]) for name in ("bilinear", "bicubic", "lanczos")}) == 3


def test_nothing_refers_to_a_frame_once_it_is_read() -> None:
    """Else the frames of a video fill the memory until Python's collector runs."""
    frame = av.VideoFrame(16, 16, "yuv420p")
    before = sys.getrefcount(frame)
    assert rgb_of(frame).shape == (16, 16, 3)
    assert not turned(frame)
    assert sys.getrefcount(frame) == before
