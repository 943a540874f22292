"""Settings: typed, refused with a path and the nearest name, and documented from their definitions."""

from pathlib import Path

import pytest
import yaml

from experiments import unread
from foldwise.files import CaseError
from foldwise.networks import build
from foldwise.reference import reference, schema
from foldwise.reruns import reruns
from foldwise.section import values_for
from foldwise.settings import Named, as_json, parse, validate
from foldwise.systems.clips.settings import Settings as ClipsSettings
from foldwise.systems.interactive.settings import Settings as InteractiveSettings
from foldwise.systems.segmentation.settings import Model, Settings
from foldwise.systems.surgical.settings import Settings as SurgicalSettings
from foldwise.systems.volumes import VolumePreparation
from foldwise.volumes.sheet import Case

ROOT = Path(__file__).parents[2]
LEAST = {"experiment": "x", "data": {"sheet": "cases.csv"}}


def test_extend_is_part_of_a_training_only_if_it_is_set() -> None:
    """So that it changed no existing fingerprint and reran nothing."""
    found = [
        values_for(validate(Model, {"training": training}), "train")["training"].get("extend")
        for training in ({}, {"extend": "exact"}, {"extend": "follow"})
    ]
    assert found == [None, None, "follow"]


def test_every_problem_is_told_with_its_path() -> None:
    wrong = {
        "experiment": "a b",
        "data": {"shet": "cases.csv"},
        "prepare": {"lung_mask": {"closing": 3}},
        "cache": {"spacing": [1, 1, -1]},
        "models": {"unet": {"training": {"epoch": 3, "batch": 0}, "patch": [32, 32]}},
    }
    with pytest.raises(CaseError) as error:
        validate(Settings, wrong, origin="my.yaml")
    text = str(error.value)
    assert text.startswith("my.yaml: 8 problem(s)")
    for part in (
        "data.shet: unknown key; did you mean `sheet`?",
        "data.sheet: missing",
        "prepare.lung_mask.closing: unknown key; did you mean `closing_mm`?",
        "models.unet.training.epoch: unknown key; did you mean `epochs`?",
        "models.unet.training.batch:",
        "models.unet.patch.2: missing",
        "cache.spacing: a voxel size must be positive",
        "experiment:",
    ):
        assert part in text


def test_a_value_of_several_types_has_one_problem() -> None:
    """Without pydantic's names of types, and without the remark that a list is no path."""
    wrong = {"data": {"sheet": "a.csv", "classes": ["B lines", "normal"]}}
    with pytest.raises(CaseError) as error:
        validate(ClipsSettings, {"experiment": "e", "system": "clips", **wrong})
    head, *lines = str(error.value).splitlines()
    assert head.endswith(": 1 problem(s)")
    assert lines[0].startswith("  data.classes.0: a name has only letters, digits")
    assert lines[0].endswith("(got 'B lines')")
    with pytest.raises(CaseError, match=r"1 problem\(s\)\n  data.sheet: Input is not a valid path"):
        validate(
            ClipsSettings, {"experiment": "e", "system": "clips", "data": {"sheet": 3, "classes": "c.json"}}
        )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"prepare": {"crop": {"to": "region"}}}, "needs lung_mask"),
        ({"models": {"m": {"sampling": {"label": 0.5}}}}, "must be 1"),
        ({"models": {"m": {"sampling": {"label_weights": {"node": 1}}}}}, "lists node"),
        ({"models": {"m": {"intensity": {"clip": [5, 1]}}}}, "lower end"),
        ({"data": {"sheet": "a.csv", "labels": {"a": 1, "b": 1}}}, "classes a and b share the voxel value 1"),
        ({"data": {"sheet": "a.csv", "labels": {"a": 0}}}, r"data\.labels\.a: .*greater than or equal to 1"),
        ({"data": {"sheet": "a.csv", "labels": {"a": -1}}}, r"data\.labels\.a: .*greater than or equal to 1"),
        ({"data": {"sheet": "a.csv", "labels": {"a": 2**31}}}, r"data\.labels\.a: .*2147483647"),
        (
            {"data": {"sheet": "a.csv", "labels": {f"c{n}": n for n in range(1, 2002)}}},
            r"data\.labels: .*at most 2000 items",
        ),
        ({"split": {"folds": 1}}, "a single fold needs `file`"),
    ],
)
def test_settings_that_contradict_each_other(section: dict[str, object], message: str) -> None:
    with pytest.raises(CaseError, match=message):
        validate(Settings, {**LEAST, **section})


