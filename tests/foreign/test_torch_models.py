"""Torch models as other people write them: what lissom answers is what the module itself answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.foreign import torch_models
from tests.unit.small import make
from torch import nn

import lissom
from lissom.adaptation import named_tensors
from lissom.artifact import Artifact
from lissom.bench.work import works_of
from lissom.errors import LissomError, ModelError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.inspection import look_inside_torch
from lissom.recipe import ModelConfig
from lissom.structure import load_model

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning"
)
RANDOM = np.random.default_rng(0)
SAMPLES = RANDOM.normal(size=(120, 16)).astype(np.float32)
FIVE = SAMPLES[:5]
LABELLED = Data("samples", Dataset({"x": SAMPLES}, np.arange(120) % 4, ("a", "b", "c", "d")))
BARE = Data("bare samples", Dataset({"x": SAMPLES}))

COMPUTED = ["weight_norm_new", "weight_norm_old", "spectral_norm_new", "spectral_norm_old", "orthogonal"]
COMPUTED += ["masked", "own_class"]
LAZY = ["lazy_linear", "lazy_convolution", "lazy_sequence"]
TRAINED = ["weight_norm_old", "spectral_norm_new", "lazy_convolution", "DictWithNone"]
WRAPPED = ["compiled", "in_parallel", "compiled_in_parallel"]
NAMED = ["DictWithNone", "DictOfTwo", "NamedPair", "DataClass", "ModelOutput"]
FORWARDS = ["AnyPositions", "KeywordOnly", "AnyKeywords"]
ALL = [*COMPUTED, "weight_norm_in_lstm", "parametrized_and_tied", *LAZY, *WRAPPED, *FORWARDS]


def load(folder: Path, name: str, data: Data = LABELLED, **model: Any) -> Artifact:
    source = f"tests.foreign.torch_models:{name}"
    return make(folder / "load", data, "load", model=ModelConfig(source=source, **model))


def plain(name: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """What the module answers when torch calls it, by name."""
    given = {key: torch.from_numpy(array) for key, array in (inputs or {"x": FIVE}).items()}
    with torch.no_grad():
        model = getattr(torch_models, name)().eval()
        outputs = (
            model(**given)
            if isinstance(model, torch_models.Base) and name != "AnyPositions"
            else model(*given.values())
        )
    return {key: tensor.numpy() for key, tensor in named_tensors(outputs).items()}


def of_torch(artifact: Artifact, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    from lissom.runtime.base import open_runtime

    with open_runtime(artifact, "torch") as opened:
        return opened.infer(inputs or {"x": FIVE})


def of_onnx(
    artifact: Artifact, folder: Path, data: Data = LABELLED, **inputs: np.ndarray
) -> dict[str, np.ndarray]:
    """What plain ONNX Runtime answers for the exported file."""
    import onnxruntime

    exported = make(folder / "export", data, "export", parents={"input": artifact})
    session = onnxruntime.InferenceSession(exported.file("model.onnx"))
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs or {"x": FIVE}), strict=True))


def assert_close(found: dict[str, np.ndarray], wanted: np.ndarray) -> None:
    (output,) = found.values()
    np.testing.assert_allclose(output, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", ALL)
def test_the_artifact_and_its_onnx_answer_as_the_module(tmp_path: Path, name: str) -> None:
    artifact, wanted = load(tmp_path, name), plain(name)["output"]
    assert_close(of_torch(artifact), wanted)
    assert_close(of_onnx(artifact, tmp_path), wanted)
    assert_close({"again": load_model(artifact)(torch.from_numpy(FIVE)).detach().numpy()}, wanted)


@pytest.mark.parametrize("name", COMPUTED)
def test_computed_weights_are_written_down_where_layers_are_cut(tmp_path: Path, name: str) -> None:
    """Pruning equals the module with those channels zeroed, its weights computed by torch."""
    pruned = make(tmp_path / "prune", LABELLED, "prune", parents={"input": load(tmp_path, name)}, ratio=0.5)
    layers = load_model(pruned)
    assert type(layers[2]) is nn.Linear
    assert layers[2].weight.shape == (16, 16)
    whole = getattr(torch_models, name)().eval()
    whole(torch.zeros(1, 16))  # older hooks compute their weights when they are called
    first, second = whole[0].weight.detach(), whole[2].weight.detach()
    kept = [
        _places(layers[0].weight, first),
        _places(layers[2].weight, second[:, _places(layers[0].weight, first)]),
    ]
    x = torch.relu(torch.from_numpy(FIVE) @ first[kept[0]].T + whole[0].bias[kept[0]])
    x = torch.relu(x @ second[kept[1]][:, kept[0]].T + whole[2].bias[kept[1]])
    wanted = (x @ whole[4].weight[:, kept[1]].T + whole[4].bias).detach().numpy()
    assert_close(of_torch(pruned), wanted)
    assert pruned.manifest.notes["folded"] == ["0", "2"]


def _places(rows: torch.Tensor, whole: torch.Tensor) -> list[int]:
    """Where each of the rows stands among all."""
    return [int((whole - row).abs().amax(1).argmin()) for row in rows.detach()]


@pytest.mark.parametrize("name", TRAINED)
def test_they_can_be_trained_and_stay_what_they_are(tmp_path: Path, name: str) -> None:
    source = f"tests.foreign.torch_models:{name}"
    trained = make(tmp_path / "train", LABELLED, "train", model=ModelConfig(source=source), epochs=1)
    module = getattr(torch_models, name)().eval()
    with torch.no_grad():
        module(torch.from_numpy(FIVE))  # lazy layers take their shapes
    module.load_state_dict(load_model(trained).state_dict())
    with torch.no_grad():
        found = named_tensors(module(torch.from_numpy(FIVE)))
    assert_close(of_torch(trained), (found.get("logits", found.get("output"))).numpy())


@pytest.mark.parametrize("name", NAMED)
def test_of_named_outputs_the_one_that_fits_the_labels_is_taken(tmp_path: Path, name: str) -> None:
    artifact, answers = load(tmp_path, name), plain(name)
    matters = "logits" if "logits" in answers else "scores"
    assert [spec.name for spec in artifact.manifest.signature.outputs] == [matters]
    assert_close(of_torch(artifact), answers[matters])
    assert_close(of_onnx(artifact, tmp_path), answers[matters])
    assert lissom.predict(artifact, {"x": FIVE})[0] == ["abcd"[place] for place in answers[matters].argmax(1)]


@pytest.mark.parametrize(
    ("name", "asked"), [("DictWithNone", "hidden"), ("NamedPair", "hidden"), ("DataClass", "states.1.double")]
)
def test_another_output_can_be_named(tmp_path: Path, name: str, asked: str) -> None:
    artifact = load(tmp_path, name, BARE, output=asked)
    assert_close(of_torch(artifact), plain(name)[asked])
    assert list(of_onnx(artifact, tmp_path, BARE)) == [asked]


@pytest.mark.parametrize("name", ["DictOfTwo", "Nested", "DataClass", "NamedPair"])
def test_without_labels_every_output_keeps_its_name(tmp_path: Path, name: str) -> None:
    answers, found = plain(name), of_onnx(load(tmp_path, name, BARE), tmp_path, BARE)
    assert list(found) == list(answers)
    for key, wanted in answers.items():
        np.testing.assert_allclose(found[key], wanted, rtol=1e-4, atol=1e-5)


def test_an_output_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"no output 'logit'; it gives hidden \[8, 32\], logits \[8, 4\]"
    ) as caught:
        load(tmp_path, "DictWithNone", output="logit")
    assert "--output" in caught.value.hint
    three = Data("three", Dataset({"x": SAMPLES}, np.arange(120) % 3, ("a", "b", "c")))
    with pytest.raises(ModelError, match="none of the model's outputs fits the labels") as caught:
        load(tmp_path, "DictOfTwo", three)
    assert "--output NAME" in caught.value.hint
    assert "hidden, scores" in caught.value.hint


def test_an_input_behind_one_that_is_left_out_is_given_by_name(tmp_path: Path) -> None:
    shift = RANDOM.normal(size=(120, 16)).astype(np.float32)
    data = Data("two", Dataset({"shift": shift, "x": SAMPLES}, np.arange(120) % 4, ("a", "b", "c", "d")))
    artifact, inputs = load(tmp_path, "GapBefore", data), {"shift": shift[:5], "x": FIVE}
    wanted = plain("GapBefore", **inputs)["output"]
    assert_close(of_torch(artifact, **inputs), wanted)
    assert_close(of_onnx(artifact, tmp_path, data, **inputs), wanted)


@pytest.mark.parametrize(("name", "kind"), [("double", torch.float64), ("brain_float", torch.bfloat16)])
def test_a_model_of_another_float_takes_float32(tmp_path: Path, name: str, kind: torch.dtype) -> None:
    with torch.no_grad():
        wanted = getattr(torch_models, name)().eval()(torch.from_numpy(FIVE).to(kind)).float().numpy()
    assert_close(of_torch(load(tmp_path, name)), wanted)


def test_complex_weights_are_kept(tmp_path: Path) -> None:
    artifact, wanted = load(tmp_path, "ComplexWeight"), plain("ComplexWeight")["output"]
    assert_close(of_torch(artifact), wanted)
    assert_close(of_onnx(artifact, tmp_path), wanted)


MULTIPLICATIONS = {
    "LearnedMask": 4 * 4 * 16 + 2 * 2 * 4 * 4 * 8 + 16 * 4,
    "PartOfATable": 4 * 16 * 32 + 16 * 32 + 32 * 4,
    "TransposedTable": 8 * 16 * 16 + 16 * 8 + 8 * 4,
    "ExpandedToken": 16 * 16 + 16 * 4,
}


@pytest.mark.parametrize("name", MULTIPLICATIONS)
def test_gradients_of_parameters_are_in_nobodys_way(tmp_path: Path, name: str) -> None:
    artifact, wanted = load(tmp_path, name), plain(name)["output"]
    assert_close(of_onnx(artifact, tmp_path), wanted)
    assert works_of([artifact])["load"].flops == 2 * MULTIPLICATIONS[name]
    assert look_inside_torch(load_model(artifact), {"x": FIVE}).layers


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("FunctionalDropout", r"dropout is active\n.*torch_models.py:\d+, in forward: .*dropout"),
        ("StaysInTraining", r"dropout is active in 'drop'\n.*torch_models.py:\d+, in forward"),
        ("stubborn_dropout", "dropout is active in '1'"),
        ("Noise", r"draws random numbers \(randn_like\)\n.*torch_models.py:\d+, in forward"),
        ("MovingMean", "changes the buffer 'mean'"),
        ("InAttribute", "keeps something in an attribute"),
    ],
)
def test_what_makes_two_calls_differ_is_named(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(ModelError, match=told) as caught:
        load(tmp_path, name)
    assert caught.value.hint


def test_a_counter_that_no_answer_hangs_on_is_let_be(tmp_path: Path) -> None:
    artifact, wanted = load(tmp_path, "CountsCalls"), plain("CountsCalls")["output"]
    assert_close(of_torch(artifact), wanted)
    assert_close(of_onnx(artifact, tmp_path), wanted)


def _lines(error: LissomError) -> list[str]:
    assert "\x1b" not in error.message
    return error.message.splitlines()


def test_a_forward_that_does_not_take_the_samples_is_shown_in_three_lines(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load(tmp_path, "WrongWidth")
    what, reason, place = _lines(caught.value)
    assert what == "the model does not take the samples of samples (x [16]):"
    assert reason == "  RuntimeError: mat1 and mat2 shapes cannot be multiplied (8x7 and 16x32)"
    assert place.endswith("in core: hidden = torch.relu(self.first(x))")


@pytest.mark.parametrize(
    ("name", "reason", "code"),
    [
        ("DecidesOnValues", "Could not guard on data-dependent expression", "if x.sum() > 0:"),
        ("LoopsOverValues", "data-dependent", "for _ in range(int(x.abs().sum()) % 3 + 1):"),
        ("AsksForAnItem", "data-dependent", "if x.max().item() > 2:"),
    ],
)
def test_a_forward_that_torch_cannot_capture_is_shown_in_three_lines(
    tmp_path: Path, name: str, reason: str, code: str
) -> None:
    artifact = load(tmp_path, name)
    with pytest.raises(ModelError, match="cannot be exported") as caught:
        make(tmp_path / "export", LABELLED, "export", parents={"input": artifact})
    what, why, place = _lines(caught.value)
    assert what == "'load' cannot be exported to ONNX:"
    assert reason in why
    assert place.endswith(code)


def test_a_script_module_runs_in_torch_and_is_told_to_be_none_for_export(tmp_path: Path) -> None:
    artifact = load(tmp_path, "scripted")
    assert_close(of_torch(artifact), plain("scripted")["output"])
    with pytest.raises(ModelError, match="ScriptModule"):
        make(tmp_path / "export", LABELLED, "export", parents={"input": artifact})
