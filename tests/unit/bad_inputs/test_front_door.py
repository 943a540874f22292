"""Settings, sheets and files that they name: whatever is wrong is said before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bad_inputs import NO_JSON, NO_TEXT, WRONG, mutations, refused
from foldwise.experiment.configs import read_configs
from foldwise.experiment.open import open_experiment
from foldwise.files import CaseError
from foldwise.front_door import front_door
from foldwise.sheet import read_table
from foldwise.volumes.volume import Volume, write_volume
from pretended import SYSTEMS
from synthetic import scan

SETTINGS = """\
experiment: tiny
data:
  sheet: cases.csv
  labels: {ball: 5}
split: {folds: 2, validation: 0}
models:
  unet:
    network: {name: BasicUNet, features: [4, 4, 8, 8, 8, 4]}
    patch: [32, 32, 32]
"""
SHEET = "case,group,image,label\nc0,c0,c0.nii,c0-l.nii\nc1,c1,c1.nii,c1-l.nii\n"


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("volumes")
    for number in range(2):
        image, ball = scan(number, (24, 22, 20))
        write_volume(Volume(image, np.eye(4)), folder / f"c{number}.nii")
        write_volume(Volume(ball * np.uint8(5), np.eye(4)), folder / f"c{number}-l.nii")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path, volumes: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment that can be run, and is the working folder."""
    for name, data in volumes.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "cases.csv").write_text(SHEET)
    (tmp_path / "e.yaml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    # A process that imports torch would try the models, as tests/unit/test_trial.py does.
    monkeypatch.setattr("foldwise.experiment.open.remembered", lambda *words, **more: None)
    return tmp_path


def opened(*files: str) -> Callable[[], None]:
    """The call that the Snakefile makes, with the settings in some files."""

    def main() -> None:
        front_door(read_configs(map(Path, files or ("e.yaml",))), main=True)

    return main


# Name of a case → text of the sheet, and what the message must say.
SHEETS: dict[str, tuple[str, str]] = {
    "no header": ("c0,c0,c0.nii,c0-l.nii\n", "line 1: no column `case`"),
    "only a header": ("case,image,label\n", "no cases"),
    "ragged": (SHEET + "c2,c2\n", "line 4: 2 cells, the header has 4"),
    "a cell too many": (SHEET.replace("c1-l.nii", "c1-l.nii,1,5"), "line 3: 6 cells, the header has 4"),
    "a decimal comma": (SHEET.replace("label", "label,age").replace("l.nii", "l.nii,1,5"), "line 2: 6 cells"),
    "column twice": (SHEET.replace("group", "image"), "line 1: a column appears twice: 'image'"),
    "columns without a name": (SHEET.replace("label", "label,,"), "line 1: a column appears twice: ''"),
    "misspelt": (SHEET.replace("label", "lable"), "line 1: column 'lable': did you mean `label`?"),
    "capitals": (SHEET.replace("case", "Case"), "line 1: column 'Case': did you mean `case`?"),
    "zero-width space": (SHEET.replace("case", "case\u200b"), "line 1: column 'case\\u200b'"),
    "open quote": (SHEET.replace("c1,c1", 'c1,"c1'), "line 3: not readable as a table"),
    "open quote at the end": (SHEET.replace("c0-l.nii", '"c0-l.nii'), "line 2: not readable as a table"),
    "quote closed too late": (
        'case,image,note\nc0,c0.nii,"a\nc1,c1.nii,b"\nc2,c2.nii,c\n',
        "line 2: not readable as a table (a cell holds whole rows)",
    ),
    "text after a quote": (SHEET.replace("c1.nii", '"c1".nii'), "line 3: not readable as a table"),
    "a cell without an end": ("case,image\nc0," + "x" * 200_000 + "\n", "line 2: not readable as a table"),
    "case twice": (SHEET + "c0,c0,c0.nii,c0-l.nii\n", "line 4: case c0: already on line 2"),
    "no case": (SHEET + ",c2,c0.nii,c0-l.nii\n", "line 4: case ''"),
    "a path as a case": (SHEET.replace("c1,", "../c1,", 1), "line 3: case '../c1'"),
    "a case with a space": (SHEET.replace("c1,c1", "c 1,c1"), "line 3: case 'c 1'"),
    "a case with an umlaut": (SHEET.replace("c1,c1", "Müller,c1"), "line 3: case 'Müller'"),
    "a case's name too long": (SHEET.replace("c1,c1", f"{'c' * 300},c1"), "line 3: case cccc"),
    "split": (SHEET.replace("label", "label,split").replace("l.nii", "l.nii,tset"), "line 2: case c0: split"),
    "no image": (SHEET.replace("c1.nii", ""), "line 3: case c1: missing image"),
    "missing image": (SHEET.replace("c1.nii", "none.nii"), "line 3: case c1: none.nii: no such file"),
    "an image that is a folder": (SHEET.replace("c1.nii", "."), "line 3: case c1"),
    "an image that is no volume": (SHEET.replace("c1.nii", "e.yaml"), "line 3: case c1: e.yaml"),
    "an image with a wildcard": (SHEET.replace("c1.nii", "{c1}.nii"), "line 3: case c1"),
    "an image with a NUL": (SHEET.replace("c1.nii", "c\x001.nii"), "line 3: holds a NUL byte"),
    "an image with a name too long": (SHEET.replace("c1.nii", "c" * 300), "line 3: case c1: ccc"),
    "one patient": (SHEET.replace("c1,c1", "c1,c0"), "1 labelled patient(s) for 2 folds"),
    "the same scan twice": (SHEET.replace("c1.nii", "c0.nii"), "c0.nii"),
    "semicolons, and a decimal comma too many": ("case;image;age\nc0;c0.nii;1,5;2\n", "line 2: 4 cells"),
    "both separators": ("case;x,image\nc0;1,c0.nii\n", "line 1: "),
}
# The settings, and what the message must say.
TEXTS: dict[str, tuple[str, str]] = {
    "a key twice": (SETTINGS + "seed: 1\nseed: 2\n", "e.yaml: line 11: the key `seed` is already on line 10"),
    "a key twice in a section": (
        SETTINGS.replace("  sheet: cases.csv", "  sheet: cases.csv\n  sheet: other.csv"),
        "e.yaml: line 4: the key `sheet` is already on line 3",
    ),
    "a model twice": (SETTINGS + "  unet: {}\n", "e.yaml: line 10: the key `unet` is already on line 7"),
    "a key twice in braces": (SETTINGS.replace("{ball: 5}", "{ball: 5, ball: 6}"), "the key `ball`"),
    "an open bracket": (SETTINGS.replace("32]", "32"), "e.yaml: line 10: not readable as YAML"),
    "a tab": (SETTINGS.replace("  sheet", "\tsheet"), "e.yaml: line 3: not readable as YAML"),
    "an open quote": (SETTINGS.replace("tiny", '"tiny'), "e.yaml: line 1"),
    "indented wrongly": (SETTINGS.replace("  labels", "   labels"), "e.yaml: line 4: not readable as YAML"),
    "an unknown alias": (SETTINGS.replace("tiny", "*tiny"), "e.yaml: line 1: not readable as YAML"),
    "two documents": (SETTINGS + "---\n" + SETTINGS, "e.yaml: line 10: not readable as YAML"),
    "a tag of Python": (SETTINGS.replace("tiny", "!!python/object:os.system x"), "e.yaml: line 1: not"),
    "a tag that lies": (SETTINGS.replace("tiny", "!!int tiny"), "e.yaml: not readable as YAML"),
    "a truth that is none": (SETTINGS.replace("tiny", "!!bool tiny"), "e.yaml: not readable as YAML"),
    "a date that does not exist": (SETTINGS.replace("tiny", "2024-13-45"), "e.yaml: not readable as YAML"),
    "a list as a key": (SETTINGS + "? [a]\n: b\n", "e.yaml: line 10"),
    "nested too deeply": (SETTINGS + "seed: " + "[" * 5000, "e.yaml: not readable as YAML: it is nested"),
    "a sheet that is missing": (SETTINGS.replace("cases.csv", "none.csv"), "none.csv: no such sample sheet"),
    "a sheet that is a folder": (SETTINGS.replace("cases.csv", "."), ".: no such sample sheet"),
    "no sheet": (SETTINGS.replace("  sheet: cases.csv\n", ""), "data.sheet: missing"),
    "no experiment": (SETTINGS.replace("experiment: tiny\n", ""), "experiment: missing"),
    "an unknown key": (SETTINGS + "sed: 1\n", "sed: unknown key; did you mean `seed`?"),
    "an unknown system": (SETTINGS + "system: segmentatoin\n", "segmentatoin"),
    "a system that is a list": (SETTINGS + "system: [segmentation]\n", "system"),
    "an experiment with a slash": (SETTINGS.replace("tiny", "a/b"), "experiment: "),
    "an experiment with a name too long": (SETTINGS.replace("tiny", "t" * 300), "too long"),
    "a number as a section": (SETTINGS.replace("split: {folds: 2, validation: 0}", "split: 3"), "split: "),
    "nothing as a section": (SETTINGS.replace("{ball: 5}", ""), "data.labels: "),
    "not a number": (SETTINGS.replace("folds: 2", "folds: .nan"), "split.folds: "),
    "infinite": (SETTINGS + "    training: {clip_gradient: .inf}\n", "training.clip_gradient: "),
    "results in a file": (SETTINGS + "results: e.yaml\n", "e.yaml"),
    "results below a file": (SETTINGS + "results: e.yaml/results\n", "e.yaml"),
    "results with a name too long": (SETTINGS + f"results: {'r' * 300}\n", "too long"),
    "results with a wildcard": (SETTINGS + "results: '{r}'\n", "results: contains '{'"),
    "results at a link that leads nowhere": (SETTINGS + "results: dangling\n", "dangling"),
    "results in a circle of links": (SETTINGS + "results: circle\n", "circle"),
    "new cases that are missing": (
        SETTINGS + "predict: none/\n",
        "predict: none: no such file or folder",
    ),
    "new cases in an empty folder": (SETTINGS + "predict: nothing/\n", "predict: nothing"),
    "new cases in settings": (SETTINGS + "predict: e.yaml\n", "predict: e.yaml"),
    "a split file that is missing": (
        SETTINGS.replace("validation: 0", "file: none.json"),
        "none.json: no such",
    ),
}
# The text of a split file, and what the message must say.
SPLITS: dict[str, tuple[str, str]] = {
    "no fold": ("[]", "folds"),
    "one fold": ('[{"test": ["c0"]}]', "has 1 fold(s)"),
    "lists in lists": ("[[], []]", "folds.0"),
    "numbers": ('[{"test": [0]}, {"test": [1]}]', "folds.0.test.0"),
    "an unknown case": ('[{"test": ["c0"]}, {"test": ["c9"]}]', "names c9"),
    "nothing held out": ('[{"train": ["c0"]}, {"train": ["c1"]}]', "needs a list `test`"),
    "a case in two lists": ('[{"test": ["c0"], "train": ["c0"]}, {"test": ["c1"]}]', "c0 more than once"),
    "a fold twice": ('[{"test": ["c0"]}, {"test": ["c0"]}]', "c0"),
    "an unknown key": ('[{"test": ["c0"], "tran": []}, {"test": ["c1"]}]', "tran: unknown key"),
    "a key twice": ('[{"test": ["c0"], "test": ["c1"]}]', "the key 'test' is given twice"),
}


@pytest.mark.parametrize("name", SHEETS)
def test_a_sheet(name: str, folder: Path) -> None:
    text, expected = SHEETS[name]
    (folder / "cases.csv").write_text(text, encoding="utf-8")
    message = refused(opened(), folder)
    assert "cases.csv" in message
    assert expected in message


@pytest.mark.parametrize("name", NO_TEXT)
@pytest.mark.parametrize("file", ["cases.csv", "cases.tsv", "e.yaml"])
def test_a_file_that_is_no_text(name: str, file: str, folder: Path) -> None:
    if file == "cases.tsv":
        (folder / "e.yaml").write_text(SETTINGS.replace("cases.csv", file))
    (folder / file).write_bytes(NO_TEXT[name])
    assert file in refused(opened(), folder)


@pytest.mark.parametrize("name", TEXTS)
def test_settings(name: str, folder: Path) -> None:
    text, expected = TEXTS[name]
    (folder / "nothing").mkdir()
    (folder / "dangling").symlink_to("none")
    (folder / "circle").symlink_to("circle")
    (folder / "e.yaml").write_text(text, encoding="utf-8")
    assert expected in refused(opened(), folder)


@pytest.mark.parametrize("name", [*SPLITS, *NO_JSON])
def test_a_split_file(name: str, folder: Path) -> None:
    text, expected = SPLITS.get(name, (None, "splits.json"))
    (folder / "splits.json").write_bytes(NO_JSON[name] if text is None else text.encode())
    (folder / "e.yaml").write_text(SETTINGS.replace("validation: 0", "file: splits.json"))
    message = refused(opened(), folder)
    assert "splits.json" in message
    assert expected in message


@pytest.mark.parametrize("file", ["none.yaml", ".", "e.yaml/x", "dangling", "circle", "x" * 300])
def test_a_file_of_settings_that_is_none(file: str, folder: Path) -> None:
    (folder / "dangling").symlink_to("none")
    (folder / "circle").symlink_to("circle")
    assert file in refused(opened(file), folder)


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_setting_of_a_system_ends_in_a_traceback(system: str, tmp_path: Path) -> None:
    """Each value of an experiment is missing, of another kind or beyond all bounds; most are refused."""
    settings, header, rows = json.loads(json.dumps(SYSTEMS[system]))
    sheet = tmp_path / "cases.csv"
    sheet.write_text("\n".join([header, *(rows[n == 3].format(f"c{n}") for n in range(4))]))
    values = settings | {"system": system, "experiment": "x", "split": {"folds": 2, "validation": 0}}
    values["data"]["sheet"] = str(sheet)
    open_experiment(values, main=False)
    refused_, faults = 0, []
    for place, content in mutations(values, each=len(WRONG)):
        if place.startswith("all:"):  # which `read_configs` refuses
            continue
        try:
            open_experiment(json.loads(content), main=False)
        except CaseError:
            refused_ += 1
        except Exception as error:
            faults.append(f"{place}: {error!r}")
    assert not faults, "\n".join(faults)
    assert refused_ > 50


HEADER = ["case", "group", "image", "label", "note"]
ROWS = [["c0", "p0", "c0.nii", "c0-l.nii", "1,5"], ["c1", "p1", "c1.nii", "c1-l.nii", "2,5"]]


def written(separator: str, quote: str = "", end: str = "\n", before: str = "") -> str:
    lines = [separator.join(f"{quote}{cell}{quote}" for cell in row) for row in (HEADER, *ROWS)]
    return before + end.join([*lines, separator * 4, ""])


# The same two cases, as spreadsheets write them.
WRITTEN = {
    "semicolons": ("cases.csv", written(";")),
    "tabs": ("cases.csv", written("\t")),
    "commas in a .tsv": ("cases.tsv", written(",", '"')),
    "semicolons in a .tsv": ("cases.tsv", written(";")),
    "a mark, quotes and other ends of lines": ("cases.csv", written(";", '"', "\r\n", "\ufeff")),
    "ends of lines of an old Mac": ("cases.csv", written(";", '"', "\r")),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_sheet_of_a_spreadsheet_is_read(name: str, tmp_path: Path) -> None:
    file, text = WRITTEN[name]
    (tmp_path / file).write_text(text, encoding="utf-8", newline="")
    table = read_table(tmp_path / file, ("image", "label"))
    assert list(table.header) == HEADER
    assert [row for _, row in table.rows] == ROWS
