"""What lissom knows by name: stages, runtimes, models, data sets. Strings only, so nothing heavy is imported.

Third parties add stages through entry points: `lissom.stage_configs` offers the config type, and
`lissom.stages` names the function that carries it out, under `module:qualname` of that type.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from lissom.artifact import MANIFEST_NAME, sha256_file
from lissom.causes import told
from lissom.errors import DataError, ModelError, RequestError, near, near_files
from lissom.recipe import (
    DistillConfig,
    ExportConfig,
    LoadConfig,
    ModelConfig,
    PruneConfig,
    QuantizeConfig,
    Recipe,
    StageConfig,
    TrainConfig,
)


class RuntimeEntry(NamedTuple):
    """Where a runtime lives and what it needs."""

    reference: str
    formats: tuple[str, ...]
    module: str
    distribution: str
    extra: str


_IMPORTED: dict[Path, str] = {}
"""Hashes of the files beside a factory's file when they were imported."""
_LAST: list[str] = []
"""Folders of factories' files at the end of the path, the latest first."""
STAGES: dict[type[StageConfig], str] = {
    LoadConfig: "lissom.export.loading:load",
    TrainConfig: "lissom.models.training:train",
    PruneConfig: "lissom.compress.pruning:prune",
    DistillConfig: "lissom.compress.distillation:distill",
    ExportConfig: "lissom.export.exporting:export",
    QuantizeConfig: "lissom.compress.quantization:quantize",
}

# In the order that decides between runtimes that are equally fast.
RUNTIMES: dict[str, RuntimeEntry] = {
    "openvino": RuntimeEntry(
        "lissom.runtime.open_vino:OpenVino", ("openvino", "onnx"), "openvino", "openvino", "cpu"
    ),
    "onnxruntime": RuntimeEntry(
        "lissom.runtime.onnx_runtime:OnnxRuntime", ("onnx",), "onnxruntime", "onnxruntime", "cpu"
    ),
    "tensorrt": RuntimeEntry(
        "lissom.runtime.tensor_rt:TensorRt", ("tensorrt",), "tensorrt", "tensorrt", "gpu"
    ),
    "torch_tensorrt": RuntimeEntry(
        "lissom.runtime.pytorch:TorchTensorRt", ("torch",), "torch_tensorrt", "torch-tensorrt", "gpu"
    ),
    "aotinductor": RuntimeEntry(
        "lissom.runtime.aot_inductor:AotInductor", ("aotinductor",), "torch", "torch", "cpu"
    ),
    "inductor": RuntimeEntry("lissom.runtime.pytorch:Inductor", ("torch",), "torch", "torch", "cpu"),
    "torch": RuntimeEntry("lissom.runtime.pytorch:TorchEager", ("torch",), "torch", "torch", "cpu"),
}

COMPILING = ("inductor", "torch_tensorrt")
"""Runtimes that compile for many seconds when they are opened."""

MODELS: dict[str, str] = {
    "resnet": "lissom.models.cnn:resnet",
    "resnet20": "lissom.models.cnn:resnet20",
    "resnet32": "lissom.models.cnn:resnet32",
    "resnet56": "lissom.models.cnn:resnet56",
    "resnet18": "lissom.models.cnn:resnet18",
    "resnet34": "lissom.models.cnn:resnet34",
    "resnet50": "lissom.models.cnn:resnet50",
    "vgg": "lissom.models.vgg:vgg",
    "mlp": "lissom.models.mlp:mlp",
    "rnn": "lissom.models.rnn:rnn",
    "lstm": "lissom.models.rnn:lstm",
    "gru": "lissom.models.rnn:gru",
    "vit": "lissom.models.vit:vit",
    "bert": "lissom.models.bert:bert",
    "bert_mlm": "lissom.models.bert:bert_mlm",
    "gpt": "lissom.models.gpt:gpt",
}

DATASETS: dict[str, str] = {
    "digits": "lissom.models.embedded:digits",
    "glyphs": "lissom.models.embedded:glyphs",
    "topics": "lissom.models.embedded:topics",
    "topics-text": "lissom.models.embedded:topics_text",
    "topics-masked": "lissom.models.embedded:topics_masked",
}

