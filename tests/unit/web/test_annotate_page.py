"""The annotation page in a headless browser: what it shows, what its tools change, and what it sends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from browser import browser, drag, on_screen, opened, pixels, served, tool, until
from foldwise.systems.interactive.engines import Scan
from foldwise.volumes.draw import line_voxels
from session_stand_in import SessionStandIn

SPACING = np.array([1.0, 1.5, 3.0])
SHAPE = (40, 30, 14)
# What the page does last with a request may still be on its way.
STATUS = "#status"


@pytest.fixture(scope="module")
def chromium() -> Iterator[BrowserContext]:
    with browser() as found:
        yield found


def scan(affine: np.ndarray, shape: tuple[int, ...] = SHAPE, channels: int = 1) -> Scan:
    image = np.random.default_rng(0).integers(0, 1000, (channels, *shape)).astype(np.int16)
    return Scan(image, affine)


@pytest.fixture
def session() -> SessionStandIn:
    return SessionStandIn(scan(np.diag([*SPACING, 1])), ("liver", "tumour"))


@pytest.fixture
def page(chromium: BrowserContext, session: SessionStandIn) -> Iterator[Page]:
    with served(session) as address, opened(chromium, address) as ready:
        yield ready


ROTATION = np.array([[np.cos(0.4), -np.sin(0.4), 0], [np.sin(0.4), np.cos(0.4), 0], [0, 0, 1]])
AFFINES = {
    "anisotropic": np.diag([1, 1.5, 3]),
    "two axes backwards": np.diag([-1, 1.5, -3]),
    # File axes run to the feet, to the left and to the front: det < 0.
    "permuted": np.array([[0, -1.5, 0], [0, 0, 3], [-1, 0, 0]]),
    "oblique": ROTATION @ np.diag([-1, -1.5, 3]),
}


@pytest.mark.parametrize("name", AFFINES)
def test_planes_show_the_voxels_as_radiologists_hang_them(chromium: BrowserContext, name: str) -> None:
    """Against nibabel's reorientation: right is on the left, front and head are up."""
    affine = np.eye(4)
    affine[:3, :3] = AFFINES[name]
    session = SessionStandIn(scan(affine))
    canonical = np.asarray(nib.as_closest_canonical(nib.Nifti1Image(session.scan.image[0], affine)).dataobj)
    codes = nib.orientations.io_orientation(affine)
    with served(session) as address, opened(chromium, address) as page:
        for box in ("crosses", "smooth"):
            page.locator(f"#{box}").uncheck()
        for field, value in (("level", "500"), ("width", "1000")):
            page.locator(f"#{field}").fill(value)
            page.locator(f"#{field}").press("Enter")
        page.wait_for_timeout(300)
        over = "document.querySelectorAll('.plane span, .plane .over, .plane button')"
        page.evaluate(f"{over}.forEach((one) => {{ one.style.visibility = 'hidden'; }})")
        shown = pixels(page)
        page.evaluate(f"{over}.forEach((one) => {{ one.style.visibility = ''; }})")
        for axis in range(3):
            world, flip = int(codes[axis, 0]), codes[axis, 1] < 0
            middle = SHAPE[axis] // 2
            index = SHAPE[axis] - 1 - middle if flip else middle
            # All remaining axes backwards; the first runs along the columns.
            picture = np.moveaxis(canonical, world, 0)[index, ::-1, ::-1].T
            corners = [on_screen(page, axis, place) for place in ((0, 0, 0), tuple(n - 1 for n in SHAPE))]
            (left, top), (right, bottom) = np.min(corners, 0), np.max(corners, 0)
            rows, columns = picture.shape
            x = np.round(np.linspace(left, right, columns)).astype(int)
            y = np.round(np.linspace(top, bottom, rows)).astype(int)
            error = np.abs(shown[y][:, x].astype(int) - (picture[..., None] / 1000 * 255)).max(-1)
            assert (error <= 2).mean() > 0.98, (axis, error)
            assert np.median(error) <= 1
            title = page.locator(f".plane[data-axis='{axis}'] .title").inner_text()
            assert title.startswith(("Sagittal", "Coronal", "Axial")[world])
            assert ("oblique" in title) == (name == "oblique" and world != 2)
            sides = [
                page.locator(f".plane[data-axis='{axis}'] .{side}").inner_text()
                for side in ("left", "bottom")
            ]
            expected = [("A", "I"), ("R", "I"), ("R", "P")][world]
            assert [side[0] for side in sides] == list(expected)


