"""Columns of windows as an Arrow table, without a detour over Python objects."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def to_table(columns: Mapping[str, NDArray]) -> pa.Table:
    """The same table that a frame of these columns would become.

    Args:
        columns: Name → values of shape `(n,)`, or `(n, k)` for a column of lists; texts as object arrays.
    """
    return pa.table({name: _array(values) for name, values in columns.items()})


def _array(values: NDArray) -> pa.Array:
    if values.dtype.kind not in "fiuM":
        return pa.array(values, type=pa.large_string())
    if values.ndim == 1:
        return pa.array(values)
    n, length = values.shape
    return pa.ListArray.from_arrays(
        pa.array(np.arange(n + 1, dtype=np.int32) * length), pa.array(np.ascontiguousarray(values).reshape(-1))
    )
