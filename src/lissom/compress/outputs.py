"""What a model gives when it is called."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lissom.compress.tracing import fault, tensors_in
from lissom.errors import ModelError


def output_shapes(model: nn.Module, example: list[Tensor]) -> list[tuple[int, ...]]:
    """Shapes of the outputs.

    Raises:
        ModelError: the model does not run; the message has the line of the user's code that failed.
    """
    try:
        with torch.inference_mode():
            return [tuple(tensor.shape) for tensor in tensors_in(model(*example))]
    except Exception as exc:  # the user's forward may raise anything; what it says is what matters
        raise ModelError(
            f"the model does not run: {fault(exc)}", hint="the forward must run on plain tensors"
        ) from exc


def check_outputs(
    model: nn.Module, example: list[Tensor], wanted: list[tuple[int, ...]], changed: list[str]
) -> None:
    """Refuse a model that does not run, or gives other shapes, after what was changed in it.

    Raises:
        ModelError: naming what was changed.
    """
    try:
        found = output_shapes(model, example)
        problem = f"outputs of shape {found}, which were {wanted}" if found != wanted else ""
    except ModelError as exc:
        problem = exc.message
    if problem:
        raise ModelError(
            f"the model does not work without what was removed from it: {problem}",
            hint=f"prune.exclude one of {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''}; "
            "a forward that reshapes or indexes by a fixed size cannot lose it",
        )
