"""Importance by each criterion, against its formula."""

from __future__ import annotations

import pytest
import torch
from tests.unit.compress.scenes import built, samples, samples_for
from tests.unit.small import blobs
from torch import Tensor, nn

from lissom.compress.groups import Group, find_groups
from lissom.compress.importance import importances
from lissom.compress.samples import Samples
from lissom.errors import DataError, ModelError
from lissom.models.data import Data
from lissom.models.dataset import Dataset
from lissom.recipe import PruneConfig
from lissom.registry import MODELS

DATA = blobs(80)
DEEP = {"resnet32", "resnet56", "resnet34"}  # as resnet20 and resnet18, only deeper
KINDS = PruneConfig.model_fields["importance"].annotation.__args__  # type: ignore[union-attr]


class Pair(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(64, 6), nn.Linear(6, 4)

    def forward(self, image: Tensor) -> Tensor:
        given: Tensor = self.second(self.first(image.flatten(1)).relu())
        return given


def ranked(model: nn.Module, kind: str, given: Samples | None = None) -> Tensor:
    found = given or samples_for(DATA)
    (scores,) = importances(groups(model, found), model, kind, found)
    assert scores is not None
    return scores


def groups(model: nn.Module, given: Samples) -> list[Group]:
    return find_groups(model, given.example).groups


@pytest.mark.parametrize(("kind", "power"), [("l1", 1), ("l2", 2)])
def test_magnitude_is_the_mean_over_the_layers_of_a_group(kind: str, power: int) -> None:
    model = Pair().eval()
    rows = model.first.weight.abs().pow(power).sum(dim=1)
    columns = model.second.weight.abs().pow(power).sum(dim=0)
    wanted = ((rows + columns) / 2).detach()
    torch.testing.assert_close(ranked(model, kind), wanted / wanted.mean())


def test_lamp_is_the_square_over_the_squares_that_are_not_smaller() -> None:
    model = Pair().eval()
    squares = (model.first.weight.square().sum(dim=1) + model.second.weight.square().sum(dim=0)).detach() / 2
    wanted = torch.stack([value / squares[squares >= value].sum() for value in squares])
    torch.testing.assert_close(ranked(model, "lamp"), wanted / wanted.mean())


def test_taylor_is_the_square_of_weight_times_gradient_over_the_calibrate_split() -> None:
    model, given = Pair().eval(), samples_for(DATA)
    totals = []
    for inputs, targets in given.labelled_batches():
        model.zero_grad()
        nn.functional.cross_entropy(model(*inputs), targets).backward()
        rows = (model.first.weight * model.first.weight.grad).sum(dim=1).square()
        columns = (model.second.weight * model.second.weight.grad).sum(dim=0).square()
        totals.append((rows + columns).detach() / 2)
    wanted = torch.stack(totals).mean(dim=0)
    model.zero_grad()
    torch.testing.assert_close(ranked(model, "taylor", given), wanted / wanted.mean())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_activation_is_the_mean_size_of_what_a_unit_gives() -> None:
    model, given = Pair().eval(), samples_for(DATA)
    with torch.no_grad():
        sizes = [model.first(inputs[0].flatten(1)).abs().mean(dim=0) for inputs in given.batches()]
    wanted = torch.stack(sizes).mean(dim=0)
    torch.testing.assert_close(ranked(model, "activation", given), wanted / wanted.mean())


def test_batch_norm_is_the_size_of_its_scale() -> None:
    model, given = built("vgg"), samples("vgg")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(torch.rand(len(norm.weight)))
    scores = importances(groups(model, given), model, "batch-norm", given)
    wanted = [norm.weight.detach() / norm.weight.detach().mean() for norm in norms]
    for found in scores:
        assert found is not None
        assert any(len(one) == len(found) and torch.allclose(one, found) for one in wanted)


def test_batch_norm_without_a_batch_norm_is_an_error() -> None:
    with pytest.raises(ModelError, match="importance 'batch-norm' finds nothing"):
        ranked(Pair().eval(), "batch-norm")


def test_importance_that_needs_labels_says_so() -> None:
    unlabelled = Data("unlabelled", Dataset({"image": DATA.dataset.inputs["image"]}))
    given = Samples(
        unlabelled, samples_for(DATA).task, samples_for(DATA).signature, samples_for(DATA).example
    )
    with pytest.raises(DataError):
        ranked(Pair().eval(), "taylor", given)


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = Pair().eval()
    with torch.no_grad():
        model.second.weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"the weight 'second\.weight' has values that are NaN"):
        ranked(model, "l2")


@pytest.mark.parametrize("name", sorted(MODELS.keys() - DEEP))
@pytest.mark.parametrize("kind", KINDS)
def test_every_criterion_ranks_every_built_in_model(name: str, kind: str) -> None:
    model, given = built(name, **({"in_features": 64} if name == "mlp" else {})), samples(name)
    found = groups(model, given)
    if kind == "batch-norm" and not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        with pytest.raises(ModelError, match="finds nothing"):
            importances(found, model, kind, given)
        return
    for group, scores in zip(found, importances(found, model, kind, given), strict=True):
        if scores is not None:
            assert scores.shape == (group.num_units,)
            assert torch.isfinite(scores).all()
