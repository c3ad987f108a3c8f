# SPDX-License-Identifier: Apache-2.0
"""Capturing any callable over static buffers into graphs, and launching them.

Knows nothing of kernels or of Mamba.

    graph, cuda_graph   the state machine, and its CUDA form
    space               what the graphs of one device share
    buffers             named static tensors
    bucket_graphs       one graph per (bucket, T)
    driver              the only file that imports cuda-python
    driver_nodes        what the driver says about one node
    audit/              PDL links: whether compiled code and a graph's edges keep the rules
    inspect/            what a captured graph holds, read back and explained
"""

from __future__ import annotations

from graphrt.capture.audit.chain import audit_chain, audit_kernel
from graphrt.capture.audit.edges import Node, audit_graph
from graphrt.capture.audit.links import KernelCode
from graphrt.capture.bucket_graphs import BucketGraph, BucketGraphs, CaptureProgress, Recipe
from graphrt.capture.buffers import fill, named_tensors, nbytes
from graphrt.capture.cuda_graph import CudaGraph, CudaSpace
from graphrt.capture.graph import Graph, GraphState, RecordedGraph
from graphrt.capture.inspect.contract import GraphContract, check_contract
from graphrt.capture.inspect.diff import GraphDiff, diff_reports
from graphrt.capture.inspect.fingerprint import fingerprint
from graphrt.capture.inspect.golden import assert_same_graph
from graphrt.capture.inspect.manifest import Manifest, Padding, Role
from graphrt.capture.inspect.poison import PoisonCase, PoisonReport, poison_run
from graphrt.capture.inspect.read import inspect_graph
from graphrt.capture.inspect.report import Report
from graphrt.capture.inspect.schema import load, save
from graphrt.capture.space import CaptureSpace, RecordSpace, capture_space

__all__ = [
    "BucketGraph",
    "BucketGraphs",
    "CaptureProgress",
    "CaptureSpace",
    "CudaGraph",
    "CudaSpace",
    "Graph",
    "GraphContract",
    "GraphDiff",
    "GraphState",
    "KernelCode",
    "Manifest",
    "Node",
    "Padding",
    "PoisonCase",
    "PoisonReport",
    "Recipe",
    "RecordSpace",
    "RecordedGraph",
    "Report",
    "Role",
    "assert_same_graph",
    "audit_chain",
    "audit_graph",
    "audit_kernel",
    "capture_space",
    "check_contract",
    "diff_reports",
    "fill",
    "fingerprint",
    "inspect_graph",
    "load",
    "named_tensors",
    "nbytes",
    "poison_run",
    "save",
]
