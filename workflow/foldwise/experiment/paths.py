"""Names of an experiment's files, patterns with wildcards such as {model} and {fold}; no file is read."""

from __future__ import annotations

import os
from dataclasses import dataclass

from foldwise.experiment.settings import Experiment
from foldwise.files import short_hash

ENSEMBLE = "ensemble"
# In the folder of a training: what an unfinished validation has found.
VALIDATION = "validation.pt"
# And how far it is within the present epoch.
PULSE = "progress.json"


@dataclass(frozen=True)
class Paths:
    """Paths of an experiment's files.

    Attributes:
        results: folder of all experiments and prepared data.
        experiment: folder of all files except prepared data.
        predict: name of the source of new cases, with a hash of its path; "" without any.
        updated: whether models learn from the index of accepted regions.
    """

    results: str
    experiment: str
    predict: str = ""
    updated: bool = False

    @classmethod
    def of(cls, settings: Experiment) -> Paths:
        """The paths of an experiment."""
        source = ""
        if settings.predict:
            # Sources in different folders may have the same name.
            path = os.path.normpath(settings.predict.source)
            source = f"{settings.predict.source.stem}-{short_hash(path)}"
        updated = bool(getattr(settings.data, "update_labels", False))
        folder = f"{settings.results}/{settings.experiment}"
        return cls(str(settings.results), folder, source, updated)

    @property
    def stale(self) -> str:
        """An input of every rule: a folder that is newer than stale outputs alone (experiment/stale.py)."""
        return f"{self.results}/.stale-by-its-record"

    @property
    def made_index(self) -> str:
        """The index built from the sheet."""
        return f"{self.experiment}/index.pkl"

    @property
    def index(self) -> str:
        """The index that models learn from."""
        return f"{self.experiment}/index-updated.pkl" if self.updated else self.made_index

    @property
    def plan(self) -> str:
        """The plan, which completes the settings."""
        return f"{self.experiment}/plan.yaml"

    @property
    def fold(self) -> str:
        """Folder of a model's fold."""
        return f"{self.experiment}/{{model}}/fold{{fold}}"

    @property
    def ensemble(self) -> str:
        """Folder of the joint predictions of all folds' models of one name."""
        return f"{self.experiment}/{{model}}/{ENSEMBLE}"

    @property
    def place(self) -> str:
        """Folder of a fold or of the ensemble; {place} is `fold<number>` or `ensemble`."""
        return f"{self.experiment}/{{model}}/{{place}}"

    @property
    def scores(self) -> str:
        """Folder of the scores of a part of the cases of a folder of predictions, {share}."""
        return f"{self.place}/scores/{{share}}_{{part}}of{{parts}}"

    def scored(self, model: str, place: str) -> str:
        """The index of the cases that a fold or the ensemble predicts."""
        return f"{self.place}/index.pkl".format(model=model, place=place) if place == ENSEMBLE else self.index

    def work(self, stage: str, model: str, fold: str | None = None) -> str:
        """Folder of a job's unfinished work; it holds no rule's output, since Snakemake deletes those.

        Args:
            stage: name of the rule.
            model: name of the model.
            fold: number of its fold; None: of all folds together.
        """
        folder = f"{self.experiment}/state/{model}"
        return f"{folder}/{stage}" if fold is None else f"{folder}/fold{fold}/{stage}"

    def scoring(self, model: str, place: str, share: str, part: str, parts: str) -> str:
        """Folder of the unfinished scores of a part of the cases."""
        return f"{self.experiment}/state/{model}/{place}/scores/{share}_{part}of{parts}"

    @property
    def counts(self) -> str:
        """File with the stored sizes of networks, for the forecast of memory."""
        return f"{self.experiment}/state/forecast.json"

    @property
    def known(self) -> str:
        """File with what is known of sources and outputs by their sizes and times."""
        return f"{self.experiment}/state/known.json"

    @property
    def parts(self) -> str:
        """File with the number of parts, for the jobs of the user's call."""
        return f"{self.experiment}/state/parts.json"

    @property
    def runs(self) -> str:
        """File with the names that calls of this experiment give their jobs on a cluster."""
        return f"{self.experiment}/state/runs.txt"

    @property
    def predicted(self) -> str:
        """Folder of a model's predictions of new cases."""
        return f"{self.experiment}/{{model}}/predicted" + (f"-{self.predict}" if self.predict else "")

    @property
    def new(self) -> str:
        """Folder of the same predictions as probabilities, which `publish` exports."""
        return f"{self.experiment}/{{model}}/predictions" + (f"-{self.predict}" if self.predict else "")
