"""Arrays as writers, engines and torch take them, whatever lies behind a view.

An array may be a transposed, strided, reversed or repeated view, stand in Fortran's order or in the other
byte order, or be read-only. safetensors writes the memory behind a view without an error, torch refuses some
views and shares the memory of others, orjson refuses all but plain ones. What hands an array on therefore
takes it from here; a test allows no other module to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

if TYPE_CHECKING:
    from torch import Tensor


def plain(array: np.ndarray, dtype: Any = None) -> np.ndarray:
    """The values in C's order, native byte order and writable memory; itself where it is so already.

    Unlike `numpy.ascontiguousarray` it keeps an array without axes.

    >>> plain(np.arange(6).reshape(2, 3).T).flags.carray, plain(np.float32(1)).shape
    (True, ())
    """
    array = np.asarray(array)
    wanted = np.dtype(dtype) if dtype is not None else array.dtype
    if array.flags.carray and array.dtype == wanted and wanted.isnative:
        return array
    return np.array(array, dtype=wanted.newbyteorder("="), order="C")


def plain_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each of them, as `plain` gives it."""
    return {name: plain(array) for name, array in arrays.items()}


def tensor_of(array: np.ndarray) -> Tensor:
    """A torch tensor of the same values in memory of its own: a forward may write into what it is given."""
    import torch

    array = np.asarray(array)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def shared_tensor_of(array: np.ndarray) -> Tensor:
    """A torch tensor that shares the memory of a plain array, for many samples of which parts are copied."""
    import torch

    return torch.from_numpy(plain(array))


def array_of(tensor: Tensor) -> np.ndarray:
    """The values of a tensor in memory of their own, whatever becomes of the tensor.

    A forward may give a part of a buffer that its next call fills again, a view of its input, a parameter, or
    bfloat16, which NumPy does not have and float32 holds exactly.
    """
    import torch

    if tensor.requires_grad or tensor.is_conj() or tensor.is_neg():
        tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return np.array(tensor.cpu().numpy(), order="C")


def safetensors_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays by name as the bytes of a safetensors file."""
    return safetensors.numpy.save(plain_arrays(arrays))


def little_endian_bytes(array: np.ndarray) -> bytes:
    """The values in C's order, the lowest byte of each first, as files and protocols have them."""
    array = np.asarray(array)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def json_bytes(document: Any) -> bytes:
    """A document as JSON, arrays in it as nested lists, one without axes as a number."""
    import orjson

    try:
        return orjson.dumps(document, default=_listed, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:  # of an array in the other byte order it says so, and does not ask for another
        return orjson.dumps(document, default=_listed)


def _listed(value: Any) -> Any:
    """What orjson asks for in the place of an array that it does not take."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a {type(value).__name__} cannot be written as JSON")
    return value.tolist()
