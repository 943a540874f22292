"""File names are names: no shell interprets their contents, and unusable names are refused."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from snakemake_interface_executor_plugins.utils import format_cli_value

from experiments import NAME
from foldwise import front_door
from foldwise.command import Stage, request
from foldwise.experiment.open import open_experiment
from foldwise.files import CaseError
from foldwise.front_door import container_image, use_this_package
from foldwise.names import fault, refuse_names
from foldwise.volumes.volume import Volume, read_volume, write_volume
from synthetic import scan
from warm import python

ROOT = Path(__file__).parents[2]
# Unquoted, or in double or single quotes, a shell would create a file X from it.
AFFINE = np.diag([-2.0, 2.0, 3.0, 1.0])


def test_the_submit_command_holds_no_name_of_a_file() -> None:
    profile = yaml.safe_load(
        (ROOT / "profiles" / "slurm-generic" / "config.yaml").read_text(encoding="utf-8")
    )
    fields = re.findall(r"\{([^{}]*)\}", profile["cluster-generic-submit-cmd"])
    assert {field.split(".")[0] for field in fields} == {"rule", "resources", "threads"}


@pytest.mark.parametrize(
    ("squeue", "sacct", "state"),
    [
        ("RUNNING", "", "running"),
        ("", "COMPLETED", "success"),
        ("", "", "running"),
        ("TIMEOUT", "", "failed"),
    ],
)
def test_the_generic_profile_tells_a_jobs_state(squeue: str, sacct: str, state: str, tmp_path: Path) -> None:
    profile = yaml.safe_load(
        (ROOT / "profiles" / "slurm-generic" / "config.yaml").read_text(encoding="utf-8")
    )
    for name, answer in (("squeue", squeue), ("sacct", sacct)):
        (tmp_path / name).write_text(f'#!/bin/sh\ncase "$*" in *--jobs=17*) echo {answer} ;; esac\n')
        (tmp_path / name).chmod(0o755)
    command = profile["cluster-generic-status-cmd"] + " '17'"
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(command, shell=True, env={"PATH": path}, capture_output=True, encoding="utf-8")
    assert done.stdout == f"{state}\n"


def test_a_request_is_words_and_leaves_out_what_is_not_there() -> None:
    assert request(label=Path("a b.nii.gz"), budget_min=3) == ["--label=a b.nii.gz", "--budget-min=3"]
    assert request(images=["-a", "b"]) == ["--images=-a", "--images=b"]
    assert request(label=None, images=[]) == []


# Rules whose outputs hold no record: a part's marker, and the demo's generated scans.
UNJUDGED = ("prepare_part", "phantom")


def test_every_rule_hands_its_request_over_in_the_one_quoted_way() -> None:
    """No path or other value of a user can enter a shell line in another way."""
    lines: dict[str, str] = {}
    for file in (ROOT / "workflow" / "rules").glob("*.smk"):
        text = file.read_text(encoding="utf-8")
        shells = re.findall(r"^    shell:\n((?:        .*\n)+)", text, re.MULTILINE)
        rules = re.findall(r"^rule (\w+):", text, re.MULTILINE)
        jobs = [rule for rule in rules if rule not in ("indexed", "prepared", "predict")]
        assert len(shells) == len(jobs), file
        assert "script:" not in text
        assert "run:" not in text
        lines |= dict(zip(jobs, map(str.strip, shells), strict=True))
    for rule, line in lines.items():
        stage = rule.removesuffix("_part") if rule == "predict_part" else rule
        ends = {"check": "2>&1 | tee {log:q}"}.get(rule, "> {log:q} 2>&1")
        depends = "" if rule in UNJUDGED else "--depends={params.depends:q} "
        assert line == f'"python -m foldwise.stages.{stage} {{params.request:q}} {depends}{ends}"', rule


def test_every_rule_asks_for_what_its_stage_takes() -> None:
    for file in (ROOT / "workflow" / "rules").glob("*.smk"):
        text = file.read_text(encoding="utf-8")
        # What some rules ask is said by the preparation, for jobs of many cases, too: see the next test.
        if "request(**PREPARED." in text.replace("\n            ", ""):
            continue
        for stage, given in zip(
            re.findall(r"foldwise\.stages\.(\w+) ", text),
            re.findall(r"request\(\n((?:            .*\n|        .*: request\(\n)+?)        \),", text),
            strict=True,
        ):
            named = set(re.findall(r"^            (\w+)=", given, re.MULTILINE))
            module = importlib.import_module(f"foldwise.stages.{stage}")
            [found_stage] = [value for value in vars(module).values() if isinstance(value, Stage)]
            # Further files for the outputs' records are an argument of every stage.
            assert named - {"also"} <= set(found_stage.names), (stage, named - set(found_stage.names))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a{b", "contains '{'"),
        ("a}b", "contains '}'"),
        ("scan <results>.nii.gz", "contains '<results>'"),
        ("a\nb", "line break"),
        ("-a.nii.gz", "begins with `-`"),
        ("a\udcfc.nii.gz", "not UTF-8"),
    ],
)
def test_names_that_snakemake_changes_are_refused(name: str, words: str) -> None:
    assert words in fault(name)
    assert not fault(NAME)
    assert not fault("a < b > c/-d\t.nii.gz")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a b",
            "it's",
            'a "b"',
            "$(touch X)",
            "`x` $y",
            "ü&;#[]()*?~",
            "日本",
            "a\\b",
            "a\tb",
            "a\u00a0b",
            "it's $x",
        ),
        *("it's `x`", 'it\'s "x"', "'a' b", '"a"', NAME),
    ],
)
def test_names_for_a_cluster_are_those_that_a_jobs_script_carries(name: str, tmp_path: Path) -> None:
    """Compared with Snakemake's quoting, read by a shell."""
    written = format_cli_value(name, quote=True)
    done = subprocess.run(f"printf %s {written}", shell=True, cwd=tmp_path, capture_output=True)
    assert (not fault(name, submits=True)) == (done.stdout == name.encode())


