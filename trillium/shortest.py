"""The shortest decimals that mean a float32: 5.1, and not 5.0999999 as its float64 has. Pure.

NumPy writes a float32 so one by one; here all values of an array are rounded at once to 6 digits,
and those that do not mean the same float32 then to 7, 8 and 9, of which there are always enough
(IEEE 754 needs 9 decimal digits for a binary32).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_DIGITS = (6, 7, 8, 9)
_LEAST, _MOST = 1e-13, 1e5
"""Between them, the power of ten that brings a value to 6 to 9 digits before the point is at most
10**22 and at least 1, and so exact: one division then rounds rightly to the float64 of the
decimals."""


def shortest(values: Any) -> NDArray[np.float64]:
    """float32 values as the float64 whose `repr` is the shortest that means them; any shape."""
    array = np.asarray(values, np.float32)
    single = array.ravel()
    wide = single.astype(np.float64)
    size = np.abs(wide)
    usual = (size >= _LEAST) & (size < _MOST)
    pending = usual.copy()
    places = np.zeros(len(wide), np.int64)
    places[usual] = np.floor(np.log10(size[usual])).astype(np.int64)
    result = wide.copy()
    for digits in _DIGITS:
        if not pending.any():
            break
        scale = 10.0 ** (digits - 1 - places[pending])
        rounded = np.rint(wide[pending] * scale) / scale
        means_it = rounded.astype(np.float32) == single[pending]
        at = np.flatnonzero(pending)[means_it]
        result[at] = rounded[means_it]
        pending[at] = False
    rest = pending | (~usual & (size > 0) & np.isfinite(wide))
    for index in np.flatnonzero(rest).tolist():
        result[index] = float(str(single[index]))
    return result.reshape(array.shape)
