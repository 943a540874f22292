"""Trained models as ONNX networks, with a plan and a program that needs neither Foldwise nor torch.

The exported folder holds fold0.onnx, fold1.onnx, …, and plan.json, all that is done to a case by runner.py.
Each system says what its networks, plan and runner are.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from foldwise import __version__
from foldwise.evaluate import Trained
from foldwise.files import CaseError, atomic_folder, write_json
from foldwise.networks import first_line

FORMAT = "foldwise-onnx-1"
RUNNERS = Path(__file__).parent / "runners"
# A protobuf file cannot be larger; weights then lie in a file of their own.
LARGEST = 2 * 10**9
# Larger differences of outputs are no rounding errors.
TOLERANCE = 1e-4
# Systems with a module here, and a runner. A session of the system interactive depends on its user.
SYSTEMS = ("segmentation", "surgical", "clips")


@dataclass(frozen=True)
class Graph:
    """A network to export.

    Attributes:
        network: in evaluation mode; its outputs have the batch as first axis.
        inputs: name → example, a batch of 2.
        outputs: names of the outputs.
        activation: from an output to what is compared.
        free: axes of the inputs whose size is free.
    """

    network: nn.Module
    inputs: Mapping[str, torch.Tensor]
    outputs: Sequence[str]
    activation: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.float
    free: Sequence[int] = (0,)


@dataclass(frozen=True)
class Portable:
    """What a system exports.

    Attributes:
        graphs: file name → network.
        plan: all else that the runner needs, as JSON values.
        programs: name of a program in the folder → its file here.
    """

    graphs: Mapping[str, Graph]
    plan: Mapping[str, Any]
    programs: Mapping[str, str]


def export_onnx(trained: Trained, chosen: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Write a folder with a model's networks as ONNX, plan.json, runner.py and the programs that it imports.

    Each network is run once by ONNX Runtime, if that is installed, and compared with its original.

    Args:
        trained: the model of one or several folds, whose predictions are averaged.
        chosen: what the cross-validation chose, as in choice.json; {}: nothing.
        folder: the folder to write; an earlier export is replaced.

    Returns:
        The plan.

    Raises:
        CaseError: a system, network or preparation that cannot be exported, or outputs that differ.
    """
    portable = _portable(trained, chosen)
    for network in trained.networks:
        network.cpu().eval()
    with atomic_folder(folder) as temporary:
        for name, graph in portable.graphs.items():
            write_network(graph, temporary / name)
        parity = {name: _parity(graph, temporary / name) for name, graph in portable.graphs.items()}
        plan = {
            "format": FORMAT,
            **portable.plan,
            "parity": parity,
            "made_by": {
                "foldwise": __version__,
                **{name: version(name) for name in ("torch", "onnx")},
                "package": trained.states[0].get("package"),
                "folds": [state.get("fold") for state in trained.states],
                "fingerprints": [state.get("fingerprint") for state in trained.states],
            },
        }
        write_json(temporary / "plan.json", plan)
        for name, file in portable.programs.items():
            shutil.copyfile(RUNNERS / file, temporary / name)
    return plan


def _portable(trained: Trained, chosen: Mapping[str, Any]) -> Portable:
    system = trained.states[0]["system"]
    if system not in SYSTEMS:
        raise CaseError(
            f"models of the system {system} cannot be exported as ONNX, but those of {', '.join(SYSTEMS)} can"
        )
    made: Portable = import_module(f"foldwise.portable.{system}").portable(trained, chosen)
    return made


def write_network(graph: Graph, path: Path) -> None:
    """Write a network as ONNX; the size of a batch is free if the network allows it.

    Args:
        graph: the network, on the CPU.
        path: the file; weights of more than 2 GB are in <path>.data.

    Raises:
        CaseError: torch cannot export it.
    """
    size = sum(tensor.nbytes for tensor in graph.network.state_dict().values())
    errors = []
    # A network may need a certain size of the batch, most often 1, but the runners free the other axes.
    for axes in (graph.free, graph.free[1:]):
        examples = tuple(tensor if 0 in axes else tensor[:1] for tensor in graph.inputs.values())
        shapes = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for _ in examples)
        try:
            with warnings.catch_warnings(), torch.no_grad(), _quiet():
                warnings.simplefilter("ignore")
                program = torch.onnx.export(
                    graph.network,
                    examples,
                    input_names=list(graph.inputs),
                    output_names=list(graph.outputs),
                    dynamic_shapes=shapes,
                    dynamo=True,
                    verbose=False,
                )
        except Exception as error:  # of a dozen unrelated types
            # The exporter's own words come first, the reason is behind them.
            cause = error.__cause__
            errors.append(first_line(cause if isinstance(cause, Exception) else error))
            continue
        assert program is not None
        # The exporter notes lines of code, with paths of this machine.
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()
        program.save(path, external_data=size > LARGEST)
        onnx.checker.check_model(path)
        return
    raise CaseError(f"torch cannot export the network as ONNX: {'; '.join(dict.fromkeys(errors))}")


class _quiet:  # noqa: N801
    """Without the exporter's remarks on libraries that it does not find."""

    def __enter__(self) -> None:
        self.level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.level)


def _parity(graph: Graph, path: Path) -> float | None:
    """The largest difference of probabilities for one input; None without ONNX Runtime.

    Raises:
        CaseError: it is no rounding error.
    """
    try:
        import onnxruntime
    except ImportError:
        logging.warning("%s: not compared with its original, since onnxruntime is not installed", path.name)
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {name: tensor[:1] for name, tensor in graph.inputs.items()}
    with torch.no_grad():
        expected = graph.network(*given.values())
    found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
    wanted = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    apart = max(
        float((graph.activation(torch.from_numpy(one)) - graph.activation(other)).abs().max())
        for one, other in zip(found, wanted, strict=True)
    )
    if not apart <= TOLERANCE:
        raise CaseError(f"{path.name}: its probabilities differ from those of the network by {apart:.2g}")
    return apart
