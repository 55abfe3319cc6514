"""A `.onnx` file in the place of an artifact: every verb that takes an artifact takes one directly.

The file is loaded into the folder `runs/NAME`, as the stage `load` of a recipe would do it, and stays there:
the same file with the same data is not loaded again. NAME is that of the file unless another is given. Where
nobody gave data, inputs are made by the signature of the file and kept beside the artifact.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lissom.artifact import MADE_PREFIX, MANIFEST_NAME, Artifact, content_id
from lissom.errors import RequestError
from lissom.logs import NoProgress, Progress, log
from lissom.pipeline import check_machine, load_data, locked, make_artifacts, model_identity
from lissom.recipe import ModelConfig, Recipe
from lissom.registry import check_references

if TYPE_CHECKING:
    from lissom.export.made_inputs import MadeInputs

_MAX_NAME = 64
_NUM_SAMPLES = 64
_FEWEST = 8
_MAX_BYTES = 64_000_000
"""Of made inputs on disk; fewer samples are made of larger ones."""


def is_onnx_file(source: object) -> bool:
    """True for a path of an ONNX file, whether it is there or not."""
    return (
        isinstance(source, str | Path) and Path(source).suffix == ".onnx" and not _is_artifact(Path(source))
    )


def _is_artifact(path: Path) -> bool:
    return (path / MANIFEST_NAME).is_file()


def name_of_file(path: str | Path) -> str:
    """The name of a file as that of a recipe, which has letters, digits, - and _ only.

    >>> name_of_file("models/PP-OCRv4.det (1).onnx")
    'PP-OCRv4-det-1'
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).stem).strip("-_")
    return name[:_MAX_NAME] or "model"


def open_model(
    source: str | Path | Artifact,
    *,
    data: str | Path | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """An artifact as it is, the one in a folder, or the one that is made of a `.onnx` file.

    Args:
        source: Artifact, its folder, or a file.
        data: DATA with which a file is loaded; default: made inputs.
        name: Of the artifact of a file; default: that of the file.
        out: Folder in which a file is loaded; default: `runs/NAME`.
        progress: Shows how far it is.

    Raises:
        LissomError: nothing is there, it is damaged, or the data are not the inputs of the model.
    """
    if isinstance(source, Artifact):
        return source
    if not is_onnx_file(source):
        return Artifact.open(source)
    recipe = _recipe(Path(source), name, data)
    check_references(recipe)
    folder = Path(out) if out is not None else Path("runs") / recipe.name
    told = progress or NoProgress()
    with locked(folder):
        check_machine(recipe)
        if data is None:
            with told.task("make inputs", 1) as advance:
                recipe = _recipe(Path(source), name, make_data(Path(source), folder))
                advance(1)
        (artifact,), _ = make_artifacts(recipe, load_data(recipe), folder, progress=told)
    return artifact


def open_models(
    sources: Sequence[str | Path | Artifact],
    *,
    data: str | Path | None = None,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[Artifact]:
    """As `open_model`, for several; files without data are loaded with those of the first artifact.

    Raises:
        RequestError: there are more names than models.
        LissomError: as for `open_model`.
    """
    if names and len(names) != len(sources):
        raise RequestError(
            f"{len(names)} names were given for {len(sources)} models", hint="--name once for each, in order"
        )
    given: list[str | None] = [*names] if names else [None] * len(sources)
    opened = {place: open_model(one) for place, one in enumerate(sources) if not is_onnx_file(one)}
    if data is None and opened:
        data = next(iter(opened.values())).manifest.data
    return [
        opened[place] if place in opened else open_model(one, data=data, name=name, progress=progress)
        for place, (one, name) in enumerate(zip(sources, given, strict=True))
    ]


def servable(
    words: Sequence[str | Path | Artifact],
    *,
    data: str | Path | None = None,
    names: Sequence[str] | None = None,
) -> list[str | Path]:
    """Folders of artifacts, or NAME=PATH, with artifacts in the place of `.onnx` files.

    Args:
        words: Artifacts, their folders, files, or NAME=PATH of either.
        data: DATA with which files are loaded; default: made inputs.
        names: Of the models in their order, where `words` do not say them.

    Raises:
        LissomError: as for `open_model`.
    """
    from lissom.serve.naming import source_of

    found: list[str | Path] = []
    for place, word in enumerate(words):
        if isinstance(word, Artifact):
            found.append(word.path)
            continue
        source = source_of(word)
        if not is_onnx_file(source.path):
            found.append(word)
            continue
        name = source.name or (names[place] if names and len(names) == len(words) else None)
        path = open_model(_short(source.path), data=data, name=name and name_of_file(name)).path
        found.append(path if source.name is None else f"{source.name}={path}")
    return found


def _short(path: Path) -> Path:
    """A path as it is typed where it lies below the working directory."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _recipe(path: Path, name: str | None, data: str | Path | None) -> Recipe:
    called = name or name_of_file(path)
    document: dict[str, Any] = {
        "name": called,
        **({"data": {"source": str(data)}} if data is not None else {}),
        "model": {"source": str(path)},
        "stages": [{"stage": "load", "name": called}],
    }
    return Recipe.from_document(document, (), where=str(path))


def make_data(path: Path, folder: Path) -> Path:
    """Write an .npz of made inputs for a file into a folder; the same for the same file.

    Raises:
        LissomError: no such file is there, or none of the inputs that were tried runs the model.
    """
    from lissom.export.external_data import load_onnx
    from lissom.export.made_inputs import make_inputs
    from lissom.export.normalisation import check_tensors, input_specs, repeats_names, separate_names
    from lissom.export.onnx_file import caller, open_session
    from lissom.runtime.isolation import prove_file

    identity = content_id(model_identity(ModelConfig(source=str(path))))
    made_file = folder / f"{MADE_PREFIX}{identity[:16]}.npz"
    if made_file.is_file():
        return made_file
    prove_file(path)
    model = load_onnx(path)
    check_tensors(model)
    content: Path | bytes = path
    if repeats_names(model):  # which no engine would open
        content = separate_names(model).model.SerializeToString()
    names = [value.name for value in model.graph.output]
    made = make_inputs(model, input_specs(model), caller(open_session(content, is_trial=True), names))
    _write(made_file, made.samples(_count(made)))
    log.warning("%s: %s", path, _described(made))
    return made_file


def _count(made: MadeInputs) -> int:
    size = sum(array.nbytes for array in made.feed(0).values())
    return max(_FEWEST, min(_NUM_SAMPLES, _MAX_BYTES // max(size, 1)))


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    temporary = path.with_name(f".writing-{path.name}")
    with zipfile.ZipFile(temporary, "w") as file:  # numpy.savez takes no array called file
        for name, array in arrays.items():
            with file.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
    temporary.replace(path)


def _described(made: MadeInputs) -> str:
    """What was made, for the log."""
    told = "no data were given: inputs are noise, made by its signature, and only times mean something"
    if any(np.dtype(spec.dtype).kind in "iu" for spec in made.specs):
        below = ", ".join(f"{name} below {bound}" for name, bound in made.bounds.items())
        kind = {"bits": "0 and 1", "zeros": "0", "ones": "1", "size": str(made.size)}[made.integers]
        told += f"; integers are {kind}{', ' if below else ''}{below}"
    if made.has_open_axes:
        told += f"; open axes have the size {made.size}"
    return told
