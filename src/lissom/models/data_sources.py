"""Where data come from: built-in names, files, folders and factories, with options behind a question mark."""

from __future__ import annotations

import inspect
import urllib.parse
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lissom.artifact import TensorSpec
from lissom.errors import DataError, ModelError, near
from lissom.models.data import Data
from lissom.models.dataset import Dataset, checked
from lissom.models.formats import dataset_from_npz, reader_of, reserved_names
from lissom.registry import DATASETS, resolve


def load_data(source: str, declared: Sequence[TensorSpec] = (), optional: Collection[str] = ()) -> Data:
    """Load data by built-in name, file, folder, or `package.module:factory` that gives a `Dataset`.

    Options of the loader follow a question mark, as in `photos/?image_size=64` or
    `table.csv?label=species&...`; their values are YAML. Which files and folders are known is said in
    `lissom.models.formats`.

    Args:
        source: DATA.
        declared: What a model declares of its inputs, where that is known before the data are read. An array
            of an .npz that has the name of an input is that input, though it be called y; the data are then
            `taken_by` it, and are not held against the habits of models in general.
        optional: Inputs that need no array.

    Raises:
        DataError: nothing is there, it does not hold together, an option is unknown, or the arrays are not
            the inputs of the model.
    """
    place, options = _parsed(source)
    reader = None if place in DATASETS else reader_of(place)
    if reader is dataset_from_npz and declared:
        options = reserved_names(Path(place), options, [spec.name for spec in declared]) | options
    if reader is not None:
        dataset = _called(reader, options, source, Path(place))
    else:
        dataset = _made(place, options, source)
    data = Data(source, checked(dataset, source, declared=bool(declared)))
    return data.taken_by(declared, optional) if declared else data


def _made(place: str, options: Mapping[str, Any], source: str) -> Dataset:
    """What a built-in data set or a factory of the user gives."""
    try:
        factory = resolve(place, known=DATASETS)
    except ModelError as exc:
        raise DataError(str(exc).replace("unknown name", "unknown data"), hint=exc.hint) from exc
    dataset = _called(factory, options, source)
    if not isinstance(dataset, Dataset):
        raise DataError(f"{source} gave a {type(dataset).__name__}, not a lissom.Dataset")
    return dataset


def _parsed(source: str) -> tuple[str, dict[str, Any]]:
    """The place, and the options after its question mark."""
    place, _, query = source.partition("?")
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, equals, text = part.partition("=")
        try:
            value = yaml.safe_load(urllib.parse.unquote(text))
        except yaml.YAMLError as exc:
            raise DataError(f"{source}: the option {key} is no YAML: {text!r}") from exc
        if not equals or not key or key in options:
            raise DataError(
                f"{source}: {part!r} is not an option, or one that is given twice",
                hint="options are written source?key=value&key=value",
            )
        options[key] = value
    return place, options


def _called(factory: Callable[..., Any], options: Mapping[str, Any], source: str, *place: Path) -> Any:
    """What the loader gives for these options, once they are known to be its own."""
    try:
        signature = inspect.signature(factory)
    except ValueError:  # a builtin has none
        return factory(*place, **options)
    parameters = list(signature.parameters.values())[len(place) :]
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters):
        for key in [key for key in options if key not in known]:
            offer = near(key, known) if known else "these data have none"
            raise DataError(
                f"{source}: unknown option {key!r}; {offer}",
                hint=f"options: {', '.join(known)}" if known else f"write {source.partition('?')[0]}",
            )
    try:
        signature.bind(*place, **options)
    except TypeError as exc:
        raise DataError(f"{source}: {exc}", hint="options are written source?key=value&key=value") from exc
    return factory(*place, **options)
