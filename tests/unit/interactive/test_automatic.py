"""Programs that segment a scan by themselves: stand-ins in Python, and a model of Foldwise."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from foldwise.commands.predict import predict
from foldwise.files import CaseError
from foldwise.systems.interactive.engines import Request, Scan, StoppedError
from foldwise.systems.interactive.engines.automatic import Automatic, words_of
from foldwise.systems.interactive.engines.choice import Options, open_engine
from foldwise.volumes.targets import Targets
from foldwise.volumes.volume import Volume, write_volume
from untrained import write_untrained

SHAPE = (5, 6, 7)
TASK = {"targets": Targets({"liver": 4}).as_dict(), "channels": 1}
# Turned and anisotropic.
AFFINE = np.array([[-0.7, 0, 0, 30], [0, 0, 3.0, -20], [0, 0.9, 0, 5], [0, 0, 0, 1.0]])


def scan(channels: int = 1) -> Scan:
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    return Scan(np.stack([values + 1000 * n for n in range(channels)]), AFFINE)


def request(progress: object = lambda share: None) -> Request:
    return Request(np.zeros(SHAPE, np.uint8), {}, {}, 2, progress)  # type: ignore[arg-type]


def program(folder: Path, text: str) -> str:
    """A program whose arguments are paths; `labels` is what it finds: 7 above 150, 3 below 20."""
    lines = [
        "import sys, pathlib, numpy as np, nibabel as nib",
        "image = nib.load(sys.argv[1]) if sys.argv[1].endswith('.gz') else None",
        "values = np.asarray(image.dataobj) if image else None",
        "labels = np.where(values > 150, 7, np.where(values < 20, 3, 0)).astype('uint8') if image else None",
        "def write(data, name, affine=None):",
        "    nib.save(nib.Nifti1Image(data, image.affine if affine is None else affine), name)",
        text,
    ]
    path = folder / "a program.py"
    path.write_text("\n".join(lines), encoding="utf-8")
    return shlex.join([sys.executable, str(path)])


def opened(command: str, channels: int = 1, **options: object) -> Automatic:
    engine = open_engine("automatic", scan(channels), Options(automatic=command, **options))  # type: ignore[arg-type]
    assert isinstance(engine, Automatic)
    return engine


def expected(value: int) -> np.ndarray:
    return scan().image[0] > 150 if value == 7 else scan().image[0] < 20


def test_a_label_map_becomes_objects(tmp_path: Path) -> None:
    command = program(tmp_path, "write(labels, sys.argv[2])") + " {scan} {mask}"
    engine = opened(command, names={3: "Liver"})
    labels, names = engine.propose(request())
    assert names == {1: "Liver", 2: "label 7"}
    assert np.array_equal(labels == 1, expected(3))
    assert np.array_equal(labels == 2, expected(7))
    # An object of the session keeps its number and its spelling; others get free ones.
    labels, names = engine.propose(request(), {1: "tumour", 4: "liver"})
    assert names == {4: "liver", 5: "label 7"}
    assert np.array_equal(labels == 4, expected(3))
    assert np.array_equal(labels == 5, expected(7))
    assert labels.dtype == np.uint8
    # The last objects were removed; their numbers are not given to others.
    _, names = engine.propose(request(), {1: "liver", 2: "", 3: ""})
    assert names == {1: "liver", 4: "label 7"}
    with pytest.raises(CaseError, match=r"does not look at marks; .* such as classical"):
        engine.segment(request())


def test_the_program_reads_the_scan_as_it_is(tmp_path: Path) -> None:
    kept = tmp_path / "kept.nii.gz"
    text = f"nib.save(image, {str(kept)!r}); write(labels, sys.argv[2])"
    opened(program(tmp_path, text) + " {scan} {mask}", channels=2, channel=1, names={}).propose(request())
    read = nib.load(kept)
    np.testing.assert_array_equal(np.asarray(read.dataobj), scan(2).image[1])
    assert read.get_data_dtype() == np.int16
    np.testing.assert_allclose(read.affine, AFFINE, atol=1e-6)


def test_names_in_a_header(tmp_path: Path) -> None:
    """As TotalSegmentator writes them."""
    label = "<Label Key='7' Red='1' Green='0' Blue='0' Alpha='1'><![CDATA[kidney_left]]></Label>"
    xml = f"<CaretExtension><LabelTable>\n{label}\n</LabelTable></CaretExtension>\n"
    text = (
        "made = nib.Nifti1Image(labels, image.affine)\n"
        f"made.header.extensions.append(nib.nifti1.Nifti1Extension(0, {xml.encode()!r}))\n"
        "nib.save(made, sys.argv[2])"
    )
    _, names = opened(program(tmp_path, text) + " {scan} {mask}").propose(request())
    assert names == {1: "label 3", 2: "kidney_left"}


def test_nnunets_folders(tmp_path: Path) -> None:
    """It reads a file for each channel, and names its label map like the case; dataset.json has the names."""
    about = json.dumps({"labels": {"background": 0, "aorta": 2, "whole": [1, 2]}})
    text = (
        "source, out = map(pathlib.Path, sys.argv[1:])\n"
        "first, second = (nib.load(source / f'scan_{n:04d}.nii.gz') for n in range(2))\n"
        "image = first\n"
        "write(((np.asarray(second.dataobj) - np.asarray(first.dataobj) == 1000) * 2).astype('uint8'),\n"
        "      out / 'scan.nii.gz')\n"
        f"(out / 'dataset.json').write_text({about!r})"
    )
    labels, names = opened(program(tmp_path, text) + " {scans} {folder}", channels=2).propose(request())
    assert names == {1: "aorta"}
    assert (labels == 1).all()


def test_masks_in_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = (
        "write((values < 100).astype('uint8'), sys.argv[2] + '/body.nii.gz')\n"
        "write((values < 20) * np.float32(255), sys.argv[2] + '/adrenal.gland.nii')\n"
        "write(np.zeros_like(labels), sys.argv[2] + '/brain.nii.gz')"
    )
    labels, names = opened(program(tmp_path, text) + " {scan} {folder}").propose(request())
    # Sorted by their files; what is empty is no object.
    assert names == {1: "adrenal.gland", 2: "body"}
    assert np.array_equal(labels == 1, scan().image[0] < 20)
    assert np.array_equal(labels == 2, (scan().image[0] < 100) & (scan().image[0] >= 20))
    assert "20 voxels are in several structures" in caplog.text


def test_a_turned_label_map_is_turned_back(tmp_path: Path) -> None:
    text = "nib.save(nib.as_closest_canonical(nib.Nifti1Image(labels, image.affine)), sys.argv[2])"
    labels, _ = opened(program(tmp_path, text) + " {scan} {mask}").propose(request())
    assert np.array_equal(labels == 1, expected(3))
    assert np.array_equal(labels == 2, expected(7))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("write(labels[1:], sys.argv[2])", r"its grid \(shape \(4, 6, 7\).* is not the scan's"),
        ("write(labels, sys.argv[2], np.eye(4))", "is not the scan's"),
        ("write(labels * np.float32(0.5), sys.argv[2])", "whole numbers from 0"),
        ("write(-labels.astype('int16'), sys.argv[2])", "whole numbers from 0"),
        ("write(labels * 0, sys.argv[2])", "found nothing in this scan"),
        ("print('no weights')", r"wrote no mask; it said:\n  no weights"),
        ("sys.exit('CUDA out of memory')", r"ended with code 1\n  CUDA out of memory"),
        ("import os; os.kill(os.getpid(), 9)", "ended with signal 9 and said nothing"),
        ("pathlib.Path(sys.argv[2]).write_bytes(b'x')", "not readable as a volume"),
    ],
)
def test_programs_that_fail(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        opened(program(tmp_path, text) + " {scan} {mask}").propose(request())


def test_masks_that_are_none(tmp_path: Path) -> None:
    text = "write(labels, sys.argv[2] + '/liver.nii.gz')"
    with pytest.raises(CaseError, match=r"liver\.nii\.gz: expected a mask: 0, and one other value"):
        opened(program(tmp_path, text) + " {scan} {folder}").propose(request())


def test_templates() -> None:
    assert words_of("a 'b c' -o {mask} x={scan}") == ["a", "b c", "-o", "{mask}", "x={scan}"]
    for template in ("a {scan}", "a {mask}", "a {scan} {mask} {folder}", "a", "a {scan} {scans} {mask}"):
        with pytest.raises(CaseError, match=r"must contain \{scan\}"):
            words_of(template)
    with pytest.raises(CaseError, match="must contain"):
        opened("TotalSegmentator -i scan.nii.gz -o mask.nii.gz")
    with pytest.raises(CaseError, match="No closing quotation"):
        words_of("a '{scan} {mask}")
    with pytest.raises(CaseError, match="no-such-program: cannot be run"):
        opened("no-such-program {scan} {mask}").propose(request())
    # A shell would run the second one.
    with pytest.raises(CaseError, match=r"ended with code \d+"):
        opened("ls ; echo {scan} {mask}").propose(request())


def test_stopping_ends_all_processes(tmp_path: Path) -> None:
    noted = tmp_path / "child"
    text = (
        "import subprocess, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"pathlib.Path({str(noted)!r}).write_text(str(child.pid))\n"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "time.sleep(60)"
    )

    def progress(share: float) -> None:
        if noted.exists() and noted.read_text(encoding="utf-8"):
            raise StoppedError

    begin = time.monotonic()
    with pytest.raises(StoppedError):
        opened(program(tmp_path, text) + " {scan} {mask}").propose(request(progress))
    assert time.monotonic() - begin < 30
    state = Path(f"/proc/{noted.read_text(encoding='utf-8')}/stat")
    # Gone, or waiting to be collected by init.
    assert not state.exists() or state.read_text(encoding="utf-8").split()[2] == "Z"


@pytest.mark.slow
def test_a_model_of_foldwise_proposes_what_predict_writes(tmp_path: Path) -> None:
    targets = Targets({"liver": 4, "spleen": 9})
    model = write_untrained(tmp_path / "model.pt", {"targets": targets.as_dict(), "channels": 2})
    image = np.random.default_rng(0).normal(size=(2, 20, 18, 16)).astype(np.float32)
    one = Scan(image, AFFINE)
    engine = open_engine("automatic", one, Options(automatic=str(model)))
    assert isinstance(engine, Automatic)
    empty = Request(np.zeros(one.shape, np.uint8), {}, {}, 2)
    labels, names = engine.propose(empty, {3: "Spleen"})

    write_volume(Volume(np.moveaxis(image, 0, -1), AFFINE), tmp_path / "new" / "case.nii.gz")
    predict(model, tmp_path / "new", tmp_path / "out")
    values = np.asarray(nib.load(tmp_path / "out" / "case.nii.gz").dataobj)
    numbers = {name.casefold(): number for number, name in names.items()}
    assert sorted(numbers) == [name for name, value in targets.classes.items() if (values == value).any()]
    for name, number in numbers.items():
        assert np.array_equal(labels == number, values == targets.value(name))
    assert np.array_equal(labels == 0, values == 0)
    assert numbers.get("spleen", 3) == 3


def test_other_models(tmp_path: Path) -> None:
    model = write_untrained(tmp_path / "model.pt", TASK, system="interactive")
    with pytest.raises(CaseError, match="a model of the system interactive; engine automatic needs one of"):
        open_engine("automatic", scan(), Options(automatic=str(model)))
    with pytest.raises(CaseError, match=r"model\.foldwise"):
        open_engine("automatic", scan(), Options(automatic=str(tmp_path / "model.foldwise")))
