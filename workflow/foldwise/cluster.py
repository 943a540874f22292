"""Write a first Slurm profile for this cluster, from what Slurm reports.

    python -m foldwise.cluster profiles/mine
    snakemake --profile profiles/mine

The profile names no partition: its file partitions.yaml lists some with their limits, and the plugin chooses.
It prints the partitions that it found and its assumptions; read the profile before the first run.
"""

from __future__ import annotations

import argparse
import getpass
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from foldwise.command import run
from foldwise.files import CaseError, write_text
from foldwise.places import ROOT
from foldwise.processes import output_of

TEMPLATE = ROOT / "profiles" / "slurm" / "config.yaml"
PARTITIONS = "partitions.yaml"
HEAD = """\
# Written by `python -m foldwise.cluster`: partitions, and the most that a job may request there. Each job
# goes to the one that it fills most. Remove the # of others that your jobs may use, too.
partitions:
"""


@dataclass(frozen=True)
class Partition:
    """A partition.

    Attributes:
        name: the partition's name.
        default: whether jobs that name no partition run there.
        minutes: time limit of a job; None: no limit.
        cpus: processors of its smallest node.
        mem_mib: memory of its smallest node.
        gpus: generic resources of its nodes, e.g. `gpu:h200:2`; "" without any.
        most: most processors, memory in MiB and GPUs that a node has.
    """

    name: str
    default: bool
    minutes: int | None
    cpus: int
    mem_mib: int
    gpus: str
    most: tuple[int, int, int] = (0, 0, 0)

    @property
    def limits(self) -> str:
        """Limits of a job, as a line of the plugin's partition file."""
        cpus, mem_mib, gpus = self.most
        limits = {"max_threads": cpus, "max_mem_mb": mem_mib, "max_runtime": self.minutes, "max_gpu": gpus}
        known = ", ".join(f"{key}: {limit}" for key, limit in limits.items() if limit)
        return f"{json.dumps(self.name)}: {{{known}}}"


def main() -> None:
    """Read the command line."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("folder", type=Path, help="folder of the new profile")
    args = arguments.parse_args()
    target = args.folder / "config.yaml"
    if target.exists():
        raise CaseError(f"{target}: exists already; name another folder")
    found = partitions()
    text, file, remarks = profile(found, account())
    write_text(args.folder / PARTITIONS, file)
    write_text(target, text)
    print(f"{target}: written.")
    for remark in remarks:
        print(f"assumed: {remark}")


def partitions() -> list[Partition]:
    """The partitions that are up, as sinfo reports them.

    Raises:
        CaseError: Slurm is missing or does not answer.
    """
    rows = _asked("sinfo", "--noheader", "--format=%P|%l|%c|%m|%G|%a")
    found: dict[str, Partition] = {}
    for row in rows:
        name, limit, cpus, memory, gres, state = row.split("|")
        gpus = next((part for part in gres.split(",") if part.split(":")[0] == "gpu"), "").split("(")[0]
        least = _number(cpus), _number(memory)
        most = (*least, int(gpus.rpartition(":")[2]) if gpus else 0)
        one = Partition(name.rstrip("*"), name.endswith("*"), _minutes(limit), *least, gpus, most)
        before = found.get(one.name)
        if before is not None:
            one = Partition(
                one.name,
                one.default,
                one.minutes,
                min(one.cpus, before.cpus),
                min(one.mem_mib, before.mem_mib),
                one.gpus or before.gpus,
                (
                    max(one.most[0], before.most[0]),
                    max(one.most[1], before.most[1]),
                    max(one.most[2], before.most[2]),
                ),
            )
        if state.strip() == "up":
            found[one.name] = one
    if not found:
        raise CaseError("sinfo: no partition is up")
    return list(found.values())


def default_minutes() -> dict[str, int | None]:
    """Partition -> the time limit of a job that requests none, in minutes, where it is not the largest one.

    Raises:
        CaseError: Slurm is missing or does not answer.
    """
    rows = (row.split("|") for row in _asked("sinfo", "--noheader", "--format=%P|%L"))
    return {name.rstrip("*"): _minutes(limit) for name, limit in rows if limit[:1].isdigit()}


def account() -> str | None:
    """The user's default account, if the accounting database knows one."""
    try:
        rows = _asked(
            "sacctmgr",
            "--noheader",
            "--parsable2",
            "show",
            "user",
            getpass.getuser(),
            "format=DefaultAccount",
        )
    except CaseError:
        return None
    return next((row.strip() for row in rows if row.strip()), None)


