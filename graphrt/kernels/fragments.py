# SPDX-License-Identifier: Apache-2.0
"""Which thread holds what in precompute and state update, so that little has to change hands.

A tensor-core product ``m16n8k16`` leaves it open which row of memory a row of its operands is, as
long as all operands agree. So memory decides: a thread loads 16 bytes that lie together, of x along
P, of the state, B and C along N, and what it has loaded are its operands. With lane = 4 g + t:

    state [P, N]      p = 8 consecutive for g, n = V consecutive for t   rows of a product
    x     [j, P]      j = 2t, 2t + 1, 8 + 2t, 9 + 2t, the same p         the same, transposed
    C     [token, N]  token = g, the same n as the state                 columns of a product
    B     [j, N]      j as x has them, half of the n of two threads      columns of a product
    y     [token, P]  token = 2t, 2t + 1, the same p as x: what x skips ahead to, and is stored as

(8 where a warp has 64 rows of P, 4, 2 and 1 for 32, 16 and 8; V is 16 bytes of state.) A product
numbers its rows and columns in another order than memory: `graphrt.kernels.renames`.

In shared memory a state lies by loads, 32 V each, a thread's V where it takes them. It is copied
there, and from there stored, by lines, 8 V of a row by 8 lanes (`lines_layout`): L2 is asked for
half a line as often as for a whole one.

Warps of a state update share the columns of the fold, 4 V each in turn, t above standing for (warp,
t). All else they hold and do alike: few rows are no work for many. Those of a fused kernel share
the rows of P instead (``row_warps``, all of them or one): p above is then of a warp's own rows, and
what has no p they hold alike. Those of precompute share the heads of a program, and make the same
products of C and B: here tokens t are rows, and columns are the tokens j of the causal matrix,
which are numbered (i, t, e) where memory has (t, i, e).

    C     [token, N]  token = g, n = V consecutive for t                 rows of a product
    B     [j, N]      j is column g, the same n                          columns of a product
    causal [token, j] token = g, j = a quarter of all, consecutive, for t
"""

from __future__ import annotations

from typing import Any

from triton.runtime.jit import constexpr_function

from graphrt.kernels.gluon import gl
from graphrt.kernels.ptx import INTERPRETED


@constexpr_function
def powers(first: int, end: int) -> list[int]:
    """Return ``first`` times the powers of two, below ``end``: steps of a layout's bits."""
    found = []
    while first < end:
        found.append(first)
        first *= 2
    return found


