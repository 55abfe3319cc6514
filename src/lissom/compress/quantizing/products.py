"""Products as the quantizers know them: Einsum with a weight becomes MatMul, every layer has its own bias.

An Einsum whose second factor is a weight, and whose letters are either summed or kept, is a product of two
matrices but for the order of the axes:

    bnd,dhk->bnhk     Reshape(MatMul(x, W of shape [d, h k]), [b, n, h, k])
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from lissom.optional import require
from lissom.runtime.arrays import plain

_SUFFIXES = (
    *("_scale", "_zero_point", "_quantized", "_QuantizeLinear", "_DequantizeLinear", "_QuantizeLinear_Input"),
    *("_QuantizeLinear_Output", "_DequantizeLinear_Output", "_quantized_scale", "_quantized_zero_point"),
)
"""What ONNX Runtime's quantizer appends to the name of a tensor for those that it adds."""


class _Product(NamedTuple):
    """An Einsum as a product of matrices.

    Attributes:
        data: Letters of the tensor that is multiplied, in the order in which it is given.
        kept: Those of them that stay.
        summed: Those that both have and are summed.
        free: Those that the weight alone has.
        weight: Letters of the weight, in the order in which it is given.
        output: Letters of the output.
    """

    data: str
    kept: str
    summed: str
    free: str
    weight: str
    output: str


def is_product(node: Any, constants: set[str]) -> bool:
    """True for an Einsum that `products_from_einsum` rewrites."""
    return _product(node, constants) is not None


def products_from_einsum(model: Any) -> int:
    """Rewrite every Einsum with a weight as MatMul, in place; gives how many there were."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    number = 0
    for place in reversed(range(len(model.graph.node))):
        node = model.graph.node[place]
        product = _product(node, set(constants))
        if product is None:
            continue
        made = list(_nodes_of(model, node, product, constants))
        del model.graph.node[place]
        for offset, one in enumerate(made):
            model.graph.node.insert(place + offset, one)
        number += 1
    if number:
        drop_unread(model)
    return number


def _product(node: Any, constants: set[str]) -> _Product | None:
    if node.op_type != "Einsum" or len(node.input) != 2:
        return None
    places = [name in constants for name in node.input]
    if places.count(True) != 1:
        return None
    equation = next(item.s.decode() for item in node.attribute if item.name == "equation").replace(" ", "")
    left, arrow, output = equation.partition("->")
    terms = left.split(",")
    if len(terms) != 2:
        return None
    if not arrow:  # then what stands once is kept, in the order of the alphabet
        output = "".join(sorted(letter for letter in {*left} - {","} if left.count(letter) == 1))
    weight, data = (terms[0], terms[1]) if places[0] else (terms[1], terms[0])
    if "." in equation:
        return _product_of_last_axes(data, weight, output)
    if any(len(set(term)) != len(term) for term in (weight, data, output)):
        return None
    summed = "".join(letter for letter in data if letter in weight)
    free = "".join(letter for letter in output if letter not in data)
    kept = "".join(letter for letter in data if letter not in weight)
    whole = set(summed) | set(free) == set(weight) and set(kept) | set(free) == set(output)
    if not (summed and free and kept and whole):
        return None
    return _Product(data, kept, summed, free, weight, output)


def _product_of_last_axes(data: str, weight: str, output: str) -> _Product | None:
    """`...i,ij->...j` and nothing else: where axes have no letters, none can be moved."""
    summed, free = data[-1:], output[-1:]
    fits = {*weight} == {summed, free} and len(weight) == 2 and summed != free
    if not (fits and data == f"...{summed}" and output == f"...{free}"):
        return None
    return _Product(data, "...", summed, free, weight, output)


def _nodes_of(model: Any, node: Any, product: _Product, constants: dict[str, Any]) -> Iterator[Any]:
    """Transpose, Reshape, MatMul, Reshape and Transpose, those that are needed."""
    onnx = require("onnx", extra="cpu")
    make, name, target = onnx.helper.make_node, node.name or node.output[0], node.output[0]
    taken = tensor_names(model)
    fixed = [part in constants for part in node.input].index(True)
    source, weight = node.input[1 - fixed], onnx.numpy_helper.to_array(constants[node.input[fixed]])
    sizes = dict(zip(product.weight, weight.shape, strict=True))

    def tensor(suffix: str) -> str:
        return free_name(f"{target}_{suffix}", taken)

    def constant(suffix: str, values: np.ndarray) -> str:
        stored = tensor(suffix)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, stored))
        return stored

    wanted = product.kept + product.summed
    if wanted != product.data:
        order = [product.data.index(letter) for letter in wanted]
        yield make(
            "Transpose", [source], [turned_data := tensor("turned")], name=f"{name}_turned", perm=order
        )
        source = turned_data
    if len(product.summed) > 1:
        shape = constant("flat_shape", np.array([0] * len(product.kept) + [-1], np.int64))
        yield make("Reshape", [source, shape], [flat := tensor("flat")], name=f"{name}_flat")
        source = flat
    axes = [product.weight.index(letter) for letter in product.summed + product.free]
    depth = int(np.prod([sizes[letter] for letter in product.summed]))
    matrix = constant("matrix", plain(weight.transpose(axes).reshape(depth, -1)))
    turned = product.output != product.kept + product.free
    shaped = len(product.free) > 1
    result = tensor("product") if turned or shaped else target
    yield make("MatMul", [source, matrix], [result], name=name)
    if shaped:
        own = [0] * len(product.kept) + [sizes[letter] for letter in product.free]
        shape, source = constant("shape", np.array(own, np.int64)), result
        result = tensor("shaped") if turned else target
        yield make("Reshape", [source, shape], [result], name=f"{name}_shaped")
    if turned:
        order = [(product.kept + product.free).index(letter) for letter in product.output]
        yield make("Transpose", [result], [target], name=f"{name}_ordered", perm=order)


def store_constants(model: Any) -> None:
    """Store tensors that Constant nodes give, where the quantizers look for weights."""
    for place in reversed(range(len(model.graph.node))):
        node = model.graph.node[place]
        if node.op_type == "Constant" and [item.name for item in node.attribute] == ["value"]:
            model.graph.initializer.append(node.attribute[0].t)
            model.graph.initializer[-1].name = node.output[0]
            del model.graph.node[place]


def separate_biases(model: Any) -> None:
    """Give every layer a bias of its own, under a name that nothing else has.

    What a bias is rounded to follows from its layer's input and weight. ONNX Runtime's quantizer would make
    the copies too, under names that another tensor may have.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    taken = tensor_names(model)
    met: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3:
            continue
        name = node.input[2]
        if name not in constants:
            continue
        if name in met:
            own = model.graph.initializer.add()
            own.CopyFrom(constants[name])
            own.name = node.input[2] = free_name(f"{name}_of_{node.name or node.output[0]}", taken)
        met.add(node.input[2])


