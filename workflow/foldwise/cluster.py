"""Write a first Slurm profile for this cluster, from what Slurm reports.

    python -m foldwise.cluster profiles/mine
    snakemake --profile profiles/mine

It prints the partitions that it found and its assumptions; read the profile before the first run.
"""

from __future__ import annotations

import argparse
import getpass
import subprocess
from dataclasses import dataclass
from pathlib import Path

from foldwise.command import run
from foldwise.files import CaseError, write_text
from foldwise.processes import output_of

TEMPLATE = Path(__file__).parents[2] / "profiles" / "slurm" / "config.yaml"


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
    """

    name: str
    default: bool
    minutes: int | None
    cpus: int
    mem_mib: int
    gpus: str


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
    text, remarks = profile(partitions(), account())
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
        one = Partition(
            name.rstrip("*"), name.endswith("*"), _minutes(limit), _number(cpus), _number(memory), gpus
        )
        before = found.get(one.name)
        if before is not None:
            one = Partition(
                one.name,
                one.default,
                one.minutes,
                min(one.cpus, before.cpus),
                min(one.mem_mib, before.mem_mib),
                one.gpus or before.gpus,
            )
        if state.strip() == "up":
            found[one.name] = one
    if not found:
        raise CaseError("sinfo: no partition is up")
    return list(found.values())


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


def profile(found: list[Partition], account: str | None) -> tuple[str, list[str]]:
    """The profile's text, and the assumptions.

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
    text = text.replace("slurm_partition: cpu", f"slurm_partition: {cpu.name}")
    remarks.append(f"jobs without a GPU go to partition {cpu.name} ({_described(cpu)})")
    if gpu is None:
        text = text.replace('{slurm_partition: gpu, gres: "gpu:1"}', f"{{slurm_partition: {cpu.name}}}")
        remarks.append("no partition has GPUs, so all jobs run without one")
    else:
        text = text.replace("slurm_partition: gpu", f"slurm_partition: {gpu.name}")
        remarks.append(
            f"jobs with a GPU go to partition {gpu.name} ({_described(gpu)}), as gres gpu:1 of any type"
        )
    if account is not None:
        text = text.replace("default-resources:\n", f"default-resources:\n  slurm_account: {account}\n")
        remarks.append(f"account {account}, your default account")
    limits = [one.minutes for one in (cpu, gpu) if one and one.minutes]
    if limits and min(limits) < 240:
        remarks.append(
            f"jobs may take {min(limits)} minutes: set `runtime` of train and test to less than that"
        )
    return text, remarks


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
        raise CaseError(f"{command[0]}: Slurm does not answer ({error})") from error
    return [line for line in text.splitlines() if line.strip()]


if __name__ == "__main__":
    run(main)
