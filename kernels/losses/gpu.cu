#include "cuda.cuh"

// ---- categorical: a warp takes a row ---------------------------------------------------------------------------------

extern "C" __global__ void categorical(const float* __restrict__ logits, const long long* __restrict__ index,
                                       float* __restrict__ out, float* __restrict__ largest, float* __restrict__ total,
                                       int rows, int classes) {
  const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  const float* x = logits + (long long)(row < rows ? row : 0) * classes;
  const int count = row < rows ? classes : 0;
  float top = -INFINITY, sum = 0.0f;
  for (int k = lane; k < count; k += 32) top = fmaxf(top, x[k]);
  top = warp_max(top);
  for (int k = lane; k < count; k += 32) sum += expf(x[k] - top);
  sum = warp_sum(sum);
  if (row < rows && lane == 0) {
    out[row] = (x[index[row]] - top) - logf(sum);
    largest[row] = top;
    total[row] = sum;
  }
}

extern "C" __global__ void categorical_grad(const float* __restrict__ g, const float* __restrict__ logits,
                                            const long long* __restrict__ index, const float* __restrict__ largest,
                                            const float* __restrict__ total, float* __restrict__ out, int rows,
                                            int classes) {
  const int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const float top = largest[row], slope = g[row], scale = -slope / total[row];
  const long long picked = index[row], start = (long long)row * classes;
  for (int k = lane; k < classes; k += 32) {
    const float softmax = expf(logits[start + k] - top) * scale;
    out[start + k] = k == picked ? softmax + slope : softmax;
  }
}

// ---- logistic mixture: a warp takes a pixel, its lanes the mixtures --------------------------------------------------

#define FLOOR -7.0f
#define NARROW 1e-30f

struct Bin {
  float mass, slope, by_scale;  // the log-mass, its slopes in the mean and in the log-scale
};

__device__ __forceinline__ float log1p_exp(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

__device__ __forceinline__ float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}

// The bin of a level in a logistic: reference.py has the formulas.
__device__ Bin bin(int x, int levels, float mean, float raw) {
  const float half = 1.0f / (levels - 1), level = (float)(2 * x - (levels - 1)) / (float)(levels - 1);
  const float log_scale = raw < FLOOR ? FLOOR : raw, inverse = expf(-log_scale), centred = level - mean;
  const float a = inverse * (centred + half), b = inverse * (centred - half);
  float w = 2.0f * half * inverse;
  w = w < NARROW ? NARROW : w;
  const bool low = x < levels - 1, high = x > 0;
  const float outside = -expm1f(-w);
  float mass = 0.0f, slope = 0.0f, by_scale = 0.0f;
  if (low && high) {
    mass = logf(outside / w) + logf(2.0f * half) - log_scale;
    by_scale = -w * (1.0f - outside) / outside;
  }
  if (low) {
    const float up = sigmoid(-a);
    mass -= log1p_exp(-a);
    slope -= up;
    by_scale -= a * up;
  }
  if (high) {
    const float down = sigmoid(b);
    mass -= log1p_exp(b);
    slope += down;
    by_scale += b * down;
  }
  return {mass, inverse * slope, raw < FLOOR ? 0.0f : by_scale};
}

// logit m of the pixel's row p, and its log-mass over all channels; the slopes where they are asked for.
__device__ float weigh(const int* x, const float* p, int m, int levels, int mixtures, int channels, Bin* bins) {
  float sum = p[m];
  for (int c = 0; c < channels; c++) {
    float mean = p[(1 + c) * mixtures + m];
    for (int j = 0; j < c; j++)
      mean += tanhf(p[(2 * channels + c + j) * mixtures + m]) * ((float)(2 * x[j] - (levels - 1)) / (float)(levels - 1));
    const Bin found = bin(x[c], levels, mean, p[(1 + channels + c) * mixtures + m]);
    sum += found.mass;
    if (bins) bins[c] = found;
  }
  return sum;
}

// The largest and the sum of e^(x - largest), of which each lane has seen a part.
__device__ void merge(float* top, float* sum) {
  const float highest = warp_max(*top);
  *sum = warp_sum(*sum * (*top == -INFINITY ? 0.0f : expf(*top - highest)));
  *top = highest;
}

__device__ __forceinline__ void add(float value, float* top, float* sum) {
  const float highest = fmaxf(*top, value);
  *sum = (*top == -INFINITY ? 0.0f : *sum * expf(*top - highest)) + expf(value - highest);
  *top = highest;
}

// What both kernels need of a pixel: logsumexp of the logits alone, and with the masses.
__device__ void normalise(const int* x, const float* p, int count, int levels, int mixtures, int channels, float* prior,
                          float* whole) {
  float top0 = -INFINITY, sum0 = 0.0f, top1 = -INFINITY, sum1 = 0.0f;
  for (int m = threadIdx.x % 32; m < count; m += 32) {
    add(p[m], &top0, &sum0);
    add(weigh(x, p, m, levels, mixtures, channels, 0), &top1, &sum1);
  }
  merge(&top0, &sum0);
  merge(&top1, &sum1);
  *prior = top0 + logf(sum0);
  *whole = top1 + logf(sum1);
}

extern "C" __global__ void logistic_mixture(const int* __restrict__ x, const float* __restrict__ params,
                                            float* __restrict__ out, int pixels, int channels, int width, int levels,
                                            int mixtures) {
  const int pixel = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  const bool inside = pixel < pixels;
  const long long at = inside ? pixel : 0;
  float prior, whole;
  normalise(x + at * channels, params + at * width, inside ? mixtures : 0, levels, mixtures, channels, &prior, &whole);
  if (inside && threadIdx.x % 32 == 0) out[pixel] = whole - prior;
}

extern "C" __global__ void logistic_mixture_slopes(const int* __restrict__ x, const float* __restrict__ params,
                                                   float* __restrict__ value, float* __restrict__ out, int pixels,
                                                   int channels, int width, int levels, int mixtures) {
  const int pixel = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  const bool inside = pixel < pixels;
  const long long at = inside ? pixel : 0;
  const int count = inside ? mixtures : 0;
  const int* here = x + at * channels;
  const float* p = params + at * width;
  float* q = out + at * width;
  float prior, whole;
  normalise(here, p, count, levels, mixtures, channels, &prior, &whole);
  if (inside && threadIdx.x % 32 == 0) value[pixel] = whole - prior;
  for (int m = threadIdx.x % 32; m < count; m += 32) {
    Bin bins[3];
    const float share = expf(weigh(here, p, m, levels, mixtures, channels, bins) - whole);
    q[m] = share - expf(p[m] - prior);
    for (int c = 0; c < channels; c++) {
      q[(1 + c) * mixtures + m] = share * bins[c].slope;
      q[(1 + channels + c) * mixtures + m] = share * bins[c].by_scale;
      for (int j = 0; j < c; j++) {
        const int k = (2 * channels + c + j) * mixtures + m;
        const float t = tanhf(p[k]), level = (float)(2 * here[j] - (levels - 1)) / (float)(levels - 1);
        q[k] = share * bins[c].slope * level * (1.0f - t * t);
      }
    }
  }
}
