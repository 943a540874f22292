"""Foldwise compared with nnU-Net v2 on the same cases, folds and wall-clock time.

    uv pip sync --compile-bytecode envs/requirements-bench.txt && uv pip install --no-deps -e .
    python benchmarks/versus_nnunet.py <folder with images/ and labels/> --labels '{anterior: 1, posterior:
    2}'

nnU-Net plans, preprocesses and trains each fold with `--trainer`; we use its split file, too. Our training
of the same fold gets as many steps as fit into the time that nnU-Net took for training (the time of a step
is measured first), without a validation share: the last epoch is used, as in nnU-Net. Both
predict the fold's held-out cases; both predictions are scored by the same function on the source grid.
Memory is the largest sum of proportional set sizes over the process and its children.

`--longer N` also trains ours N times as long, to show the effect of longer training.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from foldwise.files import read_json
from foldwise.volumes.metrics import score
from foldwise.volumes.volume import read_volume
from watch import run

DATASET = "Dataset004_Measured"
METRICS = ("dice", "hd95_mm", "surface_dice")
# A step's time is measured over this many steps, after some to warm up.
MEASURED, WARM_UP = 40, 10
ROOT = Path(__file__).parents[1]


def nnunet_data(source: Path, folder: Path, labels: dict[str, int]) -> dict[str, str]:
    """Arrange the cases in nnU-Net's layout; returns its environment."""
    raw = folder / "raw" / DATASET
    (raw / "imagesTr").mkdir(parents=True, exist_ok=True)
    (raw / "labelsTr").mkdir(exist_ok=True)
    images = sorted((source / "images").glob("*.nii.gz"))
    for image in images:
        case = image.name.removesuffix(".nii.gz")
        shutil.copyfile(image, raw / "imagesTr" / f"{case}_0000.nii.gz")
        shutil.copyfile(source / "labels" / image.name, raw / "labelsTr" / image.name)
    about = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **labels},
        "numTraining": len(images),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(about))
    return {
        "nnUNet_raw": str(folder / "raw"),
        "nnUNet_preprocessed": str(folder / "preprocessed"),
        "nnUNet_results": str(folder / "nnunet"),
        "nnUNet_compile": "f",
        "nnUNet_n_proc_DA": str(os.cpu_count()),
    }


def nnunet_fold(fold: int, folder: Path, trainer: str, device: str, paths: dict[str, str]) -> dict[str, Any]:
    """Train a fold with nnU-Net, or read its results; returns the predictions' folder, seconds, memory."""
    record = folder / f"nnunet_fold{fold}.json"
    if not record.exists():
        binary = str(Path(sys.executable).parent / "nnUNetv2_train")
        command = [binary, "4", "3d_fullres", str(fold), "-tr", trainer, "-device", device]
        seconds, peak = run(command, folder / f"nnunet_fold{fold}.log", **paths)
        results = folder / "nnunet" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres" / f"fold_{fold}"
        log = max(results.glob("training_log_*.txt")).read_text()
        epochs = [float(line.split()[-2]) for line in log.splitlines() if "Epoch time" in line]
        facts = {
            "seconds": seconds,
            "training_seconds": sum(epochs),
            "peak_mib": peak,
            "predictions": str(results / "validation"),
        }
        record.write_text(json.dumps(facts))
    return dict(read_json(record))


def settings(source: Path, folder: Path, labels: dict[str, int], model: dict[str, Any]) -> Path:
    """Our experiment as a file, with the folds of nnU-Net."""
    sheet = folder / "sheet.csv"
    rows = ["case,group,image,label"]
    for image in sorted((source / "images").glob("*.nii.gz")):
        case = image.name.removesuffix(".nii.gz")
        rows.append(f"{case},{case},{image.resolve()},{(source / 'labels' / image.name).resolve()}")
    sheet.write_text("\n".join(rows) + "\n")
    splits = folder / "preprocessed" / DATASET / "splits_final.json"
    path = folder / "experiment.yaml"
    values = {
        "experiment": "measured",
        "results": str(folder / "results"),
        "data": {"sheet": str(sheet), "labels": labels},
        "plan": {"memory": "small"},
        "split": {"folds": 5, "file": str(splits)},
        "models": {"unet": model},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def ours(fold: int, folder: Path, experiment: Path, epochs: int, name: str) -> dict[str, Any]:
    """Train and test a fold with the workflow's stages, for a number of epochs."""
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "all", "--directory", str(ROOT)]
    data = folder / "results" / "measured"
    model = str(data / "unet" / f"fold{fold}" / "model.pt")
    prepare = [*snakemake, model, "--configfile", str(experiment)]
    # The workflow writes the plan and all caches; training is timed separately.
    run([*prepare, "--until", "cache", "index"], folder / "ours_prepare.log")
    values = yaml.safe_load(experiment.read_text())
    settings = values["models"]["unet"]
    settings["training"] = {**settings.get("training", {}), "epochs": epochs}
    out = folder / f"{name}_fold{fold}"
    out.mkdir(exist_ok=True)
    index = str(data / "index.pkl")
    stages = [sys.executable, "-m", "foldwise.stages.train"]
    train = [
        *stages,
        *("--settings", json.dumps(settings), "--plan", str(data / "plan.yaml"), "--name", "unet"),
        *("--index", index, "--fold", str(fold), "--state", str(out / "state")),
        *("--model", str(out / "model.pt"), "--log", str(out / "log.csv")),
        *("--provenance", str(out / "provenance.json"), "--workers", "2"),
    ]
    seconds, peak = run(train, folder / f"{name}_fold{fold}.log")
    predictions, scores, choice = str(out / "predictions"), str(out / "scores"), str(out / "choice.json")
    state = ["--state", str(out / "unfinished")]
    for name_of, given in {
        "test": [
            *("--index", index, "--fold", str(fold), "--model", str(out / "model.pt"), *state),
            *("--predictions", predictions, "--facts", str(out / "predictions.json")),
        ],
        "score": ["--index", index, "--predictions", predictions, *state, "--scores", scores],
        "metrics": [
            *("--index", index, "--fold", str(fold), "--scores", scores),
            *("--metrics", str(out / "metrics.csv"), "--choice", choice),
        ],
        "export": [
            *("--index", index, "--predictions", predictions, "--scores", scores),
            *("--choice", choice, "--folder", str(out / "export")),
        ],
    }.items():
        run(
            [sys.executable, "-m", f"foldwise.stages.{name_of}", *given],
            folder / f"{name}_{name_of}{fold}.log",
        )
    log = pd.read_csv(out / "log.csv")
    return {
        "training_seconds": float(log["seconds"].sum()),
        "seconds": seconds,
        "peak_mib": peak,
        "predictions": str(out / "export"),
        "steps": int(log["step"].max()),
    }