def test_a_checkout_that_path_cannot_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for path, held in (("/data/a:b", ":"), ("/data/{x}", "{")):
        monkeypatch.setattr(front_door, "ROOT", Path(path))
        with pytest.raises(SystemExit):
            use_this_package(deployed=False)
        assert f"'{path}' contains '{held}'" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my projects").mkdir()
    monkeypatch.setattr(front_door, "ROOT", tmp_path / "my projects")
    with pytest.raises(SystemExit):
        container_image()
    monkeypatch.chdir(tmp_path / "my projects")
    assert container_image() == "envs/foldwise.sif"


def test_every_name_of_an_experiment_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in{1}").mkdir()
    (tmp_path / "in{1}" / "cases.csv").write_text(
        "case,image,label\na,a.nii.gz,\nb,/data/{b}.nii.gz,-b.nii.gz\n"
    )
    settings = {
        "experiment": "tiny",
        "results": "r\nesults",
        "data": {"sheet": "in{1}/cases.csv", "folder": ".", "labels": {"x": 1}},
        "split": {"file": "{splits}.json"},
        "models": {"unet": {"network": {"name": "UNet", "act": "{case}"}, "pretrained": {"file": "w{.pt"}}},
        "predict": "n\new",
    }
    with pytest.raises(CaseError, match=r"results: contains '\{', which Snakemake would replace"):
        open_experiment({**settings, "results": "r{esults"}, main=False)
    opened = open_experiment(settings, main=False)
    with pytest.raises(CaseError) as error:
        refuse_names(opened, ROOT, None)
    said = str(error.value)
    for words in (
        r"results: 'r\nesults' contains a line break",
        "data.sheet: 'in{1}/cases.csv' contains '{'",
        "split.file: '{splits}.json' contains '{'",
        "models.unet.pretrained.file: 'w{.pt' contains '{'",
        "weights of model unet: 'w{.pt'",
        r"predict.source: 'n\new' contains a line break",
        "line 3: case b: '/data/{b}.nii.gz' contains '{'",
        "line 3: case b: '-b.nii.gz' begins with `-`",
        "models.unet.network.act: '{case}' contains '{case}', which Snakemake would replace",
    ):
        assert words in said
    assert "case a" not in said


