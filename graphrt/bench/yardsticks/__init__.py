# SPDX-License-Identifier: Apache-2.0
"""Our own yardsticks: what the chain must beat, what it cannot, and what a launch costs at least.

snapshots       token by token, a state stored for every token, the last launch's winner copied
read            the state read once and the two products: what the output costs without a history
moves           what a launch must move, moved, and nothing computed: what its bytes cost
empty           three kernels that do nothing, linked by PDL where the case is
launch_normal   one kernel that does nothing, launched normally
launch_linked   the same, launched as the dependent of a kernel that signals nothing
"""

from __future__ import annotations

from collections.abc import Callable

from graphrt.bench.contender import Contender
from graphrt.bench.workload import Effort, Workload
from graphrt.bench.yardsticks.empty import empty, launch_linked, launch_normal
from graphrt.bench.yardsticks.moves import moves
from graphrt.bench.yardsticks.read import read
from graphrt.bench.yardsticks.snapshots import snapshots


def yardsticks(work: Workload, effort: Effort) -> dict[str, Callable[[], Contender]]:
    """Return what builds each yardstick, by name; building may raise Unavailable."""
    return {
        "snapshots": lambda: snapshots(work, effort),
        "read": lambda: read(work, effort),
        "moves": lambda: moves(work, effort),
        "empty": lambda: empty(work),
        "launch_normal": lambda: launch_normal(work),
        "launch_linked": lambda: launch_linked(work),
    }
