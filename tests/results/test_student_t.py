import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from bitbench.results.student_t import t_quantile, upper_tail


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_quantiles_are_scipys(confidence: float) -> None:
    for degrees in range(1, 201):
        expected = reference.t.ppf((1 + confidence) / 2, degrees)
        assert t_quantile(degrees, confidence) == pytest.approx(expected, rel=1e-9)


@given(degrees=st.floats(0.3, 1e4), t=st.floats(0, 60))
def test_the_tail_is_scipys_for_fractional_degrees_too(degrees: float, t: float) -> None:
    assert upper_tail(t, degrees) == pytest.approx(reference.t.sf(t, degrees), rel=1e-8, abs=1e-13)


@pytest.mark.parametrize(("degrees", "confidence"), [(0, 0.95), (-1, 0.95), (4, 1.0), (4, 0.0)])
def test_nonsense_is_refused(degrees: float, confidence: float) -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        t_quantile(degrees, confidence)
