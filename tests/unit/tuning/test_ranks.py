"""Which of several processes the others failed for."""

from __future__ import annotations

import pytest

from kaito.tuning.ranks import cause_of_the_end


@pytest.mark.parametrize(
    ("codes", "cause"),
    [
        ([0, 0], None),
        ([0, None], None),
        ([1, 6], 1),  # out of memory, and an exchange with who is gone
        ([6, 1], 0),
        ([1, -9], 1),  # killed by the kernel
        ([6, -9], 1),
        ([-6, 6], 1),  # aborted by the library, for want of a peer
        ([None, 7], 1),
        ([143, 143], 0),
        ([1, 1], 0),
    ],
)
def test_a_killed_process_or_one_that_says_why_it_ended_is_the_cause(
    codes: list[int | None], cause: int | None
) -> None:
    assert cause_of_the_end(codes) == cause
