# SPDX-License-Identifier: Apache-2.0
"""Capturing any callable over static buffers into graphs, and launching them.

Knows nothing of kernels or of Mamba.

    graph, cuda_graph   the state machine, and its CUDA form
    space               what the graphs of one device share
    buffers             named static tensors
    bucket_graphs       one graph per (bucket, T)
    driver              the only file that imports cuda-python
    audit/              PDL links: whether compiled code and a graph's edges keep the rules
"""

from __future__ import annotations

from graphrt.capture.audit.chain import audit_chain, audit_kernel
from graphrt.capture.audit.edges import Node, audit_graph
from graphrt.capture.audit.links import KernelCode
from graphrt.capture.bucket_graphs import BucketGraph, BucketGraphs, CaptureProgress, Recipe
from graphrt.capture.buffers import fill, named_tensors, nbytes
from graphrt.capture.cuda_graph import CudaGraph, CudaSpace
from graphrt.capture.graph import Graph, GraphState, RecordedGraph
from graphrt.capture.space import CaptureSpace, RecordSpace, capture_space

__all__ = [
    "BucketGraph",
    "BucketGraphs",
    "CaptureProgress",
    "CaptureSpace",
    "CudaGraph",
    "CudaSpace",
    "Graph",
    "GraphState",
    "KernelCode",
    "Node",
    "Recipe",
    "RecordSpace",
    "RecordedGraph",
    "audit_chain",
    "audit_graph",
    "audit_kernel",
    "capture_space",
    "fill",
    "named_tensors",
    "nbytes",
]
