"""The class that a name means if two libraries have it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from foldwise.evaluate import read_trained
from foldwise.files import CaseError
from foldwise.networks import NAMESPACES, build, shapes_only
from foldwise.networks.frames import FrameAverage
from foldwise.settings import Named, dump, validate
from foldwise.systems.clips.learner import ClipsLearner
from foldwise.systems.clips.settings import Model as ClipModel
from foldwise.systems.surgical.learner import SurgicalLearner
from foldwise.systems.surgical.settings import Model as SurgicalModel
from foldwise.training.memory import count_step


def named(name: str, **arguments: Any) -> Named:
    return validate(Named, {"name": name, **arguments})


@pytest.mark.parametrize(
    ("kind", "name", "arguments", "library"),
    [
        ("frame network", "resnet18", {}, "torchvision"),
        ("frame network", "monai:resnet18", {}, "monai"),
        # Earlier names, with arguments that only MONAI's class takes.
        ("frame network", "resnet18", {"spatial_dims": 2}, "monai"),
        ("frame network", "densenet121", {}, "torchvision"),
        ("frame network", "monai:densenet121", {}, "monai"),
        ("network", "resnet18", {}, "monai"),
        ("network", "torchvision:resnet18", {}, "torchvision"),
        ("clip network", "monai:densenet121", {}, "monai"),
        ("clip network", "torchvision:r2plus1d_18", {}, "torchvision"),
    ],
)
def test_libraries(kind: str, name: str, arguments: dict[str, Any], library: str) -> None:
    axes = 3 if kind == "clip network" else 2
    filled = {"spatial_dims": axes, "in_channels": 3, "n_input_channels": 3, "out_channels": 5}
    with torch.device("meta"):
        built = build(kind, named(name, **arguments), num_classes=5, **filled)
        assert type(built).__module__.split(".")[0] == library
        assert built(torch.empty(2, 3, *[64] * axes)).shape == (2, 5)


@pytest.mark.parametrize(
    ("name", "arguments", "edge"), [("SwinUNETR", {}, 64), ("UNETR", {"img_size": [32, 32, 32]}, 32)]
)
def test_transformers_of_monai(name: str, arguments: dict[str, Any], edge: int) -> None:
    """They import einops when they are first called."""
    network = named(name, feature_size=12, **arguments)
    built = build("network", network, spatial_dims=3, in_channels=1, out_channels=2).eval()
    with torch.inference_mode():
        assert built(torch.zeros(1, 1, edge, edge, edge)).shape == (1, 2, edge, edge, edge)


def test_prefixes_of_losses_optimisers_and_schedules() -> None:
    assert isinstance(build("loss", named("torch:CrossEntropyLoss")), torch.nn.CrossEntropyLoss)
    optimiser = build("optimiser", named("torch:SGD", lr=0.1), [torch.zeros(1, requires_grad=True)])
    schedule = build("scheduler", named("torch:StepLR", step_size=1), optimiser)
    assert isinstance(schedule, torch.optim.lr_scheduler.StepLR)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("frame network", named("resnt50"), "no 'resnt50' in torchvision.models or .*did you mean resnet50"),
        ("network", named("monai:BasicUNt"), "no 'BasicUNt' in monai.networks.nets; did you mean BasicUNet"),
        (
            "network",
            named("timm:resnet50"),
            "'timm' is not a known library; use monai:, torchvision:, foldwise:",
        ),
        ("network", named("torchvision:list_models"), "list_models is not one; it returns a list"),
        ("network", named("torchvision:resnet18", weights="NONE"), "resnet18: .*its arguments: weights, "),
        ("frame network", named("resnet18", classes=3), "'classes'.*its arguments: .*num_classes"),
        ("scheduler", named("Counter"), "no 'Counter' in torch.optim.lr_scheduler"),
    ],
)
def test_refused(kind: str, given: Named, message: str) -> None:
    assert kind in NAMESPACES
    with pytest.raises(CaseError, match=message):
        build(kind, given)


def test_the_surgical_default_is_torchvisions_resnet50() -> None:
    """At 224×224: 23,508,032 weights without the last layer; an LSTM of 512 on 2048, and two branches."""
    task = {"phases": ["a"] * 7, "tools": ["b"] * 7}
    step = count_step(SurgicalLearner(SurgicalModel(), task))
    lstm = 4 * 512 * (2048 + 512 + 2)
    assert step.weights == 23_508_032 + lstm + (512 + 1) * 7 + (2048 + 1) * 7
    with torch.device("meta"):
        network = SurgicalLearner(validate(SurgicalModel, {"backbone": {"name": "monai:resnet18"}}), task)
        assert network.build_network()(torch.empty(1, 2, 3, 64, 64))["tool"].shape == (1, 2, 7)


@pytest.mark.parametrize(
    ("recorded", "library"), [("resnet18", "monai"), ("torchvision:resnet18", "torchvision")]
)
def test_a_model_file_keeps_the_meaning_of_its_names(tmp_path: Path, recorded: str, library: str) -> None:
    """Earlier, a plain name of a frame network meant MONAI's if it has one; files now name the library."""
    frames = {"name": "FrameAverage", "network": {"name": recorded}}
    model = validate(ClipModel, {"network": frames, "clip": {"frames": 2, "size": 32}})
    theirs = f"{library}:resnet18"
    weights = FrameAverage({"name": theirs}, 2).state_dict()
    state = {"network": weights, "settings": dump(model), "task": {"classes": ["a", "b"]}, "system": "clips"}
    torch.save(state, tmp_path / "model.pt")
    rebuilt = read_trained([tmp_path / "model.pt"]).networks[0]
    assert type(rebuilt.get_submodule("frame")).__module__.startswith(library)
    assert all(torch.equal(value.cpu(), weights[name]) for name, value in rebuilt.state_dict().items())


def test_training_records_the_library_of_a_frame_network() -> None:
    def recorded(name: str) -> Any:
        network = {"name": "FrameAverage", "network": {"name": name}}
        model = ClipsLearner.fitted(validate(ClipModel, {"network": network, "training": {"epochs": 1}}), [])
        return model.network.arguments["network"]["name"]

    assert recorded("resnet18") == "torchvision:resnet18"
    assert recorded("monai:resnet18") == "monai:resnet18"
    # Only one class has this name, so its meaning never changed.
    assert recorded("mobilenet_v3_small") == "mobilenet_v3_small"


def test_a_network_that_looks_at_its_numbers_is_built_all_the_same() -> None:
    """Like MONAI's SwinUNETR, which reads its drop-out rates from a tensor."""

    class Reader(torch.nn.Linear):
        def __init__(self) -> None:
            super().__init__(int(torch.linspace(1, 3, 3)[-1].item()), 2)

    built = shapes_only(Reader)
    assert {(p.device.type, tuple(p.shape)) for p in built.parameters()} == {("meta", (2, 3)), ("meta", (2,))}
