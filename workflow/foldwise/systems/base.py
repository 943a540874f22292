"""A system defines a kind of experiment. Stages, rules and the front door use only this interface.

`System` itself is light, since the front door imports it on a login node. Code that needs torch or reads
images is in the classes that it names: its `Learner` (training/learner.py) and its `Results`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, get_args

from foldwise.check import Checked
from foldwise.experiment.settings import Experiment
from foldwise.files import apart
from foldwise.forecast import Step
from foldwise.index import Entry
from foldwise.places import SNAKEFILE
from foldwise.scores import Chosen, Scores, create_scores, store_scores
from foldwise.section import Section
from foldwise.settings import Model
from foldwise.sheet import AnyCase, Sheet
from foldwise.store import Memory
from foldwise.systems.new import NewCases
from foldwise.whole import Whole

if TYPE_CHECKING:
    import h5py

    from foldwise.experiment.preparation import Preparation
    from foldwise.report.view import View
    from foldwise.training.learner import Learner

AnySettings = TypeVar("AnySettings", bound=Experiment)
Rows = Iterable[Mapping[str, Any]]
# Name of a table (.csv) → the rows of all cases.
Tables = Mapping[str, Sequence[Mapping[str, Any]]]
RULES = SNAKEFILE.parent / "rules"
# A file of remarks on a new case, e.g. that it seems cut or upside down.
REMARKS = "remarks.json"
NOTHING: Mapping[str, Any] = MappingProxyType({})


class System(Whole, Generic[AnySettings, AnyCase], abstract=True):
    """One kind of experiment, from its sheet to its report.

    Attributes:
        name: the name that experiments use (`system:`).
        settings: the class of its settings, with the sections of Experiment narrowed.
        beside: where a model's file names other files or folders that predicting reads, e.g.
            `settings.network.weights`; they are packed with the model.
    """

    name: ClassVar[str]
    beside: ClassVar[Sequence[str]] = ()
    settings: type[AnySettings]

    @property
    def rules(self) -> Path:
        """The file with the rules that prepare its cases."""
        return RULES / f"{self.name}.smk"

    def section(self, name: str) -> type[Section]:
        """The class of a section of its settings, e.g. `evaluate`."""
        kind = self.settings.model_fields[name].annotation
        assert isinstance(kind, type), f"{name} is one section"
        assert issubclass(kind, Section), f"{name} is a section"
        return kind

    @property
    def model(self) -> type[Model]:
        """The class of a model's settings."""
        kind: type[Model] = get_args(self.settings.model_fields["models"].annotation)[1]
        return kind

    # Input.

    @abstractmethod
    def read_sheet(self, data: Any) -> Sheet[AnyCase]:
        """Read the sample sheet without touching the files that it names.

        Args:
            data: the section `data`.

        Raises:
            CaseError: no such file, or a missing or unknown column.
        """

    @abstractmethod
    def check(self, settings: AnySettings, sheet: Sheet[AnyCase], *, deep: bool, memory: Memory) -> Checked:
        """Check every file that the sheet names.

        Args:
            settings: of the experiment.
            sheet: the sheet as read.
            deep: also run slow checks, such as reading all voxels of labels.
            memory: what is known of files from earlier calls.

        Raises:
            CaseError: files that the settings name are wrong.
        """

    def complete(self, settings: AnySettings, plan: Path | None) -> AnySettings:
        """The settings, completed by a plan if it exists already.

        Args:
            settings: of the experiment.
            plan: file of the plan; None: the experiment has no plan.
        """
        return settings

    # Preparation.

    @abstractmethod
    def preparation(self, settings: AnySettings, sheet: Sheet[AnyCase]) -> Preparation[AnyCase]:
        """Stages, folders and inputs of cases up to the input of models; only names are defined."""

    @abstractmethod
    def task(self, settings: AnySettings, checked: Checked) -> dict[str, Any]:
        """What is learnt, as plain values; `entries` returns the same."""

    @abstractmethod
    def entries(
        self, data: Any, prepared: Path, caches: Path, *, training: bool = True
    ) -> tuple[dict[str, Any], list[Entry]]:
        """What is learnt, and an entry for each case of the cross-validation, or for each other one.

        Args:
            data: the section `data`.
            prepared: folder of the files from which the index is built.
            caches: folder of the caches.
            training: whether the cases are those of the cross-validation.
        """

    def rows_of(self, settings: AnySettings, cases: Sequence[AnyCase]) -> list[Any]:
        """The values that the index takes from the sheet's rows, as plain values."""
        return [[case.name, case.group, [str(path) for path in case.files]] for case in cases]

    def preparation_weights(self, settings: AnySettings) -> Mapping[Path, Callable[[Path], Any]]:
        """Files of weights that preparation needs, each with a module's function that reads it as jobs do."""
        return {}

    # Models.

    @property
    @abstractmethod
    def learner(self) -> type[Learner[Any]]:
        """The class that trains and predicts; importing it imports torch."""

    @property
    @abstractmethod
    def footprint(self) -> Footprint[AnySettings]:
        """Memory and disk of its cases and models."""

    def tried(self, settings: AnySettings, name: str) -> Model:
        """A model's settings as far as they are known before training; every call tries them."""
        return settings.models[name]

    def weights(self, settings: AnySettings, name: str) -> list[Path]:
        """Files of pretrained weights of a model; a folder stands for the files in it."""
        pretrained = settings.models[name].pretrained
        return [] if pretrained is None else [pretrained.file]

    @abstractmethod
    def kept(self, settings: AnySettings, name: str) -> dict[str, Any]:
        """The sections that define how new cases are prepared for a model; the model's file stores them."""

    # Results.

    @property
    @abstractmethod
    def results(self) -> Results:
        """Scores, exported files and the report's view."""

    @abstractmethod
    def new_cases(
        self, source: Path, task: Mapping[str, Any] | None = None, prepared: Mapping[str, Any] = NOTHING
    ) -> NewCases:
        """New cases, from a sample sheet or a folder; their caches do not exist yet.

        Args:
            source: sheet or folder.
            task: what the models learn, if cases that they cannot predict are to be refused.
            prepared: what `kept` returned: how the cases will be prepared, for files that this needs; and
                `images_fps`, the rate of folders of images if the user gives one.

        Raises:
            CaseError: nothing to predict, errors in the sheet, or cases that the models cannot predict.
        """

    @abstractmethod
    def prepare_new(self, entry: Entry, state: Mapping[str, Any], folder: Path) -> Path:
        """Prepare a new case as the workflow prepares others, and return the path of the model's input.

        It may also write the file `REMARKS`, a JSON list of lines on the case, which its record then holds.

        Args:
            entry: the case.
            state: contents of the model's file.
            folder: for the files.

        Raises:
            CaseError: the case cannot be used.
        """


