# SPDX-License-Identifier: Apache-2.0
"""The twins of the whole chain against the float64 oracle, over random launches."""

import pytest

from tests.helpers.cases import Case
from tests.helpers.drive import ChainDriver
from tests.helpers.rows import TWIN_ROWS

LAUNCHES = 200


@pytest.mark.parametrize("case", TWIN_ROWS.values(), ids=TWIN_ROWS)
def test_random_launches_match_the_oracle(case: Case) -> None:
    report = ChainDriver(case).run(LAUNCHES)
    assert report.launches == LAUNCHES
    assert report.seen == {(b, t) for b in case.buckets for t in case.launch_tokens}
    for what in ("wraps", "conv_wraps", "padding_rows", "recycled", "prefilled", "clamped"):
        assert getattr(report, what) >= 5, f"{what}: {report}"
    assert report.flushes >= 20, report
    assert report.forgotten, report
