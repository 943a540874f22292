"""A segmentation model as a MONAI bundle: MONAI's own transforms and sliding window around its networks.

What MONAI does otherwise than Foldwise: it resamples to the spacing itself, not to a whole number of voxels;
does not round probabilities to 255 steps; fills a window beyond a scan's border with one value for all scans;
and counts a crop's margin in voxels. Label maps of scans that are neither cropped nor resampled are equal but
for rounding. There is no evaluator, which would need Ignite.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from foldwise import __version__
from foldwise.evaluate import Trained
from foldwise.files import CaseError, atomic_folder, write_json, write_text
from foldwise.networks import arguments_of, build
from foldwise.settings import Named, validate
from foldwise.systems.segmentation.learner import SegmentationLearner
from foldwise.volumes.settings import Cache, Crop, Intensity, Prepare, Step
from foldwise.volumes.targets import Targets

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
README = """# {title}

Segments {names}. Exported by Foldwise {version}.

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir <scans>

predicts every `*.nii.gz` in the folder of scans, and writes label maps on the scans' own grids to `eval`:
{values}. The mean of {count} network(s), trained on the folds of a cross-validation, is taken.{region}

Other than by Foldwise, scans are resampled to a grid that may end a part of a voxel beyond theirs, windows
that reach beyond a scan are filled with one value for all scans, and a crop's margin is counted in voxels.
"""


def export_bundle(trained: Trained, chosen: Mapping[str, Any], folder: Path, title: str = "model") -> None:
    """Write configs/metadata.json, configs/inference.json, models/*.pt and docs/README.md.

    Args:
        trained: a segmentation model of one or several folds, of a network of MONAI.
        chosen: what the cross-validation chose, as in choice.json; {}: nothing.
        folder: the folder to write; an earlier export is replaced.
        title: the bundle's name.

    Raises:
        CaseError: a model that MONAI's transforms cannot express.
    """
    learner, state = trained.learner, trained.states[0]
    if not isinstance(learner, SegmentationLearner):
        raise CaseError(f"system {state['system']}: bundles are for segmentation")
    if "prepared" not in state:
        raise CaseError("the model's file does not say how a case is prepared for it; train it again")
    weights = ["model.pt", *(f"model_fold{number}.pt" for number in range(1, len(trained.networks)))]
    config = _inference(trained, chosen, learner, weights)
    targets = learner.targets
    with atomic_folder(folder) as temporary:
        for part in ("configs", "models", "docs"):
            (temporary / part).mkdir()
        for name, network in zip(weights, trained.networks, strict=True):
            torch.save(network.cpu().state_dict(), temporary / "models" / name)
        write_json(temporary / "configs" / "inference.json", config)
        write_json(temporary / "configs" / "metadata.json", _metadata(trained, learner, title))
        region = (
            " Each scan needs a mask of the region beside it: `<case>_region.nii.gz`, not a case of its own."
        )
        text = README.format(
            title=title,
            names=", ".join(targets.names),
            version=__version__,
            values=", ".join(f"{value} {name}" for name, value in targets.classes.items()),
            count=len(weights),
            region=region if config["region"] else "",
        )
        write_text(temporary / "docs" / "README.md", text)


def _inference(
    trained: Trained, chosen: Mapping[str, Any], learner: SegmentationLearner, weights: list[str]
) -> dict[str, Any]:
    prepared, model, targets = trained.states[0]["prepared"], learner.model, learner.targets
    prepare = validate(Prepare, prepared["prepare"], origin="model")
    cache = validate(Cache, prepared["cache"], origin="model")
    region = prepare.crop.to in ("region", "lungs")
    axes = range(2, 2 + len(learner.size))
    flips = [list(some) for n in range(1 + len(axes)) for some in itertools.combinations(axes, n)]
    final = "softmax(1)" if not targets.regions else "sigmoid()"
    # Probabilities are averaged; their logarithm is what a soft-max, or a sigmoid, turns into them again.
    back = "log()" if not targets.regions else "logit()"
    return {
        "imports": [
            "$import copy",
            "$import functools",
            "$import numpy",
            "$import pathlib",
            "$import scipy",
            "$import torch",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/eval'",
        "region": region,
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "weights": weights,
        "network_def": _network(model.network, learner),
        "networks": "$[copy.deepcopy(@network_def).to(@device).eval() for _ in @weights]",
        "network": "$@networks[0]",
        "initialize": (
            "$[net.load_state_dict(torch.load(@bundle_root + '/models/' + name, weights_only=True)) "
            "for net, name in zip(@networks, @weights)]"
        ),
        "flips": flips if model.inference.mirror else [[]],
        "datalist": (
            "$[{'image': str(path), **({'region': str(path).replace('.nii.gz', '_region.nii.gz')} if @region "
            "else {})} for path in sorted(pathlib.Path(@dataset_dir).glob('*.nii.gz')) "
            "if not path.name.endswith('_region.nii.gz')]"
        ),
        "preprocessing": {
            "_target_": "Compose",
            "transforms": _preprocessing(prepare.crop, prepare, cache, model.intensity, region),
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "inferer": _inferer(learner),
        "predictor": (
            "$lambda net: lambda image: "
            "sum(net(image.flip(flip)).flip(flip) for flip in @flips) / len(@flips)"
        ),
        "predict": (
            "$lambda image: torch.stack([@inferer(image, @predictor(net))."
            f"{final} for net in @networks]).mean(0).{back}"
        ),
        "postprocessing": {
            "_target_": "Compose",
            "transforms": _postprocessing(targets, chosen.get("postprocess", [])),
        },
        "run": [
            "$torch.set_grad_enabled(False)",
            "$[@postprocessing({**item, 'pred': @predict(item['image'][None].to(@device))[0].cpu()}) "
            "for item in @dataset]",
        ],
    }


def _network(named: Named, learner: SegmentationLearner) -> dict[str, Any]:
    """The network's class in MONAI, with all arguments."""
    built = build(
        "network",
        named,
        spatial_dims=len(learner.size),
        in_channels=learner.channels,
        out_channels=learner.outputs,
        img_size=learner.size,
        num_classes=learner.outputs,
    )
    if not type(built).__module__.startswith("monai.networks.nets"):
        raise CaseError(f"network {named.name} is not MONAI's; export it as ONNX instead")
    filled = {
        "spatial_dims": len(learner.size),
        "in_channels": learner.channels,
        "out_channels": learner.outputs,
        "img_size": list(learner.size),
        "num_classes": learner.outputs,
    }
    accepted = arguments_of("network", named)
    arguments = {name: value for name, value in filled.items() if name in accepted} | named.arguments
    return {"_target_": named.name.split(":")[-1], **arguments}


def _inferer(learner: SegmentationLearner) -> dict[str, Any]:
    model = learner.model
    if model.dimensions == "2.5d":
        raise CaseError("dimensions 2.5d: MONAI has no sliding window for this; export it as ONNX instead")
    first = model.intensity[0]
    sliding = {
        "roi_size": list(learner.size),
        "sw_batch_size": model.inference.batch,
        "overlap": model.inference.overlap,
        "mode": model.inference.weighting,
        "padding_mode": "constant",
        # The lower end of a window of grey values, which is air; else the mean.
        "cval": -1.0 if first.scale == "window" else 0.0,
    }
    if learner.flat:
        return {"_target_": "SliceInferer", "spatial_dim": learner.axis, **sliding}
    return {"_target_": "SlidingWindowInferer", **sliding}


def _preprocessing(
    crop: Crop, prepare: Prepare, cache: Cache, intensity: list[Intensity], region: bool
) -> list[dict[str, Any]]:
    keys = ["image", *(["region"] if region else [])]
    modes = ["bilinear", *(["nearest"] if region else [])]
    if crop.outside != "keep":
        raise CaseError(f"crop.outside {crop.outside}: not in a bundle; export it as ONNX instead")
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": keys, "image_only": True},
        {"_target_": "EnsureChannelFirstd", "keys": keys},
        {"_target_": "EnsureTyped", "keys": keys, "dtype": "$torch.float32"},
    ]
    steps.append({"_target_": "Orientationd", "keys": keys, "axcodes": "RAS", "labels": None})
    if cache.spacing is not None:
        grid = {
            "pixdim": list(cache.spacing),
            "padding_mode": "border",
            "align_corners": True,
            "scale_extent": True,
        }
        # Against aliasing where the grid becomes coarser, as in Foldwise.
        sigma = f"[max(0, (new / old - 1) / 2) for new, old in zip({list(cache.spacing)}, x.pixdim.tolist())]"
        smooth = f"scipy.ndimage.gaussian_filter(x.numpy(), [0, *{sigma}], mode='nearest')"
        func = f"$lambda x: x.clone().copy_(torch.from_numpy({smooth}))"
        steps.append({"_target_": "Lambdad", "keys": "image", "func": func})
        steps.append({"_target_": "Spacingd", "keys": keys, "mode": modes, **grid})
    if crop.to != "none":
        values = prepare.region.values if prepare.region is not None else None
        chosen = f"$lambda x: sum(x == v for v in {values}) > 0" if values else "$lambda x: x != 0"
        source = {"source_key": "region" if region else "image", "select_fn": chosen}
        margin = [math.ceil(crop.margin_mm / edge) for edge in cache.spacing or (1.0, 1.0, 1.0)]
        kept = {"margin": margin, "allow_smaller": False}
        steps.append({"_target_": "CropForegroundd", "keys": keys, **source, **kept})
    if cache.shape is not None:
        size = {"spatial_size": list(cache.shape), "mode": "trilinear", "anti_aliasing": True}
        steps.append({"_target_": "Resized", "keys": "image", **size})
    # MONAI's own transforms take the mean of values that are clipped already.
    each = ", ".join(_grey(one) for one in intensity)
    many = f"[{each}]" if len(intensity) > 1 else f"[{each}] * len(x)"
    grey = f"$lambda x: torch.stack([func(c) for func, c in zip({many}, x)])"
    return [*steps, {"_target_": "Lambdad", "keys": "image", "func": grey}]


def _grey(one: Intensity) -> str:
    """A function, as text, from a channel to what the network takes."""
    low, high = one.clip if isinstance(one.clip, tuple) else (-math.inf, math.inf)
    clipped = f"c.clamp({low}, {high})" if isinstance(one.clip, tuple) else "c"
    if one.clip == "percentiles":
        clipped = "c.clamp(*numpy.percentile(c.numpy(), [0.5, 99.5]).tolist())"
    some = "c[c != 0]" if one.scale == "zscore_nonzero" else "c"
    mean, std = f"{some}.mean()", f"{some}.std(correction=0).clamp(1e-6)"
    if one.scale == "window":
        mean, std = f"{(low + high) / 2}", f"{(high - low) / 2}"
    elif isinstance(one.scale, tuple):
        mean, std = map(str, one.scale)
    scaled = f"({clipped} - {mean}) / {std}"
    return (
        f"lambda c: ({scaled}).where(c != 0, 0)" if one.scale == "zscore_nonzero" else f"lambda c: {scaled}"
    )


def _postprocessing(targets: Targets, steps: list[Step]) -> list[dict[str, Any]]:
    values = [*targets.classes.values()]
    final: list[dict[str, Any]] = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid" if targets.regions else "softmax": True},
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
            "to_tensor": True,
        },
    ]
    if targets.regions:
        rule = [[values[number - 1], rows] for number, rows in targets.nested]
        decode = (
            "$lambda p: functools.reduce(lambda found, one: torch.where("
            "(p[one[1]] > 0.5).all(0, keepdim=True), torch.as_tensor(one[0], dtype=p.dtype), found), "
            f"{rule}, torch.zeros_like(p[:1]))"
        )
    else:
        decode = f"$lambda p: torch.tensor([0, *{values}], dtype=p.dtype)[p.argmax(0, keepdim=True).long()]"
    final.append({"_target_": "Lambdad", "keys": "pred", "func": decode})
    final += [one for step in steps for one in _step(step, targets)]
    name = {"output_dir": "@output_dir", "output_postfix": "", "separate_folder": False, "resample": False}
    dtype = "$torch.int32" if max(values) > 255 else "$torch.uint8"
    return [*final, {"_target_": "SaveImaged", "keys": "pred", **name, "output_dtype": dtype}]


def _step(step: Step, targets: Targets) -> list[dict[str, Any]]:
    keep = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "is_onehot": False}
    values = [*targets.classes.values()]
    if step == "largest_foreground":
        return [{**keep, "independent": False}]
    if targets.regions:
        raise CaseError(f"post-processing {step} of regions: not in a bundle; export it as ONNX instead")
    if step == "largest_component":
        return [{**keep, "applied_labels": values}]
    if step == "fill_holes":
        return [{"_target_": "FillHolesd", "keys": "pred", "applied_labels": values, "connectivity": 1}]
    assert isinstance(step, dict)
    size = {"min_size": step["remove_below_ml"] * 1000, "by_measure": True, "independent_channels": True}
    return [{"_target_": "RemoveSmallObjectsd", "keys": "pred", "connectivity": 3, **size}]


def _metadata(trained: Trained, learner: SegmentationLearner, title: str) -> dict[str, Any]:
    channels = trained.task["channels"]
    names = (
        ["background", *learner.targets.names] if not learner.targets.regions else [*learner.targets.names]
    )
    shape = [str(n) for n in learner.patch]
    common = {"type": "image", "format": "segmentation", "dtype": "float32", "is_patch_data": True}
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by Foldwise {__version__}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {"nibabel": version("nibabel"), "scikit-image": version("scikit-image")},
        "name": title,
        "task": f"segmentation of {', '.join(learner.targets.names)}",
        "description": f"the mean of {len(trained.networks)} network(s) of a cross-validation",
        "authors": "",
        "copyright": "",
        "network_data_format": {
            "inputs": {
                "image": {
                    **common,
                    "format": "magnitude",
                    "num_channels": channels,
                    "spatial_shape": shape,
                    "value_range": [],
                    "channel_def": {str(n): f"channel {n}" for n in range(channels)},
                }
            },
            "outputs": {
                "pred": {
                    **common,
                    "num_channels": learner.outputs,
                    "spatial_shape": shape,
                    "value_range": [0, 1],
                    "channel_def": {str(n): name for n, name in enumerate(names)},
                }
            },
        },
    }
