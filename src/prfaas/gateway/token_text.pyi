"""Compiled, where the wheel was built so: see token_text.c."""

import numpy as np
from numpy.typing import NDArray

def numbers(text: bytes, to: NDArray[np.uint32], /) -> int: ...
