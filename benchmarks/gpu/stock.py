"""Stock models at the size of their papers, with seeded random weights, and samples of their inputs."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIZES: dict[str, dict[str, Any]] = {
    "resnet-50": {},
    "vit-b-16": {},
    "bert-base": {},
    "gpt-2-small": {"use_cache": False},
}
_ENCODER = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TINY: dict[str, dict[str, Any]] = {
    "resnet-50": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 1]},
    "vit-b-16": {**_ENCODER, "image_size": 32},
    "bert-base": {**_ENCODER, "vocab_size": 100},
    "gpt-2-small": {
        "use_cache": False,
        "n_embd": 64,
        "n_layer": 1,
        "n_head": 2,
        "vocab_size": 100,
        "bos_token_id": None,
        "eos_token_id": None,
    },
}
"""The same architectures, small enough for one core."""


@functools.cache
def build(name: str, *, tiny: bool) -> nn.Module:
    """The model on the CPU, in float32, for inference."""
    import transformers
    from untrained_models import FirstOutput

    kwargs = (TINY if tiny else SIZES)[name]
    makers: dict[str, Callable[[], nn.Module]] = {
        "resnet-50": lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(num_labels=1000, **kwargs)
        ),
        "vit-b-16": lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(num_labels=1000, **kwargs)
        ),
        "bert-base": lambda: transformers.BertForSequenceClassification(
            transformers.BertConfig(num_labels=4, **kwargs)
        ),
        "gpt-2-small": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(**kwargs)),
    }
    torch.manual_seed(0)
    return _with_linear_layers(FirstOutput(makers[name]()).eval().requires_grad_(False))


def _with_linear_layers(model: nn.Module) -> nn.Module:
    """The same model with Linear in place of GPT-2's Conv1D, whose weights no library compresses."""
    from transformers.pytorch_utils import Conv1D

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv1D):
                layer = nn.Linear(*child.weight.shape).requires_grad_(False)
                layer.weight.copy_(child.weight.T)
                layer.bias.copy_(child.bias)
                setattr(module, name, layer)
    return model.eval()


def inputs_of(name: str, batch: int, *, tiny: bool) -> Tensor:
    """One batch: images of shape [batch, 3, size, size] or tokens of shape [batch, 128]."""
    generator = torch.Generator().manual_seed(1)
    if name in ("resnet-50", "vit-b-16"):
        size = 32 if tiny else 224
        return torch.randn(batch, 3, size, size, generator=generator)
    vocabulary, length = (100, 8) if tiny else (30_000, 128)
    return torch.randint(0, vocabulary, (batch, length), generator=generator)


@functools.cache
def flops_of_sample(name: str, *, tiny: bool) -> int:
    """Multiply-adds times two of one sample; attention is computed in the open so that it is counted."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model, sample = build(name, tiny=tiny), inputs_of(name, 1, tiny=tiny)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(sample)
    return int(counter.get_total_flops())


def moved_weights(model: nn.Module) -> int:
    """Weights that every call reads: all but tables of embeddings, of which it reads some rows."""
    tables = (nn.Embedding,)
    found = {
        id(weight): weight.numel()
        for module in model.modules()
        if not isinstance(module, tables)
        for weight in module.parameters(recurse=False)
    }
    return sum(found.values())


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="gpu-suite-")


_EXPORTED: dict[tuple[int, bool], Path] = {}


def onnx_file(model: nn.Module, samples: Tensor, *, half: bool) -> Path:
    """The model as ONNX for any batch, made once a model; its input is `samples`, its output `answer`."""
    key = id(model), half
    if key not in _EXPORTED:
        import onnx

        path = Path(_folder().name) / f"{len(_EXPORTED)}.onnx"
        if half:
            from lissom.export.casting import cast

            onnx.save(cast(onnx.load(onnx_file(model, samples, half=False)), "float16"), path)
        else:
            onnx.save(_exported(model, samples), path)
        _EXPORTED[key] = path
    return _EXPORTED[key]


def _exported(model: nn.Module, samples: Tensor) -> Any:
    two = samples[:1].cpu().repeat(2, *[1] * (samples.ndim - 1))  # a batch of 1 would be a constant
    program = torch.onnx.export(
        model,
        (two,),
        dynamic_shapes=({0: torch.export.Dim.AUTO},),
        input_names=["samples"],
        output_names=["answer"],
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto
