"""Student's t distribution without scipy: reading a record must work on the base install.

Formula: the CDF through the regularised incomplete beta function, that by Lentz's continued fraction
(Abramowitz & Stegun 26.7.1, 26.5.8; Press et al., Numerical Recipes, 6.4). Tests compare it with scipy.
"""

import math
from functools import cache

_MAX_TERMS = 500
_CONVERGED = 1e-15
_TINY = 1e-300


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x(a, b), by the modified Lentz method."""
    c, d = 1.0, 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1.0 / ((1.0 + term * d) or _TINY)
            c = (1.0 + term / c) or _TINY
            value *= c * d
        if abs(c * d - 1.0) < _CONVERGED:
            break
    return value


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), for 0 <= x <= 1."""
    if x in (0.0, 1.0):
        return x
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(a, b, x) / a
    return 1.0 - front * _beta_fraction(b, a, 1.0 - x) / b


def upper_tail(t: float, degrees: float) -> float:
    """P(T > t) for t >= 0 at `degrees` of freedom, which need not be whole (Welch)."""
    if t * t < degrees:  # the other way round the argument would be 1 less a small number, which is lost in rounding
        return 0.5 - 0.5 * _incomplete_beta(0.5, degrees / 2, t * t / (degrees + t * t))
    return 0.5 * _incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


@cache
def t_quantile(degrees: float, confidence: float = 0.95) -> float:
    """The two-sided quantile: |T| <= it with probability `confidence`.

    Raises ValueError for degrees <= 0 or a confidence outside (0, 1).
    """
    if degrees <= 0 or not 0 < confidence < 1:
        raise ValueError(f"no t quantile for {degrees} degrees of freedom at confidence {confidence}")
    tail, low, high = (1 - confidence) / 2, 0.0, 1.0
    while upper_tail(high, degrees) > tail:
        low, high = high, high * 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if upper_tail(middle, degrees) > tail else (low, middle)
    return (low + high) / 2
