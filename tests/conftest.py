"""Fixtures that several test files share."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fake_nvml import Install, fake_machine
from slurm_cluster import Cluster, UnavailableError, cluster

# One thread for every process of the tests, before torch is imported: there is one process per core already.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests compare bits, and what a machine without a GPU does. To run them on one: CUDA_VISIBLE_DEVICES=0.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running Slurm cluster; its tests are skipped if none can be started.

    With FOLDWISE_REQUIRE_SLURM=1, as in continuous integration, they fail instead.
    """
    with ExitStack() as stack:
        try:
            running = stack.enter_context(cluster(tmp_path_factory.mktemp("cluster")))
        except UnavailableError as reason:
            if os.environ.get("FOLDWISE_REQUIRE_SLURM") == "1":
                pytest.fail(f"no Slurm cluster: {reason}")
            pytest.skip(f"no Slurm cluster: {reason}")
        yield running


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contents of the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=Path(__file__).parents[1], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Call it with the GPUs of the machine, for this process and for those that it starts."""
    with fake_machine(tmp_path / "nvml", monkeypatch) as put:
        yield put


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with whole workflows come first: processes that each run a file then end at about one time."""
    items.sort(key=lambda item: item.path.parent.name != "workflow")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With FOLDWISE_NO_SKIPS=1, as in continuous integration, a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("FOLDWISE_NO_SKIPS") == "1" and reporter and reporter.stats.get("skipped"):
        reporter.write_line("a test that should run was skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
