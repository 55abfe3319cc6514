"""What the built-in models are, for `lissom models`: sizes and work of each, as built and as published.

Every model is built on torch's meta device, which has shapes and no memory, so that a model of 124 million
parameters costs as little as one of a thousand.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lissom.adaptation import frozen
from lissom.registry import MODELS, resolve

_RESNET: dict[str, Any] = {"num_classes": 1000, "width": 64, "stem": "imagenet"}
_BERT_BASE = {"vocab_size": 30522, "max_length": 512, "width": 768, "depth": 12, "num_heads": 12}

MODEL_PRESETS: dict[str, dict[str, Any]] = {
    "mlp": {"in_features": 784, "hidden": (300, 100)},
    "resnet": {},
    "resnet20": {},
    "resnet32": {},
    "resnet56": {},
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET,
    "vgg": {"num_classes": 1000, "widths": (64, 128, 256, 512, 512)},
    "lstm": {
        "vocab_size": 10_000,
        "embedding": 650,
        "hidden": 650,
        "num_layers": 2,
        "bidirectional": False,
        "dropout": 0.5,
    },
    "gru": {"vocab_size": 30_000, "embedding": 620, "hidden": 1000},
    "vit": {
        "image_size": 224,
        "patch_size": 16,
        "num_classes": 1000,
        "width": 768,
        "depth": 12,
        "num_heads": 12,
        "pooling": "token",
    },
    "bert": _BERT_BASE,
    "bert_mlm": _BERT_BASE,
    "gpt": {"vocab_size": 50257, "max_length": 1024, "width": 768, "depth": 12, "num_heads": 12},
}
"""Keyword arguments for the size of the paper that a docstring names; {} where the default is that size."""

_IMAGE_SIZE = 32
_PAPER_IMAGE_SIZE = {"resnet18": 224, "resnet34": 224, "resnet50": 224, "vgg": 224}
_LENGTH = 128


class Entry(NamedTuple):
    """One built-in model, with its default arguments and in the size of its paper.

    Attributes:
        name: What a recipe calls it.
        num_parameters: Of the default.
        flops: Floating-point operations of one sample, a multiply-accumulate counted as two; only those of
            matrix products and convolutions. Sequences have max_length tokens, else 128; images are
            image_size wide, else 32.
        signature: Arguments with their defaults.
        summary: First sentence of the docstring.
        paper_parameters: Of the paper's size; None where no paper gives one.
        paper_flops: Of the paper's size, for images of 224x224 where the paper has those.
        paper_kwargs: Keyword arguments that give the paper's size, empty where the defaults do; None where no
            paper gives one.
    """

    name: str
    num_parameters: int
    flops: int
    signature: str
    summary: str
    paper_parameters: int | None
    paper_flops: int | None
    paper_kwargs: dict[str, Any] | None


def catalogue() -> list[Entry]:
    """Every built-in model."""
    return [_entry(name) for name in sorted(MODELS)]


def _entry(name: str) -> Entry:
    factory = resolve(name, known=MODELS)
    arguments = ", ".join(
        f"{key}={parameter.default!r}" for key, parameter in inspect.signature(factory).parameters.items()
    )
    summary = (inspect.getdoc(factory) or "").partition("\n")[0]
    default = cost(name, {})
    preset = MODEL_PRESETS.get(name)
    paper: tuple[int | None, int | None] = (None, None)
    if preset is not None:
        image_size = _PAPER_IMAGE_SIZE.get(name, _IMAGE_SIZE)
        paper = cost(name, preset, image_size=image_size) if preset else default
    return Entry(name, *default, arguments, summary, *paper, None if preset is None else dict(preset))


def cost(name: str, kwargs: Mapping[str, Any], *, image_size: int = _IMAGE_SIZE) -> tuple[int, int]:
    """Parameters of a built-in model, and the floating-point operations of one sample.

    Args:
        name: Of the model.
        kwargs: Keyword arguments of its factory; the others are its defaults.
        image_size: Height and width of the image, for a model that takes any.
    """
    factory = resolve(name, known=MODELS)
    defaults = {key: parameter.default for key, parameter in inspect.signature(factory).parameters.items()}
    with torch.device("meta"):
        model: nn.Module = factory(**kwargs)
        sample = _sample({"image_size": image_size, **defaults, **kwargs})
        flops = flops_of(model.eval(), [sample])
    return sum(parameter.numel() for parameter in model.parameters()), flops


def _sample(arguments: Mapping[str, Any]) -> Tensor:
    """One sample of the shape that a model with these arguments takes."""
    if "vocab_size" in arguments:
        return torch.zeros(1, arguments.get("max_length", _LENGTH), dtype=torch.int64)
    if "in_features" in arguments:
        return torch.zeros(1, arguments["in_features"])
    return torch.zeros(1, arguments["in_channels"], arguments["image_size"], arguments["image_size"])


def flops_of(model: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Floating-point operations of one call, as torch counts them; see `flops_by_module`."""
    return flops_by_module(model, inputs)[""]


def flops_by_module(model: nn.Module, inputs: Sequence[Tensor]) -> dict[str, int]:
    """Floating-point operations of one call by path of the module, those inside of it included; "" is all.

    Matrix products and convolutions are counted, two a multiply-add. Attention is computed in the open
    meanwhile, since torch sees no product in its fused kernels. Parameters are frozen meanwhile: the counter
    hooks into gradients, which a view of a parameter has no function for where none are recorded.
    A recurrent layer uses each of its matrices once at every position. Counting its steps one by one takes
    seconds, and in a fused kernel torch sees none; so these layers are counted by that rule, and not run.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    fast = torch.backends.mha.get_fastpath_enabled()
    recurrent = {name: module for name, module in model.named_modules() if isinstance(module, nn.RNNBase)}
    work: dict[str, list[int]] = {name: [] for name in recurrent}
    for name, layer in recurrent.items():
        layer.forward = partial(_counted, layer, work[name])
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with (
            frozen(model),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for layer in recurrent.values():
            del layer.forward
    found = {
        name.removeprefix("Global").partition(".")[2]: sum(operators.values())
        for name, operators in counter.get_flop_counts().items()
        if name != "Global"
    }
    for name, own in work.items():
        for path in _above(name):
            found[path] = found.get(path, 0) + sum(own)
    return found | {"": int(counter.get_total_flops()) + sum(map(sum, work.values()))}


def _above(name: str) -> list[str]:
    """The path of a module, and of all that it lies in.

    >>> _above("encoder.lstm")
    ['encoder', 'encoder.lstm']
    """
    parts = name.split(".")
    return [".".join(parts[: length + 1]) for length in range(len(parts))]


def _counted(layer: nn.RNNBase, work: list[int], given: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """Add the operations of a recurrent layer to `work`; gives zeros of the shapes that it would give."""
    num_positions = given.numel() // given.shape[-1]
    work.append(2 * num_positions * sum(weight.numel() for weight in layer.parameters() if weight.dim() == 2))
    directions, width = 1 + layer.bidirectional, layer.proj_size or layer.hidden_size
    batch = given.shape[:-1][0 if layer.batch_first else -1 :][:1] if given.dim() == 3 else ()
    last = given.new_zeros(layer.num_layers * directions, *batch, width)
    cells = given.new_zeros(layer.num_layers * directions, *batch, layer.hidden_size)
    states = given.new_zeros(*given.shape[:-1], directions * width)
    return states, (last, cells) if isinstance(layer, nn.LSTM) else last
