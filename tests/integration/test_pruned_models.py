"""Every architecture is pruned, opened in another process, trained, pruned again and exported."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.compress import hugging_face
from tests.unit.small import KWARGS, data_for, load, make, next_tokens, texts

from lissom.artifact import Artifact
from lissom.models.data import Data
from lissom.registry import MODELS
from lissom.runtime.base import open_runtime
from lissom.runtime.probe import load_probe

DEEP = {"resnet32", "resnet56", "resnet34"}  # as resnet20 and resnet18, only deeper
FACTORIES = Path(hugging_face.__file__)
HUGGING_FACE = {
    "transformers-resnet": "resnet",
    "transformers-vit": "vit",
    "transformers-bert": "bert",
    "transformers-gpt2": "gpt2",
}
NAMES = [*sorted(MODELS.keys() - DEEP), *HUGGING_FACE]
ELSEWHERE = """
import json, sys
from lissom.artifact import Artifact
from lissom.runtime.base import open_runtime
from lissom.runtime.probe import load_probe
import numpy as np
for line in sys.stdin:
    artifact = Artifact.open(line.strip())
    inputs, wanted = load_probe(artifact)
    with open_runtime(artifact, "torch", threads=1) as runtime:
        found = runtime.infer(inputs)
    print(json.dumps({name: bool(np.array_equal(found[name], wanted[name])) for name in wanted}))
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data_of(name: str) -> Data:
    if name not in HUGGING_FACE:
        return data_for(name)
    return {"bert": texts(), "gpt2": next_tokens()}.get(HUGGING_FACE[name], data_for("resnet"))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Artifact, Artifact]]:
    """Every model, whole and pruned by width."""
    found = {}
    for name in NAMES:
        if name in HUGGING_FACE and importlib.util.find_spec("transformers") is None:
            continue
        folder = tmp_path_factory.mktemp(name)
        source = f"{FACTORIES}:{HUGGING_FACE[name]}" if name in HUGGING_FACE else name
        whole = load(folder / "load", data_of(name), source, **KWARGS.get(name, {}))
        found[name] = (
            whole,
            make(folder / "prune", data_of(name), "prune", parents={"input": whole}, round_to=4),
        )
    return found


@pytest.fixture(scope="module")
def elsewhere(pruned: dict[str, tuple[Artifact, Artifact]]) -> dict[str, dict[str, bool]]:
    """Whether another process, which knows nothing of this one, gets the same bits from each."""
    process = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input="\n".join(str(small.path) for _, small in pruned.values()),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return dict(zip(pruned, map(json.loads, process.stdout.splitlines()), strict=True))


def artifacts_of(pruned: dict[str, tuple[Artifact, Artifact]], name: str) -> tuple[Artifact, Artifact]:
    if name not in pruned:
        pytest.skip("transformers is not installed: pip install 'lissom[hf]'")
    return pruned[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_pruned_model_gives_the_same_bits_in_another_process(
    pruned: dict[str, tuple[Artifact, Artifact]], elsewhere: dict[str, dict[str, bool]], name: str
) -> None:
    whole, small = artifacts_of(pruned, name)
    assert small.manifest.num_parameters is not None
    assert whole.manifest.num_parameters is not None
    assert small.manifest.num_parameters < 0.8 * whole.manifest.num_parameters
    assert small.manifest.signature == whole.manifest.signature
    assert elsewhere[name]
    assert all(elsewhere[name].values())


@pytest.mark.parametrize("name", NAMES)
def test_a_pruned_model_is_trained_pruned_again_and_exported(
    pruned: dict[str, tuple[Artifact, Artifact]], tmp_path: Path, name: str
) -> None:
    small, data = artifacts_of(pruned, name)[1], data_of(name)
    trained = make(tmp_path / "train", data, "train", parents={"input": small}, epochs=1, learning_rate=0.01)
    again = make(tmp_path / "again", data, "prune", parents={"input": trained}, ratio=0.4, round_to=2)
    exported = make(tmp_path / "export", data, "export", parents={"input": again})
    assert again.manifest.num_parameters is not None
    assert again.manifest.num_parameters < (small.manifest.num_parameters or 0)
    inputs, wanted = load_probe(again)
    with open_runtime(exported, "onnxruntime", threads=1) as runtime:
        found = runtime.infer(inputs)
    for output, array in wanted.items():
        np.testing.assert_allclose(found[output], array, rtol=1e-3, atol=1e-4)
