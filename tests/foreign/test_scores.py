"""Models that give probabilities, their logarithms or sigmoids are taken for what they are.

The right answers come from torch and NumPy alone: losses of the numbers before the ending, scores as the
model itself gives them, and the training of a twin that gives logits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.foreign.nets import ENDINGS, KINDS, NAME, ended
from tests.unit.small import context, load, make
from torch.nn import functional

from lissom import predict
from lissom.artifact import Artifact
from lissom.export.loading import data_for_model
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.models.evaluation import evaluate, judge
from lissom.models.losses import loss_for
from lissom.models.score_kinds import kind_of_torch, samples_of
from lissom.models.stages import signature_of
from lissom.models.tasks import task_of
from lissom.recipe import LoadConfig, ModelConfig, Optimization
from lissom.report.remarks import find_remarks
from lissom.runtime.base import open_runtime
from lissom.runtime.scores import ScoreKind
from lissom.serve.prediction import predict_response
from lissom.structure import load_model

_RANDOM = np.random.default_rng(0)


def _clusters(num_classes: int, num_samples: int = 600) -> Data:
    labels = np.arange(num_samples) % num_classes
    centres = _RANDOM.normal(size=(num_classes, 16))
    x = (centres[labels] + 0.8 * _RANDOM.normal(size=(num_samples, 16))).astype(np.float32)
    return Data("clusters", Dataset({"x": x}, labels, tuple("abcd"[:num_classes])))


FOUR, TWO = _clusters(4), _clusters(2)
_GIVEN: list[tuple[str, ScoreKind]] = [
    ("softmax", "probabilities"),
    ("log_softmax", "log_probabilities"),
    ("sigmoid", "sigmoids"),
]


def _kind(net: torch.nn.Module, data: Data) -> str:
    return kind_of_torch(net, signature_of(net, data, samples_of(data)), data, "classification")


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_what_a_model_gives_is_found_before_it_is_trained(ending: str, zero: bool) -> None:
    assert _kind(ended(ending=ending, zero=zero), FOUR) == KINDS[ending]


@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize(
    "ending", ["logits", "nearly constant", "sigmoid", "sigmoid by hand", "half of tanh"]
)
def test_a_single_column_is_a_sigmoid_where_no_weights_drive_it_out_of_its_range(
    ending: str, squeezed: bool
) -> None:
    assert _kind(ended(ending=ending, num_outputs=1, norm=True, squeezed=squeezed), TWO) == KINDS[ending]


@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize("ending", ["logarithm of sigmoid", "less a softplus"])
def test_a_single_column_that_is_never_above_zero_is_a_logarithm(
    tmp_path: Path, ending: str, squeezed: bool
) -> None:
    options = {"ending": ending, "num_outputs": 1, "norm": True, "squeezed": squeezed}
    assert _kind(ended(**options), TWO) == "log_probabilities"
    trained = make(
        tmp_path / "train", TWO, "train", model=ModelConfig(source=f"{NAME}:ended", kwargs=options), epochs=8
    )
    exported = make(tmp_path / "export", TWO, "export", parents={"input": trained})
    model = ModelConfig(source=str(next(exported.path.rglob("*.onnx"))))
    foreign = make(tmp_path / "foreign", data_for_model(str(npz(tmp_path)), model), "load", model=model)
    rows = TWO.tensors("report")["x"]
    for artifact, runtime in ((trained, "torch"), (exported, "onnxruntime"), (foreign, "onnxruntime")):
        assert artifact.manifest.scores == "log_probabilities"
        with open_runtime(artifact, runtime) as opened:
            (output,) = opened.infer({"x": rows}).values()
        second = np.exp(output.reshape(-1).astype(np.float64)) > 0.5
        assert (second == TWO.labels("report")).mean() > 0.9
        labels, _ = predict(artifact, {"x": rows}, runtime=runtime)
        known = TWO.dataset.label_names if artifact is not foreign else foreign.manifest.labels
        assert labels == [known[int(one)] for one in second]


def npz(folder: Path) -> Path:
    """The rows of TWO as a user keeps them."""
    np.savez(folder / "two.npz", x=TWO.dataset.inputs["x"], y=TWO.dataset.labels)
    return folder / "two.npz"


def _focal(log_shares: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    return -(shares * (1 - log_shares.exp()) ** 2 * log_shares).sum(-1).mean()


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["cross-entropy", "focal"])
@pytest.mark.parametrize(("ending", "kind"), _GIVEN)
def test_a_loss_is_that_of_the_numbers_before_the_ending(
    ending: str, kind: ScoreKind, loss: str, smoothing: float, mixed: bool
) -> None:
    z = torch.randn(64, 4, generator=torch.Generator().manual_seed(1)).mul(3).requires_grad_()
    labels = torch.arange(64) % 4
    shares = functional.one_hot(labels, 4).float()
    shares = 0.7 * shares + 0.3 * shares.flip(0) if mixed else shares
    smoothed = (1 - smoothing) * shares + smoothing / 4
    if ending == "sigmoid":
        weight = smoothed * (1 - z.sigmoid()) ** 2, (1 - smoothed) * z.sigmoid() ** 2
        wanted = (
            4 * functional.binary_cross_entropy_with_logits(z, smoothed)
            if loss == "cross-entropy"
            else -(weight[0] * functional.logsigmoid(z) + weight[1] * functional.logsigmoid(-z))
            .sum(-1)
            .mean()
        )
    elif loss == "cross-entropy":
        wanted = functional.cross_entropy(z, smoothed)
    else:
        wanted = _focal(z.log_softmax(-1), smoothed)
    config = Optimization(loss=loss, label_smoothing=smoothing, focal_gamma=2.0)
    found = loss_for(task_of("classification", FOUR, kind), config)(
        ENDINGS[ending](z), shares if mixed else labels
    )
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    one, other = (torch.autograd.grad(each, z, retain_graph=True)[0] for each in (found, wanted))
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("columns", [(64,), (64, 1)])
def test_a_sigmoid_of_two_classes_has_binary_cross_entropy_and_what_is_lost_stays_finite(
    columns: tuple[int, ...],
) -> None:
    z, labels = torch.linspace(-200, 200, 64), torch.arange(64) % 2
    found = loss_for(task_of("classification", TWO, "sigmoids"), Optimization())
    small = z.abs() < 12
    wanted = functional.binary_cross_entropy(z.sigmoid()[small], labels[small].float())
    assert found(z.sigmoid()[small], labels[small]).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.isfinite(found(z.sigmoid().reshape(columns), labels))


def _trained(folder: Path, ending: str, **fields: object) -> Artifact:
    model = ModelConfig(source=f"{NAME}:ended", kwargs={"ending": ending})
    return make(
        folder / f"{ending}-train", FOUR, "train", model=model, epochs=4, learning_rate=0.02, **fields
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("trained")
    return {ending: _trained(folder, ending) for ending in ("logits", "softmax", "log_softmax", "sigmoid")}


def _states(artifacts: dict[str, Artifact], *endings: str) -> list[dict[str, torch.Tensor]]:
    return [load_model(artifacts[ending]).state_dict() for ending in endings]


@pytest.mark.parametrize("ending", ["softmax", "log_softmax"])
def test_a_training_is_that_of_the_twin_that_gives_logits(trained: dict[str, Artifact], ending: str) -> None:
    one, other = _states(trained, "logits", ending)
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)


def test_sigmoids_are_trained_until_they_tell_classes(trained: dict[str, Artifact]) -> None:
    found = {}
    for ending, artifact in trained.items():
        outputs = load_model(artifact)(torch.from_numpy(FOUR.tensors("report")["x"]))
        found[ending] = float((outputs.argmax(1).numpy() == FOUR.labels("report")).mean())
    assert found["sigmoid"] > found["logits"] - 0.05


@pytest.mark.parametrize("kind", ["kd", "dkd", "dist"])
def test_a_student_learns_what_the_twins_student_learns(
    tmp_path: Path, trained: dict[str, Artifact], kind: str
) -> None:
    found = {}
    for ending in ("logits", "softmax"):
        student = load(tmp_path / f"{ending}-student", FOUR, f"{NAME}:ended", ending=ending)
        parents = {"input": student, "teacher": trained[ending]}
        found[ending] = make(
            tmp_path / f"{ending}-distill",
            FOUR,
            "distill",
            parents=parents,
            teacher="teacher",
            kind=kind,
            epochs=1,
            baseline=False,
        )
        assert found[ending].manifest.scores == student.manifest.scores
    one, other = _states(found, "logits", "softmax")
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)


@pytest.mark.parametrize(
    ("student", "teacher"), [("sigmoid", "logits"), ("softmax", "sigmoid"), ("sigmoid", "sigmoid")]
)
def test_teacher_and_student_may_give_different_scores(
    tmp_path: Path, trained: dict[str, Artifact], student: str, teacher: str
) -> None:
    young = load(tmp_path / "student", FOUR, f"{NAME}:ended", ending=student)
    parents = {"input": young, "teacher": trained[teacher]}
    taught = make(
        tmp_path / "distill",
        FOUR,
        "distill",
        parents=parents,
        teacher="teacher",
        alpha=1.0,
        epochs=10,
        learning_rate=0.02,
        baseline=False,
    )
    x = torch.from_numpy(FOUR.tensors("report")["x"])
    wanted, found = (load_model(artifact)(x).argmax(1) for artifact in (trained[teacher], taught))
    assert float((wanted == found).float().mean()) > 0.85


@pytest.mark.parametrize(("ending", "kind"), [("logits", "logits"), *_GIVEN])
def test_scores_are_those_of_the_model_with_no_second_softmax(
    trained: dict[str, Artifact], ending: str, kind: ScoreKind
) -> None:
    artifact, x = trained[ending], FOUR.raw("report")["x"]
    z = load_model(artifact).logits(torch.from_numpy(x))
    wanted = (z.sigmoid() if ending == "sigmoid" else z.softmax(-1)).detach().numpy()
    labels, scores = predict(artifact, {"x": x})
    assert artifact.manifest.scores == kind
    assert np.allclose(scores, wanted, atol=1e-5)
    assert labels == [artifact.manifest.labels[index] for index in wanted.argmax(1)]
    with open_runtime(artifact) as runtime:
        answer = predict_response(runtime.infer({"x": x}), artifact.manifest, model="m")
    assert np.allclose(answer["scores"], wanted, atol=1e-5)
    assert answer["labels"] == labels
    told = find_remarks((artifact,), (), runtime=None, score_name="accuracy")
    assert len(told) == (kind != "logits")


@pytest.mark.parametrize(("ending", "kind"), [("logits", "logits"), *_GIVEN])
def test_metrics_and_certainty_are_those_of_the_shares(
    trained: dict[str, Artifact], ending: str, kind: ScoreKind
) -> None:
    artifact, labels = trained[ending], FOUR.labels("report")
    z = load_model(artifact).logits(torch.from_numpy(FOUR.tensors("report")["x"])).double()
    shares = z.sigmoid() if ending == "sigmoid" else z.softmax(-1)
    normed = (shares / shares.sum(-1, keepdim=True)).detach().numpy()
    rows = np.arange(len(labels))
    task = task_of("classification", FOUR, artifact.manifest.scores)
    with open_runtime(artifact) as runtime:
        found = evaluate(runtime.infer_batch, FOUR, "report", task)
        judged = judge(runtime.infer_batch, FOUR, "report", task)
    assert found.metrics["negative_log_likelihood"] == pytest.approx(
        -np.log(normed[rows, labels]).mean(), rel=1e-4
    )
    assert found.metrics["calibration_error"] == pytest.approx(
        _calibration_error(shares.detach().numpy(), labels), abs=1e-4
    )
    assert judged.log_probabilities is not None
    assert np.allclose(np.exp(judged.log_probabilities), normed, atol=1e-5)


def _calibration_error(shares: np.ndarray, labels: np.ndarray) -> float:
    """Guo et al., 2017: 15 bins of the highest share."""
    sure, right = shares.max(1), shares.argmax(1) == labels
    places = np.minimum(np.ceil(sure * 15).astype(int) - 1, 14)
    return sum(
        abs(sure[places == place].mean() - right[places == place].mean()) * (places == place).mean()
        for place in np.unique(places)
    )


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("ending", ["softmax", "sigmoid"])
def test_what_is_made_of_a_model_gives_what_it_gives(
    tmp_path: Path, trained: dict[str, Artifact], ending: str, mode: str
) -> None:
    exported = make(tmp_path / "export", FOUR, "export", parents={"input": trained[ending]})
    half = make(tmp_path / "half", FOUR, "export", parents={"input": exported}, precision="float16")
    small = make(tmp_path / "quantize", FOUR, "quantize", parents={"input": exported}, mode=mode)
    x = FOUR.raw("report")["x"]
    wanted = predict(trained[ending], {"x": x})[1]
    for artifact in (exported, half, small):
        assert artifact.manifest.scores == trained[ending].manifest.scores
        assert np.abs(predict(artifact, {"x": x})[1] - wanted).max() < 0.15


def _graph(ending: str, num_outputs: int) -> onnx.ModelProto:
    generator = np.random.default_rng(3)
    weight = onnx.numpy_helper.from_array(generator.normal(size=(16, num_outputs)).astype(np.float32), "w")
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["z"])]
    nodes += {
        "Softmax": [onnx.helper.make_node("Softmax", ["z"], ["y"], axis=-1)],
        "LogSoftmax": [onnx.helper.make_node("LogSoftmax", ["z"], ["y"], axis=-1)],
        "Sigmoid": [onnx.helper.make_node("Sigmoid", ["z"], ["y"])],
        "by hand": [
            onnx.helper.make_node("Exp", ["z"], ["e"]),
            onnx.helper.make_node("ReduceSum", ["e"], ["s"], keepdims=1, noop_with_empty_axes=0),
            onnx.helper.make_node("Div", ["e", "s"], ["y"]),
        ],
        "none": [onnx.helper.make_node("Identity", ["z"], ["y"])],
    }[ending]
    constants = [weight]
    if ending == "by hand":
        nodes[2].input.append("axes")
        constants.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "axes"))
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size])
        for name, size in (("x", 16), ("y", num_outputs))
    ]
    graph = onnx.helper.make_graph(nodes, "g", tensors[:1], tensors[1:], constants)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize(
    ("ending", "num_outputs", "kind"),
    [
        ("Softmax", 4, "probabilities"),
        ("by hand", 4, "probabilities"),
        ("LogSoftmax", 4, "log_probabilities"),
        ("Sigmoid", 4, "sigmoids"),
        ("Sigmoid", 1, "sigmoids"),
        ("none", 4, "logits"),
    ],
)
def test_a_foreign_file_is_asked_as_well(tmp_path: Path, ending: str, num_outputs: int, kind: str) -> None:
    path, data = tmp_path / "foreign.onnx", FOUR if num_outputs == 4 else TWO
    model = _graph(ending, num_outputs)
    onnx.save(model, path)
    config = LoadConfig(name="load")
    from lissom.export.loading import load as load_stage

    artifact = load_stage(
        {}, config, context(tmp_path / "load", data, config, model=ModelConfig(source=str(path)))
    )
    assert artifact.manifest.scores == kind
    x = data.raw("report")["x"]
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    z = x @ weight
    if num_outputs == 1:
        second = 1 / (1 + np.exp(-z))
        wanted = np.concatenate([1 - second, second], axis=1)
    elif ending == "Sigmoid":
        wanted = 1 / (1 + np.exp(-z))
    else:
        wanted = np.exp(z - z.max(1, keepdims=True))
        wanted /= wanted.sum(1, keepdims=True)
    labels, scores = predict(artifact, {"x": x})
    assert np.allclose(scores, wanted, atol=1e-5)
    assert labels == [artifact.manifest.labels[index] for index in wanted.argmax(1)]


@pytest.mark.parametrize("squeezed", [False, True])
@pytest.mark.parametrize("ending", ["logits", "sigmoid"])
def test_two_classes_may_be_told_apart_by_one_number(tmp_path: Path, ending: str, squeezed: bool) -> None:
    kwargs = {"ending": ending, "num_outputs": 1, "squeezed": squeezed}
    model = ModelConfig(source=f"{NAME}:ended", kwargs=kwargs)
    artifact = make(tmp_path / "train", TWO, "train", model=model, epochs=6, learning_rate=0.02)
    x = TWO.raw("report")["x"]
    share = load_model(artifact).logits(torch.from_numpy(x)).sigmoid().detach().numpy()[:, 0]
    labels, scores = predict(artifact, {"x": x})
    assert np.allclose(scores, np.stack([1 - share, share], 1), atol=1e-5)
    assert labels == ["b" if one > 0.5 else "a" for one in share]
    right = np.mean([label == "ab"[index] for label, index in zip(labels, TWO.labels("report"), strict=True)])
    assert right > 0.9
