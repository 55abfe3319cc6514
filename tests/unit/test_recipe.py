"""Recipes: what they mean, and what is refused before any work is done."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

import lissom.recipe
from lissom.artifact import Frozen
from lissom.errors import RecipeError
from lissom.recipe import (
    GATE_NAMES,
    DistillConfig,
    Recipe,
    StageConfig,
    TrainConfig,
    check_allowed,
    load_plugins,
    register_stage_type,
    stage_types,
)

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def recipe(*stages: Any, **fields: Any) -> Recipe:
    return Recipe.from_document({"name": "toy", "stages": list(stages), **fields})


def refused(*stages: Any, overrides: tuple[str, ...] = (), **fields: Any) -> str:
    """The message with which a recipe is refused."""
    with pytest.raises(RecipeError) as caught:
        Recipe.from_document({"name": "toy", "stages": list(stages), **fields}, overrides)
    return caught.value.message


def configs(base: type[Frozen] = Frozen) -> list[type[Frozen]]:
    """Every configuration that the module defines."""
    found = [kind for kind in base.__subclasses__() if kind.__module__.startswith("lissom.recipe")]
    return [*found, *(inner for kind in found for inner in configs(kind))]


@pytest.mark.parametrize("config", configs(), ids=lambda config: config.__name__)
def test_every_config_is_frozen_and_refuses_unknown_keys(config: type[Frozen]) -> None:
    assert config.model_config["frozen"] is True
    assert config.model_config["extra"] == "forbid"
    with pytest.raises(ValidationError, match="Extra inputs"):
        config.model_validate({"no_such_key": 1})


@pytest.mark.parametrize("config", configs(), ids=lambda config: config.__name__)
def test_every_field_says_what_it_is(config: type[Frozen]) -> None:
    assert config.__doc__
    assert [name for name, field in config.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("config", configs(), ids=lambda config: config.__name__)
def test_every_number_has_a_range(config: type[Frozen]) -> None:
    numbers = {
        name: field
        for name, field in config.model_fields.items()
        if field.annotation in (int, float, int | None)
    }
    assert [name for name, field in numbers.items() if not field.metadata] == []
    for name, field in numbers.items():
        with pytest.raises(ValidationError, match=name):
            config.model_validate({field.alias or name: -1})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_we_ship_is_valid(path: Path) -> None:
    found = Recipe.from_file(path)
    assert found.name == path.stem
    again = Recipe.from_document(found.model_dump(mode="json", by_alias=True))
    assert again == found


def test_there_are_recipes_to_ship() -> None:
    assert "digits" in {path.stem for path in RECIPES}


def test_a_stage_starts_from_the_one_before_it_unless_it_says_otherwise() -> None:
    found = recipe(
        {"stage": "train"},
        {"stage": "export", "name": "original"},
        {"stage": "prune", "from": "train"},
        {"stage": "distill", "teacher": "train"},
    )
    assert [stage.sources for stage in found.stages] == [
        {},
        {"input": "train"},
        {"input": "train"},
        {"input": "prune", "teacher": "train"},
    ]


def test_several_teachers_have_roles_of_their_own() -> None:
    several = DistillConfig(from_="a", teacher=("b", "c"), teacher_weights=(1.0, 2.0))
    assert several.sources == {"input": "a", "teacher-1": "b", "teacher-2": "c"}
    assert DistillConfig(from_="a", teacher=("b",)).sources == {"input": "a", "teacher": "b"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teacher": ["train", "train"]}, "names 'train' twice"),
        ({"teacher": []}, "teacher is an empty list"),
        ({"teacher_weights": [1.0, 2.0]}, "teacher_weights has 2 values for 1 teachers"),
        ({"teacher_weights": [0.0]}, "greater than 0"),
        ({"kind": "dist", "non_target_weight": 3}, "kind dist does not take 'non_target_weight'"),
        ({"student_layer": "a"}, "kind kd does not take 'student_layer', which is of hint"),
        ({"kind": "hint", "student_layer": "a"}, "kind hint needs student_layer and teacher_layer"),
        (
            {"kind": "hint", "student_layer": "a", "teacher_layer": "b", "teacher": ["train", "other"]},
            "kind hint leads by the features of one teacher",
        ),
        ({"kind": "dkd", "augment": {"mixup": 0.2}}, "kind dkd needs one right class a sample"),
    ],
)
def test_fields_of_distillation_that_do_not_go_together_are_refused(
    fields: dict[str, Any], message: str
) -> None:
    stages = ({"stage": "train"}, {"stage": "train", "name": "other"})
    assert message in refused(*stages, {"stage": "distill", "teacher": "train", **fields})


def test_load_starts_from_a_model_wherever_it_stands() -> None:
    found = recipe({"stage": "train"}, {"stage": "load", "model": {"source": "mlp"}}, {"stage": "prune"})
    assert [stage.sources for stage in found.stages] == [{}, {}, {"input": "load"}]
    assert found.model_of(found.stages[1]).source == "mlp"
    assert found.model_of(found.stages[0]).source == "resnet"


def test_stages_of_one_kind_are_numbered() -> None:
    found = recipe({"stage": "train"}, {"stage": "train"}, {"stage": "train"})
    assert [stage.name for stage in found.stages] == ["train", "train-2", "train-3"]
    assert [stage.from_ for stage in found.stages] == [None, "train", "train-2"]


def test_defaults_are_those_of_the_fields() -> None:
    found = recipe({"stage": "train"})
    assert (found.seed, found.data.source, found.model.source, found.ship) == (
        0,
        "digits",
        "resnet",
        "fastest",
    )
    assert found.stages[0] == TrainConfig(name="train")
    assert found.gates.not_slower.margin == 0.02


def test_a_recipe_may_be_built_from_configs_as_from_mappings() -> None:
    built = Recipe(name="toy", stages=(TrainConfig(epochs=3), DistillConfig(teacher="train")))
    assert built == recipe({"stage": "train", "epochs": 3}, {"stage": "distill", "teacher": "train"})


def test_the_settings_of_a_stage_leave_out_the_names_of_stages() -> None:
    first = DistillConfig(name="a", from_="b", teacher="c", epochs=3)
    second = DistillConfig(name="x", from_="y", teacher="z", epochs=3)
    assert first.settings == second.settings
    assert first.settings["epochs"] == 3
    assert DistillConfig(teacher="c", epochs=4).settings != first.settings


@pytest.mark.parametrize(
    ("overrides", "place", "value"),
    [
        (["seed=3"], lambda found: found.seed, 3),
        (["stages.train.epochs=5"], lambda found: found.stages[0].epochs, 5),
        (["stages.0.epochs=5"], lambda found: found.stages[0].epochs, 5),
        (["stages.small.ratio=0.25"], lambda found: found.stages[2].ratio, 0.25),
        (["stages.small.exclude=[head, stem]"], lambda found: found.stages[2].exclude, ("head", "stem")),
        (["model.kwargs.widths=[8, 16]"], lambda found: found.model.kwargs, {"widths": [8, 16]}),
        (["gates.not-slower.margin=0.5"], lambda found: found.gates.not_slower.margin, 0.5),
        (["benchmark.runtimes=null"], lambda found: found.benchmark.runtimes, None),
        (["seed=3", "seed=4"], lambda found: found.seed, 4),
        (["data.source=a=b.npz"], lambda found: found.data.source, "a=b.npz"),
    ],
)
def test_an_override_reaches_its_place(overrides: list[str], place: Any, value: Any) -> None:
    document = {
        "name": "toy",
        "stages": [
            {"stage": "train"},
            {"stage": "export"},
            {"stage": "prune", "name": "small", "from": "train"},
        ],
    }
    assert place(Recipe.from_document(document, overrides)) == value
    assert "seed" not in document


def test_an_override_reaches_a_stage_by_the_name_that_check_shows() -> None:
    document = {"name": "toy", "stages": [{"stage": "train"}, {"stage": "train"}]}
    shown = Recipe.from_document(document).stages[1].name
    found = Recipe.from_document(document, [f"stages.{shown}.epochs=3"])
    assert [stage.epochs for stage in found.stages] == [20, 3]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "not of the form a.b=value"),
        ("=3", "not of the form a.b=value"),
        ("seed=[1", "is not YAML"),
        ("stages.tran.epochs=1", "did you mean train?"),
        ("stages.7.epochs=1", "there is no '7' in the list"),
        ("name.first=x", "'first' is inside a value that has no keys"),
        ("stages.train.epoch=1", "stages.0.epoch: unknown key; did you mean epochs or step_epochs?"),
        ("stages=3", "stages: Input should be a valid tuple"),
    ],
)
def test_an_override_that_has_no_place_is_refused(override: str, message: str) -> None:
    assert message in refused({"stage": "train"}, overrides=(override,))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"stage": "prune"}], "the first stage is train or load, found 'prune'"),
        ([{"stage": "train", "from": "train"}], "which no stage before it makes; it is the first stage"),
        ([{"stage": "train"}, {"stage": "prune", "from": "trian"}], "did you mean train?"),
        ([{"stage": "train"}, {"stage": "quantize"}], "put an export stage between them"),
        ([{"stage": "train"}, {"stage": "export"}, {"stage": "prune"}], "'export' is onnx"),
        (
            [
                {"stage": "train"},
                {"stage": "export"},
                {"stage": "distill", "from": "train", "teacher": "export"},
            ],
            "needs a model in the format torch, but 'export' is onnx",
        ),
        (
            [
                {"stage": "train"},
                {"stage": "export"},
                {"stage": "distill", "from": "train", "teacher": ["train", "export"]},
            ],
            "needs a model in the format torch, but 'export' is onnx",
        ),
        ([{"stage": "train"}, {"stage": "distill", "teacher": ["train", "x"]}], "reads 'x' (teacher-2)"),
        ([{"stage": "train"}, {"stage": "distill"}], "stages.1.teacher: missing"),
        ([{"stage": "train"}, {"stage": "export", "name": "train"}], "two stages are called 'train'"),
        (
            [{"stage": "train"}, {"stage": "load", "from": "train"}],
            "load starts from a model, not from a stage",
        ),
        (
            [{"stage": "train"}, {"stage": "prune", "from": "quantize"}, {"stage": "export"}],
            "'quantize' (input)",
        ),
        ([], "at least 1 item"),
    ],
)
def test_stages_in_an_order_that_cannot_work_are_refused(stages: list[Any], message: str) -> None:
    assert message in refused(*stages)


@pytest.mark.parametrize(
    ("stages", "fields", "message"),
    [
        (
            [{"stage": "train", "epoch": 1}],
            {},
            "stages.0.epoch: unknown key; did you mean epochs or step_epochs?",
        ),
        ([{"stage": "quantise"}], {}, "unknown stage 'quantise'; did you mean quantize?"),
        (
            [{"stage": "train", "epochs": 0}],
            {},
            "stages.0.epochs: Input should be greater than or equal to 1, found 0",
        ),
        ([{"stage": "train", "learning_rate": float("nan")}], {}, "stages.0.learning_rate"),
        ([{"stage": "train", "name": "a/b"}], {}, "stages.0.name"),
        ([{"stage": "train"}], {"seeds": 1}, "seeds: unknown key; did you mean seed?"),
        (
            [{"stage": "train"}],
            {"gates": {"acuracy": {}}},
            "gates.acuracy: unknown key; did you mean accuracy?",
        ),
        ([{"stage": "train"}], {"gates": {"accuracy": {"max_dorp": 1}}}, "did you mean max_drop?"),
        (
            [{"stage": "load", "model": {"sorce": "mlp"}}],
            {},
            "model.sorce: unknown key; did you mean source?",
        ),
        (
            [{"stage": "train"}],
            {"benchmark": {"runtimes": ["onnxruntim"]}},
            "benchmark.runtimes.0: unknown value 'onnxruntim'; did you mean onnxruntime?",
        ),
        (
            [{"stage": "train", "loss": "focl"}],
            {},
            "stages.0.loss: unknown value 'focl'; did you mean focal?",
        ),
        (
            [{"stage": "train", "keep": 3}],
            {},
            "stages.0.keep: unknown value 3; known: best, last",
        ),
        ([{"stage": "train"}], {"gates": None}, "gates: Input should be a valid dictionary"),
        ([{"stage": "train"}], {1: 2}, "1: Keys should be strings"),
        (["train"], {}, "a stage is a mapping such as {stage: prune, ratio: 0.5}"),
        ([{"epochs": 3}], {}, "unknown stage None"),
        ([{"stage": ["train"]}], {}, "stages.0"),
        ([{"stage": {"train": 1}}], {}, "stages.0"),
    ],
)
def test_what_is_wrong_is_named_with_the_nearest_known_key(
    stages: list[Any], fields: dict[Any, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_document({"name": "toy", "stages": stages, **fields})
    assert message in caught.value.message


def test_every_problem_is_listed_at_once() -> None:
    message = refused({"stage": "train", "epoch": 1}, {"stage": "prune", "ratio": 2}, sede=1)
    assert "stages.0.epoch" in message
    assert "stages.1.ratio" in message
    assert "sede: unknown key" in message


def test_stages_may_be_any_sequence() -> None:
    stages = ({"stage": "train"}, {"stage": "export"})
    assert [stage.name for stage in Recipe.from_document({"name": "toy", "stages": stages}).stages] == [
        "train",
        "export",
    ]
    with pytest.raises(RecipeError, match="did you mean epochs"):
        Recipe.from_document({"name": "toy", "stages": ({"stage": "train", "epoch": 1},)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a list", "holds no mapping of keys"),
        ("", "holds no mapping of keys"),
        ("name: [", "is not YAML"),
        ("name: !!python/object/apply:os.system [true]", "is not YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        Recipe.from_file(path)


def test_a_recipe_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: mine")
    with pytest.raises(RecipeError, match="no recipe at") as caught:
        Recipe.from_file(tmp_path / "none.yaml")
    assert "mine.yaml" in caught.value.hint
    with pytest.raises(RecipeError, match="no recipe at"):
        Recipe.from_file(tmp_path)


@pytest.mark.parametrize("name", GATE_NAMES)
def test_a_gate_may_be_allowed_by_its_name(name: str) -> None:
    check_allowed([name])
    with pytest.raises(RecipeError, match=f"did you mean .*{name}"):
        check_allowed([name[:-1]])


kinds = st.sampled_from(["load", "train", "prune", "distill", "export", "quantize"])


def holds_together(names: list[str]) -> bool:
    """The rules of the order, said once more: who starts, and who reads what from the stage before."""
    if not names or names[0] not in ("load", "train"):
        return False
    torch, onnx = ("torch",), ("onnx",)
    reads = {"train": torch, "prune": torch, "distill": torch, "export": torch + onnx, "quantize": onnx}
    gives = {name: "onnx" if name in ("export", "quantize") else "torch" for name in (*reads, "load")}
    return all(
        after == "load" or gives[before] in reads[after] for before, after in itertools.pairwise(names)
    )


@given(st.lists(kinds, max_size=6))
def test_any_list_of_kinds_is_a_recipe_exactly_when_it_holds_together(names: list[str]) -> None:
    stages = [{"stage": name, **({"teacher": names[0]} if name == "distill" else {})} for name in names]
    document = {"name": "toy", "stages": stages}
    if not holds_together(names):
        with pytest.raises(RecipeError, match="does not hold together"):
            Recipe.from_document(document)
        return
    found = Recipe.from_document(document)
    assert [stage.stage for stage in found.stages] == names
    assert len({stage.name for stage in found.stages}) == len(names)
    dumped = yaml.safe_dump(found.model_dump(mode="json", by_alias=True))
    assert Recipe.from_document(yaml.safe_load(dumped)) == found


class BlurConfig(StageConfig):
    """A stage of somebody else."""

    consumes: ClassVar[tuple[str, ...]] = ("torch",)
    stage: Literal["blur"] = Field("blur", description="Kind of the stage.")
    radius: float = Field(1.0, gt=0, description="Pixels.")


@pytest.fixture
def own_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lissom.recipe.stages, "_STAGE_TYPES", stage_types())


@pytest.mark.usefixtures("own_types")
def test_a_stage_of_somebody_else_is_used_as_ours_are() -> None:
    assert "unknown stage 'blur'" in refused({"stage": "train"}, {"stage": "blur"})
    assert register_stage_type(BlurConfig) is BlurConfig
    assert register_stage_type(BlurConfig) is BlurConfig
    found = recipe({"stage": "train"}, {"stage": "blur", "radius": 2})
    assert found.stages[1] == BlurConfig(name="blur", from_="train", radius=2)
    assert "did you mean radius?" in refused({"stage": "train"}, {"stage": "blur", "radios": 2})


@pytest.mark.usefixtures("own_types")
def test_two_kinds_of_one_name_are_refused() -> None:
    class OtherTrainConfig(StageConfig):
        """Takes a name that is ours."""

        stage: Literal["train"] = Field("train", description="Kind of the stage.")

    with pytest.raises(ValueError, match="two kinds of stage are called 'train'"):
        register_stage_type(OtherTrainConfig)
    assert stage_types()["train"] is TrainConfig


@pytest.mark.usefixtures("own_types")
def test_an_installed_package_adds_its_stage_by_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "blurring-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blurring\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[lissom.stage_configs]\nblur = {__name__}:BlurConfig\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert __name__ in sys.modules
    load_plugins()
    assert stage_types()["blur"] is BlurConfig
    assert recipe({"stage": "train"}, {"stage": "blur"}).stages[1].stage == "blur"
