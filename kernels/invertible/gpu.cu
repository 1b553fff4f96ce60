// reference.py on the GPU: one kernel for the three matrix products, and the couplings with their sums.
#include "cuda.cuh"

#define TILE 64  // rows and columns of the result that a block of 256 threads computes, 4 x 4 each
#define DEEP 16  // of the sum, at a time in shared memory
#define PITCH (TILE + 4)

// out[part] = A B + bias over the part's `length` of k: A[i][l] = a[i am + l ak] is m x k, B[l][j] = b[l n + j] is k x n.
// ones: a row of A that is 1 everywhere, so that the sums of B's columns come with the product; -1 for none.
extern "C" __global__ void product(
    const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias, float* __restrict__ out,
    int m, int n, int k, long long am, long long ak, int ones, int length) {
  __shared__ float as[DEEP][PITCH], bs[DEEP][PITCH];
  const int thread = threadIdx.x, row = thread / 16 * 4, column = thread % 16 * 4;
  const int i0 = blockIdx.x * TILE, j0 = blockIdx.y * TILE;
  const int first = blockIdx.z * length, stop = first + length < k ? first + length : k;
  float sum[4][4] = {};
  for (int l0 = first; l0 < stop; l0 += DEEP) {
    for (int e = thread; e < DEEP * TILE; e += 256) {
      // neighbouring threads read neighbouring numbers
      const int l = ak == 1 ? e % DEEP : e / TILE, i = ak == 1 ? e / DEEP : e % TILE;
      const bool inside = l0 + l < stop && i0 + i < m;
      as[l][i] = !inside ? 0.0f : i0 + i == ones ? 1.0f : a[(i0 + i) * am + (l0 + l) * ak];
      const int lb = e / TILE, j = e % TILE;
      bs[lb][j] = l0 + lb < stop && j0 + j < n ? b[(long long)(l0 + lb) * n + j0 + j] : 0.0f;
    }
    __syncthreads();
    for (int l = 0; l < DEEP; l++)
      for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) sum[i][j] += as[l][row + i] * bs[l][column + j];
    __syncthreads();
  }
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) {
      const int r = i0 + row + i, c = j0 + column + j;
      if (r < m && c < n)
        out[((long long)blockIdx.z * m + r) * n + c] = sum[i][j] + (bias ? bias[c] : 0.0f);
    }
}

__device__ __forceinline__ float logistic(float z) {
  const float e = expf(-fabsf(z));
  return (z >= 0 ? 1.0f : e) / (1.0f + e);
}

__device__ __forceinline__ float log_logistic(float z) { return (z < 0 ? z : 0.0f) - log1pf(expf(-fabsf(z))); }

// A block has `length` elements of one sample; sums[sample][part] gets their part of the log-determinant.
#define EACH_ELEMENT                                                                              \
  const long long sample = blockIdx.x / parts, part = blockIdx.x % parts;                         \
  const long long first = sample * size + part * length;                                          \
  const long long stop = (part + 1) * length < size ? first + length : (sample + 1) * size;       \
  for (long long i = first + threadIdx.x; i < stop; i += blockDim.x)

extern "C" __global__ void coupling(
    const float* __restrict__ x, const float* __restrict__ h, const float* __restrict__ t, float* __restrict__ y,
    float* __restrict__ sums, long long size, int parts, int length, bool sigmoid) {
  float sum = 0;
  EACH_ELEMENT {
    y[i] = sigmoid ? (x[i] + t[i]) * logistic(h[i] + 2) : x[i] * expf(h[i]) + t[i];
    sum += sigmoid ? log_logistic(h[i] + 2) : h[i];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

extern "C" __global__ void coupling_inverse(
    const float* __restrict__ y, const float* __restrict__ h, const float* __restrict__ t, float* __restrict__ x,
    float* __restrict__ sums, long long size, int parts, int length, bool sigmoid) {
  float sum = 0;
  EACH_ELEMENT {
    x[i] = sigmoid ? y[i] * (1 + expf(-h[i] - 2)) - t[i] : (y[i] - t[i]) * expf(-h[i]);
    sum -= sigmoid ? log_logistic(h[i] + 2) : h[i];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

extern "C" __global__ void coupling_backward(
    const float* __restrict__ g, const float* __restrict__ glogdet, const float* __restrict__ x,
    const float* __restrict__ h, const float* __restrict__ t, float* __restrict__ dx, float* __restrict__ dh,
    long long size, int parts, int length, bool sigmoid) {
  EACH_ELEMENT {
    const float d = g[i] * (sigmoid ? logistic(h[i] + 2) : expf(h[i]));
    dx[i] = d;
    dh[i] = sigmoid ? (d * (x[i] + t[i]) + glogdet[sample]) * logistic(-h[i] - 2) : d * x[i] + glogdet[sample];
  }
}
