"""Structured depth pruning: whole blocks are removed, those first that the model misses least.

A residual block and a transformer layer add something to what they are given, so that a model without one
of them still works, and what remains has fewer operators, which saves time where narrower ones do not. A
block is replaced by the identity, and its weights are gone.

How much a block matters is measured, not read off its weights. Over the calibrate split

    importance(block) = loss(model without it) - loss(model)

with the loss of the task; where there are no labels, the squared distance of the outputs from those of the
model, over their squares, takes its place. The least important block goes, all others are measured again, and
so on (greedy, as Men et al., ShortGPT, arXiv 2403.03853, rank once by the distance of a layer's input and
output). Equal blocks go in the order of their names.

A block stands in a row: in a Sequential or ModuleList, or beside another of its class. It holds layers, gives
the shape that it takes, and adds to it: a path from its output to its input meets a sum and no matrix. Of
blocks inside each other the inner ones count, as the residual blocks of a stage. In a model without such
paths, whatever gives the shape that it takes counts, the outer ones.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lissom.compress.double import TOLERANCE, prove_equal
from lissom.compress.groups import few
from lissom.compress.naming import excluded
from lissom.compress.outputs import check_outputs, output_shapes
from lissom.compress.samples import Samples
from lissom.compress.targets import Reduction
from lissom.compress.tracing import all_require_grad, children, layer_of, stops_behind, tensors_in
from lissom.errors import ModelError
from lissom.models.processes import agree
from lissom.recipe import PruneConfig
from lissom.structure import Bypass

_ROWS = (nn.Sequential, nn.ModuleList)
_SUM = "AddBackward"
_OTHERWISE = "prune by width or low-rank instead"

Cost = Callable[[nn.Module], float]


class _Call(NamedTuple):
    """What calls of a module show.

    Attributes:
        keeps_shape: Its first output has the shape and type of its first input.
        adds: A path from there to there meets a sum and no matrix.
        places: Length of the tuple that it gives, 0 for a tensor.
    """

    keeps_shape: bool
    adds: bool
    places: int


class _Step(NamedTuple):
    """One removal: the block, and by how much the cost rises without it and without each other one."""

    name: str
    rises: dict[str, float]


def rank_blocks(model: nn.Module, whole: nn.Module, config: PruneConfig, samples: Samples) -> Reduction:
    """The blocks of a model, ranked by measured importance.

    Raises:
        ModelError: the model does not run, no block can be removed, or an excluded name is unknown.
    """
    blocks = find_blocks(whole, config, samples.example)
    left = [name for name in blocks if not isinstance(model.get_submodule(name), Bypass)]
    return _Blocks(blocks, _Ranking(model, {name: blocks[name] for name in left}, samples), samples.example)


class _Blocks(NamedTuple):
    blocks: Mapping[str, int]
    ranking: _Ranking
    example: list[Tensor]

    def apply(self, model: nn.Module, share: float) -> dict[str, Any]:
        before = len(self.blocks) - len(self.ranking.blocks)
        steps = self.ranking.steps(max(0, self._num_removed(share) - before))
        wanted = output_shapes(model, self.example)
        names = [step.name for step in steps]
        passed_by = _passed_by(model, names)
        for name in names:
            model.set_submodule(name, Bypass(self.blocks[name]))
        check_outputs(model, self.example, wanted, names)
        problem = "without its blocks the model is not what it is when they pass on what they get"
        error = prove_equal(passed_by, model, few(self.example), names, problem) if names else 0.0
        scores = (steps[-1].rises if steps else {}) | {step.name: step.rises[step.name] for step in steps}
        kept = len(self.ranking.blocks) - len(names)
        proof = {"error": error, "tolerance": TOLERANCE, "left": {}}
        return {"blocks": {"removed": names, "kept": kept, "scores": scores}, "proof": proof}

    def _num_removed(self, share: float) -> int:
        """Blocks of the whole model that are gone when the share is: at least one, never all."""
        total = len(self.blocks)
        number = max(1, round(share * total)) if share > 0 else 0
        if number >= total:
            raise ModelError(
                f"a share of {share:.0%} is all that can be removed, {', '.join(list(self.blocks)[:5])} "
                f"({total} in all); one must stay",
                hint=f"lower the ratio to {(total - 1) / total:.2f}" if total > 1 else _OTHERWISE,
            )
        return number


def _passed_by(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """A copy in which these blocks compute what they did, and give what they got."""

    def hook(block: nn.Module, given: tuple[Any, ...], named: dict[str, Any], outputs: Any) -> Any:
        first = given[0] if given else next(iter(named.values()))
        return (first, *outputs[1:]) if isinstance(outputs, tuple) else first

    whole = copy.deepcopy(model)
    for name in names:
        whole.get_submodule(name).register_forward_hook(hook, with_kwargs=True)
    return whole


class _Ranking:
    """Blocks in the order in which they go, measured as far as it is asked for.

    Attributes:
        blocks: Those of the model before the first of them goes, with the `places` of each; see `_Call`.
    """

    def __init__(self, model: nn.Module, blocks: Mapping[str, int], samples: Samples) -> None:
        self.blocks = blocks
        self._model = copy.deepcopy(model).eval()
        self._cost = _cost(self._model, samples)
        self._current: float | None = None
        self._steps: list[_Step] = []

    def steps(self, number: int) -> list[_Step]:
        """The first removals."""
        while len(self._steps) < number:
            self._remove_one()
        return self._steps[:number]

    def _remove_one(self) -> None:
        gone = {step.name for step in self._steps}
        left = sorted(name for name in self.blocks if name not in gone)
        if self._current is None:
            self._current = agree(lambda: self._cost(self._model))
        costs = {name: agree(partial(self._without, name)) for name in left}
        finite = {name: cost for name, cost in costs.items() if math.isfinite(cost)}
        if not math.isfinite(self._current) or not finite:
            raise ModelError(
                f"importance cannot be measured: the loss is {self._current} with all blocks, and finite "
                f"without one of them for {len(finite)} of {len(left)}",
                hint="look for NaN in the weights and in the data",
            )
        least = min(finite, key=lambda name: finite[name])
        self._steps.append(_Step(least, {name: cost - self._current for name, cost in finite.items()}))
        self._model.set_submodule(least, Bypass(self.blocks[least]))
        self._current = finite[least]

    def _without(self, name: str) -> float:
        block = self._model.get_submodule(name)
        self._model.set_submodule(name, Bypass(self.blocks[name]))
        try:
            return self._cost(self._model)
        finally:
            self._model.set_submodule(name, block)


def _cost(model: nn.Module, samples: Samples) -> Cost:
    """What rises when a model becomes worse: its loss, or how far its outputs are from those of `model`."""
    if samples.data.kind == "none":
        return partial(_distance, copy.deepcopy(model), samples)

    def loss(changed: nn.Module) -> float:
        total, number = 0.0, 0
        for inputs, targets in samples.labelled_batches():
            outputs = _first(changed, inputs)
            total += float(samples.loss(outputs, targets)) * len(targets)
            number += len(targets)
        return total / number

    return loss


def _distance(model: nn.Module, samples: Samples, changed: nn.Module) -> float:
    """Squared distance of the outputs of two models over the squared outputs of the first.

    The first is called every time, since the outputs of a language model would not fit into memory.
    """
    distance, size = 0.0, 0.0
    for inputs in samples.batches():
        wanted = _first(model, inputs).double()
        distance += float((_first(changed, inputs) - wanted).square().sum())
        size += float(wanted.square().sum())
    return distance / size if size else distance


def _first(model: nn.Module, inputs: list[Tensor]) -> Tensor:
    with torch.inference_mode():
        return tensors_in(model(*inputs))[0]


def find_blocks(model: nn.Module, config: PruneConfig, example: list[Tensor]) -> dict[str, int]:
    """Names of the blocks that can be removed, in the order of the model, and their `places`; see `_Call`.

    Raises:
        ModelError: the model does not run, there is none, or an excluded name is unknown.
    """
    excluded(model, config.exclude)
    wanted = output_shapes(model, example)
    standing = _standing(model)
    calls = _watch(model, standing, example)
    keeping = [name for name in standing if name in calls and calls[name].keeps_shape]
    adding = [name for name in keeping if calls[name].adds]
    chosen = _innermost(adding) or _outermost(keeping)
    problems = {
        name: _problem(model, name, calls[name].places, example, wanted)
        for name in chosen
        if not any(_overlap(name, kept) for kept in config.exclude)
    }
    found = {name: calls[name].places for name, problem in problems.items() if not problem}
    if not found:
        reasons = [f"{name} ({problem})" for name, problem in problems.items()]
        reasons += [f"{name} (excluded)" for name in chosen if name not in problems]
        reasons += [f"{name} (gives another shape)" for name in standing if name not in keeping]
        looked = f"; looked at {', '.join(reasons[:5])}" if reasons else ""
        raise ModelError(
            f"nothing to prune: the model has no block that can be removed{looked}",
            hint="a block stands in a Sequential or ModuleList and gives the shape that it takes; "
            f"{_OTHERWISE}" + (", or exclude less" if config.exclude else ""),
        )
    return found


def _standing(model: nn.Module) -> list[str]:
    """Names of the modules that hold others and stand in a row; those with two names are left out."""
    names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    found = []
    for place, parent in model.named_modules():
        classes = Counter(type(child) for child in parent.children())
        for leaf, child in parent.named_children():
            in_row = isinstance(parent, _ROWS) or classes[type(child)] > 1
            if in_row and any(True for _ in child.children()) and names[id(child)] == 1:
                found.append(f"{place}.{leaf}" if place else leaf)
    return found


def _watch(model: nn.Module, names: Iterable[str], example: list[Tensor]) -> dict[str, _Call]:
    """Call the model once, and see what the modules of these names take and give."""
    watched = copy.deepcopy(model).eval()
    matrices = {
        id(parameter): module
        for module in watched.modules()
        for parameter in module.parameters(recurse=False)
        if parameter.dim() > 1
    }
    entries: dict[str, Tensor] = {}
    calls: dict[str, _Call] = {}

    def enter(name: str, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        if not given or not isinstance(given[0], Tensor) or not given[0].is_floating_point():
            return given
        first = given[0] if given[0].requires_grad else given[0].detach().requires_grad_()
        entries[name] = first.clone()  # an operation of its own, at which paths end
        return (entries[name], *given[1:])

    def leave(name: str, module: nn.Module, given: tuple[Any, ...], outputs: Any) -> None:
        entry, first = entries.get(name), outputs[0] if isinstance(outputs, tuple) and outputs else outputs
        keeps = (
            entry is not None
            and isinstance(first, Tensor)
            and (first.shape, first.dtype) == (entry.shape, entry.dtype)
            and (name not in calls or calls[name].keeps_shape)
        )
        adds = keeps and entry is not None and _adds(first.grad_fn, entry.grad_fn, matrices)
        calls[name] = _Call(keeps, adds, len(outputs) if isinstance(outputs, tuple) else 0)

    for name in names:
        module = watched.get_submodule(name)
        module.register_forward_pre_hook(partial(enter, name))
        module.register_forward_hook(partial(leave, name))
    with all_require_grad(watched), torch.enable_grad():
        watched(*example)
    return calls


def _adds(end: Any, start: Any, matrices: Mapping[int, nn.Module]) -> bool:
    """True when a path of the autograd graph from `end` to `start` meets a sum, and no matrix."""

    def is_sum(node: Any) -> bool:
        return bool(node.name().startswith(_SUM))

    def stops(node: Any) -> bool:
        return node is start or (not is_sum(node) and layer_of(node, matrices) is not None)

    if end is None or start is None:
        return False
    sums = [node for node in stops_behind([end], lambda node: is_sum(node) or stops(node)) if is_sum(node)]
    behind = stops_behind([child for node in sums for child in children(node)], stops)
    return any(node is start for node in behind)


def _innermost(names: Iterable[str]) -> list[str]:
    names = list(names)
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


def _outermost(names: Iterable[str]) -> list[str]:
    names = list(names)
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def _problem(
    model: nn.Module, name: str, places: int, example: list[Tensor], wanted: list[tuple[int, ...]]
) -> str:
    """What goes wrong without a block; nothing when all goes well."""
    block = model.get_submodule(name)
    model.set_submodule(name, Bypass(places))
    try:
        return "" if output_shapes(model, example) == wanted else "outputs have another shape without it"
    except ModelError as exc:
        return exc.message
    finally:
        model.set_submodule(name, block)
