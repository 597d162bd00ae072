"""Tolerance for two float32 results that are equal in exact arithmetic.

The vector width of the processor, the number of threads and the batch size determine the order of additions, and every addition
rounds. Two correct sums therefore differ by roundings *of their terms*, even if the sums are small: if terms cancel, no
tolerance relative to the result holds. Only the same computation with the same shapes, in the same process and with the same
number of threads, is expected to be bit-equal.

References:
    Accuracy and Stability of Numerical Algorithms, 2nd edition, Nicholas Higham, 2002, chapter 4.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike

EPS = float(np.finfo(np.float32).eps)
ROUNDINGS = 4  # per term: those of the operations that compute it and of its additions, in both results


def sum_tolerance(terms: ArrayLike | torch.Tensor, count: int = 1) -> float:
    """The largest difference of two float32 sums of `count` terms: count max|t| ROUNDINGS eps.

    An addition changes a sum by at most eps / 2 of itself, and no sum of n terms exceeds n max|t|. Vectors and blocks add terms
    in parallel, so a term takes part in few consecutive additions, and roundings go up as often as down: a few eps of n max|t|
    are enough. A running sum of n > 500 equal terms may differ by up to n eps / 2 of n max|t|, because all its roundings go in
    the same direction.

    Args:
        terms: The terms, or a subset that includes the largest.
        count: Number of terms of a sum. For a recurrent state, the number of terms over all steps.
    """
    largest = float(np.max(np.abs(_to_float64(terms))))
    return ROUNDINGS * EPS * count * largest


def assert_same_sums(actual, expected, count: int, terms: ArrayLike | torch.Tensor | None = None) -> None:
    """Assert that both are the same float32 sums of `count` terms, added in any order.

    Args:
        terms: As in `sum_tolerance`. By default the sums themselves, which is correct if their terms do not cancel.
    """
    actual, expected = _to_float64(actual), _to_float64(expected)
    tolerance = sum_tolerance(expected if terms is None else terms, count)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def _to_float64(values) -> np.ndarray:
    return np.asarray(values.detach() if isinstance(values, torch.Tensor) else values, dtype=np.float64)
