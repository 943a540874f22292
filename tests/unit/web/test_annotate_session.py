"""The annotation page on a session as the command opens it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from playwright.sync_api import expect

from browser import browser, drag, opened, served, tool, until
from foldwise.systems.interactive.annotation import Annotation
from foldwise.systems.interactive.engines.classical import Classical
from foldwise.systems.interactive.objects import Object

# Would run, or request a picture, if interpreted as HTML.
SCAN = "<img src=x onerror=\"alert('1')\">&ü.nii.gz"


def test_a_session_from_the_first_mark_to_the_file(tmp_path: Path) -> None:
    """Mark, segment, correct by brush, undo, redo, save; resume."""
    # Two axes backwards, thick slices: geometry must survive it.
    affine = np.array([[-1.0, 0, 0, 40], [0, 1, 0, -5], [0, 0, -3, 60], [0, 0, 0, 1]])
    x, y, z = np.ogrid[:40, :36, :14]
    ball = (x - 20) ** 2 + (y - 18) ** 2 + (3 * (z - 7)) ** 2 <= 10**2
    image = np.where(ball, 100, -100) + np.random.default_rng(0).integers(-20, 20, ball.shape)
    nib.save(nib.Nifti1Image(image.astype(np.int16), affine), tmp_path / SCAN)

    def open_session() -> Annotation:
        return Annotation(
            [tmp_path / SCAN],
            tmp_path / "session",
            {"classical": Classical},
            engine="classical",
            objects=[Object("ball", 1, "#ff6384")],
        )

    session = open_session()
    with browser() as chromium, served(session) as address, opened(chromium, address) as page:
        expect(page.locator("#scan")).to_have_text(SCAN)
        tool(page, "inside-line")
        drag(page, 2, (14, 18, 7), (26, 18, 7))
        tool(page, "outside-line")
        drag(page, 2, (5, 5, 7), (35, 5, 7))
        page.locator("#round").click()
        expect(page.locator("#status")).to_contain_text("Done in", timeout=30_000)
        found = session.labels == 1
        assert found[14:27, 18, 7].all()
        assert not found[5:36, 5, 7].any()
        tool(page, "brush")
        drag(page, 2, (8, 28, 7))
        until(lambda: session.labels[8, 28, 7] == 1)
        painted = session.labels == 1
        page.keyboard.press("Control+z")
        until(lambda: np.array_equal(session.labels == 1, found))
        page.keyboard.press("Control+y")
        until(lambda: np.array_equal(session.labels == 1, painted))
        page.keyboard.press("s")
        expect(page.locator("#status")).to_contain_text("Saved as")
    session.close()
    saved = nib.load(session.files["nifti"])
    assert np.allclose(saved.affine, affine)
    assert np.array_equal(np.asarray(saved.dataobj) == 1, painted)
    again = open_session()
    assert np.array_equal(again.labels == 1, painted)
    again.close()
