# SPDX-License-Identifier: Apache-2.0
"""The audit of PDL links, over compiled code and over a graph's edges.

chain           the verdict on a chain of kernels, and on one of them
waits           rules over a kernel's paths: launch, wait, signal, exit
accesses        rules over what it touches before the wait
edges           rules over a captured graph's nodes and edges
links, verdict  what an audit is told, and what it says
subject         one kernel under audit
ptx, paths, memory_access, provenance    reading PTX, following its paths, tracing addresses
"""