def profile(found: list[Partition], account: str | None) -> tuple[str, str, list[str]]:
    """The profile's text, that of its partition file, and the assumptions.

    Args:
        found: partitions.
        account: the account to charge, or None.
    """
    remarks = []
    gpu = _best([one for one in found if one.gpus])
    cpu = _best([one for one in found if not one.gpus]) or gpu
    assert cpu is not None
    _, rest = TEMPLATE.read_text(encoding="utf-8").split("executor:", 1)
    text = "# Written by `python -m foldwise.cluster`; how jobs run on this cluster.\nexecutor:" + rest
    text = text.replace("  slurm_partition: cpu\n", "")
    text = text.replace("slurm_partition: gpu, ", "").replace("the GPU and its partition", "the GPU")
    limits = f"slurm-partition-config: {PARTITIONS}   # of these, a job goes to the one that it fills most\n"
    text = text.replace("default-resources:\n", f"{limits}\ndefault-resources:\n")
    remarks.append(f"jobs without a GPU go to partition {cpu.name} ({_described(cpu)})")
    if gpu is None:
        text = re.split(r"^# Only what the rules cannot know|^set-resources:", text, flags=re.MULTILINE)[0]
        remarks.append("no partition has GPUs, so all jobs run without one")
    else:
        remarks.append(
            f"jobs with a GPU go to partition {gpu.name} ({_described(gpu)}), as gres gpu:1 of any type"
        )
    if account is not None:
        text = text.replace("default-resources:\n", f"default-resources:\n  slurm_account: {account}\n")
        remarks.append(f"account {account}, your default account")
    minutes = [one.minutes for one in (cpu, gpu) if one and one.minutes]
    if minutes and min(minutes) < 240:
        remarks.append(
            f"jobs may take {min(minutes)} minutes: set `runtime` of train and test to less than that"
        )
    used = [one for one in found if one in (cpu, gpu)]
    others = [one for one in found if one not in used]
    if others:
        names = ", ".join(one.name for one in others)
        remarks.append(f"no job goes to {names}; see {PARTITIONS}")
    lines = [*(f"  {one.limits}\n" for one in used), *(f"  # {one.limits}\n" for one in others)]
    return text, HEAD + "".join(lines), remarks


def _best(found: list[Partition]) -> Partition | None:
    """The default partition, or else the one with the longest time limit."""
    ranked = sorted(found, key=lambda one: (not one.default, -(one.minutes or 10**9), one.name))
    return ranked[0] if ranked else None


def _described(one: Partition) -> str:
    limit = f"{one.minutes} min at most" if one.minutes else "no time limit"
    gpus = f", {one.gpus} per node" if one.gpus else ""
    return f"{one.cpus} processors and {one.mem_mib} MiB per node{gpus}, {limit}"


def _minutes(limit: str) -> int | None:
    """`days-hours:minutes:seconds` as minutes; None for `infinite`."""
    if not limit[:1].isdigit():
        return None
    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    # Slurm leaves out the larger units: minutes:seconds.
    hours, minutes, _ = ([0] * (3 - len(parts)) + parts)[:3]
    return int(days or 0) * 1440 + hours * 60 + minutes


def _number(text: str) -> int:
    return int(text.rstrip("+"))


def _asked(*command: str) -> list[str]:
    try:
        text = output_of(command)
    except FileNotFoundError:
        raise CaseError(f"{command[0]}: not found; is this a login node of a Slurm cluster?") from None
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
        raise CaseError(f"{command[0]}: Slurm does not answer ({said})") from error
    return [line for line in text.splitlines() if line.strip()]


if __name__ == "__main__":
    run(main)
