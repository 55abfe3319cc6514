"""Tables are learned whatever the units of their columns are, and answered in the unit of the user.

The right answers come from NumPy: the moments of the train split, least squares, the median of the labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow
import pyarrow.parquet
import pytest
import torch
from tests.foreign.nets import NAME
from tests.unit.small import make

import lissom
from lissom import pipeline
from lissom.artifact import Artifact, TensorSpec
from lissom.errors import ModelError
from lissom.models.data import Data
from lissom.models.dataset import Dataset, checked
from lissom.models.estimation import ModelCost
from lissom.models.preparation import moments, with_standardization
from lissom.models.target_scale import find_target_scale
from lissom.models.tasks import task_of
from lissom.recipe import ModelConfig, Recipe
from lissom.report.files import read_report
from lissom.structure import load_model

_ROWS = 1200
_RANDOM = np.random.default_rng(0)
_AREA, _YEAR = _RANDOM.uniform(20, 200, _ROWS), _RANDOM.integers(1900, 2020, _ROWS).astype(float)
_FAR, _ALWAYS = _RANDOM.exponential(5e-4, _ROWS), np.full(_ROWS, 7.25)
COLUMNS = {"area": _AREA, "year": _YEAR, "far": _FAR, "always": _ALWAYS}
_NOISE = _RANDOM.normal(size=_ROWS)
PRICE = 3000 * _AREA + 900 * (_YEAR - 1900) - 2e7 * _FAR + 10_000 * _NOISE + 400_000
SHARE = 1e-4 + 1e-9 * PRICE / 10
DEAR = np.where(np.median(PRICE) < PRICE, "dear", "cheap")


def _csv(path: Path, label: np.ndarray) -> str:
    lines = [",".join([*COLUMNS, "price"])]
    rows = zip(*COLUMNS.values(), label, strict=True)
    lines += [",".join(cell if isinstance(cell, str) else repr(float(cell)) for cell in row) for row in rows]
    path.write_text("\n".join(lines))
    return f"{path}?label=price"


def _parquet(path: Path, label: np.ndarray) -> str:
    pyarrow.parquet.write_table(pyarrow.table({**COLUMNS, "price": label}), path)
    return f"{path}?label=price"


def _npz(path: Path, label: np.ndarray) -> str:
    np.savez(path, features=np.stack(list(COLUMNS.values()), axis=1).astype(np.float32), y=label)
    return str(path)


_TABLES: dict[str, tuple[Any, np.ndarray]] = {
    "csv": (_csv, PRICE),
    "parquet": (_parquet, SHARE),
    "npz": (_npz, np.stack([PRICE, SHARE], axis=1).astype(np.float32)),
}


def _recipe(source: str, /, **model: Any) -> Recipe:
    model = {"source": "mlp", "kwargs": {"hidden": [32]}, **model}
    stages = [{"stage": "train", "name": "train"}]
    return Recipe.model_validate(
        {"name": "table", "data": {"source": source}, "model": model, "stages": stages}
    )


@pytest.fixture(scope="module", params=_TABLES)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Artifact, Data]:
    """A model that the default options trained on a table of values, and its data."""
    folder = tmp_path_factory.mktemp(request.param)
    write, label = _TABLES[request.param]
    recipe = _recipe(write(folder / f"table.{request.param}", label))
    data = pipeline.load_data(recipe)
    return make(folder / "train", data, "train", model=recipe.model), data


def _skill(answers: np.ndarray, data: Data) -> np.ndarray:
    """1 - mean absolute error / mean distance of the train labels from their median, of each column."""
    labels, known = (data.labels(split).reshape(-1, answers.shape[1]) for split in ("report", "train"))
    return 1 - np.abs(answers - labels).mean(0) / np.abs(known - np.median(known, axis=0)).mean(0)


def _least_squares(data: Data) -> np.ndarray:
    x, y = (
        {split: data.raw(split)["features"].astype(np.float64) for split in ("train", "report")},
        data.labels("train").astype(np.float64),
    )
    mean, std = x["train"].mean(0), x["train"].std(0)
    std[std < 1e-9] = 1
    rows = {split: np.c_[(array - mean) / std, np.ones(len(array))] for split, array in x.items()}
    found: np.ndarray = rows["report"] @ np.linalg.lstsq(rows["train"], y, rcond=None)[0]
    return found.reshape(len(found), -1)


def test_the_default_options_learn_a_table_in_the_unit_of_the_user(trained: tuple[Artifact, Data]) -> None:
    artifact, data = trained
    _, answers = lissom.predict(artifact, data.raw("report"))
    wanted = _skill(_least_squares(data), data)
    assert (wanted > 0.8).all()
    assert (_skill(answers, data) > wanted - 0.1).all()


def test_moments_are_those_of_the_train_split_and_constants_are_safe(trained: tuple[Artifact, Data]) -> None:
    artifact, data = trained
    (step,) = artifact.manifest.preprocessing
    rows = data.raw("train")["features"].astype(np.float64)
    assert np.allclose(step.mean, rows.mean(0), rtol=1e-9)
    assert np.allclose(step.std[:3], rows.std(0)[:3], rtol=1e-6)
    assert step.std[3] == 1.0
    labels = data.labels("train").reshape(len(rows), -1).astype(np.float64)
    assert np.allclose(artifact.manifest.notes["targets"]["mean"], labels.mean(0), rtol=1e-9)
    assert np.allclose(artifact.manifest.notes["targets"]["std"], labels.std(0), rtol=1e-9)
    assert not {*data.indices["train"]} & {*data.indices["report"]}


def test_what_is_exported_answers_in_the_unit_of_the_user_by_itself(
    tmp_path: Path, trained: tuple[Artifact, Data]
) -> None:
    artifact, data = trained
    _, wanted = lissom.predict(artifact, data.raw("report"))
    exported = make(tmp_path / "export", data, "export", parents={"input": artifact})
    (step,) = artifact.manifest.preprocessing
    x = (data.raw("report")["features"] - np.float32(step.mean)) / np.float32(step.std)
    session = onnxruntime.InferenceSession(str(exported.file("model.onnx")))
    (alone,) = session.run(None, {"features": x.astype(np.float32)})
    scale = data.labels("train").std(0)
    assert np.abs(alone - wanted).max() < 1e-2 * scale.max()
    assert (_skill(alone, data) > 0.7).all()
    converted = make(tmp_path / "openvino", data, "export", parents={"input": exported}, format="openvino")
    assert (_skill(lissom.predict(converted, data.raw("report"))[1], data) > 0.7).all()


def test_training_goes_on_from_where_it_was(tmp_path: Path, trained: tuple[Artifact, Data]) -> None:
    artifact, data = trained
    again = make(tmp_path / "again", data, "train", parents={"input": artifact}, epochs=1, learning_rate=1e-4)
    x = data.raw("report")
    before, after = (lissom.predict(one, x)[1] for one in (artifact, again))
    assert (np.abs(after - before).mean(0) < 0.1 * data.labels("train").std(0)).all()


def test_a_student_is_taught_in_the_same_unit(tmp_path: Path, trained: tuple[Artifact, Data]) -> None:
    artifact, data = trained
    kwargs = {"hidden": [8]}
    student = make(tmp_path / "load", data, "load", model=ModelConfig(source="mlp", kwargs=kwargs))
    taught = make(
        tmp_path / "distill",
        data,
        "distill",
        parents={"input": student, "teacher": artifact},
        teacher="teacher",
        alpha=1.0,
        epochs=10,
        baseline=False,
    )
    assert (_skill(lissom.predict(taught, data.raw("report"))[1], data) > 0.7).all()


@pytest.mark.parametrize("mode", ["static", "qat"])
def test_quantization_keeps_the_unit(tmp_path: Path, mode: str) -> None:
    recipe = _recipe(_csv(tmp_path / "table.csv", PRICE))
    data = pipeline.load_data(recipe)
    artifact = make(tmp_path / "train", data, "train", model=recipe.model, epochs=10)
    parent = artifact
    if mode == "static":
        parent = make(tmp_path / "export", data, "export", parents={"input": artifact})
    tuned = {"tune": {"epochs": 1, "learning_rate": 1e-3}} if mode == "qat" else {}
    small = make(tmp_path / "quantize", data, "quantize", parents={"input": parent}, mode=mode, **tuned)
    assert (_skill(lissom.predict(small, data.raw("report"))[1], data) > 0.7).all()


def test_classes_of_a_table_are_told_whatever_its_units(tmp_path: Path) -> None:
    recipe = _recipe(_csv(tmp_path / "table.csv", DEAR))
    data = pipeline.load_data(recipe)
    artifact = make(tmp_path / "train", data, "train", model=recipe.model)
    labels, _ = lissom.predict(artifact, data.raw("report"))
    names = [artifact.manifest.labels[index] for index in data.labels("report")]
    assert np.mean([one == other for one, other in zip(labels, names, strict=True)]) > 0.85


@pytest.mark.parametrize(("factory", "folds"), [("flat", True), ("positive", False), ("tied", False)])
def test_a_scale_is_folded_only_where_a_last_layer_takes_it(factory: str, folds: bool) -> None:
    x = np.stack(list(COLUMNS.values()), axis=1).astype(np.float32)
    data = with_standardization(Data("table", Dataset({"x": x}, PRICE.astype(np.float32))))
    from tests.foreign import nets

    torch.manual_seed(0)
    model = getattr(nets, factory)(in_features=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = find_target_scale(model, data, task_of("regression", data))
    assert (found is not None) == folds
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("factory", ["flat", "positive"])
def test_models_of_other_people_answer_in_the_unit_too(tmp_path: Path, factory: str) -> None:
    x = np.stack(list(COLUMNS.values()), axis=1).astype(np.float32)
    data = with_standardization(Data("table", Dataset({"x": x}, (PRICE / 1e5).astype(np.float32))))
    model = ModelConfig(source=f"{NAME}:{factory}", kwargs={"in_features": 4})
    artifact = make(tmp_path / "train", data, "train", model=model, learning_rate=0.02, clip_norm=1.0)
    inputs = torch.from_numpy(data.tensors("report")["x"])
    answers = load_model(artifact)(inputs).detach().numpy().reshape(-1, 1)
    assert (_skill(answers, data) > 0.7).all()


@pytest.mark.parametrize("kind", ["weights", "onnx", "option", "images"])
def test_nothing_is_standardised_for_a_model_that_knows_its_scale(tmp_path: Path, kind: str) -> None:
    source = _csv(tmp_path / "table.csv", PRICE)
    model: dict[str, Any] = {}
    if kind == "images":
        np.savez(
            tmp_path / "i.npz", image=_RANDOM.random((40, 1, 8, 8)).astype(np.float32), y=np.arange(40) % 2
        )
        source = str(tmp_path / "i.npz")
    elif kind == "option":
        source += "&standardize=false"
    else:
        trained = make(
            tmp_path / "train",
            pipeline.load_data(_recipe(source)),
            "train",
            model=_recipe(source).model,
            epochs=1,
        )
        if kind == "weights":
            model = {"weights": str(trained.file("model.safetensors"))}
        else:
            data = pipeline.load_data(_recipe(source))
            exported = make(tmp_path / "export", data, "export", parents={"input": trained})
            model = {"source": str(exported.file("model.onnx")), "kwargs": {}}
    recipe = _recipe(source, **model)
    if kind == "onnx":
        stages = [{"stage": "load", "name": "load"}]
        recipe = Recipe.model_validate({**recipe.model_dump(mode="json", by_alias=True), "stages": stages})
    assert pipeline.load_data(recipe).dataset.preprocessing == ()


def test_other_data_of_an_artifact_are_seen_as_those_it_was_made_with(tmp_path: Path) -> None:
    source = _csv(tmp_path / "table.csv", PRICE)
    data = pipeline.load_data(_recipe(source))
    artifact = make(tmp_path / "train", data, "train", model=_recipe(source).model, epochs=1)
    half = {name: values[: _ROWS // 4] * 1.5 for name, values in COLUMNS.items()}
    np.savez(
        tmp_path / "other.npz",
        features=np.stack(list(half.values()), axis=1).astype(np.float32),
        y=PRICE[: _ROWS // 4].astype(np.float32),
    )
    other = pipeline.load_data(_recipe(str(tmp_path / "other.npz"), source=str(artifact.path), kwargs={}))
    assert other.dataset.preprocessing == artifact.manifest.preprocessing


_QUICK = {"runtimes": ["torch"], "num_rounds": 4, "round_ms": 5, "num_warmup": 1}


def _run(folder: Path, source: str, *allow: str, **stage: Any) -> tuple[Any, Any]:
    stages = [{"stage": "train", "name": "train", **stage}]
    document = {"name": "table", "data": {"source": source}, "benchmark": _QUICK, "stages": stages}
    recipe = Recipe.model_validate({**document, "model": {"source": "mlp", "kwargs": {"hidden": [8]}}})
    report = lissom.run(recipe, out=folder, allow=allow).report
    return report, next(gate for gate in report.gates if gate.name == "accuracy")


def test_values_that_a_median_tells_as_well_fail_the_gate_and_are_told_first(tmp_path: Path) -> None:
    source = _csv(tmp_path / "table.csv", PRICE)
    report, gate = _run(tmp_path / "run", source, epochs=1, learning_rate=1e-7)
    assert gate.state == "fail"
    assert not report.verdict.ok
    assert report.verdict.sentence.startswith("WARNING: no better than guessing: skill")
    for name in ("report.md", "report.html"):
        assert "no better than guessing" in (tmp_path / "run" / name).read_text()
    allowed, gate = _run(tmp_path / "run", source, "accuracy", epochs=1, learning_rate=1e-7)
    assert (gate.state, gate.allowed, allowed.verdict.ok) == ("fail", True, True)


def test_classes_that_the_most_frequent_one_tells_as_well_fail_it_too_and_what_is_missing_is_told(
    tmp_path: Path,
) -> None:
    labels = np.where(_RANDOM.random(400) < 0.8, "often", "rare").astype(object)
    split = np.array(["train", "calibrate", "select", "report"])[np.arange(400) % 4]
    labels[(split == "train") & (np.arange(400) < 20)] = "never reported"
    x = _RANDOM.normal(size=(400, 4)).astype(np.float32)
    np.savez(tmp_path / "noise.npz", x=x, y=labels.astype(str), split=split)
    report, gate = _run(tmp_path / "run", str(tmp_path / "noise.npz"), epochs=1, learning_rate=1e-7)
    most = (labels[split == "report"] == "often").mean()
    found = report.arms[0].accuracy
    assert found is not None
    assert (gate.state == "fail") == (found.report <= most)
    assert gate.state == "fail"
    told = [remark for remark in read_report(tmp_path / "run").remarks if "never reported" in remark]
    assert len(told) == 2  # of the select and the report split
    assert "the report split (100 samples) has no sample of class 'never reported'" in told[1]
    for name in ("report.md", "report.html"):
        assert "never reported" in (tmp_path / "run" / name).read_text()


def test_a_model_that_learned_passes(tmp_path: Path) -> None:
    report, gate = _run(tmp_path / "run", _csv(tmp_path / "table.csv", PRICE), epochs=8)
    assert gate.state == "skipped"
    assert report.verdict.ok
    assert not report.verdict.sentence.startswith("WARNING")


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_a_column_far_from_zero_is_scaled_as_long_as_float32_holds_its_steps(offset: float) -> None:
    steps = np.random.default_rng(0).integers(0, 100, size=500)
    column = np.float32(offset) + steps * np.spacing(np.float32(offset or 1.0))
    _, std = moments(column[:, np.newaxis])
    assert std[0] == pytest.approx(column.astype(np.float64).std())
    _, constant = moments(np.nextafter(np.float32(offset or 1), np.float32([[0], [2 * offset or 2]])))
    assert constant.tolist() == [1.0]


def test_truth_values_are_classes_and_several_at_once_are_told_to_be_values() -> None:
    x = np.arange(180, dtype=np.float32).reshape(60, 3)
    truth = np.arange(60) % 3 == 0
    found = Data("rows", checked(Dataset({"x": x}, truth, ("no", "yes")), "rows"))
    assert found.kind == "classes"
    np.testing.assert_array_equal(found.dataset.labels, truth.astype(int))
    several = Data("rows", Dataset({"x": x}, np.stack([truth, ~truth, truth], 1).astype(int)))
    with pytest.raises(ModelError) as caught:
        task_of("language-modelling", several).check(
            [TensorSpec(name="y", dtype="float32", shape=("b", 3))], several
        )
    assert "floats of shape [samples, classes]" in caught.value.hint


@pytest.mark.parametrize("kind", ["classes", "a value", "three values", "tokens"])
def test_a_model_is_loaded_where_nothing_is_there_to_train_on(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    x = random.integers(0, 7, (90, 5)) if kind == "tokens" else random.normal(size=(90, 5))
    labels = {
        "classes": np.arange(90) % 2,
        "a value": random.normal(size=90),
        "three values": random.normal(size=(90, 3)),
        "tokens": x,
    }[kind]
    parts = np.array(["calibrate", "select", "report"])[np.arange(90) // 30]
    np.savez(tmp_path / "rows.npz", x=x, y=labels, split=parts)
    sizes = {"classes": (5, 2), "a value": (5, 1), "three values": (5, 3), "tokens": (7, 7)}[kind]
    recipe = _recipe(
        str(tmp_path / "rows.npz"),
        source=f"{NAME}:rowwise",
        kwargs={"sizes": list(sizes), "tokens": kind == "tokens"},
    )
    data = pipeline.load_data(recipe)
    artifact = make(tmp_path / "load", data, "load", model=recipe.model)
    assert artifact.manifest.signature.outputs[0].shape[-1] == sizes[1]
    assert ModelCost.of(recipe.model, data).num_train == 0
