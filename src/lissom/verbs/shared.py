"""What several verbs need: an artifact that is opened, and data as a model takes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lissom.artifact import Artifact, Manifest, TensorSpec
from lissom.errors import DataError
from lissom.report.wording import shortened

if TYPE_CHECKING:
    from lissom.models.data import Data

Model = str | Path | Artifact | Callable[..., Any]


def load_data(
    source: str | Path, declared: Sequence[TensorSpec] = (), optional: Collection[str] = ()
) -> Data:
    """DATA with its four splits; of a model that declares its inputs, as it takes them.

    Args:
        source: DATA.
        declared: Inputs of the model.
        optional: Inputs that need no array: recurrent states, which start as zeros.

    Raises:
        DataError: nothing is there, or it does not hold together.
    """
    from lissom.models.data_sources import load_data as load

    return load(str(source), declared, optional)


def open_artifact(
    artifact: str | Path | Artifact, *, data: str | Path | None = None, name: str | None = None
) -> Artifact:
    """An artifact as it is, the one in a folder, or the one that is made of a `.onnx` file.

    Raises:
        LissomError: nothing is there, it is damaged, or a file does not fit the data.
    """
    from lissom.verbs.files import open_model

    return open_model(artifact, data=data, name=name)


def data_for(manifest: Manifest, source: str | Path | None) -> Data:
    """DATA, or what a model was made with, as the model takes them."""
    from lissom.export.missing_values import accept_recorded
    from lissom.models.evaluation import fitted
    from lissom.models.tasks import fitting
    from lissom.runtime.layout import states_of

    signature = manifest.signature
    loaded = load_data(source or manifest.data, signature.inputs, states_of(signature))
    samples = fitting(loaded, manifest.task)
    return accept_recorded(fitted(samples, manifest.signature, manifest.preprocessing), manifest)


def with_classes(samples: Data, names: Sequence[str]) -> Data:
    """The data with the classes of a model, which are told apart by name; a model may have none.

    Raises:
        DataError: the model does not know one of theirs.
    """
    import numpy as np

    theirs, labels = samples.dataset.label_names, samples.dataset.labels
    if labels is None or samples.kind != "classes" or not names or theirs == tuple(names):
        return samples
    if not {*theirs} <= {*names}:
        raise DataError(
            f"{samples.source} has the classes {shortened(', '.join(theirs), 300)}; "
            f"the model knows {shortened(', '.join(names), 300)}",
            hint="classes are told apart by name: name them as the model does",
        )
    places = [names.index(name) for name in theirs]
    dataset = replace(samples.dataset, labels=np.asarray(places)[labels], label_names=tuple(names))
    return replace(samples, dataset=dataset)
