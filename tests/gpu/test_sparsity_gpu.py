"""What was pruned 2:4 is what the semi-structured kernels of a GPU take."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.unit.small import blobs
from torch import Tensor, nn
from torch.nn import functional

from lissom.compress.samples import Samples
from lissom.compress.sparsity import fours, matrices, rank_weights
from lissom.recipe import PruneConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU"),
]

LAYERS = {
    "linear": lambda: nn.Linear(128, 128, bias=False),
    "convolution": lambda: nn.Conv2d(64, 128, 3, bias=False),
    "pointwise": lambda: nn.Conv2d(128, 128, 1, bias=False),
}


def pruned(layer: nn.Module) -> nn.Sequential:
    model = nn.Sequential(layer)
    config = PruneConfig(method="2:4")
    samples = Samples(blobs(40), None, None, [])  # type: ignore[arg-type]
    rank_weights(model, copy.deepcopy(model), config, samples).apply(model, 0.5)
    return model


def as_matrix(model: nn.Sequential) -> Tensor:
    """The weights as the kernels see them: [out, positions * in], channels innermost."""
    matrix = matrices(model)["0"]
    return fours(matrix).reshape(matrix.weight.shape[0], -1)


@pytest.mark.parametrize("name", LAYERS)
def test_the_kernels_accept_the_layer_and_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    dense = as_matrix(pruned(LAYERS[name]())).half().cuda()
    inputs = torch.randn(64, dense.shape[1], dtype=torch.float16, device="cuda")
    sparse = torch.sparse.to_sparse_semi_structured(dense)
    assert torch.equal(sparse.to_dense(), dense)
    found, wanted = functional.linear(inputs, sparse), functional.linear(inputs, dense)
    assert torch.allclose(found, wanted, atol=1e-2, rtol=1e-2)


def test_a_model_on_the_gpu_is_pruned_there() -> None:
    torch.manual_seed(0)
    model = pruned(LAYERS["linear"]().cuda())
    weight = model[0].weight
    assert weight.is_cuda
    assert ((weight.reshape(-1, 4) == 0).sum(dim=1) == 2).all()
