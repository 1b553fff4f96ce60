"""CUDA C on the CPU: what the header computes, what it refuses, and how kernels are launched."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from micrognm.kernels import cuda

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ (apt-get install g++)")
pytestmark = needs_compiler

TEXT = r"""
#include "cuda.cuh"

extern "C" __global__ void __launch_bounds__(1024) softmax(const float* __restrict__ x, float* __restrict__ y, int n) {
  const float* row = x + (long long)blockIdx.x * n;
  float most = -INFINITY, sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) most = fmaxf(most, row[i]);
  most = block_max(most);
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += __expf(row[i] - most);
  sum = block_sum(sum);
  for (int i = threadIdx.x; i < n; i += blockDim.x)
    y[(long long)blockIdx.x * n + i] = __fdividef(__expf(row[i] - most), sum);
}

#define TILE 16
extern "C" __global__ void product(const float* a, const float* b, float* c, int m, int n, int k) {
  float (*as)[TILE] = (float (*)[TILE])dynamic_shared<float>();
  __shared__ float bs[TILE][TILE + 1];
  const int row = blockIdx.y * TILE + threadIdx.y, column = blockIdx.x * TILE + threadIdx.x;
  float sum = 0;
  for (int i = 0; i < k; i += TILE) {
    const int ka = i + threadIdx.x, kb = i + threadIdx.y;
    as[threadIdx.y][threadIdx.x] = row < m && ka < k ? a[row * k + ka] : 0.0f;
    bs[threadIdx.y][threadIdx.x] = column < n && kb < k ? b[kb * n + column] : 0.0f;
    __syncthreads();
    for (int j = 0; j < TILE; j++) sum += as[threadIdx.y][j] * bs[j][threadIdx.x];
    __syncthreads();
  }
  if (row < m && column < n) c[row * n + column] = sum;
}

extern "C" __global__ void indices(int* out) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * threads_in_block() + thread_in_block()] = threadIdx.x + 100 * threadIdx.y + 10000 * threadIdx.z;
}

extern "C" __global__ void shuffles(const int* x, int* out, int width) {
  const int i = threadIdx.x, n = blockDim.x, v = x[i];
  out[i] = __shfl_sync(ALL_LANES, v, 3, width);
  out[n + i] = __shfl_up_sync(ALL_LANES, v, 2, width);
  out[2 * n + i] = __shfl_down_sync(ALL_LANES, v, 2, width);
  out[3 * n + i] = __shfl_xor_sync(ALL_LANES, v, 5, width);
  out[4 * n + i] = (int)__ballot_sync(ALL_LANES, v % 3 == 0);
  out[5 * n + i] = __any_sync(ALL_LANES, v == 40) + 2 * __all_sync(ALL_LANES, v < 1000);
  long long wide = __shfl_xor_sync(ALL_LANES, (long long)v << 33, 1);
  out[6 * n + i] = (int)(wide >> 33);
}

extern "C" __global__ void halves(int* out) {  // two halves of a warp go ways of their own
  const unsigned low = 0xffffu;
  int v = threadIdx.x;
  if (threadIdx.x < 16) for (int i = 0; i < 5; i++) v += __shfl_xor_sync(low, v, 1);
  else for (int i = 0; i < 9; i++) v += __shfl_xor_sync(~low, v, 2);
  __syncwarp();
  out[threadIdx.x] = v;
}

extern "C" __global__ void votes(int* out) {
  out[threadIdx.x] = __syncthreads_count(threadIdx.x < 7) + 100 * __syncthreads_or(threadIdx.x == 3)
                     + 1000 * __syncthreads_and(threadIdx.x != 3);
}

extern "C" __global__ void atomics(float* sum, int* count, unsigned* most, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  atomicAdd(sum, 0.5f);
  const int old = atomicAdd(count, 2);
  atomicMax(most, (unsigned)(old + i));
}

extern "C" __global__ void bits(const float* x, float* out) {
  const int i = threadIdx.x;
  out[i] = __int_as_float(__float_as_int(x[i]) & 0x7fffffff);
  out[blockDim.x + i] = __uint_as_float(__umulhi(0xd2511f53u, __float_as_uint(x[i])));
  const float4 all = *reinterpret_cast<const float4*>(x + i / 4 * 4);
  out[2 * blockDim.x + i] = all.x + all.w + rsqrtf(make_float2(4.0f, 0.0f).x) + __ldg(x + i);
}

