"""Verbs that look at what was made, ask it, and serve it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from lissom.artifact import Artifact
from lissom.errors import RaggedAnswers, RequestError
from lissom.logs import NoProgress, Progress, log
from lissom.options import ServeOptions
from lissom.verbs.shared import open_artifact

if TYPE_CHECKING:
    import numpy as np

    from lissom.models.catalogue import Entry
    from lissom.report.schema import Report
    from lissom.runtime.base import Layer
    from lissom.runtime.doctor import Examined


def predict(
    artifact: str | Path | Artifact,
    inputs: Mapping[str, np.ndarray],
    *,
    runtime: str | None = None,
    allow_nonfinite: bool = False,
) -> tuple[list[str], np.ndarray]:
    """Label and scores of raw samples.

    Args:
        artifact: An artifact.
        inputs: Raw arrays of shape [samples, ...] by input name; the artifact's preprocessing is applied.
        runtime: Runtime; default: the first that works and reproduces the stored probe.
        allow_nonfinite: Take NaN and infinity in every input; default: in those whose calibration samples
            hold them.

    Returns:
        The label of each sample, and the scores of shape [samples, classes]; where the model does not
        classify each sample, no labels, and its first output: an array of objects, one a sample, where
        answers differ in shape.

    Raises:
        AnswerError: a class of a sample has no finite score, so that its label would be a guess.
        ArtifactError: the engine gives other answers than those that were stored.
        LissomError: the artifact is damaged, or the inputs do not fit or are not finite.
    """
    import numpy as np

    from lissom.models.evaluation import predict as predict_batches
    from lissom.models.matching import match_inputs
    from lissom.runtime.conversion import roundings
    from lissom.runtime.finiteness import check_scores, checked_inputs
    from lissom.runtime.input_check import InputCheck
    from lissom.runtime.layout import Layout, given_inputs
    from lissom.runtime.preprocess import prepare_inputs
    from lissom.runtime.probe import open_checked
    from lissom.runtime.scores import class_columns, class_names, class_scores, classifies

    opened, arrays = open_artifact(artifact), _arrays_of(inputs)
    manifest = opened.manifest
    pairs = match_inputs(
        {spec.name: spec.shape[1:] for spec in given_inputs(manifest.signature, inputs)},
        {name: array.shape[1:] for name, array in arrays.items()},
        source="predict",
    )
    inputs = Layout(manifest.signature).whole_samples(
        {wanted: arrays[found] for wanted, found in pairs.items()}
    )
    checked = checked_inputs(manifest, allow_nonfinite=allow_nonfinite)
    tensors = prepare_inputs(inputs, manifest, checked, samples_first=True)
    dtypes = {spec.name: spec.dtype for spec in manifest.signature.inputs}
    for text in (*roundings(inputs, dtypes), *InputCheck(opened).warnings(inputs, samples_first=True)):
        log.warning("%s", text)
    with open_checked(opened, runtime) as session:
        try:
            outputs = predict_batches(session.infer_batch, tensors)
        except RaggedAnswers:
            outputs = _answer_alone(session.infer_batch, tensors)
    if not classifies(manifest) or outputs.dtype == object:
        return [], outputs
    with np.errstate(invalid="ignore"):
        scores = class_scores(outputs, manifest.scores)
    check_scores(scores, manifest.signature.outputs[0].name)
    columns = class_columns(outputs, manifest.scores)
    names = class_names(manifest.labels, columns.shape[-1])
    return [names[index] for index in columns.argmax(axis=-1)], scores


def _arrays_of(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """What a caller gave, as arrays of numbers.

    Raises:
        RequestError: one is no such array, or has no samples.
    """
    import numpy as np

    found = {}
    for name, values in inputs.items():
        try:
            array = np.asarray(values)
        except ValueError as exc:  # lists of different lengths
            raise RequestError(f"input {name!r} is no array: {exc}") from exc
        if array.dtype.kind not in "fiub":
            raise RequestError(f"input {name!r} holds {array.dtype}, not numbers")
        if array.shape[:1] == (0,):
            raise RequestError(f"input {name!r} has no samples: its shape is {list(array.shape)}")
        found[name] = array
    return found


def _answer_alone(
    call: Callable[..., Mapping[str, np.ndarray]], tensors: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The first output of each sample alone, in one array where that holds them, else as objects.

    An answer with one find, whose axis of finds looks like that of the samples, gets that axis back.
    """
    import numpy as np

    parts = []
    for place in range(len(next(iter(tensors.values())))):
        answer = call({name: array[place : place + 1] for name, array in tensors.items()})
        parts.append(next(iter(answer.values()))[0])
    rank = max(part.ndim for part in parts)
    parts = [part if part.ndim == rank else part[np.newaxis] for part in parts]
    if len({part.shape for part in parts}) == 1:
        return np.stack(parts)
    found = np.empty(len(parts), dtype=object)
    for place, part in enumerate(parts):
        found[place] = part
    return found


