"""Reads old pickles of arrays without running any code in them. Layer 1.

A pickle names classes and functions to be called. Here every name stands for a record of the call: NumPy's arrays
are put together from such records, and any other name is refused before it is looked up.
"""

import io
import pickle
from typing import Any, BinaryIO

import numpy as np

from fewshot.errors import InputError


class _Dtype:
    """What a pickle calls numpy.dtype: its first argument is a code such as u1."""

    def __init__(self, code: str | bytes, *_: Any) -> None:
        self.code = code.decode() if isinstance(code, bytes) else str(code)

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields; plain numbers have no fields."""
        if len(state) > 4 and state[4] is not None:
            raise pickle.UnpicklingError("an array of records")
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        self.code = (order if order in "<>" else "") + self.code


class _Array:
    """What a pickle calls numpy's _reconstruct, filled by its state."""

    value: np.ndarray

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or np.dtype(dtype.code).hasobject:
            raise pickle.UnpicklingError("an array of objects")
        data = data.encode("latin1") if isinstance(data, str) else data
        flat = np.frombuffer(data, np.dtype(dtype.code))
        self.value = flat.reshape(shape, order="F" if fortran else "C")


class _Ndarray:
    """What a pickle calls numpy.ndarray: only an argument of _reconstruct."""


def _encode(text: str, _: str) -> bytes:
    return text.encode("latin1")


KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _encode,  # how Python 3 writes bytes in protocol 2
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def read_arrays(data: bytes | BinaryIO, where: str) -> Any:
    """Dictionaries, lists, numbers, texts and NumPy arrays of a pickle; bytes that Python 2 wrote stay bytes.

    data: its content, or an open file: of a large one, the content is then not in memory beside the arrays.

    InputError, naming `where`, for one that is damaged or holds anything else.
    """
    try:
        return _arrays(_Reader(io.BytesIO(data) if isinstance(data, bytes) else data, encoding="bytes").load())
    except Exception as error:  # a damaged pickle raises what its bytes happen to mean
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where} is not a pickle of arrays alone, or is damaged: {reason}") from error


def _arrays(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_arrays(item) for item in value]
    return value