def add_grouped_biases(model: Any) -> None:
    """Add the bias of a transposed convolution in groups by a node of its own.

    Its weight is [in, out / groups, ...]: ONNX Runtime's quantizer takes the scales of that second axis for
    those of the output channels, of which a bias has one value each, and raises.
    """
    onnx: Any = require("onnx", extra="cpu")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    taken = tensor_names(model)
    for place in reversed(range(len(model.graph.node))):
        node = model.graph.node[place]
        groups = next((item.i for item in node.attribute if item.name == "group"), 1)
        if node.op_type != "ConvTranspose" or groups == 1 or len(node.input) < 3:
            continue
        if not {*node.input[1:3]} <= constants.keys():
            continue
        values = onnx.numpy_helper.to_array(constants[node.input[2]])
        grid = [1] * (len(constants[node.input[1]].dims) - 2)
        bias, result = free_name(f"{node.input[2]}_by_channel", taken), node.output[0]
        model.graph.initializer.append(onnx.numpy_helper.from_array(values.reshape(-1, *grid), bias))
        product = free_name(f"{result}_product", taken)
        del node.input[2:]
        node.output[0] = product
        model.graph.node.insert(place + 1, onnx.helper.make_node("Add", [product, bias], [result]))
        _type_as(model, product, result)


def _type_as(model: Any, name: str, known: str) -> None:
    """Describe a new tensor as another of its type and shape; without a type it would have no range."""
    for value in (*model.graph.value_info, *model.graph.output):
        if value.name == known:
            typed = model.graph.value_info.add()
            typed.CopyFrom(value)
            typed.name = name
            return