def inspect(artifact: str | Path) -> Artifact:
    """An artifact after every file was compared with its hash; its `manifest` holds what is known about it.

    Raises:
        ArtifactError: nothing is there, or it is damaged.
    """
    return open_artifact(artifact)


def layers(
    artifact: str | Path | Artifact, *, runtime: str | None = None, device: str | None = None
) -> list[Layer] | None:
    """Every operator of an artifact as a runtime executes it; None when the engine cannot tell.

    Args:
        artifact: An artifact.
        runtime: Where it is opened; default: the first that works.
        device: cpu or cuda; default: the usual one of the runtime.

    Raises:
        LissomError: the artifact is damaged, or the runtime does not open it.
    """
    from lissom.runtime.base import open_runtime

    with open_runtime(open_artifact(artifact), runtime, device=device) as engine:
        return engine.layers()


def report(folder: str | Path, *, out: str | Path | None = None, progress: Progress | None = None) -> Report:
    """Draw the pages of a run again from its report.json, and give that report.

    Args:
        folder: Folder of a run, or its report.json.
        out: Where the pages go; default: beside the report. It is made when it is not there.
        progress: Shows how far the drawing is.

    Raises:
        RequestError: no report is there, or it is damaged.
    """
    from lissom.report.files import draw_pages, read_report

    place = Path(folder)
    found = read_report(place)
    target = Path(out) if out is not None else place if place.is_dir() else place.parent
    target.mkdir(parents=True, exist_ok=True)
    draw_pages(found, target, progress=progress or NoProgress())
    return found


def history(
    folders: Sequence[str | Path], out: str | Path, *, progress: Progress | None = None
) -> list[Report]:
    """Draw several runs on one page, with how they moved, and their arms in one CSV; the oldest first.

    Args:
        folders: Folders of runs, or their report.json.
        out: Folder of the page; it is made when it is not there.
        progress: Shows how far the drawing is.

    Raises:
        RequestError: a report is not there or damaged, or none is named.
    """
    from lissom.artifact import write_atomic
    from lissom.report.exports import csv_of
    from lissom.report.files import read_report
    from lissom.report.history import CSV_FILE, HTML_FILE, Entry, history_page, in_order

    if not folders:
        raise RequestError("no run is named", hint="lissom report runs/digits runs/other")
    with (progress or NoProgress()).task("read reports", len(folders) + 1) as advance:
        entries = []
        for place in folders:
            entries.append(Entry(Path(place), read_report(Path(place))))
            advance(1)
        ordered = in_order(entries)
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / HTML_FILE, history_page(ordered, folder).encode())
        write_atomic(folder / CSV_FILE, csv_of([entry.report for entry in ordered]).encode())
        advance(1)
    return [entry.report for entry in ordered]


def serve(
    artifacts: Sequence[str | Path | Artifact],
    *,
    on_ready: Callable[[str], None] | None = None,
    on_log: Callable[[str], None] | None = None,
    **options: Unpack[ServeOptions],
) -> int:
    """Serve artifacts over HTTP until a signal ends it; gives the exit code.

    Args:
        artifacts: Artifacts or `.onnx` files, or NAME=PATH; without `names` they have those of their recipes.
        on_ready: Called once with the URL, when every model is warm.
        on_log: Called, from a thread, with every line that the server writes.
        options: How the models are served, where, and to whom.

    Raises:
        LissomError: an artifact, the runtime, the host, the port or a file cannot be used, or the server
            ended.
    """
    from lissom.serve.launch import serve as serve_folders
    from lissom.verbs.files import servable

    data, names = options.pop("data", None), options.get("names")
    sources = servable(artifacts, data=data, names=names)
    return serve_folders(sources, on_ready=on_ready, on_log=on_log, **options)


def doctor(*, progress: Progress | None = None) -> list[Examined]:
    """Every runtime: whether it works here, proved by running a tiny model, and what to install if not."""
    from lissom.runtime.doctor import examine

    return examine(progress=progress)


def models() -> list[Entry]:
    """Every built-in model: its size and work, its arguments, and the size of its paper."""
    from lissom.models.catalogue import catalogue

    return catalogue()