def table(
    found: dict[str, dict[str, Any]], cases: list[str], source: Path, labels: dict[str, int]
) -> pd.DataFrame:
    """Scores of every system on the same cases."""
    rows = []
    for name, facts in found.items():
        for case in cases:
            truth = read_volume(source / "labels" / f"{case}.nii.gz")
            predicted = read_volume(Path(facts["predictions"]) / f"{case}.nii.gz")
            values = {label: (value,) for label, value in labels.items()}
            scored = score(predicted.data, truth.data, truth.affine, values, tolerance_mm=1)
            rows += [{"system": name, "case": case, **row} for row in scored]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with images/ and labels/ with the same names")
    parser.add_argument("--labels", default="{anterior: 1, posterior: 2}", help="class: value")
    parser.add_argument(
        "--folder", type=Path, default=Path("benchmarks/versus_nnunet"), help="folder for all files"
    )
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--trainer", default="nnUNetTrainer_5epochs")
    parser.add_argument("--model", default="{}", help="settings of our model, as YAML")
    parser.add_argument("--epochs", type=int, help="our epochs; default: as many as fit into nnU-Net's time")
    parser.add_argument("--longer", type=float, default=0, help="also train ours this many times as long")
    args = parser.parse_args()
    labels = yaml.safe_load(args.labels)
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    paths = nnunet_data(args.source, folder, labels)
    if not (folder / "preprocessed" / DATASET / "nnUNetPlans.json").exists():
        binary = str(Path(sys.executable).parent / "nnUNetv2_plan_and_preprocess")
        run([binary, "-d", "4", "-c", "3d_fullres", "-np", "2"], folder / "nnunet_plan.log", **paths)
    scores = []
    facts: dict[str, dict[str, Any]] = {}
    for fold in args.folds:
        found = {"nnU-Net": nnunet_fold(fold, folder, args.trainer, device, paths)}
        cases = read_json(folder / "preprocessed" / DATASET / "splits_final.json")[fold]["val"]
        model = yaml.safe_load(args.model)
        model["training"] = {
            "steps_per_epoch": 25,
            "validate_every": 10**6,
            **model.get("training", {}),
        }
        experiment = settings(args.source, folder, labels, model)
        per_epoch = model["training"]["steps_per_epoch"]
        epochs = args.epochs
        if epochs is None:
            shutil.rmtree(folder / f"speed_fold{fold}", ignore_errors=True)
            speed = ours(fold, folder, experiment, 1 + (MEASURED + WARM_UP) // per_epoch, "speed")
            log = pd.read_csv(folder / f"speed_fold{fold}" / "log.csv")
            step = float(log["seconds"][1:].sum() / (per_epoch * (len(log) - 1)))
            epochs = int(found["nnU-Net"]["training_seconds"] / step / per_epoch)
            print(
                f"fold {fold}: {step:.3f} s per step ({speed['peak_mib']:.0f} MiB), {epochs} epochs",
                flush=True,
            )
        found["Foldwise"] = ours(fold, folder, experiment, epochs, "ours")
        if args.longer:
            found[f"Foldwise, {args.longer:g}×"] = ours(
                fold, folder, experiment, int(epochs * args.longer), "longer"
            )
        scores.append(table(found, cases, args.source, labels).assign(fold=fold))
        facts |= {f"{name}, fold {fold}": one for name, one in found.items()}
        print(
            pd.concat(scores).groupby(["fold", "class", "system"])[list(METRICS)].mean().round(4), flush=True
        )
    rows = pd.concat(scores)
    rows.to_csv(folder / "scores.csv", index=False)
    print("\n| structure | system | Dice | HD95 (mm) | surface Dice (1 mm) |\n|---|---|---|---|---|")
    for (name, system), part in rows.groupby(["class", "system"]):
        print(f"| {name} | {system} | " + " | ".join(f"{part[m].mean():.4f}" for m in METRICS) + " |")
    print("\n| run | training (min) | peak memory (MiB) |\n|---|---|---|")
    for name, one in facts.items():
        print(f"| {name} | {one['training_seconds'] / 60:.1f} | {one['peak_mib']:.0f} |")


if __name__ == "__main__":
    main()
