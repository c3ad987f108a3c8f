# SPDX-License-Identifier: Apache-2.0
"""A graph with a WHILE node: Triton kernels in its body, and one that decides whether to go on."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
import triton
import triton.language as tl

from graphrt.capture import driver, driver_nodes
from graphrt.capture.inspect import dot
from graphrt.capture.inspect.manifest import Manifest
from graphrt.capture.inspect.read import inspect_graph
from tools.gpu.inspection.common import Context, figures

SOURCE = b"""
typedef __device_builtin__ unsigned long long cudaGraphConditionalHandle;
extern "C" __device__ __cudart_builtin__ void cudaGraphSetConditional(
    cudaGraphConditionalHandle handle, unsigned int value);
extern "C" __global__ void again(cudaGraphConditionalHandle handle, int *left) {
    int more = --*left;
    cudaGraphSetConditional(handle, more > 0);
}
"""


@triton.jit
def _add_one(x_ptr, count, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    tl.store(x_ptr + places, tl.load(x_ptr + places, mask=inside) + 1, mask=inside)


def while_loop(context: Context) -> dict[str, Any]:
    """Build the loop, run it, and read its body back, with the driver's drawing if need be."""
    from cuda.bindings import driver as cu
    from cuda.bindings import runtime as rt

    x = torch.zeros(1024, device=context.device)
    left = torch.tensor([3], dtype=torch.int32, device=context.device)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        compiled = _add_one[(1,)](x, 1024, BLOCK=1024)
    torch.cuda.synchronize()
    x.zero_()
    again = _compile(cu)

    graph = _ok(rt.cudaGraphCreate(0))
    condition = _ok(rt.cudaGraphConditionalHandleCreate(graph, 1, 1))
    params = rt.cudaGraphNodeParams()
    params.type = rt.cudaGraphNodeType.cudaGraphNodeTypeConditional
    params.conditional.handle = condition
    params.conditional.type = rt.cudaGraphConditionalNodeType.cudaGraphCondTypeWhile
    params.conditional.size = 1
    node = _ok(rt.cudaGraphAddNode(graph, None, None, 0, params))
    body = params.conditional.phGraph_out[0]

    mode = rt.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
    raw = stream.cuda_stream
    _ok(rt.cudaStreamBeginCaptureToGraph(raw, body, None, None, 0, mode))
    with torch.cuda.stream(stream):
        for _ in range(2):
            _add_one[(1,)](x, 1024, BLOCK=1024, launch_pdl=False)
        values = (int(condition), left.data_ptr())
        types = (ctypes.c_ulonglong, ctypes.c_void_p)
        _ok(cu.cuLaunchKernel(again, 1, 1, 1, 1, 1, 1, 0, raw, (values, types), 0))
    _ok(rt.cudaStreamEndCapture(raw))

    found: dict[str, Any] = {"failures": []}
    manifest = Manifest()
    manifest.declare_all({"x": x, "left": left})
    drawing = driver_nodes.dot(int(graph))
    context.note(drawing, "while.dot")
    found["drawn"] = {g: len(nodes) for g, nodes in dot.bodies(drawing).items()}
    found["by_call"] = str(driver_nodes.conditional_bodies(int(node)))
    given = {int(node): [int(body)]}
    report = inspect_graph(int(graph), manifest, name="while", kernels=[compiled])
    told = inspect_graph(int(graph), manifest, name="while", kernels=[compiled], bodies=given)
    context.save(report, "while")
    context.save(told, "while-told")
    if [len(b.nodes) for b in told.bodies] != [1, 3]:
        found["failures"].append(f"given bodies: {[len(b.nodes) for b in told.bodies]}")
    if [b.nodes and len(b.edges) for b in report.bodies] != [
        b.nodes and len(b.edges) for b in told.bodies
    ]:
        found["failures"].append("the body was not found without being told")
    executable = driver.instantiate(int(graph))
    driver.launcher(executable, torch.cuda.current_device())()
    torch.cuda.synchronize()
    found["x"] = float(x[0])
    if found["x"] != 6.0:
        found["failures"].append(f"the loop ran wrong: x is {found['x']}")
    driver.destroy(executable)
    return {**found, **figures(report)}


def _compile(cu: Any) -> Any:
    from cuda.bindings import nvrtc

    major, minor = torch.cuda.get_device_capability()
    program = _ok(nvrtc.nvrtcCreateProgram(SOURCE, b"again.cu", 0, None, None))
    option = f"--gpu-architecture=compute_{major}{minor}".encode()
    status = nvrtc.nvrtcCompileProgram(program, 1, [option])[0]
    if int(status):
        size = _ok(nvrtc.nvrtcGetProgramLogSize(program))
        log = b" " * size
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(log.decode())
    size = _ok(nvrtc.nvrtcGetPTXSize(program))
    code = b" " * size
    _ok(nvrtc.nvrtcGetPTX(program, code))
    module = _ok(cu.cuModuleLoadData(code))
    return _ok(cu.cuModuleGetFunction(module, b"again"))


def _ok(answer: Any) -> Any:
    status, *outputs = answer
    if int(status):
        raise RuntimeError(f"{status!r}")
    return outputs[0] if len(outputs) == 1 else outputs
