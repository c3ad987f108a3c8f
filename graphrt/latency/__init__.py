# SPDX-License-Identifier: Apache-2.0
"""Latency that is recorded, compared and explained: FASTER, SLOWER, SAME or UNDECIDED, and why.

quantities     what is measured, by name        samplers     how each is sampled
subject        anything in a graph              chain        the chain of this package
interleave     sides that take turns            recording    what is kept, and its file
change         how much a series moved          verdict      what that means
compare        two recordings                   why          what else moved
render         for people                       worktrees    two commits
static_gate    without a GPU                    plugin       in pytest

See docs/latency.md.
"""