def flatten_biases(model: Any) -> None:
    """Write every Gemm with constant weights as plain `x w + b`, with one bias a column.

    Its bias may be a scalar, [1], [1, N] or [M, N]; `alpha` and `beta` may scale both terms. ONNX Runtime's
    quantizer takes the first axis of the bias for the channels, which raises, and gives other numbers where
    `beta` is not 1, which is silent. A bias that differs by row is added behind the product.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    taken = tensor_names(model)
    for node in [node for node in model.graph.node if node.op_type == "Gemm"]:
        options = {attribute.name: attribute for attribute in node.attribute}
        if {*node.input[1:3]} <= constants.keys():
            weight = _scaled(model, node, 1, options.pop("alpha", None), constants, taken)
            columns = weight.shape[0 if "transB" in options and options["transB"].i else 1]
            if len(node.input) > 2:
                bias = _scaled(model, node, 2, options.pop("beta", None), constants, taken)
                _settle_bias(model, node, bias, columns, taken)
            kept = [attribute for attribute in node.attribute if attribute.name in options]
            del node.attribute[:]
            node.attribute.extend(kept)


def _scaled(
    model: Any, node: Any, place: int, factor: Any | None, constants: dict[str, Any], taken: set[str]
) -> np.ndarray:
    """A constant that a node reads, multiplied by one of its attributes, under a new name then."""
    helper: Any = require("onnx", extra="cpu").numpy_helper
    found: np.ndarray = helper.to_array(constants[node.input[place]])
    if factor is None or factor.f == 1.0:
        return found
    found = found * np.asarray(factor.f, found.dtype)
    node.input[place] = free_name(f"{node.input[place]}_scaled", taken)
    model.graph.initializer.append(helper.from_array(plain(found), node.input[place]))
    return found


def _settle_bias(model: Any, node: Any, bias: np.ndarray, columns: int, taken: set[str]) -> None:
    """Give a Gemm one value a column, or add behind it what differs by row."""
    onnx: Any = require("onnx", extra="cpu")
    if bias.shape == (columns,):
        return
    by_row = bias.size != 1 and not (bias.size == columns and bias.shape[-1] == columns)
    values = bias if by_row else np.array(np.broadcast_to(bias.reshape(-1), columns))
    name = free_name(f"{node.input[2]}_{'by_row' if by_row else 'flat'}", taken)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    if not by_row:
        node.input[2] = name
        return
    product, result = free_name(f"{node.output[0]}_product", taken), node.output[0]
    place = next(place for place, other in enumerate(model.graph.node) if other.output[0] == result)
    del node.input[2:]
    node.output[0] = product
    model.graph.node.insert(place + 1, onnx.helper.make_node("Add", [product, name], [result]))
    _type_as(model, product, result)


def free_names(model: Any) -> None:
    """Rename inner tensors whose names the quantizer would give to tensors of its own."""
    taken = tensor_names(model)
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    clashing = [name for name in taken if any(f"{name}{suffix}" in taken for suffix in _SUFFIXES)]
    for name in clashing:
        for suffix in _SUFFIXES:
            other = f"{name}{suffix}"
            if other in taken and other not in fixed:
                rename(model, other, free_name(f"{other}_tensor", taken))


def tensor_names(model: Any) -> set[str]:
    """Names of the tensors of the outer graph, the constants too."""
    graph = model.graph
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    return names | {name for node in graph.node for name in (*node.input, *node.output) if name}


def free_name(wanted: str, taken: set[str]) -> str:
    """A name that is not taken, which it is afterwards."""
    name, number = wanted, 1
    while name in taken or any(f"{name}{suffix}" in taken for suffix in _SUFFIXES):
        name, number = f"{wanted}_{number}", number + 1
    taken.add(name)
    return name


def rename(model: Any, old: str, new: str) -> None:
    """Rename a tensor wherever it is read, in branches and bodies too."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
            for attribute in node.attribute:
                waiting += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
    for part in (*model.graph.initializer, *model.graph.value_info):
        if part.name == old:
            part.name = new


def drop_unread(model: Any) -> None:
    """Remove constants that nothing reads any more."""
    read = {name for node in model.graph.node for name in node.input}
    read |= {value.name for value in model.graph.output} | {value.name for value in model.graph.input}
    nested = {
        name
        for node in model.graph.node
        for attribute in node.attribute
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
        for name in _names_read(graph)
    }
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read | nested]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _names_read(graph: Any) -> Iterator[str]:
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _names_read(inner)
