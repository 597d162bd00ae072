"""Numbers of any size are formatted in few characters."""

import pytest

from worldmodel.agents.evaluation import Report
from worldmodel.messages import format_number


@pytest.mark.parametrize("value", [1e30, -1e30, 123456789.0, 1e-30, 0.0, -1e-9])
def test_formatted_number_is_short_and_has_no_negative_zero(value):
    assert len(format_number(value)) <= 9 and format_number(value) != "-0.0"
    assert float(format_number(value)) == pytest.approx(value, rel=5e-3, abs=0.05)


def test_report_of_huge_returns_is_one_short_line():
    report = Report(env="Big-v0", returns=[1e30, 2e30], lengths=[1, 1], seeds=[0, 1])
    assert len(str(report)) < 80 and "e+30" in str(report)
