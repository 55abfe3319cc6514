"""What lissom knows by name can be found, and what a user names is found where the user stands."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import pytest
from pydantic import Field
from tests.unit.small import TOYS

from lissom.bench.selection import ORDER
from lissom.errors import LissomError, ModelError, RequestError
from lissom.models.dataset import Dataset
from lissom.optional import is_installed
from lissom.recipe import Recipe, RuntimeName, StageConfig, stage_types
from lissom.registry import (
    DATASETS,
    MODELS,
    RUNTIMES,
    STAGES,
    check_references,
    resolve,
    runtime_entry,
    runtimes_for,
    source_files,
    source_sha256,
    stage_function,
)
from lissom.runtime.base import Runtime


@pytest.mark.parametrize("config", STAGES, ids=lambda config: config.__name__)
def test_every_stage_has_a_function(config: type[StageConfig]) -> None:
    function = resolve(STAGES[config], known={})
    assert function.__name__ == config.model_fields["stage"].default
    assert stage_types()[function.__name__] is config
    assert stage_function(config.model_construct()) is function


def test_every_stage_that_recipes_know_is_carried_out_by_somebody() -> None:
    assert set(stage_types().values()) == set(STAGES)


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_runtime_is_a_class_of_its_name(name: str) -> None:
    entry = runtime_entry(name)
    found = resolve(entry.reference, known={})
    assert isinstance(found, type)
    assert issubclass(found, Runtime)
    assert found.name == name
    assert name in get_args(RuntimeName)
    assert set(entry.formats) <= {"torch", "onnx", "openvino", "aotinductor", "tensorrt"}
    assert entry.extra == "gpu" or is_installed(entry.module)


def test_the_order_between_equals_is_one_and_the_same() -> None:
    assert tuple(RUNTIMES) == ORDER
    assert ORDER.index("openvino") < ORDER.index("onnxruntime") < ORDER.index("aotinductor")
    assert ORDER.index("aotinductor") < ORDER.index("inductor") < ORDER.index("torch")
    assert set(RUNTIMES) == set(get_args(RuntimeName))
    assert runtimes_for("onnx") == ["openvino", "onnxruntime"]
    assert runtimes_for("torch") == ["torch_tensorrt", "inductor", "torch"]
    assert runtimes_for("jpeg") == []


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_a_documented_function_that_takes_keywords(name: str) -> None:
    function = resolve(name, known=MODELS)
    assert function.__name__ == name
    assert function.__doc__


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_a_function_that_gives_one(name: str) -> None:
    assert isinstance(resolve(name, known=DATASETS)(), Dataset)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_hashed_by_its_file_and_the_architecture_that_it_imports(name: str) -> None:
    first, *others = source_files(name, known=MODELS)
    module = sys.modules[resolve(name, known=MODELS).__module__]
    assert first == Path(str(module.__file__))
    assert "layers.py" in {path.name for path in others} <= {"attention.py", "layers.py"}
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    assert source_sha256(name, known=MODELS) != digest


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a user stands."""
    folder = tmp_path / "standing"
    folder.mkdir()
    monkeypatch.chdir(folder)
    # A module that is looked for is remembered with its folder: each test has names of its own.
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return folder


def names(reference: str) -> list[str]:
    return [path.name for path in source_files(reference, known=MODELS)]


@pytest.mark.parametrize("statement", ["import blocks", "from blocks import Block", "import blocks as b"])
@pytest.mark.parametrize("where", ["", "    "])
def test_a_module_beside_a_file_belongs_to_it(tmp_path: Path, statement: str, where: str) -> None:
    text = f"def build():\n    {statement}\n" if where else f"{statement}\ndef build(): ...\n"
    written(tmp_path, {"net.py": text, "blocks.py": "Block = 1\n", "other.py": "x = 1\n"})
    reference = f"{tmp_path / 'net.py'}:build"
    before = source_sha256(reference, known=MODELS)
    assert names(reference) == ["net.py", "blocks.py"]
    (tmp_path / "other.py").write_text("x = 2\n")
    assert source_sha256(reference, known=MODELS) == before
    (tmp_path / "blocks.py").write_text("Block = 2\n")
    assert source_sha256(reference, known=MODELS) != before


def test_the_hash_of_several_files_does_not_depend_on_where_they_lie(tmp_path: Path) -> None:
    files = {"net.py": "import deep.blocks\n", "deep/blocks.py": "x = 1\n"}
    one, other = (written(tmp_path / place, files) / "net.py" for place in ("one", "other"))
    assert source_sha256(f"{one}:f", known=MODELS) == source_sha256(f"{other}:f", known=MODELS)