def test_on_a_cluster_the_folders_must_bear_double_quotes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a $b").mkdir()
    monkeypatch.chdir(tmp_path / "a $b")
    Path("cases.csv").write_text("case,image,label\na,a.nii.gz,\n")
    settings = {
        "experiment": "tiny",
        "data": {"sheet": "cases.csv", "labels": {"x": 1}},
        "models": {"unet": {"network": {"name": "UNet"}}},
    }
    opened = open_experiment(settings, main=False)
    refuse_names(opened, ROOT, None)
    with pytest.raises(CaseError) as error:
        refuse_names(opened, ROOT, ["it's $x.yaml"])
    assert f"working folder: '{tmp_path}/a $b' contains '$'" in str(error.value)
    assert '"it\'s $x.yaml" cannot be passed to jobs on a cluster' in str(error.value)


@pytest.mark.slow
def test_the_whole_workflow_in_hostile_names(tmp_path: Path) -> None:
    """Checkout, sheet, scans, labels, results, weights and new scans, through report and predict."""
    checkout, work = tmp_path / NAME, tmp_path / "work"
    for name in ("workflow", "profiles", "envs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", checkout)
    data, new = work / f"data {NAME}", work / f"new {NAME}"
    data.mkdir(parents=True)
    new.mkdir()
    rows = ["case,image,label"]
    for number in range(4):
        image, ball = scan(number, (24, 22, 20))
        write_volume(Volume(image, AFFINE), data / f"{number} {NAME}.nii.gz")
        write_volume(Volume(ball, AFFINE), data / f"{number} label {NAME}.nii.gz")
        quoted = NAME.replace('"', '""')
        rows.append(f'c{number},"{number} {quoted}.nii.gz","{number} label {quoted}.nii.gz"')
    shutil.copy(data / f"1 {NAME}.nii.gz", new)
    (data / f"{NAME}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    torch.save({"weight": torch.zeros(1)}, work / f"{NAME}.pt")
    # Path to which unquoted redirections would have written.
    foreign = work / f"results {NAME}".split()[0]
    foreign.write_text("mine")
    experiment = {
        "experiment": "tiny",
        "results": f"results {NAME}",
        "data": {"sheet": str(data.relative_to(work) / f"{NAME}.csv"), "labels": {"ball": 1}},
        "split": {"folds": 2, "validation": 0},
        "models": {
            "unet": {
                "network": {"name": "UNet", "channels": [4, 8], "strides": [2]},
                "patch": [16, 16, 16],
                "pretrained": {"file": f"{NAME}.pt", "minimum": 0},
                "training": {"epochs": 1, "steps_per_epoch": 1, "batch": 1},
            }
        },
        "predict": new.name,
    }
    (work / f"{NAME}.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
    done = subprocess.run(
        [
            *(python(), "-m", "snakemake", "--snakefile", str(checkout / "Snakefile"), "all", "predict"),
            *("--profile", str(checkout / "profiles" / "local"), "--cores", "1"),
            *("--set-scatter", "prepare=1", "--configfile", f"{NAME}.yaml"),
        ],
        cwd=work,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    outputs = work / f"results {NAME}" / "tiny"
    assert "c3" in (outputs / "report.html").read_text(encoding="utf-8")
    exported = {path.stem: path for path in outputs.glob("unet/fold*/export/*.gz")}
    assert sorted(exported) == [f"c{number}.nii" for number in range(4)]
    (mask,) = outputs.glob("unet/predicted-*/*.gz")
    assert re.fullmatch(rf"predicted-{re.escape(new.name)}-[0-9a-f]{{8}}", mask.parent.name)
    assert mask.name == f"1 {NAME}.nii.gz"
    for path in (mask, *exported.values()):
        found = read_volume(path)
        assert found.data.shape == (24, 22, 20)
        assert np.array_equal(found.affine, AFFINE)
    assert not list(tmp_path.rglob("X"))
    assert foreign.read_text() == "mine"
    assert {path.name for path in work.iterdir()} == {
        *(data.name, new.name, foreign.name, f"{NAME}.pt", f"{NAME}.yaml", f"results {NAME}", ".snakemake")
    }
