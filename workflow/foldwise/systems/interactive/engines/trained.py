"""Opening a trained model on a new scan."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from foldwise.files import CaseError, read_json
from foldwise.index import Entry
from foldwise.systems.interactive.engines import Scan
from foldwise.systems.interactive.engines.memory import MemoryEngine
from foldwise.systems.interactive.model import Trained, engine_of, read_prepared
from foldwise.systems.interactive.placement import Placement
from foldwise.systems.interactive.scans import digest
from foldwise.volumes.prepare import prepare_scan


def opener(
    trained: Trained, volumes: Sequence[Path], folder: Path, region: Path | None = None
) -> Callable[[Scan], MemoryEngine]:
    """What opens a model on a scan, which is prepared as the training cases were, once per session.

    Args:
        trained: the model.
        volumes: the scan's files, one per channel.
        folder: of the session.
        region: mask of the region, if the model needs one.
    """

    def opened(scan: Scan) -> MemoryEngine:
        path = folder / f"prepared_{trained.digest[:12]}.h5"
        if not path.exists():
            _prepare(trained, volumes, path, region)
        prepared = read_prepared(path, trained.settings)
        if prepared.lineage.source_shape != scan.shape:
            raise CaseError(f"{path}: prepared from another scan; delete it, and it will be written again")
        return engine_of(trained.network, prepared, trained.settings, Placement(prepared.lineage))

    return opened


def _prepare(trained: Trained, volumes: Sequence[Path], path: Path, region: Path | None) -> None:
    files = {"images": tuple(str(each) for each in volumes)}
    if region is not None:
        files["region"] = (str(region),)
    with tempfile.TemporaryDirectory(prefix=".prepared.", dir=path.parent) as temporary:
        entry = Entry("case", "case", files, "", {}, 0)
        prepared = prepare_scan(entry, trained.state, Path(temporary))
        if [digest(each) for each in volumes] != read_json(path.parent / "session.json")["scan"]:
            raise CaseError(f"{volumes[0]}: changed while it was read; start with another folder")
        prepared.replace(path)
