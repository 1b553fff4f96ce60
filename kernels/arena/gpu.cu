// reference.py on the GPU: each thread changes elements that lie a grid apart, so that a warp's reads lie side by side.
#include "cuda.cuh"

// What NaN is compared with is false: it stays NaN, where fminf and fmaxf would lose it.
__device__ __forceinline__ float gradient(float p, float g, float scale, float limit, float decay) {
  g *= scale;
  g = g > limit ? limit : g < -limit ? -limit : g;
  return g + decay * p;
}

__device__ __forceinline__ float greater(float a, float b) { return a > b || a != a ? a : b; }

__device__ __forceinline__ void put(float* p, float* average, long long i, float x, float rest) {
  p[i] = x;
  if (average) average[i] += rest * (x - average[i]);
}

#define FIRST (blockIdx.x * (long long)blockDim.x + threadIdx.x)
#define APART (gridDim.x * (long long)blockDim.x)

extern "C" __global__ void sgd(
    float* __restrict__ p, float* __restrict__ average, float scale, float limit, float decay, float rest, float lr,
    const float* __restrict__ g, long long n) {
  for (long long i = FIRST; i < n; i += APART) {
    float x = p[i];
    x -= lr * gradient(x, g[i], scale, limit, decay);
    put(p, average, i, x, rest);
  }
}

extern "C" __global__ void momentum(
    float* __restrict__ p, float* __restrict__ b, float* __restrict__ average, float scale, float limit, float decay,
    float rest, float lr, float mu, float ahead, float now, const float* __restrict__ g, long long n) {
  for (long long i = FIRST; i < n; i += APART) {
    float x = p[i];
    const float gi = gradient(x, g[i], scale, limit, decay);
    b[i] = mu * b[i] + gi;
    x -= lr * (ahead * b[i] + now * gi);
    put(p, average, i, x, rest);
  }
}

extern "C" __global__ void adam(
    float* __restrict__ p, float* __restrict__ m, float* __restrict__ v, float* __restrict__ average, float scale,
    float limit, float decay, float rest, float b1, float b2, float eta, float floor, float shrink,
    const float* __restrict__ g, long long n) {
  for (long long i = FIRST; i < n; i += APART) {
    float x = p[i];
    const float gi = gradient(x, g[i], scale, limit, decay);
    m[i] = b1 * m[i] + gi;
    v[i] = b2 * v[i] + gi * gi;
    x = shrink * x - eta * m[i] / (sqrtf(v[i]) + floor);
    put(p, average, i, x, rest);
  }
}

extern "C" __global__ void adamax(
    float* __restrict__ p, float* __restrict__ m, float* __restrict__ u, float* __restrict__ average, float scale,
    float limit, float decay, float rest, float b1, float b2, float eta, float eps, const float* __restrict__ g,
    long long n) {
  for (long long i = FIRST; i < n; i += APART) {
    float x = p[i];
    const float gi = gradient(x, g[i], scale, limit, decay);
    m[i] = b1 * m[i] + gi;
    u[i] = greater(b2 * u[i], fabsf(gi) + eps);
    x -= eta * m[i] / u[i];
    put(p, average, i, x, rest);
  }
}

extern "C" __global__ void rmsprop(
    float* __restrict__ p, float* __restrict__ v, float* __restrict__ b, float* __restrict__ average, float scale,
    float limit, float decay, float rest, float lr, float alpha, float eps, float mu, const float* __restrict__ g,
    long long n) {
  for (long long i = FIRST; i < n; i += APART) {
    float x = p[i];
    const float gi = gradient(x, g[i], scale, limit, decay);
    v[i] = alpha * v[i] + (1.0f - alpha) * gi * gi;
    b[i] = mu * b[i] + gi / (sqrtf(v[i]) + eps);
    x -= lr * b[i];
    put(p, average, i, x, rest);
  }
}

extern "C" __global__ void adagrad(
    float* __restrict__ p, float* __restrict__ h, float* __restrict__ average, float scale, float limit, float decay,
    float rest, float lr, float eps, const float* __restrict__ g, long long n) {
  for (long long i = FIRST; i < n; i += APART) {
    float x = p[i];
    const float gi = gradient(x, g[i], scale, limit, decay);
    h[i] += gi * gi;
    x -= lr * gi / (sqrtf(h[i]) + eps);
    put(p, average, i, x, rest);
  }
}

extern "C" __global__ void ema(float* __restrict__ average, const float* __restrict__ p, float rest, long long n) {
  for (long long i = FIRST; i < n; i += APART) average[i] += rest * (p[i] - average[i]);
}

// sums[block] = the sum of squares of the block's share of g. The grid has the same size on every card.
extern "C" __global__ void squares(const float* __restrict__ g, float* __restrict__ sums, long long n) {
  float sum = 0.0f;
  for (long long i = FIRST; i < n; i += APART) sum += g[i] * g[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