@pytest.mark.parametrize("deep", [False, True])
def test_a_brush_paints_what_lies_within_its_radius(page: Page, session: SessionStandIn, deep: bool) -> None:
    """On every plane, in two and three dimensions, against arithmetic."""
    centres = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) * SPACING
    middle = [n // 2 for n in SHAPE]
    tool(page, "brush")
    page.locator("#radius-mm").fill("4.7")
    page.locator("#deep").set_checked(deep)
    page.locator("#crosses").uncheck()
    page.locator("#opacity").fill("100")
    for axis in range(3):
        end = [value if a == axis else value + 4 for a, value in enumerate(middle)]
        places = drag(page, axis, tuple(middle), tuple(end))
        until(session.labels.any)
        assert np.abs(places - [np.array(middle) * SPACING, np.array(end) * SPACING]).max() < 0.3
        way = places[1] - places[0]
        share = np.clip((centres - places[0]) @ way / (way @ way), 0, 1)
        away = np.linalg.norm(centres - places[0] - share[..., None] * way, axis=-1)
        near = away <= 4.7
        if not deep:
            near &= np.indices(SHAPE)[axis] == middle[axis]
        wrong = np.argwhere((session.labels == 1) != near)
        assert not len(wrong), (wrong, away[tuple(wrong.T)])
        # Every plane through it shows it.
        page.wait_for_timeout(400)
        shown = pixels(page)
        for plane in range(3):
            x, y = (round(value) for value in on_screen(page, plane, tuple(middle)))
            red, _, blue = shown[y, x].astype(int)
            assert red - blue > 20, plane
        page.keyboard.press("Control+z")
        until(lambda: not session.labels.any())
        until(lambda: page.evaluate("foldwise.app.store.version") == session.version)


def test_undo_and_redo_of_strokes_and_the_eraser(page: Page, session: SessionStandIn) -> None:
    tool(page, "brush")
    drag(page, 2, (20, 15, 7))
    until(lambda: session.labels.any())
    painted = session.labels.copy()
    tool(page, "eraser")
    drag(page, 2, (20, 15, 7), (25, 15, 7))
    until(lambda: not session.labels.any())

    def same(expected: np.ndarray) -> bool:
        return np.array_equal(session.labels, expected)

    for key, expected in (("z", painted), ("z", painted * 0), ("Shift+z", painted), ("y", painted * 0)):
        page.keyboard.press(f"Control+{key}")
        until(partial(same, expected))
    page.keyboard.press("Control+z")
    until(lambda: session.labels.any())
    expect(page.locator("#undo")).to_be_enabled()
    # The page has what the session has.
    until(
        lambda: (
            page.evaluate("foldwise.app.store.labels.reduce((sum, one) => sum + (one > 0), 0)")
            == painted.sum()
        )
    )


def test_a_threshold_limits_the_brush(page: Page, session: SessionStandIn) -> None:
    page.locator("#low").fill("300")
    page.locator("#high").fill("600")
    page.locator("#threshold").check()
    tool(page, "brush")
    drag(page, 2, (20, 15, 7))
    until(lambda: session.labels.any())
    values = session.scan.image[0][session.labels == 1]
    assert values.min() >= 300
    assert values.max() <= 600
    page.locator("#threshold").uncheck()
    drag(page, 2, (20, 15, 7))
    until(lambda: (session.labels == 1).sum() > len(values))
    inside = session.scan.image[0][session.labels == 1]
    assert ((inside >= 300) & (inside <= 600)).sum() == len(values)


def test_locked_and_hidden_objects_stay_as_they_are(page: Page, session: SessionStandIn) -> None:
    session.labels[10:20, 10:20, 7] = 1
    session._new_version()
    until(lambda: page.evaluate("foldwise.app.store.version") == session.version)
    page.get_by_label("Lock liver").click()
    expect(page.get_by_label("Lock liver")).to_have_attribute("aria-pressed", "true")
    idle(page)
    tool(page, "brush")
    drag(page, 2, (14, 14, 7))
    expect(page.locator(STATUS)).to_contain_text("liver is locked")
    page.get_by_label("Work on tumour").check()
    drag(page, 2, (21, 14, 7))
    until(lambda: (session.labels == 2).any())
    assert (session.labels == 1).sum() == 100
    page.get_by_label("Lock liver").click()
    expect(page.get_by_label("Lock liver")).to_have_attribute("aria-pressed", "false")
    idle(page)
    before = (session.labels == 2).sum()
    drag(page, 2, (14, 14, 7))
    until(lambda: (session.labels == 2).sum() > before)
    assert (session.labels == 1).sum() < 100


def idle(page: Page) -> None:
    """Wait until the last change is done."""
    until(lambda: not page.evaluate("foldwise.app.store.busy"))


def test_fill_closes_an_outline(page: Page, session: SessionStandIn) -> None:
    session.labels[10:20, 10:20, 7] = 1
    session.labels[12:18, 12:18, 7] = 0
    session._new_version()
    until(lambda: page.evaluate("foldwise.app.store.version") == session.version)
    tool(page, "fill")
    drag(page, 2, (5, 5, 7))
    expect(page.locator(STATUS)).to_contain_text("Nothing encloses this place")
    drag(page, 2, (14, 14, 7))
    until(lambda: (session.labels == 1).sum() == 100)


def test_objects_are_filled_between_slices(page: Page, session: SessionStandIn) -> None:
    session.labels[10:20, 10:20, 3] = session.labels[10:20, 10:20, 8] = 1
    session.labels[10:20, 10:20, 5] = 2
    session._new_version()
    until(lambda: page.evaluate("foldwise.app.store.version") == session.version)
    page.get_by_label("Lock tumour").click()
    expect(page.get_by_label("Lock tumour")).to_have_attribute("aria-pressed", "true")
    page.locator("#between").click()
    # Equal squares: each gap has the same, but for the locked object on one of them.
    until(lambda: (session.labels == 1).sum() == 500)
    assert (session.labels == 2).sum() == 100


def test_marks_are_sent_as_they_were_drawn(page: Page, session: SessionStandIn) -> None:
    """A scribble is a line of voxels; the wheel keeps marks; undo takes single ones back."""
    tool(page, "inside-line")
    drag(page, 2, (10, 10, 7), (20, 14, 7), (22, 20, 7))
    page.locator(".plane[data-axis='2']").hover()
    page.mouse.wheel(0, 100)
    expect(page.locator("#slice")).to_have_value("8")
    tool(page, "boxes")
    drag(page, 2, (25, 25, 8), (5, 4, 8))
    tool(page, "outside")
    drag(page, 0, (20, 9, 3))
    page.get_by_label("Work on tumour").check()
    tool(page, "lines")
    drag(page, 1, (8, 15, 2), (16, 15, 11))
    tool(page, "extreme")
    drag(page, 2, (30, 20, 8))
    expect(page.locator("#marks li")).to_have_count(5)
    page.keyboard.press("Control+z")
    expect(page.locator("#marks li")).to_have_count(4)
    page.keyboard.press("Control+y")
    expect(page.locator("#marks li")).to_have_count(5)
    page.locator("#marks .remove").last.click()
    page.locator("#empty").click()
    page.keyboard.press("[")
    page.locator("#round").click()
    until(lambda: session.rounds)
    marks, engine, axis = session.rounds[0]
    assert (engine, axis) == ("classical", 2)
    first, side = marks[1]
    expected = np.unique(
        np.concatenate([line_voxels(np.array((10, 10, 7)), np.array((20, 14, 7))),
                        line_voxels(np.array((20, 14, 7)), np.array((22, 20, 7)))]), axis=0
    )  # fmt: skip
    assert np.array_equal(np.unique(first.inside, axis=0), expected)
    assert first.boxes.tolist() == [[[25, 25, 8], [5, 4, 8]]]
    assert (side.axis, side.outside.tolist()) == (0, [[20, 9, 3]])
    diameter, rest = marks[2]
    assert (diameter.axis, diameter.lines.tolist()) == (1, [[[8, 15, 2], [16, 15, 11]]])
    assert rest.empty.tolist() == [8]
    assert rest.spans.tolist() == [[8, SHAPE[2] - 1]]
    assert not len(rest.extreme)
    expect(page.locator("#marks li")).to_have_count(0)
    expect(page.locator(STATUS)).to_contain_text("Done in")
    expect(page.locator("#suggestion")).to_contain_text("nothing is known here")
    page.locator("#jump").click()
    expect(page.locator("#slice")).to_have_value("1")


def test_of_marks_on_a_voxel_the_last_one_counts(page: Page, session: SessionStandIn) -> None:
    for name in ("inside", "outside", "inside"):
        tool(page, name)
        drag(page, 2, (12, 12, 7))
    page.keyboard.press("p")
    until(lambda: session.rounds)
    expect(page.locator(STATUS)).to_contain_text("Done in")
    assert session.labels[12, 12, 7] == 1


def test_a_round_can_be_stopped_and_keeps_the_marks(page: Page, session: SessionStandIn) -> None:
    session.hold = threading.Event()
    tool(page, "inside")
    drag(page, 2, (12, 12, 7))
    page.locator("#round").click()
    expect(page.locator("#progress")).to_be_visible()
    until(lambda: page.locator("#progress").evaluate("bar => bar.value") == 0.5)
    tool(page, "brush")
    drag(page, 2, (20, 20, 7))
    expect(page.locator(STATUS)).to_contain_text("Wait")
    page.locator("#stop").click()
    expect(page.locator(STATUS)).to_contain_text("Stopped: nothing was changed")
    expect(page.locator("#marks li")).to_have_count(1)
    assert not session.labels.any()
    session.hold.set()
    page.locator("#round").click()
    expect(page.locator(STATUS)).to_contain_text("Done in")
    assert session.labels[12, 12, 7] == 1


def test_a_loaded_mask_is_shown_in_its_colours(page: Page, session: SessionStandIn, tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:15, 5:15, 7], labels[20:30, 5:15, 7] = 1, 2
    path = tmp_path / "mask ü.nii.gz"
    nib.save(nib.Nifti1Image(labels, session.scan.affine), path)
    page.locator("#opacity").fill("100")
    page.locator("#file").set_input_files(path)
    expect(page.locator(STATUS)).to_contain_text("mask ü.nii.gz is shown")
    assert session.loaded == [("mask ü.nii.gz", path.read_bytes())]
    page.wait_for_timeout(300)
    shown = pixels(page)
    for voxel, colour in (((10, 10, 7), (0xFF, 0x63, 0x84)), ((25, 10, 7), (0x4C, 0xC9, 0xF0))):
        x, y = (round(value) for value in on_screen(page, 2, voxel))
        assert np.abs(shown[y, x].astype(int) - colour).max() <= 2
    page.get_by_label("Hide liver").click()
    expect(page.get_by_label("Hide liver")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(300)
    x, y = (round(value) for value in on_screen(page, 2, (10, 10, 7)))
    grey = pixels(page)[y, x]
    assert grey.max() - grey.min() <= 2


def test_more_than_255_objects(chromium: BrowserContext) -> None:
    session = SessionStandIn(scan(np.eye(4), (20, 20, 3)), tuple(f"object {n}" for n in range(1, 301)))
    session.objects[298] = type(session.objects[298])("object 299", 299, "#00ff00")
    session.objects[299] = type(session.objects[299])("object 300", 300, "#0000ff")
    session.labels[5:10, 5:10, 1], session.labels[10:15, 5:10, 1] = 299, 300
    with served(session) as address, opened(chromium, address) as page:
        page.locator("#opacity").fill("100")
        page.wait_for_timeout(300)
        shown = pixels(page)
        for voxel, colour in (((7, 7, 1), (0, 255, 0)), ((12, 7, 1), (0, 0, 255))):
            x, y = (round(value) for value in on_screen(page, 2, voxel))
            assert np.abs(shown[y, x].astype(int) - colour).max() <= 2
        page.get_by_label("Work on object 300", exact=True).check()
        tool(page, "brush")
        drag(page, 2, (3, 15, 1))
        until(lambda: session.labels[3, 15, 1] == 300)


def test_a_second_page_reads_until_it_takes_over(chromium: BrowserContext, session: SessionStandIn) -> None:
    with served(session) as address, opened(chromium, address) as page:
        with opened(chromium, address) as other:
            expect(other.locator("#reading")).to_contain_text("reads only")
            tool(other, "brush")
            drag(other, 2, (20, 15, 7))
            expect(other.locator(STATUS)).to_contain_text("reads only")
            tool(page, "brush")
            drag(page, 2, (20, 15, 7))
            until(lambda: session.labels.any())
            # It follows the one that writes.
            until(lambda: other.evaluate("foldwise.app.store.labels.some((one) => one > 0)"))
            other.locator("#take").click()
            expect(other.locator("#reading")).to_be_hidden()
            expect(page.locator("#reading")).to_be_visible()
        # When it was closed, the first one still reads until it is told to write.
        expect(page.locator("#reading")).to_contain_text("No other page", timeout=10_000)
        page.locator("#take").click()
        expect(page.locator("#reading")).to_be_hidden()


def test_no_stroke_is_lost_while_the_server_is_away(page: Page, session: SessionStandIn) -> None:
    page.route("**/api/edit", lambda route: route.abort())
    tool(page, "brush")
    drag(page, 2, (10, 10, 7))
    drag(page, 2, (30, 20, 7))
    expect(page.locator(STATUS)).to_contain_text("2 strokes not saved yet")
    assert page.evaluate("foldwise.app.store.unsaved") == 2
    assert not session.labels.any()
    page.unroute("**/api/edit")
    until(lambda: session.labels[10, 10, 7] and session.labels[30, 20, 7])
    until(lambda: page.evaluate("foldwise.app.store.unsaved") == 0)


def test_a_stroke_on_a_session_changed_elsewhere_is_kept(page: Page, session: SessionStandIn) -> None:
    page.route("**/api/progress", lambda route: route.abort())
    session.edit(np.array([0]), np.array([2]))
    tool(page, "brush")
    drag(page, 2, (20, 15, 7))
    until(lambda: session.labels[20, 15, 7] == 1)
    expect(page.locator(STATUS)).to_contain_text("changed elsewhere")
    assert session.labels[0, 0, 0] == 2
    until(lambda: page.evaluate("foldwise.app.store.labels[0]") == 2)
    page.unroute("**/api/progress")


def test_objects_are_added_and_changed(page: Page, session: SessionStandIn) -> None:
    page.locator("#name").fill("vessel")
    page.locator("#name").press("Enter")
    until(lambda: len(session.objects) == 3)
    expect(page.get_by_label("Work on vessel")).to_be_checked()
    page.get_by_label("Name of vessel").fill("liver")
    page.get_by_label("Name of vessel").press("Enter")
    expect(page.locator(STATUS)).to_contain_text("there is an object with this name")
    page.get_by_label("Colour of liver").fill("#00ff00")
    until(lambda: session.objects[0].colour == "#00ff00")


def test_the_keyboard_alone_will_do(page: Page, session: SessionStandIn) -> None:
    page.keyboard.press("1")
    page.locator(".plane[data-axis='2']").focus()
    for key in ("Enter", "ArrowRight", "ArrowRight", "ArrowUp", "Enter", "p"):
        page.keyboard.press(key)
    until(lambda: session.rounds)
    expect(page.locator(STATUS)).to_contain_text("Done in")
    # On screen, x runs to the left and y upwards.
    assert session.rounds[0][0][1][0].inside.tolist() == [[20, 15, 7], [19, 15, 7], [18, 15, 7], [18, 16, 7]]
    page.keyboard.press("PageDown")
    expect(page.locator("#slice")).to_have_value("8")
    page.keyboard.press("b")
    page.locator(".plane[data-axis='2']").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    until(lambda: session.labels[18, 16, 8] == 1)
    page.keyboard.press("s")
    expect(page.locator(STATUS)).to_contain_text("Saved as /saved/nifti, /saved/quality.csv.")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#keys")).to_be_hidden()


def test_values_window_and_zoom(page: Page, session: SessionStandIn) -> None:
    page.mouse.move(*on_screen(page, 2, (11, 22, 7)))
    value = session.scan.image[0, 11, 22, 7]
    expect(page.locator("#value")).to_contain_text(f"voxel 11, 22, 7   11.0, 33.0, 21.0 mm RAS   {value} HU")
    page.get_by_role("button", name="Lung", exact=True).click()
    expect(page.locator("#level")).to_have_value("-600")
    expect(page.locator("#width")).to_have_value("1500")
    x, y = on_screen(page, 2, (11, 22, 7))
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x + 50, y + 20)
    page.mouse.up(button="right")
    assert float(page.locator("#width").input_value()) > 1500
    assert float(page.locator("#level").input_value()) > -600
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    expect(page.locator("#slice")).to_have_value("7")
    # What is under the pointer stays there; what is beside it moves away.
    assert np.allclose(on_screen(page, 2, (11, 22, 7)), (x, y), atol=1.5)
    beside = on_screen(page, 2, (21, 22, 7))
    page.keyboard.press("r")
    assert abs(on_screen(page, 2, (21, 22, 7))[0] - on_screen(page, 2, (11, 22, 7))[0]) < abs(beside[0] - x)
    tool(page, "cross")
    drag(page, 2, (11, 22, 7))
    assert page.evaluate("foldwise.app.position") == [11, 22, 7]


def test_a_bar_tells_the_scale(page: Page) -> None:
    """Of the longest round length within a quarter of the plane, at any zoom."""
    page.locator("#crosses").uncheck()
    page.locator("#level").fill("9000")
    page.locator("#level").press("Enter")
    for wheel in (0, -300):
        x, y = on_screen(page, 2, (20, 15, 7))
        page.mouse.move(x, y)
        page.keyboard.down("Control")
        page.mouse.wheel(0, wheel)
        page.keyboard.up("Control")
        page.wait_for_timeout(400)
        shown = pixels(page)
        for axis in range(3):
            frame = page.locator(f".plane[data-axis='{axis}']").bounding_box()
            assert frame is not None
            ends = np.array([on_screen(page, axis, (0, 0, 0)), on_screen(page, axis, (10, 10, 10))])
            along = 1 if axis == 0 else 0
            mm = np.abs(ends[1] - ends[0])[0] / (10 * SPACING[along])
            lengths = [n * 10.0**e for e in range(-1, 3) for n in (1, 2, 5)]
            expected = max(length for length in lengths if length * mm <= (frame["width"] - 2) / 4) * mm
            low, left = round(frame["y"] + frame["height"]), round(frame["x"])
            corner = shown[low - 12 : low - 7, left : left + round(frame["width"] / 3)]
            length = int((corner.min(-1) > 230).sum(1).max())
            assert abs(length - expected) <= 4, (axis, expected, length)
            title = page.locator(f".plane[data-axis='{axis}'] .title")
            expect(title).to_contain_text(f", {'xyz'[axis]} {SHAPE[axis] // 2}")


def test_all_channels_can_be_shown(chromium: BrowserContext) -> None:
    session = SessionStandIn(scan(np.eye(4), (12, 10, 6), channels=2), modality="MR")
    with served(session) as address, opened(chromium, address) as page:
        page.locator("#channel").select_option("1")
        value = session.scan.image[1, 6, 5, 3]
        expect(page.locator("#value")).to_contain_text(f"mm RAS   {value}")
        expect(page.get_by_role("button", name="Lung", exact=True)).to_have_count(0)
