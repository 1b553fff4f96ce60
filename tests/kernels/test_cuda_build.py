"""Every gpu.cu is compiled by NVIDIA's own compiler, for the cards of two generations. No driver or GPU is needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from micrognm.kernels import cuda

MEND = 'needs NVIDIA\'s compiler: python -m pip install "micrognm[cuda-build]"'
nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason=MEND)
try:
    nvrtc.nvrtcVersion()
except RuntimeError:  # the bindings are there, as another package's need, and the compiler is not
    pytest.skip(MEND, allow_module_level=True)
FILES = sorted(Path(cuda.__file__).parent.glob("**/gpu.cu"))
CARDS = ["sm_80", "sm_90"]  # A100, H100


def build(text: str, card: str) -> tuple[bytes, str]:
    """The machine code for a card, empty where the text is refused, and the compiler's log."""
    options = [f"--gpu-architecture={card}".encode(), b"--std=c++17", b"-ftz=true"]
    _, program = nvrtc.nvrtcCreateProgram(text.encode(), b"gpu.cu", 0, [], [])
    (failed,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    log = b" " * nvrtc.nvrtcGetProgramLogSize(program)[1]
    nvrtc.nvrtcGetProgramLog(program, log)
    code = b""
    if not failed:
        code = b" " * nvrtc.nvrtcGetCUBINSize(program)[1]
        nvrtc.nvrtcGetCUBIN(program, code)
    nvrtc.nvrtcDestroyProgram(program)
    return code, log.decode(errors="replace").strip("\0 \n")


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
def test_every_kernel_compiles(file, card):
    module = cuda.module(str(file))
    code, log = build(module.text, card)
    assert code.startswith(b"\x7fELF"), log
    for name in module.kernels:
        assert f".text.{name}\0".encode() in code


def test_the_tools_of_cuda_cuh_compile():
    body = """
    float d[4] = {}; const unsigned a[4] = {tf32(x[0])}, b[2] = {tf32(x[1])};
    mma_tf32(d, a, b);
    x[2] = block_sum(d[1]) + block_max(d[2]) + dynamic_shared<float>()[thread_in_block()] + INFINITY + NAN + FLT_MAX;
    """
    text = f'#include "cuda.cuh"\nextern "C" __global__ void all(float* x) {{ {body} }}'
    for card in CARDS:
        code, log = build(cuda.Module(text, "x").text, card)
        assert code and not log


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("int i = nothing;", r'wrong/gpu\.cu\(2\): error: identifier "nothing" is undefined'),
        ("__shared__ float big[13000]; big[threadIdx.x] = 1; x[0] = big[0];", "too much shared data"),
    ],
)
def test_what_is_wrong_is_refused(body, message):
    """So that the tests above cannot pass on a compiler that takes anything."""
    text = f'#include "cuda.cuh"\nextern "C" __global__ void f(float* x) {{ {body} }}'
    for card in CARDS:
        code, log = build(cuda.Module(text, "wrong/gpu.cu").text, card)
        assert not code and re.search(message, log)