@constexpr_function
def vector(columns: int, bits: int) -> int:
    """Return V, the elements of N that a thread loads at once: of 16 bytes, all 4 threads busy."""
    return min(128 // bits, columns // 8)


@constexpr_function
def at_once(columns: int, warps: int) -> int:
    """Return how many columns of N a fold works on at a time: 32 a warp keep it busy."""
    return min(columns, 32 * warps)


@constexpr_function
def multiplied_at_once(columns: int, v: int) -> int:
    """Return how many columns of N a product over N takes: V of each of 4 threads, or its least.

    Then two registers that lie together are an operand; of more columns they would have to be
    brought together.
    """
    return min(columns, max(4 * v, 16))


@constexpr_function
def folded_at_once(columns: int, v: int, warps: int, by_lines: bool) -> int:
    """Return how many columns of N a fold keeps at a time: ``by_lines`` 8 V of a row or more."""
    worked_on: int = at_once(columns, warps)
    return max(worked_on, 8 * v) if by_lines else worked_on


@constexpr_function
def most_warps(columns: int, bits: int, tokens: int) -> int:
    """Return how many warps can share the columns of a fold, elements of ``bits`` bits.

    One where there are more than 8 tokens: all else that warps do they do alike, and they would
    share the tokens of the read-out.
    """
    of_a_warp: int = 4 * vector(columns, bits)
    return columns // of_a_warp if tokens <= 8 else 1


@constexpr_function
def product_layout(warps: int) -> Any:
    """Return the layout of a product [rows, columns]: warps side by side along the columns."""
    return None if INTERPRETED else gl.NVMMADistributedLayout([2, 0], [1, warps], [16, 8])


@constexpr_function
def whole_product_layout(warps: int) -> Any:
    """Return the layout of a product [16, columns] that every warp has all of."""
    return None if INTERPRETED else gl.NVMMADistributedLayout([2, 0], [warps, 1], [16, 8])


@constexpr_function
def rows_of_p_layout(warps: int, row_warps: int) -> Any:
    """Return the layout of a product [rows of P, N]: warps share N, or P."""
    return whole_product_layout(warps) if row_warps > 1 else product_layout(warps)


@constexpr_function
def linear(registers: list[Any], lanes: list[Any], warps: list[Any], shape: list[int]) -> Any:
    """Return the layout in which each bit of a register, lane or warp is a step in ``shape``."""
    return None if INTERPRETED else gl.DistributedLinearLayout(registers, lanes, warps, [], shape)


@constexpr_function
def in_turn(paired: bool) -> int:
    """Return E, how many g's have their rows of P in turn: memory has p = (q, f, e), g = (q, e)."""
    return 2 if paired else 1


@constexpr_function
def _rows_of_p(own: int, paired: bool) -> tuple[list[int], list[int]]:
    """Return the steps in P of a thread's ``own`` rows, and those of g.

    A thread's are consecutive, or ``paired``: those of g and g + 1, g even, in turn.
    """
    step = in_turn(paired)
    return powers(step, step * own), [*powers(1, step), *powers(step * own, 8 * own)]


@constexpr_function
def _alike(warps: int) -> list[Any]:
    """Return what makes all warps hold the same."""
    return [[0, 0] for _ in powers(1, warps)]


@constexpr_function
def state_layout(
    rows: int,
    columns: int,
    v: int,
    warps: int,
    whole: bool,
    row_warps: int = 1,
    paired: bool = False,
) -> Any:
    """Return the layout of a state tile [rows of P, N]: warps share it, or have all of N."""
    own = rows // (8 * row_warps)
    sharing = 1 if whole else warps // row_warps
    of_thread, of_lanes = _rows_of_p(own, paired)
    return linear(
        [[0, n] for n in powers(1, v)]
        + [[p, 0] for p in of_thread]
        + [[0, n] for n in powers(4 * v * sharing, columns)],
        [[0, v], [0, 2 * v], *([p, 0] for p in of_lanes)],
        [[p, 0] for p in powers(8 * own, rows)]
        + [[0, n] for n in powers(4 * v, 4 * v * sharing)]
        + _alike(warps // (row_warps * sharing)),
        [rows, columns],
    )


@constexpr_function
def octets_layout(rows: int, octets: int, v: int, warps: int, row_warps: int = 1) -> Any:
    """Return the layout of draws [rows of P, N / 8], each for 8 elements of a `state_layout`.

    A thread's own draws where it has 8 elements together; else some threads make the same.
    """
    own, each = rows // (8 * row_warps), max(v // 8, 1)
    sharing = warps // row_warps
    lanes = [each, 2 * each]
    return linear(
        [[0, n] for n in powers(1, each)]
        + [[p, 0] for p in powers(1, own)]
        + [[0, n] for n in powers(4 * each * sharing, octets)],
        [[0, n if n < octets else 0] for n in lanes] + [[own, 0], [2 * own, 0], [4 * own, 0]],
        [[p, 0] for p in powers(8 * own, rows)]
        + [[0, n if n < octets else 0] for n in powers(4 * each, 4 * each * sharing)],
        [rows, octets],
    )


@constexpr_function
def slots_layout(loads: int, own: int, v: int, warps: int, whole: bool, row_warps: int = 1) -> Any:
    """Return the layout in shared memory [loads, 32 V] of what is a `state_layout`."""
    all_rows, sharing = own * row_warps, 1 if whole else warps // row_warps
    return linear(
        [[0, n] for n in powers(1, v)]
        + [[load, 0] for load in powers(1, own)]
        + [[load, 0] for load in powers(all_rows * sharing, loads)],
        [[0, n] for n in powers(v, 32 * v)],
        [[load, 0] for load in powers(own, all_rows * sharing)]
        + _alike(warps // (row_warps * sharing)),
        [loads, 32 * v],
    )


@constexpr_function
def lines_layout(
    loads: int, own: int, v: int, warps: int, row_warps: int = 1, paired: bool = False
) -> Any:
    """Return the layout in which [loads, 32 V] is copied: 8 lanes that follow have 8 V of a row.

    Four lines are asked for at once. Of rows that are ``paired`` as far apart as a tile has them: a
    launch takes up to 5 % longer where they lie together, or L2 has them in the same place.
    """
    of_g = [[0, 4 * v], [0, 8 * v], [0, 16 * v]]
    one, *others = of_g if paired else of_g[::-1]
    all_rows = own * row_warps
    rest = (
        [[load, 0] for load in powers(2 * all_rows, loads)]
        + [one]
        + [[load, 0] for load in powers(1, own)]
    )
    shared = len(powers(row_warps, warps))
    return linear(
        [[0, n] for n in powers(1, v)] + rest[shared:],
        [[0, v], [0, 2 * v], [all_rows, 0], *sorted(others)],
        [[load, 0] for load in powers(own, all_rows)] + rest[:shared],
        [loads, 32 * v],
    )


@constexpr_function
def x_layout(tokens: int, rows: int, warps: int, row_warps: int = 1, paired: bool = False) -> Any:
    """Return the layout of x or y [tokens or history, rows of P]."""
    own = rows // (8 * row_warps)
    of_thread, of_lanes = _rows_of_p(own, paired)
    return linear(
        [[0, p] for p in of_thread] + [[1, 0]] + [[j, 0] for j in powers(8, tokens)],
        [[2, 0], [4, 0], *([0, p] for p in of_lanes)],
        [[0, p] for p in powers(8 * own, rows)] + _alike(warps // row_warps),
        [tokens, rows],
    )


@constexpr_function
def loaded_x_layout(tokens: int, rows: int, warps: int, paired: bool) -> Any:
    """Return the layout in which x is loaded: as products want it; ``paired``, as y will be."""
    return out_layout(tokens, rows, warps) if paired else x_layout(tokens, rows, warps, warps)


@constexpr_function
def out_layout(tokens: int, rows: int, warps: int) -> Any:
    """Return the layout of x and y [tokens, rows of P] where tokens are the rows of products."""
    own = rows // (8 * warps)
    return linear(
        [[0, p] for p in powers(1, 2 * own)] + [[t, 0] for t in powers(8, tokens)],
        [[0, 2 * own], [0, 4 * own], [1, 0], [2, 0], [4, 0]],
        [[0, p] for p in powers(8 * own, rows)],
        [tokens, rows],
    )


@constexpr_function
def turned_layout(tokens: int, rows: int, warps: int, paired: bool, by_token: bool) -> Any:
    """Return the layout in which an instruction turns x or y [tokens, rows of P].

    What it takes together comes first: two tokens, or ``by_token`` two rows of P. Otherwise an
    `x_layout` or an `out_layout`.
    """
    own = rows // (8 * warps)
    of_thread, of_lanes = _rows_of_p(own, paired)
    pair, *lanes = [[0, p] for p in of_lanes]
    of_token, *tokens_of_lanes = [[t, 0] for t in (1, 2, 4)]
    if not by_token:
        pair, lanes, of_token, tokens_of_lanes = of_token, tokens_of_lanes, pair, lanes
    return linear(
        [pair] + [[0, p] for p in of_thread] + [[t, 0] for t in powers(8, tokens)],
        [*lanes, of_token, *tokens_of_lanes],
        [[0, p] for p in powers(8 * own, rows)],
        [tokens, rows],
    )


@constexpr_function
def causal_layout(tokens: int, columns: int, warps: int) -> Any:
    """Return the layout of a part of the causal matrix [tokens, history or tokens]."""
    return linear(
        [[0, 1]] + [[0, j] for j in powers(8, columns)] + [[t, 0] for t in powers(8, tokens)],
        [[0, 2], [0, 4], [1, 0], [2, 0], [4, 0]],
        _alike(warps),
        [tokens, columns],
    )


@constexpr_function
def c_layout(tokens: int, columns: int, v: int, warps: int) -> Any:
    """Return the layout of C [tokens, N]."""
    return linear(
        [[0, n] for n in powers(1, v)]
        + [[0, n] for n in powers(4 * v, columns)]
        + [[t, 0] for t in powers(8, tokens)],
        [[0, v], [0, 2 * v], [1, 0], [2, 0], [4, 0]],
        _alike(warps),
        [tokens, columns],
    )


@constexpr_function
def b_layout(history: int, columns: int, v: int, warps: int, row_warps: int = 1) -> Any:
    """Return the layout of B [history, N], columns shared as those of a `state_layout`."""
    sharing = warps // row_warps
    return linear(
        [[0, n] for n in powers(1, v // 2)]
        + [[1, 0]]
        + [[j, 0] for j in powers(8, history)]
        + [[0, n] for n in powers(4 * v * sharing, columns)],
        [[2, 0], [4, 0], [0, v // 2], [0, v], [0, 2 * v]],
        _alike(row_warps) + [[0, n] for n in powers(4 * v, 4 * v * sharing)],
        [history, columns],
    )


@constexpr_function
def of_one_head_layout(warps: int) -> Any:
    """Return the layout of [tokens or history] of one head, one for each lane."""
    return None if INTERPRETED else gl.BlockedLayout([1], [32], [warps], [0])


@constexpr_function
def padded_taps(width: int) -> int:
    """Return a power of two that has room for the taps of a convolution: 2 or 4."""
    return 2 if width == 2 else 4


@constexpr_function
def taps_layout(channels: int, width: int, warps: int) -> Any:
    """Return the layout of taps [channels, 2 or 4], a channel's together, shared by all threads."""
    each, taps = max(channels // (32 * warps), 1), padded_taps(width)
    return None if INTERPRETED else gl.BlockedLayout([each, taps], [32, 1], [warps, 1], [1, 0])


@constexpr_function
def taps_of_out_layout(rows: int, width: int, warps: int) -> Any:
    """Return the layout of taps [rows of P, 2 or 4] by the rows that an `out_layout` has."""
    own, taps = rows // (8 * warps), padded_taps(width)
    return linear(
        [[0, tap] for tap in powers(1, taps)] + [[p, 0] for p in powers(1, 2 * own)],
        [[2 * own, 0], [4 * own, 0], [0, 0], [0, 0], [0, 0]],
        [[p, 0] for p in powers(8 * own, rows)],
        [rows, taps],
    )


@constexpr_function
def heads_layout(heads: int, columns: int, warps: int) -> Any:
    """Return the layout of [heads, tokens or history], warps sharing the heads."""
    of_a_warp = max(heads // warps, 1)
    lanes = min(32 // of_a_warp, columns)
    return (
        None
        if INTERPRETED
        else gl.BlockedLayout([1, columns // lanes], [32 // lanes, lanes], [warps, 1], [1, 0])
    )


@constexpr_function
def matrices_layout(heads: int, tokens: int, columns: int, warps: int) -> Any:
    """Return the layout of each head's causal matrix [heads, tokens, history or tokens].

    Warps share the heads, and hold the same where there are too few.
    """
    each = max(heads // warps, 1)
    return linear(
        [[0, 0, j] for j in powers(1, columns // 4)]
        + [[0, t, 0] for t in powers(8, tokens)]
        + [[h, 0, 0] for h in powers(1, each)],
        [[0, 0, columns // 4], [0, 0, columns // 2], [0, 1, 0], [0, 2, 0], [0, 4, 0]],
        [[h, 0, 0] if h < heads else [0, 0, 0] for h in powers(each, each * warps)],
        [heads, tokens, columns],
    )


@constexpr_function
def columns_layout(tokens: int, columns: int, v: int, warps: int) -> Any:
    """Return the layout of B [history or tokens, N] whose tokens are a causal matrix's columns."""
    return linear(
        [[0, n] for n in powers(1, v)]
        + [[0, n] for n in powers(4 * v, columns)]
        + [[j, 0] for j in powers(2, tokens // 4)],
        [[0, v], [0, 2 * v], [1, 0], [tokens // 4, 0], [tokens // 2, 0]],
        _alike(warps),
        [tokens, columns],
    )
