"""Objects on the annotation page: added, changed, removed, tidied up, loaded; what outlives a reload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page, expect
from skimage.measure import points_in_poly

from browser import browser, drag, opened, served, tool, until
from foldwise.systems.interactive.annotation import Annotation
from foldwise.systems.interactive.engines.classical import Classical
from foldwise.systems.interactive.objects import Object

SHAPE = (40, 30, 14)
SPACING = np.array([1.0, 1.5, 3.0])
STATUS = "#status"


@pytest.fixture(scope="module")
def chromium() -> Iterator[BrowserContext]:
    with browser() as found:
        yield found


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Annotation]:
    """A session with a square of each of two objects on slice 7, and a far voxel of the first."""
    image = np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)
    nib.save(nib.Nifti1Image(image, np.diag([*SPACING, 1])), tmp_path / "scan.nii.gz")
    objects = [Object("liver", 1, "#ff6384"), Object("tumour", 2, "#4cc9f0")]
    one = Annotation(
        [tmp_path / "scan.nii.gz"],
        tmp_path / "session",
        {"classical": Classical},
        engine="classical",
        objects=objects,
    )
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:15, 5:15, 7], labels[20:30, 5:15, 7], labels[35, 25, 2] = 1, 2, 1
    one.take(labels, one.objects, "squares")
    yield one
    one.close()


@pytest.fixture
def page(chromium: BrowserContext, session: Annotation) -> Iterator[Page]:
    with served(session) as address, opened(chromium, address) as ready:
        yield ready


def idle(page: Page) -> None:
    """Wait until the last change is done."""
    until(lambda: not page.evaluate("foldwise.app.store.busy || foldwise.app.store.unsaved > 0"))


def reload(page: Page) -> None:
    page.reload()
    page.locator("body[data-ready]").wait_for(timeout=60_000)


def names(page: Page) -> list[str]:
    return [field.input_value() for field in page.locator("#objects input[type=text]").all()]


def test_objects_are_added_and_changed_and_outlive_a_reload(page: Page, session: Annotation) -> None:
    page.locator("#name").fill("node")
    page.locator("#name").press("Enter")
    expect(page.get_by_label("Work on node")).to_be_checked()
    idle(page)
    page.get_by_label("Name of liver").fill("spleen")
    page.get_by_label("Name of liver").press("Enter")
    expect(page.get_by_label("Work on spleen")).to_have_count(1)
    idle(page)
    page.get_by_label("Colour of tumour").fill("#12ab34")
    until(lambda: session.objects[1].colour == "#12ab34")
    idle(page)
    page.get_by_label("Hide spleen").click()
    until(lambda: session.objects[0].hidden)
    idle(page)
    page.get_by_label("Lock tumour").click()
    until(lambda: session.objects[1].locked)
    idle(page)
    # A name that is taken is refused, and shown as it was.
    page.get_by_label("Name of node").fill("tumour")
    page.get_by_label("Name of node").press("Enter")
    expect(page.locator(STATUS)).to_contain_text("there is one of this name already")
    until(lambda: names(page) == ["spleen", "tumour", "node"])
    reload(page)
    expect(page.locator("#reading")).to_be_hidden()
    assert names(page) == ["spleen", "tumour", "node"]
    expect(page.get_by_label("Hide spleen")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Lock tumour")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_label("Lock spleen")).to_have_attribute("aria-pressed", "false")
    expect(page.get_by_label("Colour of tumour")).to_have_value("#12ab34")


def test_an_object_is_removed_after_a_question_in_words(page: Page, session: Annotation) -> None:
    before = session.labels.copy()
    tool(page, "inside")
    drag(page, 2, (10, 20, 7))
    page.get_by_label("Work on tumour").check()
    drag(page, 2, (25, 20, 7))
    expect(page.locator("#marks li")).to_have_count(2)
    page.get_by_label("Remove liver", exact=True).click()
    expect(page.locator("#ask")).to_contain_text("Remove liver?")
    # 101 voxels of 4.5 mm³.
    expect(page.locator("#ask-text")).to_contain_text("Its 0.455 ml and all its marks go")
    expect(page.locator("#ask-no")).to_be_focused()
    page.keyboard.press("Escape")
    assert np.array_equal(session.labels, before)
    page.get_by_label("Remove liver", exact=True).click()
    page.locator("#ask-yes").click()
    expect(page.locator(STATUS)).to_contain_text("liver is removed")
    assert np.array_equal(session.labels, np.where(before == 1, 0, before))
    assert names(page) == ["tumour"]
    # The other object's mark stays; that of the removed one comes back with it.
    expect(page.locator("#marks li")).to_have_count(1)
    until(lambda: page.evaluate("foldwise.app.store.labels.every((one) => one !== 1)"))
    page.keyboard.press("Control+z")
    until(lambda: np.array_equal(session.labels, before))
    expect(page.locator("#marks li")).to_have_count(2)
    assert names(page) == ["liver", "tumour"]
    page.get_by_label("Lock liver").click()
    until(lambda: session.objects[0].locked)
    idle(page)
    page.get_by_label("Remove liver", exact=True).click()
    expect(page.locator(STATUS)).to_contain_text("liver is locked: unlock it to remove it")
    expect(page.locator("#ask")).to_be_hidden()


def test_islands_are_removed(page: Page, session: Annotation) -> None:
    before = session.labels.copy()
    page.locator("#small").fill("0.0044")
    page.locator("#islands").click()
    expect(page.locator(STATUS)).to_contain_text("liver has no part smaller than 0.0044 ml")
    page.locator("#small").fill("0.0046")
    page.locator("#islands").click()
    expect(page.locator(STATUS)).to_contain_text("liver: 1 part (0.0045 ml) removed, 1 part left")
    assert session.labels[35, 25, 2] == 0
    assert (session.labels == 1).sum() == 100
    page.keyboard.press("Control+z")
    until(lambda: np.array_equal(session.labels, before))
    idle(page)
    page.keyboard.press("k")
    page.evaluate("foldwise.go([35, 25, 2])")
    drag(page, 2, (3, 3, 2))
    expect(page.locator(STATUS)).to_contain_text("point at the part that stays")
    drag(page, 2, (35, 25, 2))
    expect(page.locator(STATUS)).to_contain_text("liver: 1 part (0.45 ml) removed, 1 part left")
    assert np.argwhere(session.labels == 1).tolist() == [[35, 25, 2]]
    assert np.array_equal(session.labels == 2, before == 2)
    # As if erased by hand: a later round does not bring them back.
    assert len(session.state.marks[1][-1].outside) == 100


def test_a_mask_on_another_grid_is_resampled_if_wanted(
    page: Page, session: Annotation, tmp_path: Path
) -> None:
    coarse = np.zeros((20, 15, 7), np.uint8)
    coarse[6:10, 6:10, 2:4] = 1
    affine = np.diag([*(2 * SPACING), 1])
    affine[:3, 3] = SPACING / 2
    path = tmp_path / "coarse.nii.gz"
    nib.save(nib.Nifti1Image(coarse, affine), path)
    version = session.version
    for answer in ("#ask-no", "#ask-yes"):
        page.locator("#file").set_input_files(path)
        expect(page.locator("#ask-title")).to_have_text("coarse.nii.gz lies on another grid")
        expect(page.locator("#ask-text")).to_contain_text("The file: 20×15×7 voxels of 2×3×6 mm")
        expect(page.locator("#ask-text")).to_contain_text("the scan: 40×30×14 voxels of 1×1.5×3 mm")
        assert str(tmp_path.parent) not in page.locator("#ask-text").inner_text()
        assert "foldwise-" not in page.locator("#ask-text").inner_text()
        assert session.version == version
        page.locator(answer).click()
        if answer == "#ask-no":
            expect(page.locator(STATUS)).to_contain_text("was not loaded; nothing was changed")
    # Each voxel of the file covers eight of the scan: 32 × 36 mm³ before and after.
    expect(page.locator(STATUS)).to_contain_text("coarse.nii.gz: 1.152 mL became 1.152 mL")
    expect(page.locator(STATUS)).not_to_contain_text("/")
    expected = np.kron(coarse, np.ones((2, 2, 2))) > 0
    assert np.array_equal(session.labels == 3, expected & ~np.isin(session.labels, (1, 2)))


def test_hidden_objects_stay_hidden_and_unchanged(page: Page, session: Annotation) -> None:
    before = session.labels == 1
    page.get_by_label("Work on tumour").check()
    tool(page, "inside")
    drag(page, 2, (10, 10, 7))
    page.get_by_label("Hide liver").click()
    until(lambda: session.objects[0].hidden)
    idle(page)
    page.locator("#round").click()
    expect(page.locator(STATUS)).to_contain_text("marks of tumour lie on liver, which is hidden; show it, or")
    expect(page.locator("#marks li")).to_have_count(1)
    page.locator("#marks .remove").click()
    tool(page, "brush")
    # Switched off for a look at the scan: painting shows all objects again.
    page.keyboard.press("m")
    expect(page.locator("#labels")).not_to_be_checked()
    drag(page, 2, (12, 10, 7), (18, 10, 7))
    expect(page.locator(STATUS)).to_contain_text("liver is hidden and was not changed here")
    until(lambda: session.labels[17, 10, 7] == 2)
    expect(page.locator("#labels")).to_be_checked()
    idle(page)
    tool(page, "outside")
    drag(page, 2, (22, 8, 7))
    page.locator("#round").click()
    expect(page.locator(STATUS)).to_contain_text("Done in", timeout=30_000)
    assert session.labels[22, 8, 7] == 0
    assert np.array_equal(session.labels == 1, before)
    expect(page.get_by_label("Hide liver")).to_have_attribute("aria-pressed", "true")


def test_unsent_marks_outlive_a_reload_of_the_same_state(page: Page, session: Annotation) -> None:
    page.on("dialog", lambda dialog: dialog.accept())
    tool(page, "inside-line")
    drag(page, 2, (8, 20, 7), (14, 22, 7))
    page.get_by_label("Work on tumour").check()
    tool(page, "boxes")
    drag(page, 2, (20, 18, 7), (30, 26, 7))
    page.locator("#first").click()
    sent = page.evaluate("JSON.stringify(foldwise.app.marks.forRound())")
    reload(page)
    expect(page.locator(STATUS)).to_contain_text("3 marks that you had not sent are here again")
    expect(page.locator("#marks li")).to_have_count(3)
    assert page.evaluate("JSON.stringify(foldwise.app.marks.forRound())") == sent
    # They are still those of a state that this page itself has changed.
    tool(page, "brush")
    drag(page, 2, (32, 20, 7))
    until(lambda: (session.labels[30:35, 20, 7] == 1).any())
    idle(page)
    reload(page)
    expect(page.locator("#marks li")).to_have_count(3)
    # Another page or command has changed the session in the meantime.
    page.goto("about:blank")
    session.edit(np.array([0]), np.array([1]))
    page.go_back()
    page.locator("body[data-ready]").wait_for(timeout=60_000)
    expect(page.locator(STATUS)).to_contain_text("belonged to another state of the session, and were dropped")
    expect(page.locator("#marks li")).to_have_count(0)
    page.reload()
    page.locator("body[data-ready]").wait_for(timeout=60_000)
    expect(page.locator(STATUS)).not_to_contain_text("dropped")


@pytest.mark.parametrize("axis", [0, 2])
def test_a_lasso_fills_and_clears_what_it_encloses(page: Page, session: Annotation, axis: int) -> None:
    """Against scikit-image's point in polygon; the other object is taken from, unless it is locked."""
    before, slice_ = session.labels.copy(), 7 if axis == 2 else 20
    flat = [n for n in range(3) if n != axis]
    corners = np.array([(8, 4), (33, 7), (26, 20), (17, 12), (6, 22)])
    if axis == 0:
        corners = np.array([(6, 1), (25, 3), (20, 11), (14, 6), (4, 12)])
    voxels = [tuple(np.insert(corner, axis, slice_).tolist()) for corner in corners]
    page.evaluate("place => foldwise.go(place)", list(voxels[0]))
    tool(page, "lasso")
    places = drag(page, axis, *voxels)
    until(lambda: not np.array_equal(session.labels, before))
    idle(page)
    centres = np.stack(np.meshgrid(*(np.arange(SHAPE[n]) for n in flat), indexing="ij"), -1)
    inside = points_in_poly((centres * SPACING[flat]).reshape(-1, 2), places[:, flat])
    expected = before.copy()
    plane: list[slice | int] = [slice(None)] * 3
    plane[axis] = slice_
    expected[tuple(plane)][inside.reshape(centres.shape[:2])] = 1
    assert inside.sum() > 50
    assert np.array_equal(session.labels, expected)
    tool(page, "cut")
    drag(page, axis, *voxels)
    until(lambda: not np.array_equal(session.labels, expected))
    expected[tuple(plane)][inside.reshape(centres.shape[:2])] = 0
    assert np.array_equal(session.labels, expected)
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    until(lambda: np.array_equal(session.labels, before))
