// reference.py in CUDA C, streaming. A block of 8 T threads owns a tile of T rows of one image and head (queries in
// `forward` and `gradient_q`, keys in `gradient_kv`) and goes through the tiles of the others; scores exist for one pair
// of tiles at a time. 8 threads, neighbours in a warp, share a row: thread t of them has columns t, t + 8, ... No two
// blocks write one place, so results are the same in every run.
#include "cuda.cuh"

#define SHARERS 8

// The maximum and the sum over the 8 threads of a row.
__device__ __forceinline__ float row_max(float x) {
  for (int apart = SHARERS / 2; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, apart));
  return x;
}

__device__ __forceinline__ float row_sum(float x) {
  for (int apart = SHARERS / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(ALL_LANES, x, apart);
  return x;
}

// Rows first to first + T of head h of x [length, heads, width] into `to` [T, width + 1], zeros behind the last.
__device__ __forceinline__ void read_tile(float* to, const float* x, int first, int length, int heads, int h, int width,
                                          int T) {
  for (int at = threadIdx.x; at < T * width; at += blockDim.x) {
    const int r = at / width, c = at % width;
    to[r * (width + 1) + c] = first + r < length ? x[((long long)(first + r) * heads + h) * width + c] : 0.0f;
  }
}

__device__ __forceinline__ float dot(const float* a, const float* b, int n) {
  float sum = 0.0f;
  for (int x = 0; x < n; ++x) sum += a[x] * b[x];
  return sum;
}

__device__ __forceinline__ bool reads(int i, int j, int length, int m, int reach, const bool* keys) {
  return i < length && j < m && j - reach < i && (keys == nullptr || keys[j]);
}

extern "C" __global__ void forward(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
                                   const bool* __restrict__ keys, float* __restrict__ out, float* __restrict__ lse,
                                   int length, int m, int heads, int d, int e, float scale, int reach, int T) {
  float* qs = dynamic_shared<float>();
  float* ks = qs + T * (d + 1);
  float* vs = ks + T * (d + 1);
  float* sums = vs + T * (e + 1);
  float* p = sums + T * (e + 1);
  const int tiles = ceil_div(length, T);
  const int first = blockIdx.x % tiles * T, h = blockIdx.x / tiles % heads, n = blockIdx.x / tiles / heads;
  const int r = threadIdx.x / SHARERS, t = threadIdx.x % SHARERS, i = first + r;
  const bool* readable = keys == nullptr ? nullptr : keys + (long long)n * m;
  k += (long long)n * m * heads * d;
  v += (long long)n * m * heads * e;
  read_tile(qs, q + (long long)n * length * heads * d, first, length, heads, h, d, T);
  for (int x = t; x < e; x += SHARERS) sums[r * (e + 1) + x] = 0.0f;
  float top = -INFINITY, total = 0.0f;
  for (int begin = 0; begin < m && begin - reach < first + T - 1; begin += T) {
    __syncthreads();
    read_tile(ks, k, begin, m, heads, h, d, T);
    read_tile(vs, v, begin, m, heads, h, e, T);
    __syncthreads();
    float highest = top;
    for (int c = t; c < T; c += SHARERS) {
      const bool read = reads(i, begin + c, length, m, reach, readable);
      const float s = read ? scale * dot(qs + r * (d + 1), ks + c * (d + 1), d) : -INFINITY;
      p[r * (T + 1) + c] = s;
      highest = fmaxf(highest, s);
    }
    highest = row_max(highest);
    const float fade = top == -INFINITY ? 0.0f : expf(top - highest);
    float sum = 0.0f;
    for (int c = t; c < T; c += SHARERS) {
      const float s = p[r * (T + 1) + c];
      const float weight = s == -INFINITY ? 0.0f : expf(s - highest);
      p[r * (T + 1) + c] = weight;
      sum += weight;
    }
    total = total * fade + row_sum(sum);
    top = highest;
    __syncwarp();
    for (int x = t; x < e; x += SHARERS) {
      float o = sums[r * (e + 1) + x] * fade;
      for (int c = 0; c < T; ++c) o += p[r * (T + 1) + c] * vs[c * (e + 1) + x];
      sums[r * (e + 1) + x] = o;
    }
  }
  if (i < length) {
    const long long row = ((long long)n * length + i) * heads + h;
    const bool any = top != -INFINITY;
    if (t == 0) lse[row] = any ? top + logf(total) : 0.0f;
    for (int x = t; x < e; x += SHARERS) out[row * e + x] = any ? sums[r * (e + 1) + x] / total : 0.0f;
  }
}

// What both gradients need of a pair of tiles: weights p and the gradient ds of scale times the scores, [T, T + 1].
// Thread (r, t) computes row r of queries.
__device__ __forceinline__ void weights(float* p, float* ds, const float* qs, const float* ks, const float* gs,
                                        const float* vs, int i, int begin, float lse, float dot_g_out, int length, int m,
                                        int d, int e, float scale, int reach, const bool* keys, int T) {
  const int r = threadIdx.x / SHARERS;
  for (int c = threadIdx.x % SHARERS; c < T; c += SHARERS) {
    float weight = 0.0f, slope = 0.0f;
    if (reads(i, begin + c, length, m, reach, keys)) {
      weight = expf(scale * dot(qs + r * (d + 1), ks + c * (d + 1), d) - lse);
      slope = weight * (dot(gs + r * (e + 1), vs + c * (e + 1), e) - dot_g_out);
    }
    p[r * (T + 1) + c] = weight;
    ds[r * (T + 1) + c] = slope;
  }
}

extern "C" __global__ void gradient_q(const float* __restrict__ g, const float* __restrict__ q,
                                      const float* __restrict__ k, const float* __restrict__ v,
                                      const float* __restrict__ out, const float* __restrict__ lse,
                                      const bool* __restrict__ keys, float* __restrict__ dq, float* __restrict__ g_out,
                                      int length, int m, int heads, int d, int e, float scale, int reach, int T) {
  float* qs = dynamic_shared<float>();
  float* ks = qs + T * (d + 1);
  float* gs = ks + T * (d + 1);
  float* vs = gs + T * (e + 1);
  float* p = vs + T * (e + 1);
  float* ds = p + T * (T + 1);
  float* sums = ds + T * (T + 1);
  const int tiles = ceil_div(length, T);
  const int first = blockIdx.x % tiles * T, h = blockIdx.x / tiles % heads, n = blockIdx.x / tiles / heads;
  const int r = threadIdx.x / SHARERS, t = threadIdx.x % SHARERS, i = first + r;
  const bool* readable = keys == nullptr ? nullptr : keys + (long long)n * m;
  const long long row = ((long long)n * length + i) * heads + h;
  read_tile(qs, q + (long long)n * length * heads * d, first, length, heads, h, d, T);
  read_tile(gs, g + (long long)n * length * heads * e, first, length, heads, h, e, T);
  for (int x = t; x < d; x += SHARERS) sums[r * (d + 1) + x] = 0.0f;
  __syncthreads();
  float dot_g_out = 0.0f;
  for (int x = t; x < e; x += SHARERS) dot_g_out += i < length ? gs[r * (e + 1) + x] * out[row * e + x] : 0.0f;
  dot_g_out = row_sum(dot_g_out);
  if (i < length && t == 0) g_out[row] = dot_g_out;
  const float level = i < length ? lse[row] : 0.0f;
  for (int begin = 0; begin < m && begin - reach < first + T - 1; begin += T) {
    __syncthreads();
    read_tile(ks, k + (long long)n * m * heads * d, begin, m, heads, h, d, T);
    read_tile(vs, v + (long long)n * m * heads * e, begin, m, heads, h, e, T);
    __syncthreads();
    weights(p, ds, qs, ks, gs, vs, i, begin, level, dot_g_out, length, m, d, e, scale, reach, readable, T);
    __syncwarp();
    for (int x = t; x < d; x += SHARERS) {
      float sum = sums[r * (d + 1) + x];
      for (int c = 0; c < T; ++c) sum += ds[r * (T + 1) + c] * ks[c * (d + 1) + x];
      sums[r * (d + 1) + x] = sum;
    }
  }
  if (i < length)
    for (int x = t; x < d; x += SHARERS) dq[row * d + x] = scale * sums[r * (d + 1) + x];
}

extern "C" __global__ void gradient_kv(const float* __restrict__ g, const float* __restrict__ q,
                                       const float* __restrict__ k, const float* __restrict__ v,
                                       const float* __restrict__ g_out, const float* __restrict__ lse,
                                       const bool* __restrict__ keys, float* __restrict__ dk, float* __restrict__ dv,
                                       int length, int m, int heads, int d, int e, float scale, int reach, int T) {
  float* qs = dynamic_shared<float>();
  float* ks = qs + T * (d + 1);
  float* gs = ks + T * (d + 1);
  float* vs = gs + T * (e + 1);
  float* p = vs + T * (e + 1);
  float* ds = p + T * (T + 1);
  float* dks = ds + T * (T + 1);
  float* dvs = dks + T * (d + 1);
  const int tiles = ceil_div(m, T);
  const int first = blockIdx.x % tiles * T, h = blockIdx.x / tiles % heads, n = blockIdx.x / tiles / heads;
  const int r = threadIdx.x / SHARERS, t = threadIdx.x % SHARERS;
  const bool* readable = keys == nullptr ? nullptr : keys + (long long)n * m;
  read_tile(ks, k + (long long)n * m * heads * d, first, m, heads, h, d, T);
  read_tile(vs, v + (long long)n * m * heads * e, first, m, heads, h, e, T);
  for (int x = t; x < d; x += SHARERS) dks[r * (d + 1) + x] = 0.0f;
  for (int x = t; x < e; x += SHARERS) dvs[r * (e + 1) + x] = 0.0f;
  const int start = first + 1 - reach > 0 ? (first + 1 - reach) / T * T : 0;  // the first tile with a row that reads these
  for (int begin = start; begin < length; begin += T) {
    __syncthreads();
    read_tile(qs, q + (long long)n * length * heads * d, begin, length, heads, h, d, T);
    read_tile(gs, g + (long long)n * length * heads * e, begin, length, heads, h, e, T);
    __syncthreads();
    const int i = begin + r;
    const long long row = ((long long)n * length + i) * heads + h;
    weights(p, ds, qs, ks, gs, vs, i, first, i < length ? lse[row] : 0.0f, i < length ? g_out[row] : 0.0f, length, m, d,
            e, scale, reach, readable, T);
    __syncthreads();
    // From here on r is a row of keys.
    for (int x = t; x < d; x += SHARERS) {
      float sum = dks[r * (d + 1) + x];
      for (int c = 0; c < T; ++c) sum += ds[c * (T + 1) + r] * qs[c * (d + 1) + x];
      dks[r * (d + 1) + x] = sum;
    }
    for (int x = t; x < e; x += SHARERS) {
      float sum = dvs[r * (e + 1) + x];
      for (int c = 0; c < T; ++c) sum += p[c * (T + 1) + r] * gs[c * (e + 1) + x];
      dvs[r * (e + 1) + x] = sum;
    }
  }
  if (first + r < m) {
    const long long row = ((long long)n * m + first + r) * heads + h;
    for (int x = t; x < d; x += SHARERS) dk[row * d + x] = scale * dks[r * (d + 1) + x];
    for (int x = t; x < e; x += SHARERS) dv[row * e + x] = dvs[r * (e + 1) + x];
  }
}