extern "C" __global__ void tensor(const float* a, const float* b, float* d) {
  const int group = threadIdx.x / 4, t = threadIdx.x % 4;
  const unsigned as[4] = {tf32(a[group * 8 + t]), tf32(a[(group + 8) * 8 + t]), tf32(a[group * 8 + t + 4]),
                          tf32(a[(group + 8) * 8 + t + 4])};
  const unsigned bs[2] = {tf32(b[t * 8 + group]), tf32(b[(t + 4) * 8 + group])};
  float sum[4];
  for (int i = 0; i < 4; i++) sum[i] = d[(group + i / 2 * 8) * 8 + 2 * t + i % 2];
  mma_tf32(sum, as, bs);
  for (int i = 0; i < 4; i++) d[(group + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

extern "C" __global__ void every_type(const double* a, const long long* b, const unsigned char* c, const bool* d,
                                      double e, long long f, bool g, unsigned h, float i, double* out) {
  out[0] = a[0] + b[0] + c[0] + d[0] + e + f + g + h + i;
}

extern "C" __global__ void nulls(const float* x, int* out) { out[0] = x == nullptr; }

extern "C" __global__ void fresh(float* out) { out[threadIdx.x] = dynamic_shared<float>()[threadIdx.x]; }

extern "C" __global__ void subnormal(float* x) { x[0] = x[0] * 0.5f; }
"""

# One mistake each: the body of a kernel that has `float* x`, and what the error must say.
MISTAKES = {
    "returns before a barrier": (
        "if (threadIdx.x == 5) return; __syncthreads();",
        r"deadlock: of 64 threads 63 wait at a barrier of the block, 0 for lanes of their warp and 1 have returned; "
        r"the first that waits is thread \(0, 0, 0\) at __syncthreads in line \d+",
    ),
    "half a block at a barrier": ("for (int i = 0; i < threadIdx.x; i++) __syncthreads();", "deadlock: of 64 threads"),
    "two barriers": (
        "if (threadIdx.x < 32) {\n __syncthreads();\n } else {\n __syncthreads();\n }",
        r"threads of one block wait at different barriers: .* line \d+, thread",
    ),
    "a lane missing": (
        "if (threadIdx.x != 7) x[0] = __shfl_xor_sync(ALL_LANES, 1.0f, 1);",
        r"deadlock: .* 62 for lanes of their warp and|deadlock: .* 31 for lanes of their warp and",
    ),
    "a lane out of its own mask": (
        "x[0] = __shfl_xor_sync(0xffffu, 1.0f, 1);",
        r"the mask leaves out the lane that calls: thread \(\d+, 0, 0\) at __shfl_xor_sync",
    ),
    "reads a lane out of the mask": (
        "if (threadIdx.x < 16) x[0] = __shfl_xor_sync(0xffffu, 1.0f, 16);",
        r"at __shfl_xor_sync in line \d+ reads lane \d+, which does not take part",
    ),
    "lanes in different calls": (
        "if (threadIdx.x % 2) __ballot_sync(ALL_LANES, 1); else __shfl_sync(ALL_LANES, 1, 0);",
        "lanes of one warp wait for each other in different calls",
    ),
    "half a warp at the tensor cores": (
        "float d[4]; unsigned a[4], b[2]; if (threadIdx.x < 16) mma_tf32(d, a, b);",
        "deadlock: .* thread .* at mma_tf32",
    ),
    "behind the shared memory": (
        "dynamic_shared<float>()[8 + threadIdx.x % 2] = 1.0f;",
        "written behind the end of the dynamic shared memory",
    ),
}


@pytest.fixture(scope="module")
def module():
    return cuda.Module(TEXT, "a test")


@pytest.fixture(scope="module")
def mistakes():
    kernels = [
        f'extern "C" __global__ void mistake{i}(float* x) {{ {body} }}' for i, (body, _) in enumerate(MISTAKES.values())
    ]
    right = 'extern "C" __global__ void right(float* x) { x[0] = 2.0f; }'
    return cuda.Module("\n".join(['#include "cuda.cuh"', *kernels, right]), "mistakes")


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("rows", "n", "threads"), [(1, 1, 32), (7, 1000, 128), (3, 33, 1024), (70, 5, 64)])
def test_softmax(module, rng, rows, n, threads):
    x, y = floats(rng, rows, n), np.full((rows, n), np.nan, np.float32)
    module.launch("softmax", rows, threads, x, y, n)
    e = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(y, e / e.sum(axis=1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (16, 16, 16), (50, 37, 29), (17, 33, 100)])
def test_product_by_tiles(module, rng, m, n, k):
    a, b, c = floats(rng, m, k), floats(rng, k, n), np.full((m, n), np.nan, np.float32)
    module.launch("product", (cuda.ceil_div(n, 16), cuda.ceil_div(m, 16)), (16, 16), a, b, c, m, n, k, shared=16 * 64)
    np.testing.assert_allclose(c, a.astype(np.float64) @ b, atol=2e-5)


def test_indices_of_three_dimensions(module):
    out = np.empty((2, 3, 4, 2, 5, 7), np.int32)  # grid z, y, x and block z, y, x
    module.launch("indices", (4, 3, 2), (7, 5, 2), out)
    z, y, x = np.indices((2, 5, 7))
    np.testing.assert_array_equal(out, np.broadcast_to(x + 100 * y + 10_000 * z, out.shape))


@pytest.mark.parametrize("width", [32, 16, 8])
def test_shuffles_and_votes_of_a_warp(module, rng, width):
    x, out = rng.integers(0, 1000, 64).astype(np.int32), np.empty((7, 64), np.int32)
    module.launch("shuffles", 1, 64, x, out, width)
    lane, first = np.arange(64), np.arange(64) // width * width
    for row, source in enumerate((first + 3, lane - 2, lane + 2, lane ^ 5)):
        outside = (source < first) | (source >= first + width)
        np.testing.assert_array_equal(out[row], x[np.where(outside, lane, source)])
    for warp in (slice(0, 32), slice(32, 64)):
        ballot = sum(1 << i for i, v in enumerate(x[warp]) if v % 3 == 0)
        assert (out[4, warp].view(np.uint32) == ballot).all()
        assert (out[5, warp] == int((x[warp] == 40).any()) + 2).all()
    np.testing.assert_array_equal(out[6], x[lane ^ 1])


def test_parts_of_a_warp_run_apart(module):
    out, v = np.empty(32, np.int32), np.arange(32)
    module.launch("halves", 1, 32, out)
    for _ in range(5):
        v[:16] += v[:16][np.arange(16) ^ 1]
    for _ in range(9):
        v[16:] += v[16:][np.arange(16) ^ 2]
    np.testing.assert_array_equal(out, v)


def test_votes_of_a_block(module):
    out = np.empty(96, np.int32)
    module.launch("votes", 1, 96, out)
    assert (out == 7 + 100).all()


def test_atomics_over_many_blocks(module):
    total, count, most = np.zeros(1, np.float32), np.zeros(1, np.int32), np.zeros(1, np.uint32)
    module.launch("atomics", 100, 128, total, count, most, 12_345)
    assert (total[0], count[0]) == (12_345 / 2, 2 * 12_345) and most[0] >= 2 * 12_344


def test_bits_and_vectors(module, rng):
    x, out = floats(rng, 32), np.empty((3, 32), np.float32)
    module.launch("bits", 1, 32, x, out)
    np.testing.assert_array_equal(out[0], np.abs(x))
    high = (np.uint64(0xD2511F53) * x.view(np.uint32)) >> np.uint64(32)
    np.testing.assert_array_equal(out[1].view(np.uint32), high.astype(np.uint32))
    four = x.reshape(8, 4)
    np.testing.assert_allclose(out[2], np.repeat(four[:, 0] + four[:, 3], 4) + np.float32(0.5) + x, atol=1e-6)


def test_tensor_cores_multiply_in_tf32(module, rng):
    a, b, d = floats(rng, 16, 8), floats(rng, 8, 8), floats(rng, 16, 8)
    a[0, 0], a[0, 1], a[0, 2] = 1 + 2**-11, 1 + 2**-11 - 2**-20, -1 - 2**-11  # halves go away from zero
    before = d.copy()
    module.launch("tensor", 1, 32, a, b, d)

    def rounded(x):
        mantissa, exponent = np.frexp(x.astype(np.float64))
        return np.trunc(mantissa * 2**11 + np.copysign(0.5, mantissa)) / 2**11 * 2.0**exponent

    assert rounded(a)[0, :3].tolist() == [1 + 2**-10, 1, -1 - 2**-10]
    np.testing.assert_array_equal(d, (before + rounded(a) @ rounded(b)).astype(np.float32))
    assert abs(d - (before + a.astype(np.float64) @ b)).max() > 1e-5  # it does round


def test_arguments_of_every_type(module):
    out = np.zeros(1)
    one = np.ones(1)
    arrays = one, one.astype(np.int64), np.full(1, 200, np.uint8), np.array([True])
    module.launch("every_type", 1, 1, *arrays, 0.5, -(2**40), True, 2**32 - 1, 0.25, out)
    assert out[0] == 1 + 1 + 200 + 1 + 0.5 - 2**40 + 1 + 2**32 - 1 + 0.25


def test_none_is_a_null_pointer(module):
    for x, want in ((None, 1), (np.zeros(1, np.float32), 0)):
        out = np.full(1, 7, np.int32)
        module.launch("nulls", 1, 1, x, out)
        assert out[0] == want


def test_shared_memory_is_nan_until_it_is_written(module):
    out = np.zeros(32, np.float32)
    module.launch("fresh", 1, 32, out, shared=128)
    assert np.isnan(out).all()


def test_subnormal_numbers_are_zero_as_on_the_card_and_only_in_a_kernel(module):
    x = np.array([1.2e-38], np.float32)
    module.launch("subnormal", 1, 1, x)
    assert x[0] == 0 and np.float32(1.2e-38) * np.float32(0.5) > 0


def test_a_grid_of_no_blocks_does_nothing(module):
    module.launch("indices", 0, 32, np.empty(0, np.int32))
    module.launch("indices", (3, 0), 32, np.empty(0, np.int32))


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_end_in_an_error_and_never_hang(mistakes, name):
    number, (_, message) = list(MISTAKES).index(name), MISTAKES[name]
    kernel = f"mistake{number}"
    for grid in (1, 8):
        with pytest.raises(
            RuntimeError, match=rf"mistakes: {kernel}, run on the CPU, block \(\d, 0, 0\): .*({message})"
        ):
            mistakes.launch(kernel, grid, 64, np.zeros(64, np.float32), shared=32)
    x = np.zeros(1, np.float32)
    mistakes.launch("right", 1, 1, x)
    assert x[0] == 2


def test_a_missing_barrier_changes_the_result():
    """Whichever way the values go between threads: blocks take turns in which thread they run first."""
    text = """#include "cuda.cuh"
    extern "C" __global__ void pass(const float* x, float* y, int apart) {
      __shared__ float s[64];
      s[threadIdx.x] = x[threadIdx.x] + blockIdx.x;
      y[blockIdx.x * 64 + threadIdx.x] = s[(threadIdx.x + apart) % 64];
    }"""
    x, y = np.arange(64, dtype=np.float32), np.empty((8, 64), np.float32)
    for apart in (1, 63):
        cuda.Module(text, "no barrier").launch("pass", 8, 64, x, y, apart)
        assert (y != np.roll(x, -apart) + np.arange(8)[:, None]).any()


def test_a_text_that_does_not_compile_shows_the_log_and_the_line():
    text = '#include "cuda.cuh"\nextern "C" __global__ void f(float* x) {\n  x[0] = nonsense;\n}'
    with pytest.raises(RuntimeError) as error:
        cuda.Module(text, "bad/gpu.cu").launch("f", 1, 1, np.zeros(1, np.float32))
    assert re.search(
        r"bad/gpu.cu: g\+\+ cannot compile it \(MICROGNM_KERNELS=reference runs without\)", str(error.value)
    )
    assert "bad/gpu.cu:3:10: error" in str(error.value) and "nonsense" in str(error.value)


def test_variables_that_the_stack_of_a_thread_cannot_hold():
    body = "volatile float big[100000]; for (int i = 0; i < 100000; i++) big[i] = 1.0f; x[0] = big[7];"
    text = f'#include "cuda.cuh"\nextern "C" __global__ void f(float* x) {{ {body} }}'
    with pytest.raises(RuntimeError, match=r"the frame size of 40.* bytes is larger than 131072"):
        cuda.Module(text, "x").launch("f", 1, 1, np.zeros(1, np.float32))


def test_without_a_compiler_the_error_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    text = f'#include "cuda.cuh"\nextern "C" __global__ void f{tmp_path.stat().st_ino}() {{}}'  # not in the cache
    with pytest.raises(RuntimeError, match=r"takes g\+\+, which is not installed .*apt-get install g\+\+.*KERNELS=cpu"):
        cuda.Module(text, "x").launch(f"f{tmp_path.stat().st_ino}", 1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__global__ void f() {}", 'every kernel must read extern "C" __global__ void'),
        ('extern "C" __global__ void f() {} template <int n> __global__ void g() {}', "every kernel must read"),
        ('// extern "C" __global__ void f() {}', "there must be one"),
        ('extern "C" __global__ void f(half* x) {}', r"f has a parameter 'half\* x'; its type must be of float, "),
        ('extern "C" __global__ void f(float** x) {}', "its type must be of"),
    ],
)
def test_what_a_text_must_look_like(text, message):
    with pytest.raises(ValueError, match=message):
        cuda.Module(text, "x")


X = np.zeros((4, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (("nothing", 1, 1), ValueError, "a test has no kernel 'nothing'; it has softmax, product"),
        (("fresh", -1, 32, X), ValueError, "grid must be one to three numbers >= 0"),
        (("fresh", (1, 1, 1, 1), 32, X), ValueError, "grid must be one to three numbers"),
        (("fresh", (1, 65_536), 32, X), ValueError, r"a grid has at most \(2147483647, 65535, 65535\) blocks"),
        (("fresh", 1, 0, X), ValueError, "a block has 1 to 1024 threads"),
        (("fresh", 1, 1025, X), ValueError, "a block has 1 to 1024 threads"),
        (("fresh", 1, (64, 32), X), ValueError, "a block has 1 to 1024 threads"),
        (("fresh", 1, (1, 1, 128), X), ValueError, "a block has 1 to 1024 threads"),
        (("fresh", 1, 32), TypeError, r"fresh takes 1 arguments \(out\), got 0"),
        (("fresh", 1, 32, X.astype(np.float64)), TypeError, r"out must be float32, got float64\[4, 4\]"),
        (("fresh", 1, 32, X.T[1:]), ValueError, "out must be C-contiguous, got strides"),
        (("fresh", 1, 32, 3.0), TypeError, "out must be an array or None, got float"),
        (("fresh", 1, 32, np.broadcast_to(np.float32(0), 1)), ValueError, "out is read-only"),
        (("softmax", 1, 32, X, X, 1.5), TypeError, "n must be a number of type int32, got 1.5"),
        (("softmax", 1, 32, X, X, X), TypeError, "n must be a number of type int32"),
        (("softmax", 1, 32, X, X, 2**31), ValueError, "n must fit into int32, got 2147483648"),
    ],
)
def test_wrong_launches(module, call, error, message):
    with pytest.raises(error, match=message):
        module.launch(*call)


def test_too_much_shared_memory(module):
    with pytest.raises(ValueError, match="shared memory goes from 0 to 166912 bytes, got 166913"):
        module.launch("fresh", 1, 32, X, shared=166_913)


def test_kernels_take_float32_alone(module):
    x = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    y, none = module.float32(x, None)
    assert none is None and y.flags.c_contiguous and (y == x).all()
    with pytest.raises(
        TypeError, match=r"a test: .* in float32, got float64\[2\]. MICROGNM_KERNELS=reference computes"
    ):
        module.float32(np.zeros(2))
