"""Weights of 4 or 8 bits in groups that share a scale, by ONNX Runtime's MatMulNBits.

Products of long vectors with large matrices wait for the weights to come from memory, as those of a language
model do that gives one token after another: with an eighth of the bytes they wait less. Rounding goes to the
nearest, with a zero point for each group. Activations stay float32.
"""

from __future__ import annotations

from typing import Any

from lissom.compress.quantizing.products import (
    drop_unread,
    flatten_biases,
    free_name,
    products_from_einsum,
    store_constants,
    tensor_names,
)
from lissom.logs import quiet_quantizer
from lissom.optional import require
from lissom.recipe import QuantizeConfig

_OPERATOR = "MatMulNBits"
_ACCURACY_LEVEL = 1
"""Activations stay float32; at 4, ONNX Runtime would round them to int8, unasked."""


def weight_only_model(model: Any, config: QuantizeConfig) -> tuple[Any, int]:
    """The model with weights in groups, and how many products have them; every node of it has a name."""
    tool: Any = require("onnxruntime.quantization.matmul_nbits_quantizer", extra="cpu")
    store_constants(model)
    products_from_einsum(model)
    flatten_biases(model)
    _products_from_gemm(model)
    with quiet_quantizer():
        quantizer = tool.MatMulNBitsQuantizer(
            model,
            bits=config.bits,
            block_size=config.group_size,
            is_symmetric=False,
            accuracy_level=_ACCURACY_LEVEL,
            nodes_to_exclude=[*config.exclude, *_other_products(model)],
            op_types_to_quantize=("MatMul",),
        )
        quantizer.process()
    found = quantizer.model.model
    return found, sum(node.op_type == _OPERATOR for node in found.graph.node)


def _other_products(model: Any) -> list[str]:
    """Names of the products with weights of types that MatMulNBits does not compute in, such as float64."""
    kinds = require("onnx", extra="cpu").TensorProto
    known = (kinds.FLOAT, kinds.FLOAT16)
    other = {tensor.name for tensor in model.graph.initializer if tensor.data_type not in known}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in other]


def _products_from_gemm(model: Any) -> None:
    """Write every Gemm with constant weights as a product and an addition, which the quantizer knows."""
    onnx = require("onnx", extra="cpu")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    taken = tensor_names(model)
    for index in reversed(range(len(model.graph.node))):
        node = model.graph.node[index]
        flags = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        plain = flags.get("alpha", 1.0) == flags.get("beta", 1.0) == 1.0 and not flags.get("transA")
        if node.op_type != "Gemm" or not plain or node.input[1] not in constants:
            continue
        weight = constants[node.input[1]]
        if flags.get("transB"):  # another layer may read it as it is
            turned = onnx.numpy_helper.to_array(weight).T.copy()
            node.input[1] = free_name(f"{weight.name}_turned", taken)
            model.graph.initializer.append(onnx.numpy_helper.from_array(turned, node.input[1]))
        _replace(model, index)
    drop_unread(model)


def _replace(model: Any, index: int) -> None:
    helper = require("onnx", extra="cpu").helper
    node = model.graph.node[index]
    has_bias = len(node.input) > 2 and node.input[2]
    output = f"{node.output[0]}_product" if has_bias else node.output[0]
    nodes = [helper.make_node("MatMul", list(node.input[:2]), [output], name=node.name)]
    if has_bias:
        bias = [output, node.input[2]]
        nodes.append(helper.make_node("Add", bias, list(node.output), name=f"{node.name}_bias"))
    del model.graph.node[index]
    for place, made in enumerate(nodes):
        model.graph.node.insert(index + place, made)