DATA_SUFFIXES = (".npz", ".csv", ".parquet")
"""Of the files that hold data."""

TASKS: dict[str, str] = {
    "classification": "lissom.models.tasks:Classification",
    "regression": "lissom.models.tasks:Regression",
    "language-modelling": "lissom.models.tasks:LanguageModelling",
}


def stage_function(config: StageConfig) -> Callable[..., Any]:
    """The function that carries out a stage."""
    plugins = {entry.name: entry.value for entry in entry_points(group="lissom.stages")}
    kind = type(config)
    reference = STAGES.get(kind) or plugins.get(f"{kind.__module__}:{kind.__qualname__}")
    if reference is None:
        raise RequestError(f"no function is registered for the stage {config.stage!r} ({kind.__qualname__})")
    return resolve(reference, known={})


def runtime_entry(name: str) -> RuntimeEntry:
    """The entry of a runtime.

    Raises:
        RequestError: no runtime has this name.
    """
    if name not in RUNTIMES:
        raise RequestError(f"unknown runtime {name!r}", hint=near(name, RUNTIMES))
    return RUNTIMES[name]


def runtimes_for(model_format: str) -> list[str]:
    """Names of the runtimes that execute a format, in the order that decides between equals."""
    return [name for name, entry in RUNTIMES.items() if model_format in entry.formats]


def check_references(recipe: Recipe) -> None:
    """Refuse a recipe that names a model, data, file or runtime that is not there; nothing is imported.

    Raises:
        RequestError: naming the first, with what lies near it.
    """
    for name in recipe.benchmark.runtimes or ():
        runtime_entry(name)
    for stage in recipe.stages:
        if isinstance(stage, PruneConfig) and stage.runtime is not None:
            runtime_entry(stage.runtime)
        if not stage.sources:
            _check_model(recipe.model_of(stage))
    _check_data(recipe.data.source)


def _check_model(model: ModelConfig) -> None:
    if model.source.endswith(".onnx"):
        if not Path(model.source).is_file():
            raise ModelError(f"no model at {model.source}", hint=near_files(model.source))
    elif not (Path(model.source) / MANIFEST_NAME).is_file():
        _check_factory(model.source, MODELS)
    if model.weights is not None and not Path(model.weights).is_file():
        raise ModelError(f"no weights at {model.weights}", hint=near_files(model.weights))
    if model.task is not None:
        _check_factory(model.task, TASKS)


def _check_data(source: str) -> None:
    place = source.partition("?")[0]
    if place in DATASETS or Path(place).exists():
        return
    if Path(place).suffix.lower() in DATA_SUFFIXES or ("/" in place and ":" not in place):
        raise DataError(f"no data at {place}", hint=near_files(place))
    try:
        _check_factory(place, DATASETS)
    except ModelError as exc:
        raise DataError(str(exc).replace("unknown name", "unknown data"), hint=exc.hint) from exc


def _check_factory(reference: str, known: dict[str, str]) -> None:
    """Refuse a name that is not known, or a factory in a file that is not there; no module is looked up."""
    place, _ = _place(reference, known)
    if place.endswith(".py") and not Path(place).is_file():
        raise ModelError(f"no file {place} (asked for by {reference!r})", hint=near_files(place))


def resolve(reference: str, *, known: dict[str, str], folder: str | Path = "") -> Callable[..., Any]:
    """Import what `reference` names: a key of `known`, `package.module:function`, or `path/file.py:function`.

    Args:
        reference: The name.
        known: References by short names.
        folder: Where a relative file or a module lies; default: the working directory.

    Raises:
        ModelError: nothing is there; the message offers near names.
    """
    place, attribute = _place(reference, known)
    if place.endswith(".py"):
        module = _module_from_file(Path(folder) / place, folder)
    else:
        module = _module(place, reference, folder)
    try:
        found: Callable[..., Any] = getattr(module, attribute)
    except AttributeError as exc:
        names = [name for name in vars(module) if not name.startswith("_")]
        raise ModelError(f"{place} has no {attribute!r}", hint=near(attribute, names)) from exc
    if not callable(found):
        raise ModelError(f"{reference} is a {type(found).__name__}, not a function", hint=_forms())
    return found


def lies_in(folder: Path, reference: str, *, known: dict[str, str]) -> bool:
    """True when a relative file, or the package of a module, that `reference` names lies in a folder."""
    place = _place(reference, known)[0]
    if place.endswith(".py"):
        return (folder / place).is_file()
    package = folder / place.partition(".")[0]
    return package.is_dir() or package.with_name(f"{package.name}.py").is_file()


def source_sha256(reference: str, *, known: dict[str, str], folder: str | Path = "") -> str:
    """Hash of the files that define what `reference` names, without importing them; see `source_files`.

    Where there is one file alone, it is the sha256 of that file.
    """
    first, *others = source_files(reference, known=known, folder=folder)
    if not others:
        return sha256_file(first)
    lines = (f"{os.path.relpath(path, first.parent)} {sha256_file(path)}" for path in (first, *others))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def source_files(reference: str, *, known: dict[str, str], folder: str | Path = "") -> list[Path]:
    """The file that defines what `reference` names, and those that it imports, and those that they import.

    Of what is imported those modules count that lie beside the factory's file or its top-level package, or
    in the working directory; of lissom itself only `lissom.models`, and of an installed package none, whose
    version says what it is. Imports are read, not run: one by a computed name is not seen.
    """
    place = _place(reference, known)[0]
    first = _source_file(place, reference, folder)
    depth = 0 if place.endswith(".py") else place.count(".") + (first.name == "__init__.py")
    return _own_sources(first, folder, depth)


def _own_sources(first: Path, folder: str | Path, depth: int = 0) -> list[Path]:
    """A file, so many folders inside its project, and those that define with it what it holds."""
    first = first.absolute()
    roots = [first.parents[depth], Path(folder).absolute()]
    found: dict[Path, None] = {}  # in the order in which they are met
    waiting = [first]
    while waiting:
        path = waiting.pop(0)
        if path not in found:
            found[path] = None
            waiting += [file for name in _imports(path) for file in _own_files(name, path, roots)]
    return list(found)


def _imports(path: Path) -> list[str]:
    """Names of the modules that a file imports, those of `from a import b` as `a` and `a.b`."""
    try:
        waiting: list[ast.AST] = [ast.parse(path.read_bytes())]
    except (SyntaxError, ValueError):  # no Python, or none that runs: the import will say so
        return []
    found: list[str] = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = [f"{base}{'' if base.endswith('.') else '.'}{alias.name}" for alias in node.names]
            found += [base, *names]
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)
    return sorted(found)


def _own_files(name: str, importer: Path, roots: Sequence[Path]) -> list[Path]:
    """The file of an imported module, when it is one of those that define the factory."""
    stem = name.lstrip(".")
    if level := len(name) - len(stem):
        roots = importer.parents[level - 1 : level]
    for root in roots:
        base = root.joinpath(*stem.split(".")) if stem else root
        files = [base / "__init__.py", *([base.with_name(f"{base.name}.py")] if stem else [])]
        if found := [path for path in files if path.is_file()]:
            return [path for path in found[:1] if _counts(path)]
    return []


