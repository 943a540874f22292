"""Text files of other methods: as people write and name them, and what must be refused."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foldwise.files import CaseError
from foldwise.metrics.scoring import Scored, names_of, phases_of, score
from foldwise.metrics.tracks import Rates, refuse_read
from foldwise.metrics.video import CHOLEC80_PHASES

# Each phase for 15 rows; the prediction is late by 3.
TRUTH = np.repeat(np.arange(7), 15)
FOUND = np.concatenate([[0] * 3, TRUTH[:-3]])
ONE = Rates(fps=1)


def rows(
    phases: Sequence[int] | np.ndarray, step: int = 1, *, names: bool = True, header: str = "Frame\tPhase"
) -> str:
    cells = [CHOLEC80_PHASES[p] if names else str(p) for p in phases]
    body = [f"{step * n}\t{cell}" for n, cell in enumerate(cells)]
    return "\n".join([header] * bool(header) + body) + "\n"


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name.replace('__', '-')}.txt").write_text(text)
    return folder


def accuracy(scored: Scored) -> dict[str, float]:
    return {name: result.scores["accuracy"].value for name, result in scored.protocols.items()}


def refused(tmp_path: Path, found: str, truth: str, rates: Rates = ONE, first: int | None = None) -> str:
    mine, theirs = write(tmp_path / "p", video41=found), write(tmp_path / "t", video41=truth)
    with pytest.raises(CaseError) as error:
        score(mine, theirs, rates, first=first)
    return str(error.value)


@pytest.mark.parametrize(
    ("found", "truth"),
    [
        (rows(FOUND), rows(TRUTH)),
        (rows(FOUND, names=False), rows(TRUTH)),
        (rows(FOUND, names=False, header=""), rows(TRUTH, header="")),
        (rows(FOUND, 25), rows(TRUTH, 25)),  # numbered at the video's rate
        (rows(FOUND).replace("\t", ","), rows(TRUTH).replace("\t", "  ")),
        ("\n".join(map(str, FOUND)), rows(TRUTH)),
        ("phase\n" + "\n".join(CHOLEC80_PHASES[p] for p in FOUND), "\n".join(map(str, TRUTH))),
        ("\n".join(f"{n};{p}.0" for n, p in enumerate(FOUND)), rows(TRUTH) + "\n\n"),
    ],
)
def test_files_as_people_write_them(tmp_path: Path, found: str, truth: str) -> None:
    scored = score(write(tmp_path / "p", video41=found), write(tmp_path / "t", video41=truth), ONE)
    # 18 of 105 frames are late, and all within 10 s.
    assert accuracy(scored) == pytest.approx(
        {"strict": 87 / 105, "relaxed": 1, "legacy2016": 1, "pooled": 87 / 105, "zeros": 87 / 105}
    )
    assert scored.segments["boundary_error_s"].value == 3
    assert not scored.warnings


@pytest.mark.parametrize(
    "name", ["41", "video41-phase", "video-41", "VID41", "video41_pred", "pred_video41-phase"]
)
def test_files_as_people_name_them(tmp_path: Path, name: str) -> None:
    truth = write(tmp_path / "t", **{"video41__phase": rows(TRUTH), "video42__phase": rows(TRUTH)})
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / f"{name}.csv").write_text(rows(FOUND))
    scored = score(tmp_path / "p", truth, ONE)
    assert len(scored.videos) == 1
    assert scored.warnings == [
        f"1 file(s) of {truth} have no prediction and are not scored: video42-phase.txt"
    ]


def test_an_exported_folder_of_foldwise(tmp_path: Path) -> None:
    write(tmp_path / "fold0" / "export" / "phase", **{"op1__phase": rows(FOUND, 25)})
    truth = write(tmp_path / "t", op1=rows(np.repeat(TRUTH, 25)))
    for place in (tmp_path / "fold0", tmp_path / "fold0" / "export"):
        scored = score(place, truth, ONE)
        assert accuracy(scored)["strict"] == pytest.approx(87 / 105)
        assert scored.segments["boundary_error_s"].value == 3
        [warning] = scored.warnings
        assert "a row for every 25 frame(s), the truth for every 1; the 105 frames of both" in warning


def test_rows_numbered_at_other_rates_need_both(tmp_path: Path) -> None:
    # Row k of the prediction is second k; the truth numbers 25 frames a second.
    found, truth = rows(FOUND), rows(np.repeat(TRUTH, 25))
    assert "--fps 1 --truth-fps 25" in refused(tmp_path, found, truth)
    scored = score(tmp_path / "p", tmp_path / "t", Rates(1, 25))
    assert accuracy(scored)["strict"] == pytest.approx(87 / 105)
    # Row k of the prediction, but frame 25k of the truth.
    assert "--fps 1 --truth-fps 1" in refused(tmp_path, found, rows(TRUTH, 25))
    assert accuracy(score(tmp_path / "p", tmp_path / "t", Rates(1, 1)))["strict"] == pytest.approx(87 / 105)
    # A prediction at 25 frames a second, scored where the annotation has rows.
    fine = score(
        write(tmp_path / "fine", video41=rows(np.repeat(FOUND, 25))),
        write(tmp_path / "t", video41=rows(TRUTH, 25)),
        Rates(25),
    )
    assert accuracy(fine) == pytest.approx(accuracy(scored))
    assert fine.videos[0].fps == 1
    # The same where both count rows: of the 25 rows that round to a second, the nearest one counts.
    for rate in (25, 5):
        folder = write(tmp_path / f"counted{rate}", video41=rows(np.repeat(FOUND, rate)))
        dense = score(folder, write(tmp_path / "t", video41=rows(TRUTH)), Rates(rate, 1))
        assert accuracy(dense) == pytest.approx(accuracy(scored))
        assert dense.videos[0].fps == 1
    # 5 rows a second against 2: the truth's rows count, at 2 per second.
    write(tmp_path / "t", video41=rows(np.repeat(TRUTH, 2)))
    between = score(tmp_path / "counted5", tmp_path / "t", Rates(5, 2))
    assert (len(between.videos[0].truth), between.videos[0].fps) == (210, 2)


def test_gaps_count_in_seconds(tmp_path: Path) -> None:
    # Seconds 0 to 9, then every 20 s: late by one row, 20 s.
    seconds = [*range(10), *range(29, 130, 20)]
    lines = {
        name: "\n".join(f"{s} {p}" for s, p in zip(seconds, phases, strict=True))
        for name, phases in (("p", [0] * 10 + [0, 0, 1, 1, 1, 1]), ("t", [0] * 10 + [1] * 6))
    }
    scored = score(write(tmp_path / "p", v1=lines["p"]), write(tmp_path / "t", v1=lines["t"]), ONE)
    found = accuracy(scored)
    assert found["strict"] == pytest.approx(14 / 16)
    assert found["relaxed"] == pytest.approx(15 / 16)  # the row at 29 s; that at 49 s is 20 s late
    assert found["legacy2016"] == 1
    assert any("gaps of up to 20 s" in warning for warning in scored.warnings)


def test_numbers_from_one_must_be_told(tmp_path: Path) -> None:
    found, truth = rows(FOUND + 1, names=False), rows(TRUTH)
    assert "numbers 1 to 7, without 0" in refused(tmp_path, found, truth)
    scored = score(tmp_path / "p", tmp_path / "t", ONE, first=1)
    assert accuracy(scored)["strict"] == pytest.approx(87 / 105)
    # Only the truth begins at 1, as in AutoLaparo.
    mixed = score(
        write(tmp_path / "p", video41=rows(FOUND, names=False)),
        write(tmp_path / "t", video41=rows(TRUTH + 1, names=False)),
        ONE,
        first=1,
    )
    assert accuracy(mixed)["strict"] == pytest.approx(87 / 105)
    assert "0 is among the numbers" in mixed.warnings[0]
    # Without the first phase, 1 to 6 could be either.
    assert "give --first-number 0 or 1" in refused(tmp_path, rows([1, 2, 6], names=False), rows([1, 2, 6]))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (rows(TRUTH).replace("tion", "ton", 1), "line 2: phase 'Preparaton' is unknown; did you mean"),
        (rows(np.append(TRUTH, 8), names=False), "line 107: phase '8' is unknown"),
        ("Frame\tPhase\n0\t0\n0\t1\n", "line 3: frame 0 after 0"),
        ("Frame\tPhase\n0\t0\n1\n", "line 3: 1 column(s), the first line has 2"),
        ("Frame\tPhase\nx\t0\n", "line 2: 'x'; expected the frame's number"),
        ("Frame\tPhase\n", "a header only"),
        ("", "is empty"),
        ("0\t1\t2\n", "line 1: 3 columns"),
        (rows(TRUTH[:-2]), "2 row(s) have no prediction, the first is frame 103; --cut"),
        (rows([*TRUTH, 6]), "1 row(s) have no truth, the first is frame 105; --cut"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, found: str, message: str) -> None:
    assert message in refused(tmp_path, found, rows(TRUTH))


def test_unequal_lengths_can_be_cut(tmp_path: Path) -> None:
    folder = write(tmp_path / "p", v1=rows(FOUND[:-5]))
    scored = score(folder, write(tmp_path / "t", v1=rows(TRUTH)), Rates(1, cut=True))
    assert len(scored.videos[0].truth) == 100
    assert any("5 row(s) have no prediction" in warning for warning in scored.warnings)


def test_names_that_cannot_be_told_apart(tmp_path: Path) -> None:
    truth = write(tmp_path / "t", a1=rows(TRUTH), b1=rows(TRUTH))
    with pytest.raises(CaseError, match=r"cannot be told from a1.txt \(1\)"):
        score(write(tmp_path / "p", c1=rows(FOUND)), truth, ONE)
    with pytest.raises(CaseError, match="no file is named like one of"):
        score(write(tmp_path / "q", c3=rows(FOUND)), write(tmp_path / "u", c4=rows(TRUTH)), ONE)
    with pytest.raises(CaseError, match="does not exist"):
        score(tmp_path / "missing", truth, ONE)


def test_other_phases(tmp_path: Path) -> None:
    assert phases_of("m2cai")[0] == "TrocarPlacement"
    found, truth = write(tmp_path / "p", v1="a\nb\nb"), write(tmp_path / "t", v1="a\na\nb")
    scored = score(found, truth, ONE, phases_of("a, b"))
    assert set(scored.protocols) == {"strict", "pooled", "zeros"}
    assert accuracy(scored)["strict"] == pytest.approx(2 / 3)


def test_the_command(tmp_path: Path) -> None:
    found = write(tmp_path / "p", v41=rows(FOUND), v42=rows(TRUTH))
    truth = write(tmp_path / "t", video41=rows(TRUTH), video42=rows(TRUTH))
    (tmp_path / "chosen.txt").write_text("video40\nvideo42\n")
    assert names_of(str(tmp_path / "chosen.txt")) == names_of("video40, video42")
    words = [str(found), str(truth), "--fps", "1", "--chosen-on", str(tmp_path / "chosen.txt"), "--explain"]
    words += ["--json", str(tmp_path / "s.json"), "--csv", str(tmp_path / "s.csv")]
    run = subprocess.run(
        [sys.executable, "-m", "foldwise.metrics.phases", *words], capture_output=True, text=True, check=True
    )
    assert "the epoch was chosen on 1 of the 2 scored videos (42)" in run.stderr
    assert "2 video(s), 210 frames at 1 per second" in run.stdout
    lines = {line.split()[0]: line for line in run.stdout.splitlines() if line.strip()}
    assert "91.43 ± 12.12 v" in lines["strict"]  # 100 and 82.86 %
    assert "100.00 ± 0.00 v" in lines["relaxed"]
    assert "91.43  " in lines["pooled"] + "  "
    assert "legacy2016: The MATLAB script" in run.stdout
    table = pd.read_csv(tmp_path / "s.csv", keep_default_na=False)
    strict = table[(table["protocol"] == "strict") & (table["metric"] == "accuracy")]
    assert float(strict["value"].iloc[0]) == pytest.approx((1 + 87 / 105) / 2)
    nested = json.loads((tmp_path / "s.json").read_text())
    assert set(nested["definitions"]) == {"strict", "relaxed", "legacy2016", "pooled", "zeros"}
    assert [video["frames"] for video in nested["videos"]] == [105, 105]
    for into in (truth / "video41.txt", found / "scores.csv"):
        with pytest.raises(CaseError, match=f"{into.name}: would be among the scored files"):
            refuse_read([tmp_path / "s.json", into], [found, truth])
    (tmp_path / "p" / "v42.txt").write_text("0\tx\n1\ty\n")
    failed = subprocess.run(
        [sys.executable, "-m", "foldwise", "score-phases", *words[:4]], capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert "v42.txt: line 1: phase 'x' is unknown" in failed.stderr
