"""Score a part of the predicted cases; a restarted job continues with the remaining ones.

Each case is scored once with everything that may be chosen, e.g. each combination of post-processing steps.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from foldwise.command import Of, Output, run, stage
from foldwise.files import apart, atomic_folder, file_hash, refuse_failed, stamp_of, whole_folder
from foldwise.index import Index
from foldwise.record import used
from foldwise.scores import keeps_more, scores_in, write_rows
from foldwise.section import Section, values_for
from foldwise.store import Store
from foldwise.systems.base import System


@stage
def score(
    *,
    system: System[Any, Any],
    settings: Annotated[Section, Of("evaluate")],
    index: Annotated[Path, "label-path index of the cases"],
    predictions: Annotated[Path, "folder of <case>.h5"],
    part: Annotated[int, "number of the part of the cases, from 0"] = 0,
    parts: Annotated[int, "number of parts"] = 1,
    state: Annotated[Store, "folder for unfinished work"],
    scores: Annotated[Output, "folder to write"],
) -> None:
    """Score a part of the cases in a folder of predictions."""
    results, read = system.results, Index.read(index)
    mine = whole_folder(predictions, ".h5")[part::parts]
    truths = {path: [*map(Path, results.truths(read[path.stem]))] for path in mine}
    used(*(truth for each in truths.values() for truth in each))
    made, failed = dict[str, Path](), dict[str, str]()
    for path, files in truths.items():
        with apart(path.stem, failed):
            facts, wanted = read[path.stem].facts, values_for(settings, "choose", "score")
            key = (file_hash(path), [*map(stamp_of, files)], wanted, facts)
            write = partial(results.write_scores, path, read[path.stem], read.task, settings)
            made[path.stem] = state.get(path.stem, *key) or state.put(write, path.stem, *key)
            logging.info("case %s: scored (%d of %d)", path.stem, len(made), len(mine))
    refuse_failed(failed, [path.stem for path in mine])
    with atomic_folder(scores) as folder:
        write_rows(folder, {case: scores_in(path) for case, path in made.items()})
        state.give({case: path for case, path in made.items() if keeps_more(path)}, folder)
    state.clear()


if __name__ == "__main__":
    run(score.main)
