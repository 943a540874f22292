"""Commands from functions: a stage's signature defines its command line, and rules build requests for it.

A parameter's type determines how its value is read; its `Annotated` text is the help:

    @stage
    def crop(*, case: Annotated[str, "the case's name"], folder: Annotated[Output, "to write"]) -> None:

Sections of settings are read from YAML or JSON text or files, and validated like the user's settings.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import logging
import os
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NewType, ParamSpec, TypeVar, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from foldwise.errors import explained
from foldwise.experiment.settings import Device
from foldwise.files import CaseError
from foldwise.record import Recorder, recording
from foldwise.sampling import gpu_job
from foldwise.section import Section, described
from foldwise.settings import parse, parse_values
from foldwise.store import Store
from foldwise.systems import names, system_of
from foldwise.systems.base import System
from foldwise.together import TOGETHER, run_all

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")
# A path that a command writes; no other argument may name it.
Output = NewType("Output", Path)
# Where jobs share the GPUs of a machine, each takes free ones.
FREE = "free"
# Number of GPUs that a stage uses, or a function that tells it from the stage's arguments.
Gpus = int | Callable[[Mapping[str, Any]], int]


@dataclass(frozen=True)
class Of:
    """Marks an argument as a section of a system's settings; its class depends on the system.

    Attributes:
        section: name of the section; "" for all settings; "models" for one model's settings.
        whole: whether it is validated as given; otherwise a plan completes it first.
    """

    section: str = ""
    whole: bool = True


@dataclass(frozen=True)
class Keys:
    """Names the section whose keys an argument may have; a plan completes it before validation."""

    kind: type[BaseModel]


class _Noted:
    """Marks a path that is not noted as read; the stage notes what it reads from there (record.used)."""


# A folder with files of many cases, or of temporary ones.
Folder = Annotated[Path, _Noted()]


@dataclass(frozen=True)
class _Argument:
    name: str
    kind: Any
    help: str
    required: bool
    default: Any
    keys: Of | Keys | None
    noted: bool = False

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_section(self) -> bool:
        kind = _plain(self.kind)
        return self.keys is not None or (isinstance(kind, type) and issubclass(kind, BaseModel))

    @property
    def several(self) -> bool:
        return get_origin(_plain(self.kind)) is list

    @property
    def writes(self) -> bool:
        return Output in (_plain(self.kind), *get_args(_plain(self.kind)))

    @property
    def reads(self) -> bool:
        return Path in (_plain(self.kind), *get_args(_plain(self.kind))) and not self.noted


class Stage(Generic[Parameters, Returned]):
    """A function with keyword arguments, and the command built from its signature."""

    def __init__(self, function: Callable[Parameters, Returned], gpus: Gpus = 0) -> None:
        """Read the signature; the command uses `gpus`."""
        functools.update_wrapper(self, function)
        self._function, self._gpus = function, gpus
        hints = typing.get_type_hints(function, include_extras=True)
        parameters = inspect.signature(function).parameters.values()
        self._arguments = [_argument(parameter, hints[parameter.name]) for parameter in parameters]

    def __call__(self, *args: Parameters.args, **values: Parameters.kwargs) -> Returned:
        """Call the function."""
        return self._function(*args, **values)

    @property
    def names(self) -> list[str]:
        """Names of the arguments."""
        return [argument.name for argument in self._arguments]

    def main(self) -> int | None:
        """Read the command line and call the function; returns the exit code, or None for 0.

        Its outputs hold a record of what they were made from. With `--together=FILE` alone, it answers all
        requests in a file one after another (foldwise.together), so that what it loads is loaded once.
        """
        words = sys.argv[1:]
        if len(words) == 1 and words[0].startswith(TOGETHER):
            run_all(Path(words[0].removeprefix(TOGETHER)), self._run)
            return None
        return self._run(words)

    def _run(self, words: Sequence[str]) -> int | None:
        call: Any = self._function
        given, values = _read(sys.modules[call.__module__].__doc__, self._arguments, words)

        def paths(of: Callable[[_Argument], bool]) -> list[Path]:
            return [p for each in self._arguments if of(each) for p in _paths(values.get(each.name))]

        outputs = paths(lambda each: each.writes)
        recorder = Recorder(call.__name__, given["depends"], given["results"], outputs)
        gpus = self._gpus if isinstance(self._gpus, int) else self._gpus(values)
        device: Device = given["device"] or "auto"
        with gpu_job(gpus, take=given["gpus"] == FREE, device=device), recording(recorder):
            recorder.read(*paths(lambda each: each.reads), *given["also"])
            code: int | None = call(**values)
        return code


@typing.overload
def stage(function: Callable[Parameters, Returned]) -> Stage[Parameters, Returned]: ...


@typing.overload
def stage(*, gpus: Gpus) -> Callable[[Callable[Parameters, Returned]], Stage[Parameters, Returned]]: ...


def stage(function: Callable[..., Any] | None = None, *, gpus: Gpus = 0) -> Any:
    """Turn a function with keyword arguments into a command: `run(function.main)` reads the command line.

    With `@stage(gpus=1)` it uses a GPU, if there is one: see foldwise.sampling.gpu_job.
    """
    return Stage(function) if function else functools.partial(Stage, gpus=gpus)


def request(**values: Any) -> list[str]:
    """A stage's request as words of its command line; each word must be quoted (`:q`).

    None and empty lists are omitted.
    """
    words = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        listed = value if isinstance(value, list | tuple) else [] if value is None else [value]
        # As one word, so that a value may begin with a dash.
        words += [f"{flag}={item}" for item in listed]
    return words


def run(main: Callable[[], int | None]) -> None:
    """Run a command: log to standard error, and print a CaseError or OSError without its traceback."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    if job := os.environ.get("SLURM_JOB_ID"):
        # The report finds an experiment's jobs by this line.
        logging.info("Slurm job %s on %s", job, os.uname().nodename)
    # Snakemake sets a job's threads for OpenMP. SimpleITK reads them there, too; else it uses all cores.
    os.environ.setdefault("ITK_NUMBER_OF_THREADS_ENV_LIST", "OMP_NUM_THREADS")
    try:
        sys.exit(main() or 0)
    except CaseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        print(f"error: {explained(error)}", file=sys.stderr)
        sys.exit(1)


