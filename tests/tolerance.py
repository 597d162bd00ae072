"""How far two float32 results may be apart that are equal on paper.

The width of a processor's vectors, the number of threads and the size of a batch decide in which order terms are added, and
every addition rounds. Two correct sums therefore differ by roundings *of their terms*, however small the sums are: where terms
cancel, no tolerance relative to the result holds. Only the same computation, of the same shapes, in the same process and with
the same number of threads, is expected to be bit-equal.

References:
    Accuracy and Stability of Numerical Algorithms, 2nd edition, Nicholas Higham, 2002, chapter 4.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike

EPS = float(np.finfo(np.float32).eps)
ROUNDINGS = 4  # of each term: those of the operations that made it, and those of its additions, in both results


def sum_tolerance(terms: ArrayLike | torch.Tensor, count: int = 1) -> float:
    """The largest difference of two float32 sums of `count` terms: count max|t| ROUNDINGS eps.

    An addition changes a sum by at most eps / 2 of itself, and no sum of n terms exceeds n max|t|. Vectors and blocks add terms
    side by side, so a term takes part in few additions in a row, and roundings fall up as often as down: there a few eps of
    n max|t| hold. One running sum of n > 500 equal terms may be further off, because its roundings all fall the same way: up to
    n eps / 2 of n max|t|.

    Args:
        terms: The terms, or some that are as large as the largest.
        count: How many there are in a sum; of a result that others build upon, such as a recurrent state, those of all steps.
    """
    largest = float(np.max(np.abs(_numbers(terms))))
    return ROUNDINGS * EPS * count * largest


def assert_same_sums(found, wanted, count: int, terms: ArrayLike | torch.Tensor | None = None) -> None:
    """Both are the same float32 sums of `count` terms, added in any order.

    Args:
        terms: As in `sum_tolerance`; the sums themselves where they do not cancel to less than their terms.
    """
    found, wanted = _numbers(found), _numbers(wanted)
    tolerance = sum_tolerance(wanted if terms is None else terms, count)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


def _numbers(values) -> np.ndarray:
    return np.asarray(values.detach() if isinstance(values, torch.Tensor) else values, dtype=np.float64)