@pytest.mark.parametrize("number", [".inf", "-.inf", ".nan"])
def test_numbers_are_finite(number: str) -> None:
    """In JSON, as a stage gets them, they would be null."""
    text = f"{{experiment: x, data: {{sheet: c.csv}}, evaluate: {{tolerance_mm: {number}}}}}"
    with pytest.raises(CaseError, match=r"evaluate\.tolerance_mm: Input should be a finite number"):
        parse(Settings, text)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("lr: .inf", r"lr: numbers must be finite \(got inf\)"),
        ("betas: [0.9, .nan]", "betas: numbers must be"),
    ],
)
def test_numbers_for_a_library_are_finite(argument: str, message: str) -> None:
    """They would reach the class as None, and might not be missed there."""
    text = (
        f"{{experiment: x, data: {{sheet: c.csv}}, models: {{a: {{optimiser: {{name: Adam, {argument}}}}}}}}}"
    )
    with pytest.raises(CaseError, match=message):
        parse(Settings, text)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("large", "postprocess.0.name: Input should be 'largest_foreground', 'largest_component' or"),
        ({"remove_below": 1}, "postprocess.0.number.remove_below.*: Input should be 'remove_below_ml'"),
        ({"remove_below_ml": 0}, "remove_below_ml: Input should be greater than 0"),
        ({}, "postprocess.0.number: Dictionary should have at least 1 item"),
    ],
)
def test_steps_of_post_processing(step: object, message: str) -> None:
    with pytest.raises(CaseError, match=message):
        validate(Settings, {**LEAST, "evaluate": {"postprocess": step}})


def test_more_numbers_than_a_byte_holds_are_refused() -> None:
    labels = {f"c{n}": n for n in range(1, 257)}
    data = {"sheet": "a.csv", "labels": labels}
    with pytest.raises(CaseError, match="256 objects; an interactive experiment has at most 255"):
        validate(InteractiveSettings, {**LEAST, "system": "interactive", "data": data})
    regions = {"all": list(labels)}
    validate(InteractiveSettings, {**LEAST, "system": "interactive", "data": {**data, "regions": regions}})
    phases = {"sheet": "a.csv", "phases": [f"p{n}" for n in range(128)]}
    with pytest.raises(CaseError, match=r"data\.phases: .*at most 127 items .*not 128"):
        validate(SurgicalSettings, {**LEAST, "system": "surgical", "data": phases})


def test_numbers_that_yaml_reads_as_text() -> None:
    """YAML 1.1 takes 1e-4 for a string."""
    model = validate(Model, yaml.safe_load("optimiser: {name: Adam, lr: 1e-4, eps: 1.5E-8}"))
    assert model.optimiser.arguments == {"lr": 1e-4, "eps": 1.5e-8}
    assert parse(Model, as_json(model)) == model


def test_names_are_looked_up_in_the_allowed_places_only() -> None:
    with pytest.raises(CaseError, match="did you mean BasicU"):
        build("network", Named(name="BasicUNett"))
    with pytest.raises(CaseError, match="no 'os'"):
        build("loss", Named(name="os"))
    with pytest.raises(CaseError, match=r"its arguments: .*momentum"):
        build("optimiser", Named.model_validate({"name": "SGD", "lerning_rate": 1}), [])


def prepared(**sections: object) -> VolumePreparation:
    preparation = unread(**sections).preparation
    assert isinstance(preparation, VolumePreparation)
    return preparation


def test_folders_follow_what_makes_them() -> None:
    base = prepared()
    cropped = prepared(prepare={"crop": {"to": "none", "margin_mm": 3}})
    assert cropped.lungs == base.lungs
    assert cropped.crops != base.crops
    assert cropped.caches != base.caches
    spaced = prepared(cache={"spacing": [1, 1, 1]})
    assert (spaced.crops, spaced.lungs) == (base.crops, base.lungs)
    assert spaced.caches != base.caches
    trained = prepared(models={"m": {"training": {"epochs": 3}}}, seed=5, experiment="y")
    assert (trained.caches, trained.crops) == (base.caches, base.crops)
    assert prepared(prepare={"lung_mask": {}}).lungs != base.lungs
    relabelled = prepared(data={"sheet": "cases.csv", "labels": {"tumour": 2}})
    assert relabelled.lungs == base.lungs
    assert relabelled.crops != base.crops


def cases(training: int) -> dict[str, Case]:
    """Labelled cases without any file."""
    return {
        f"c{n}": Case(f"c{n}", f"c{n}", "", n + 2, (Path("i.nii"),), Path("l.nii"), None)
        for n in range(training)
    }


def test_the_reference_names_the_values_that_a_setting_may_have() -> None:
    lines = reference().splitlines()
    shown = {line.split("`")[1]: line for line in lines if line.startswith("| `") and "Values: " in line}
    assert "Values: `gaussian`, `constant`. |" in shown["weighting"]
    # Within a list, too.
    assert "`largest_component`, `fill_holes`, `remove_below_ml`. |" in shown["postprocess"]
    # Numbers, and the single name of a system, are no choice.
    assert not {"epochs", "system"} & set(shown)


def test_reference_and_schema_are_up_to_date() -> None:
    """`make reference` writes them."""
    assert (ROOT / "docs" / "reruns.md").read_text(encoding="utf-8") == reruns()
    assert (ROOT / "workflow" / "settings.schema.json").read_text(encoding="utf-8") == schema()
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == reference()