def _counts(path: Path) -> bool:
    """False for what is installed, and for parts of lissom that are no models."""
    package = Path(__file__).absolute().parent
    if path.is_relative_to(package):
        return path.is_relative_to(package / "models")
    installed = (sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    return not any(path.is_relative_to(folder) for folder in installed)


def _place(reference: str, known: dict[str, str]) -> tuple[str, str]:
    """Module or file, and the name in it."""
    place, colon, attribute = known.get(reference, reference).rpartition(":")
    if colon and place and (place.endswith(".py") or not place.startswith(".")):
        return place, attribute
    if colon:
        raise ModelError(f"{reference!r} names no module", hint=_forms())
    if "/" in reference or Path(reference).exists():
        raise ModelError(f"{reference} is no artifact, .onnx file or factory", hint=_forms())
    raise ModelError(f"unknown name {reference!r}; {near(reference, known)}", hint=_forms())


def _source_file(place: str, reference: str, folder: str | Path = "") -> Path:
    if place.endswith(".py"):
        file = Path(folder) / place
        if not file.is_file():
            raise ModelError(f"no file {file} (asked for by {reference!r})", hint=near_files(file))
        return file
    _see(folder)
    try:
        spec = importlib.util.find_spec(place) if place else None
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ModelError(f"no module {place or reference!r} (asked for by {reference!r})", hint=_forms())
    return Path(spec.origin)


def _module(place: str, reference: str, folder: str | Path = "") -> Any:
    _see(folder)
    try:
        return importlib.import_module(place)
    except Exception as exc:  # the user's module may raise anything; what it says is what matters
        name = getattr(exc, "name", None)
        if isinstance(exc, ModuleNotFoundError) and name and f"{place}.".startswith(f"{name}."):
            raise ModelError(f"no module {place!r} (asked for by {reference!r})", hint=_forms()) from exc
        raise ModelError(f"{place} cannot be imported:{told(exc)}") from exc


def _module_from_file(path: Path, folder: str | Path = "") -> Any:
    """The module of a file, which may import what lies beside it, as a script may."""
    if not path.is_file():
        raise ModelError(f"no file {path}", hint=_forms())
    first, *beside = _own_sources(path, folder)
    source = first.read_bytes()
    content = hashlib.sha256(b"\0".join([source, *(file.read_bytes() for file in beside)])).hexdigest()
    name = f"lissom_user_{path.stem}_{content[:12]}"
    if name not in sys.modules:
        _forget(beside, [path.parent.absolute(), Path(folder).absolute()])
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module
        try:
            with _as_script(path.parent, Path(folder)):
                # Compiled here: a .pyc is taken for fresh when size and second of the file are the same.
                exec(compile(source, str(path), "exec"), module.__dict__)
        except Exception as exc:  # the user's file may raise anything; what it says is what matters
            del sys.modules[name]
            raise ModelError(f"{path} cannot be imported:{told(exc)}") from exc
    return sys.modules[name]


@contextmanager
def _as_script(*folders: Path) -> Iterator[None]:
    """Import from some folders before all others, and write no .pyc, which would be taken for fresh.

    Afterwards they come last, for what the user's functions import when they are called: a file of a common
    name there must not stand before what lissom and its libraries import.
    """
    places = list(dict.fromkeys(str(folder.absolute()) for folder in folders))
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path[:0] = places
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        for place in places:
            sys.path.remove(place)  # the first of its name, which may have been there before as well
        ours = [place for place in [*places, *_LAST] if place in _LAST or place not in sys.path]
        _LAST[:] = dict.fromkeys(ours)
        sys.path[:] = [place for place in sys.path if place not in _LAST] + _LAST


def _forget(files: Sequence[Path], roots: Sequence[Path]) -> None:
    """Let files be imported anew that changed, or whose name a file of another project has taken."""
    for path in files:
        digest = sha256_file(path)
        changed = _IMPORTED.setdefault(path, digest) != digest
        _IMPORTED[path] = digest
        root = next((root for root in roots if path.is_relative_to(root)), path.parent)
        place = path.relative_to(root).with_suffix("")
        parts = place.parent.parts if path.stem == "__init__" else place.parts
        names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        for name in names:
            if not (loaded := _location(name)) or not _counts(loaded):
                continue
            if (changed and name == names[-1]) or not loaded.is_relative_to(root / names[0]):
                del sys.modules[name]
                parent, _, attribute = name.rpartition(".")
                if parent in sys.modules:
                    vars(sys.modules[parent]).pop(attribute, None)
    importlib.invalidate_caches()


def _location(name: str) -> Path | None:
    """Where an imported module lies, without the ending of its file; None for one that lies nowhere."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return Path(file).absolute().with_suffix("") if file else None


def _see(folder: str | Path) -> None:
    """Let a user's project be found from the working directory, as `python -m` does, or another folder."""
    here = str(Path.cwd())
    place = str(Path(folder).absolute())
    if place not in sys.path and not (place == here and "" in sys.path):
        sys.path.insert(0, place)


def _forms() -> str:
    return "a factory is package.module:function or path/to/file.py:function; an artifact holds manifest.json"