class Footprint(Whole, Generic[AnySettings], abstract=True):
    """Memory and disk space that a system's jobs need. `size` is a case's value in `Checked.sizes`.

    Attributes:
        typical: size of a case whose file was not read.
    """

    typical: Any

    @abstractmethod
    def case_mib(self, stage: str, size: Any, settings: AnySettings) -> float:
        """Peak memory of preparing a case, in MiB.

        Args:
            stage: name of the rule.
            size: of the case.
            settings: of the experiment.
        """

    @abstractmethod
    def disk_mib(self, size: Any, settings: AnySettings) -> dict[str, float]:
        """Disk space that preparing a case takes, in MiB, by the name of the rule that writes the files."""

    @abstractmethod
    def results_mib(self, size: Any, settings: AnySettings, name: str) -> dict[str, float]:
        """Disk space of a model's results of a case, in MiB.

        Args:
            size: of the case.
            settings: of the experiment.
            name: of the model.

        Returns:
            The space of its `predictions`, of its `scores` with what they keep, and of its `export`; and of
            its `features`, if a bank of them is stored for each fold.
        """

    def weights(self, settings: AnySettings, name: str, step: Step) -> tuple[int, int]:
        """How many numbers a model's file holds, and how many of them are learnt.

        Args:
            settings: of the experiment.
            name: of the model.
            step: the size of a training step.
        """
        return step.weights, step.weights

    @abstractmethod
    def model_mib(
        self, stage: str, settings: AnySettings, name: str, sizes: Sequence[Any], step: Step
    ) -> float:
        """Peak memory of a model's job on a CPU, in MiB.

        Args:
            stage: train, test, ensemble, predict, or a rule that stores features.
            settings: of the experiment.
            name: of the model.
            sizes: of the cases that the job may process.
            step: the size of a training step.
        """

    def case_seconds(self, stage: str, size: Any, settings: AnySettings) -> float:
        """Expected time of preparing, checking, scoring or exporting a case on a slow node, in s.

        Args:
            stage: name of the rule.
            size: of the case.
            settings: of the experiment.
        """
        return 30

    def predict_seconds(self, settings: AnySettings, name: str, size: Any, step: Step) -> float:
        """Expected time of predicting a case with one network of a model, on a slow GPU, in s."""
        return 30

    def scored_mib(self, sizes: Sequence[Any], settings: AnySettings) -> float:
        """Peak memory of scoring or exporting one of these cases, in MiB."""
        return 900

    def check_mib(self, sizes: Sequence[Any]) -> float:
        """Peak memory of reading the files of these cases in the rule `check`, in MiB, if they are large."""
        return 0

    def counted(self, settings: AnySettings, name: str) -> Model | Step:
        """The model whose training step is counted for a model's memory, or an estimate of the step."""
        return settings.models[name]