def test_imports_are_followed_through_packages_cycles_and_relative_names(standing: Path) -> None:
    files = {
        "followed_package/__init__.py": "x = 1\n",
        "followed_package/net.py": "from . import blocks\nfrom .inner import thing\nfrom .. import above\n",
        "followed_package/blocks.py": "from followed_package.net import build\nimport torch, json\n",
        "followed_package/inner/__init__.py": "from .thing import *\n",
        "followed_package/inner/thing.py": "from ..last import x\n",
        "followed_package/last.py": "import beside_the_package\n",
        "followed_package/alone.py": "",
        "beside_the_package.py": "",
        "json.py": "",
    }
    written(standing, files)
    (standing / "json.py").unlink()
    found = names("followed_package.net:build")
    assert found[0] == "net.py"
    assert sorted(found) == sorted(
        ["net.py", "__init__.py", "blocks.py", "__init__.py", "thing.py", "last.py", "beside_the_package.py"]
    )


def test_what_is_installed_and_what_cannot_be_read_is_not_followed(standing: Path) -> None:
    written(standing, {"unfollowed.py": "import torch, numpy.linalg, lissom.models.data, broken_part\n"})
    written(standing, {"broken_part.py": "def (\n"})
    assert names("unfollowed:build") == ["unfollowed.py", "broken_part.py"]


def test_imports_for_types_alone_do_not_count(tmp_path: Path) -> None:
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import blocks\nelse:\n    import others\n"
    )
    written(tmp_path, {"net.py": text, "blocks.py": "", "others.py": ""})
    assert names(f"{tmp_path / 'net.py'}:build") == ["net.py", "others.py"]


def test_a_module_in_the_working_directory_belongs_to_a_file_elsewhere(
    standing: Path, tmp_path: Path
) -> None:
    written(tmp_path, {"net.py": "import stood_upon\n", "standing/stood_upon.py": ""})
    assert names(f"{tmp_path / 'net.py'}:build") == ["net.py", "stood_upon.py"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("resnett", "unknown name 'resnett'; did you mean resnet "),
        ("zzz", "unknown name 'zzz'; known: bert, .*, mlp, .*, vit"),
        ("no.such:thing", r"no module 'no\.such'"),
        ("lissom.models.none:thing", r"no module 'lissom\.models\.none'"),
        (":thing", "':thing'"),
        ("..relative:thing", "relative"),
        ("none.py:thing", r"no file none\.py"),
        ("no/such", "no/such is no artifact, .onnx file or factory"),
    ],
)
def test_a_name_that_leads_nowhere_is_a_model_error(reference: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(reference, known=MODELS)
    with pytest.raises(ModelError, match=message):
        source_sha256(reference, known=MODELS)


def test_a_function_that_is_nearly_there_is_offered() -> None:
    with pytest.raises(ModelError, match="has no 'resnit'") as caught:
        resolve("lissom.models.cnn:resnit", known=MODELS)
    assert caught.value.hint.startswith("did you mean resnet")


def test_a_runtime_that_is_nearly_there_is_offered() -> None:
    with pytest.raises(RequestError, match="unknown runtime 'onnxruntim'") as caught:
        runtime_entry("onnxruntim")
    assert caught.value.hint == "did you mean onnxruntime?"


def recipe_of(
    *,
    data: str = "digits",
    runtimes: list[str] | None = None,
    stage: dict[str, Any] | None = None,
    **model: Any,
) -> Recipe:
    return Recipe.from_document(
        {
            "name": "small",
            "data": {"source": data},
            "model": {"source": "mlp", **model},
            "stages": [stage or {"stage": "train"}],
            "benchmark": {"runtimes": runtimes},
        }
    )


@pytest.mark.parametrize(
    ("named", "message", "hint"),
    [
        ({"source": "resnett"}, "unknown name 'resnett'; did you mean resnet", "package.module:function"),
        ({"source": "my/modle.py:build"}, "no file my/modle.py", "did you mean my/model.py?"),
        ({"source": "modle.onnx"}, "no model at modle.onnx", "did you mean model.onnx?"),
        ({"source": "runs/none"}, "runs/none is no artifact, .onnx file or factory", "manifest.json"),
        ({"weights": "wieghts.pt"}, "no weights at wieghts.pt", "did you mean weights.pt?"),
        ({"task": "clasification"}, "unknown name 'clasification'; did you mean classification?", "function"),
        ({"data": "digit"}, "unknown data 'digit'; did you mean digits?", "package.module:function"),
        ({"data": "digit?x=1"}, "unknown data 'digit'; did you mean digits?", "package.module:function"),
        ({"data": "sample.npz"}, "no data at sample.npz", "did you mean samples.npz?"),
        ({"data": "photos/"}, "no data at photos/", "holds"),
        ({"data": "my/no.py:data"}, "no file my/no.py", "my/model.py"),
        (
            {"stage": {"stage": "load", "model": {"source": "mpl"}}},
            "unknown name 'mpl'; did you mean mlp?",
            "package.module:function",
        ),
    ],
)
def test_what_a_recipe_names_and_is_not_there_is_refused_before_any_work(
    standing: Path, named: dict[str, Any], message: str, hint: str
) -> None:
    (standing / "my").mkdir()
    for name in ("my/model.py", "model.onnx", "weights.pt", "samples.npz"):
        (standing / name).touch()
    with pytest.raises(RequestError) as caught:
        check_references(recipe_of(**named))
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"source": "my/model.py:build", "data": "samples.npz?x=1", "weights": "weights.pt"},
        {"source": "no.such.module:build", "data": "no.such.module:data", "task": "no.such.module:Task"},
        {"source": "model.onnx", "stage": {"stage": "load"}, "data": "my", "runtimes": ["onnxruntime"]},
    ],
)
def test_what_is_there_passes_and_no_module_is_imported(standing: Path, named: dict[str, Any]) -> None:
    (standing / "my").mkdir()
    (standing / "my" / "model.py").write_text("raise AssertionError")
    for name in ("model.onnx", "weights.pt", "samples.npz"):
        (standing / name).touch()
    recipe = recipe_of(**named)
    check_references(recipe)
    assert recipe.data.source == named.get("data", "digits")