def refuse_twice(named: Iterable[tuple[str, Path, bool]]) -> None:
    """Refuse outputs that are also inputs, and two outputs with one path.

    Args:
        named: (flag, path, whether it is written) of each path.

    Raises:
        CaseError: two flags name one path.
    """
    listed = list(named)
    for number, (first, path, writes) in enumerate(listed):
        for second, other, also in listed[:number]:
            if (writes or also) and os.path.realpath(path) == os.path.realpath(other):
                raise CaseError(f"{second} and {first} are both {path}; nothing was read or written")


def _read(
    doc: str | None, arguments: list[_Argument], words: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The words given on the command line, and the arguments' values."""
    system = _system_of_line(words) if any(a.kind is System for a in arguments) else None
    command_line = argparse.ArgumentParser(
        description=doc,
        epilog="\n".join(line for a in arguments for line in _keys(a, system)) or None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for each in arguments:
        extra: dict[str, Any] = {"nargs": "+", "action": "extend"} if each.several else {}
        text = each.help or ("its keys are listed below" if each.is_section else "")
        text += "" if each.required or each.default in (None, "") else f"; default: {each.default}"
        command_line.add_argument(
            each.flag, required=each.required and not each.is_section, help=text.replace("%", "%%"), **extra
        )
    record = command_line.add_argument_group("for the outputs' records; rules give these")
    record.add_argument("--depends", type=json.loads, help="everything that the rule depends on, as JSON")
    record.add_argument("--results", type=Path, help="folder of all results")
    record.add_argument("--also", type=Path, action="append", default=[], help="file that settings name")
    command_line.add_argument(
        "--gpus",
        choices=[FREE],
        help="free: use GPUs of this machine that no other job uses; default: those that the process sees",
    )
    command_line.add_argument("--device", choices=get_args(Device), help="as in the settings; default: auto")
    given = vars(command_line.parse_args(words))
    values = {}
    for each in arguments:
        text = given[each.name]
        if text is None and each.is_section and each.default is None:
            text = "{}"
        if text is not None or each.kind is System:
            values[each.name] = _value(each, text, system)
    refuse_twice((a.flag, path, a.writes) for a in arguments for path in _paths(values.get(a.name)))
    return given, values


def _system_of_line(words: Sequence[str]) -> System[Any, Any]:
    chosen = argparse.ArgumentParser(add_help=False)
    chosen.add_argument("--system", default="segmentation")
    return system_of(chosen.parse_known_args(words)[0].system)


def _value(argument: _Argument, given: Any, system: System[Any, Any] | None) -> Any:
    """A parameter's value, from the words given for it."""
    if argument.kind is System:
        return system
    section = _section(argument, system)
    if section is not None:
        whole = not isinstance(argument.keys, Keys) and (argument.keys is None or argument.keys.whole)
        return parse(section, given, argument.flag) if whole else parse_values(given, argument.flag)
    kind = _plain(argument.kind)
    if kind is Store:
        return Store(Path(given))
    if kind is dict or get_origin(kind) in (dict, Mapping):
        given = parse_values(given, argument.flag)
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        raise CaseError(f"{argument.flag}: {error.errors()[0]['msg']} (got {given!r})") from None


def _section(argument: _Argument, system: System[Any, Any] | None) -> type[BaseModel] | None:
    """The section that an argument holds or completes."""
    if isinstance(argument.keys, Keys):
        return argument.keys.kind
    if isinstance(argument.keys, Of):
        assert system is not None, "only a stage of all systems has sections of a system"
        if argument.keys.section == "models":
            return system.model
        return system.section(argument.keys.section) if argument.keys.section else system.settings
    kind = _plain(argument.kind)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _keys(argument: _Argument, system: System[Any, Any] | None) -> list[str]:
    """Help lines on a section's keys."""
    section = None if argument.kind is System else _section(argument, system)
    if section is None:
        return []
    lines = [f"keys of {argument.flag} (YAML or JSON text, or the name of a YAML or JSON file):"]
    for key, field in section.model_fields.items():
        lines.append(f"  {key}: {described(field)} ({_shown(field)})")
    return lines


def _shown(field: FieldInfo) -> str:
    """The default of a field, or the keys of a section."""
    if field.is_required():
        return "required"
    if isinstance(field.default, Section):
        return f"keys: {', '.join(type(field.default).model_fields)}"
    if isinstance(field.default, dict) and any(isinstance(it, Section) for it in field.default.values()):
        return f"default: one, {', '.join(field.default)}"
    return f"default {json.dumps(to_jsonable_python(field.default), ensure_ascii=False)}"


def _argument(parameter: inspect.Parameter, hint: Any) -> _Argument:
    kind, texts, keys = hint, [], None
    if get_origin(hint) is Annotated:
        kind, *extra = get_args(hint)
        texts = [item for item in extra if isinstance(item, str)]
        keys = next((item for item in extra if isinstance(item, Of | Keys)), None)
    if get_origin(kind) is System or kind is System:
        return _Argument(parameter.name, System, f"one of {', '.join(names())}", False, "segmentation", None)
    required = parameter.default is inspect.Parameter.empty
    default = None if required else parameter.default
    noted = any(isinstance(item, _Noted) for item in (*get_args(hint), *get_args(_plain(kind))))
    return _Argument(parameter.name, kind, " ".join(texts), required, default, keys, noted)


def _plain(kind: Any) -> Any:
    """A type without `| None`."""
    inner = [part for part in get_args(kind) if part is not type(None)]
    if type(None) in get_args(kind) and len(inner) == 1 and get_origin(kind) is not Literal:
        return inner[0]
    return kind


def _paths(value: Any) -> Iterable[Path]:
    listed = [value.folder if isinstance(value, Store) else value]
    return [path for path in (value if isinstance(value, list) else listed) if isinstance(path, Path)]
