# SPDX-License-Identifier: Apache-2.0
"""Measuring the chain beside its peers: ``graphrt bench`` and ``tools/tune.py`` stand on this.

cases       what is measured          histories   how full the rings are
workload    the tensors               traffic     the bytes that must move
gate        right first               timing      then timed, by one contract for everybody
stages      the chain, whole and in parts; yardsticks, peers: what it is compared with
"""