def test_a_factory_is_found_in_a_file_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "my net.py"
    path.write_text("def build(*, size=3):\n    return size\n")
    reference = f"{path}:build"
    assert resolve(reference, known=MODELS)(size=5) == 5
    assert source_sha256(reference, known=MODELS) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text("def build(*, size=3):\n    return 2 * size\n")
    assert resolve(reference, known=MODELS)(size=5) == 10


def test_a_file_that_fails_to_import_is_tried_again_when_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "lacking.py"
    path.write_text("import no_such_dependency\n")
    with pytest.raises((ModuleNotFoundError, LissomError), match="no_such_dependency"):
        resolve(f"{path}:build", known=MODELS)
    assert not [name for name in sys.modules if name.startswith("lissom_user_lacking_")]
    path.write_text("def build():\n    return 1\n")
    assert resolve(f"{path}:build", known=MODELS)() == 1


def test_a_dependency_that_a_module_lacks_is_not_taken_for_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netting_of_user.py").write_text("import netting\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((ModuleNotFoundError, LissomError), match=r"\bnetting\b"):
        resolve("netting_of_user:build", known=MODELS)


def test_hashing_a_source_does_not_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sleeping_module.py").write_text("raise AssertionError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(source_sha256("sleeping_module:build", known=MODELS)) == 64
    assert "sleeping_module" not in sys.modules


@pytest.mark.parametrize("reference", ["models.net:build", "compress.net:build", "net:build", "net.py:build"])
def test_a_users_own_folder_is_found_whatever_it_is_called(tmp_path: Path, reference: str) -> None:
    for folder in (tmp_path, tmp_path / "models", tmp_path / "compress"):
        folder.mkdir(exist_ok=True)
        (folder / "net.py").write_text("def build():\n    return 'mine'\n")
    code = (
        "import sys\n"
        "from lissom.registry import resolve, source_sha256\n"
        "print(resolve(sys.argv[1], known={})(), source_sha256(sys.argv[1], known={}))\n"
    )
    # -I keeps the working directory off the path, as the installed command does.
    process = subprocess.run(
        [sys.executable, "-I", "-c", code, reference],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    digest = hashlib.sha256((tmp_path / "net.py").read_bytes()).hexdigest()
    assert process.stdout.split() == ["mine", digest], process.stderr


class BlurConfig(StageConfig):
    """A stage of somebody else."""

    consumes: ClassVar[tuple[str, ...]] = ("torch",)
    stage: Literal["blur"] = Field("blur", description="Kind of the stage.")


def test_a_stage_of_somebody_else_is_carried_out_by_the_function_of_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="no function is registered for the stage 'blur'"):
        stage_function(BlurConfig())
    info = tmp_path / "blurring-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blurring\nVersion: 1.0\n")
    # The name of an entry point may hold a colon: the file is read with `=` between name and value.
    points = f"[lissom.stages]\n{__name__}:BlurConfig = {TOYS}:plain\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(tmp_path)
    assert stage_function(BlurConfig()).__name__ == "plain"