class Results(Whole, abstract=True):
    """From predictions to scores, choices, exported files, and the view of the report."""

    def choices(self, evaluate: Any) -> Sequence[Chosen]:
        """Everything that `choose` may return, e.g. combinations of post-processing steps.

        A case is scored once with each of them; the first one holds if nothing speaks for another.
        """
        return [NOTHING]

    def choose(self, scores: Mapping[str, Scores], evaluate: Any) -> Chosen:
        """Choose from the scores of these cases.

        Args:
            scores: case → its scores with each of `choices`; may be empty.
            evaluate: the section `evaluate`.
        """
        return self.choices(evaluate)[0]

    def truths(self, entry: Entry) -> Sequence[str]:
        """Files that `score_case` reads, apart from the prediction."""
        return entry.files.get("label", ())

    @abstractmethod
    def score_case(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Any, chosen: Chosen
    ) -> Rows:
        """Rows of metrics.csv of a case, without `case`, `group` and `fold`; none without a label."""

    def score_all(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Any, file: h5py.File
    ) -> Sequence[Rows]:
        """Score a case with each of `choices`.

        Args:
            prediction: of the case.
            entry: the case.
            task: what is learnt.
            evaluate: the section `evaluate`.
            file: the new file of its scores, which `export_case` gets; it may keep e.g. label maps.

        Returns:
            For each choice, the rows of `score_case`.
        """
        choices = self.choices(evaluate)
        return [self.score_case(prediction, entry, task, evaluate, chosen) for chosen in choices]

    def write_scores(
        self, prediction: Path, entry: Entry, task: Mapping[str, Any], evaluate: Any, path: Path
    ) -> None:
        """Write the file of a case's scores with each of `choices`; see `score_all`."""
        with create_scores(path) as file:
            rows = self.score_all(prediction, entry, task, evaluate, file)
            store_scores(file, Scores(self.choices(evaluate), [[*each] for each in rows]))

    @abstractmethod
    def export_case(
        self,
        prediction: Path,
        entry: Entry,
        export: Any,
        chosen: Chosen,
        folder: Path,
        scored: Path | None = None,
    ) -> Mapping[str, Rows]:
        """Write a case's files for other programs.

        Args:
            prediction: of the case.
            entry: the case.
            export: the section `export`.
            chosen: what `choose` returned.
            folder: folder for the files.
            scored: file of its scores, if it holds what `score_all` kept; None for new cases.

        Returns:
            Name of a table (.csv) → its rows of this case.

        Raises:
            CaseError: a file could not be written; other cases' files are still written.
        """

    @property
    @abstractmethod
    def view(self) -> View:
        """The parts of the report that are specific to this system."""

    def export(
        self,
        predictions: Mapping[str, Path],
        entries: Sequence[Entry],
        export: Any,
        chosen: Chosen,
        folder: Path,
        scored: Mapping[str, Path] = MappingProxyType({}),
    ) -> dict[str, str]:
        """Write all cases' files, and the tables of all cases; a case that fails leaves those of the others.

        Args:
            predictions: case → prediction.
            entries: the cases.
            export: the section `export`.
            chosen: what `choose` returned.
            folder: for the tables, and for the cases' files.
            scored: case → file of its scores, if they are known and hold more than rows.

        Returns:
            Case → why some of its files could not be written.
        """
        import pandas as pd

        tables: dict[str, list[Mapping[str, Any]]] = {}
        failed: dict[str, str] = {}
        for entry in entries:
            with apart(entry.case, failed):
                exported = self.export_case(
                    predictions[entry.case], entry, export, chosen, folder, scored.get(entry.case)
                )
                for name, rows in exported.items():
                    tables.setdefault(name, []).extend(rows)
        for name, listed in self.completed(tables).items():
            pd.DataFrame(listed).to_csv(folder / name, index=False)
        return failed

    def completed(self, tables: Tables) -> Tables:
        """Tables of all cases, with those that follow from them, e.g. one of patients.

        Args:
            tables: name of a table → its rows, of all cases of some patients.
        """
        return tables
