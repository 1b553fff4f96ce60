// reference.py in CUDA C, streaming. A block of 8 T threads owns a tile of T rows of one image and head (queries in
// `forward` and `gradient_q`, keys in `gradient_kv`) and goes through the tiles of the others; scores exist for one pair
// of tiles at a time. 8 threads, neighbours in a warp, share a row: thread t of them has columns t, t + 8, ... No two
// blocks write one place, so results are the same in every run.
//
// Every product is of two matrices in shared memory, and of Float32 or of TensorFloat32; all else is float32 in both.
#include "cuda.cuh"

#define SHARERS 8
constexpr int MOST_THREADS = 256;  // T is 32 at most, gpu.py chooses it

struct Sizes {
  int length, m, heads, d, e;
  float scale;
  int reach, T;
};

// The maximum and the sum over the 8 threads of a row.
__device__ __forceinline__ float row_max(float x) {
  for (int apart = SHARERS / 2; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, apart));
  return x;
}

__device__ __forceinline__ float row_sum(float x) {
  for (int apart = SHARERS / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(ALL_LANES, x, apart);
  return x;
}

// ---- matrices in shared memory, and their products -----------------------------------------------------------------

__device__ __forceinline__ int padded(int columns) { return ceil_div(columns, 8) * 8; }

struct Matrix {
  float* at;
  int row, column;  // how far apart neighbours lie

  __device__ __forceinline__ float& operator()(int i, int j) const { return at[i * row + j * column]; }
  __device__ __forceinline__ Matrix transposed() const { return {at, column, row}; }
};

// T rows of the shared memory that is free yet. They lie an odd multiple of 4 apart: then the 8 rows of 4 numbers that a
// warp reads for a tensor core are in 32 banks.
__device__ __forceinline__ Matrix take(float*& free, int columns, int T) {
  const Matrix taken{free, padded(columns) + 4, 1};
  free += T * taken.row;
  return taken;
}

// Rows first to first + T of head h of x [length, heads, width]; zeros behind the last, and up to the padded width.
__device__ __forceinline__ void read_tile(const Matrix& to, const float* x, int first, int length, int heads, int h,
                                          int width, int T) {
  const int columns = padded(width);
  for (int at = threadIdx.x; at < T * columns; at += blockDim.x) {
    const int r = at / columns, c = at % columns;
    const bool there = first + r < length && c < width;
    to(r, c) = there ? x[((long long)(first + r) * heads + h) * width + c] : 0.0f;
  }
}

// product: c = a b, or c += a b; c [T, columns], the sum runs over depth. All threads of a block call it, and meet at a
// barrier before and after.
struct Float32 {
  __device__ __forceinline__ static void product(const Matrix& c, const Matrix& a, const Matrix& b, int columns,
                                                 int depth, bool add, int) {
    const int r = threadIdx.x / SHARERS;
    for (int j = threadIdx.x % SHARERS; j < columns; j += SHARERS) {
      float sum = add ? c(r, j) : 0.0f;
      for (int k = 0; k < depth; ++k) sum += a(r, k) * b(k, j);
      c(r, j) = sum;
    }
  }
};

// A warp takes 16 x 8 of c at a time. T must be a multiple of 16; columns and depth count up to a multiple of 8.
struct TensorFloat32 {
  __device__ __forceinline__ static void product(const Matrix& c, const Matrix& a, const Matrix& b, int columns,
                                                 int depth, bool add, int T) {
    const int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4, high = T / 16;
    for (int tile = threadIdx.x / 32; tile < high * ceil_div(columns, 8); tile += blockDim.x / 32) {
      const int i = tile % high * 16 + group, j = tile / high * 8;
      float sum[4];
#pragma unroll
      for (int x = 0; x < 4; ++x) sum[x] = add ? c(i + x / 2 * 8, j + 2 * t + x % 2) : 0.0f;
      for (int k = t; k < padded(depth); k += 8) {
        const unsigned left[4] = {tf32(a(i, k)), tf32(a(i + 8, k)), tf32(a(i, k + 4)), tf32(a(i + 8, k + 4))};
        const unsigned right[2] = {tf32(b(k, j + group)), tf32(b(k + 4, j + group))};
        mma_tf32(sum, left, right);
      }
#pragma unroll
      for (int x = 0; x < 4; ++x) c(i + x / 2 * 8, j + 2 * t + x % 2) = sum[x];
    }
  }
};

// ---- forward -------------------------------------------------------------------------------------------------------

__device__ __forceinline__ bool reads(int i, int j, const Sizes& s, const bool* keys) {
  return i < s.length && j < s.m && j - s.reach < i && (keys == nullptr || keys[j]);
}

template <class Arithmetic>
__device__ __forceinline__ void attend(const float* q, const float* k, const float* v, const bool* keys, float* out,
                                       float* lse, const Sizes& s) {
  const int T = s.T, tiles = ceil_div(s.length, T);
  float* free = dynamic_shared<float>();
  const Matrix qs = take(free, s.d, T), ks = take(free, s.d, T), vs = take(free, s.e, T), sums = take(free, s.e, T),
               p = take(free, T, T);
  const int first = blockIdx.x % tiles * T, h = blockIdx.x / tiles % s.heads, n = blockIdx.x / tiles / s.heads;
  const int r = threadIdx.x / SHARERS, t = threadIdx.x % SHARERS, i = first + r;
  const bool* readable = keys == nullptr ? nullptr : keys + (long long)n * s.m;
  k += (long long)n * s.m * s.heads * s.d;
  v += (long long)n * s.m * s.heads * s.e;
  read_tile(qs, q + (long long)n * s.length * s.heads * s.d, first, s.length, s.heads, h, s.d, T);
  for (int x = t; x < s.e; x += SHARERS) sums(r, x) = 0.0f;
  float top = -INFINITY, total = 0.0f;
  for (int begin = 0; begin < s.m && begin - s.reach < first + T - 1; begin += T) {
    __syncthreads();
    read_tile(ks, k, begin, s.m, s.heads, h, s.d, T);
    read_tile(vs, v, begin, s.m, s.heads, h, s.e, T);
    __syncthreads();
    Arithmetic::product(p, qs, ks.transposed(), T, s.d, false, T);
    __syncthreads();
    float highest = top;
    for (int c = t; c < T; c += SHARERS) {
      p(r, c) = reads(i, begin + c, s, readable) ? s.scale * p(r, c) : -INFINITY;
      highest = fmaxf(highest, p(r, c));
    }
    highest = row_max(highest);
    const float fade = top == -INFINITY ? 0.0f : expf(top - highest);
    float sum = 0.0f;
    for (int c = t; c < T; c += SHARERS) {
      p(r, c) = p(r, c) == -INFINITY ? 0.0f : expf(p(r, c) - highest);
      sum += p(r, c);
    }
    total = total * fade + row_sum(sum);
    top = highest;
    for (int x = t; x < s.e; x += SHARERS) sums(r, x) *= fade;
    __syncthreads();
    Arithmetic::product(sums, p, vs, s.e, T, true, T);
  }
  __syncthreads();
  if (i < s.length) {
    const long long row = ((long long)n * s.length + i) * s.heads + h;
    const bool any = top != -INFINITY;
    if (t == 0) lse[row] = any ? top + logf(total) : 0.0f;
    for (int x = t; x < s.e; x += SHARERS) out[row * s.e + x] = any ? sums(r, x) / total : 0.0f;
  }
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS) forward(
    const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const bool* __restrict__ keys, float* __restrict__ out, float* __restrict__ lse, int length, int m, int heads, int d,
    int e, float scale, int reach, int T) {
  attend<Float32>(q, k, v, keys, out, lse, {length, m, heads, d, e, scale, reach, T});
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS) forward_tf32(
    const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const bool* __restrict__ keys, float* __restrict__ out, float* __restrict__ lse, int length, int m, int heads, int d,
    int e, float scale, int reach, int T) {
  attend<TensorFloat32>(q, k, v, keys, out, lse, {length, m, heads, d, e, scale, reach, T});
}

// ---- backward ------------------------------------------------------------------------------------------------------

// What both gradients need of a pair of tiles: weights p and the gradient ds of scale times the scores, [T, T].
// Thread (r, t) has row r of queries, which is row i of all.
template <class Arithmetic>
__device__ __forceinline__ void weights(const Matrix& p, const Matrix& ds, const Matrix& qs, const Matrix& ks,
                                        const Matrix& gs, const Matrix& vs, int i, int begin, float lse,
                                        float dot_g_out, const Sizes& s, const bool* keys) {
  Arithmetic::product(p, qs, ks.transposed(), s.T, s.d, false, s.T);
  Arithmetic::product(ds, gs, vs.transposed(), s.T, s.e, false, s.T);
  __syncthreads();
  const int r = threadIdx.x / SHARERS;
  for (int c = threadIdx.x % SHARERS; c < s.T; c += SHARERS) {
    const bool read = reads(i, begin + c, s, keys);
    const float weight = read ? expf(s.scale * p(r, c) - lse) : 0.0f;
    ds(r, c) = read ? weight * (ds(r, c) - dot_g_out) : 0.0f;
    p(r, c) = weight;
  }
  __syncthreads();
}

template <class Arithmetic>
__device__ __forceinline__ void pull_q(const float* g, const float* q, const float* k, const float* v, const float* out,
                                       const float* lse, const bool* keys, float* dq, float* g_out, const Sizes& s) {
  const int T = s.T, tiles = ceil_div(s.length, T);
  float* free = dynamic_shared<float>();
  const Matrix qs = take(free, s.d, T), ks = take(free, s.d, T), gs = take(free, s.e, T), vs = take(free, s.e, T),
               p = take(free, T, T), ds = take(free, T, T), sums = take(free, s.d, T);
  const int first = blockIdx.x % tiles * T, h = blockIdx.x / tiles % s.heads, n = blockIdx.x / tiles / s.heads;
  const int r = threadIdx.x / SHARERS, t = threadIdx.x % SHARERS, i = first + r;
  const bool* readable = keys == nullptr ? nullptr : keys + (long long)n * s.m;
  const long long row = ((long long)n * s.length + i) * s.heads + h;
  read_tile(qs, q + (long long)n * s.length * s.heads * s.d, first, s.length, s.heads, h, s.d, T);
  read_tile(gs, g + (long long)n * s.length * s.heads * s.e, first, s.length, s.heads, h, s.e, T);
  for (int x = t; x < s.d; x += SHARERS) sums(r, x) = 0.0f;
  __syncthreads();
  float dot_g_out = 0.0f;
  for (int x = t; x < s.e; x += SHARERS) dot_g_out += i < s.length ? gs(r, x) * out[row * s.e + x] : 0.0f;
  dot_g_out = row_sum(dot_g_out);
  if (i < s.length && t == 0) g_out[row] = dot_g_out;
  const float level = i < s.length ? lse[row] : 0.0f;
  for (int begin = 0; begin < s.m && begin - s.reach < first + T - 1; begin += T) {
    __syncthreads();
    read_tile(ks, k + (long long)n * s.m * s.heads * s.d, begin, s.m, s.heads, h, s.d, T);
    read_tile(vs, v + (long long)n * s.m * s.heads * s.e, begin, s.m, s.heads, h, s.e, T);
    __syncthreads();
    weights<Arithmetic>(p, ds, qs, ks, gs, vs, i, begin, level, dot_g_out, s, readable);
    Arithmetic::product(sums, ds, ks, s.d, T, true, T);
  }
  __syncthreads();
  if (i < s.length)
    for (int x = t; x < s.d; x += SHARERS) dq[row * s.d + x] = s.scale * sums(r, x);
}

template <class Arithmetic>
__device__ __forceinline__ void pull_kv(const float* g, const float* q, const float* k, const float* v,
                                        const float* g_out, const float* lse, const bool* keys, float* dk, float* dv,
                                        const Sizes& s) {
  const int T = s.T, tiles = ceil_div(s.m, T);
  float* free = dynamic_shared<float>();
  const Matrix qs = take(free, s.d, T), ks = take(free, s.d, T), gs = take(free, s.e, T), vs = take(free, s.e, T),
               p = take(free, T, T), ds = take(free, T, T), dks = take(free, s.d, T), dvs = take(free, s.e, T);
  const int first = blockIdx.x % tiles * T, h = blockIdx.x / tiles % s.heads, n = blockIdx.x / tiles / s.heads;
  const int r = threadIdx.x / SHARERS, t = threadIdx.x % SHARERS;
  const bool* readable = keys == nullptr ? nullptr : keys + (long long)n * s.m;
  read_tile(ks, k + (long long)n * s.m * s.heads * s.d, first, s.m, s.heads, h, s.d, T);
  read_tile(vs, v + (long long)n * s.m * s.heads * s.e, first, s.m, s.heads, h, s.e, T);
  for (int x = t; x < s.d; x += SHARERS) dks(r, x) = 0.0f;
  for (int x = t; x < s.e; x += SHARERS) dvs(r, x) = 0.0f;
  // The first tile with a row that reads these keys.
  const int start = first + 1 - s.reach > 0 ? (first + 1 - s.reach) / T * T : 0;
  for (int begin = start; begin < s.length; begin += T) {
    __syncthreads();
    read_tile(qs, q + (long long)n * s.length * s.heads * s.d, begin, s.length, s.heads, h, s.d, T);
    read_tile(gs, g + (long long)n * s.length * s.heads * s.e, begin, s.length, s.heads, h, s.e, T);
    __syncthreads();
    const int i = begin + r;
    const long long row = ((long long)n * s.length + i) * s.heads + h;
    const float level = i < s.length ? lse[row] : 0.0f, dot_g_out = i < s.length ? g_out[row] : 0.0f;
    weights<Arithmetic>(p, ds, qs, ks, gs, vs, i, first, level, dot_g_out, s, readable);
    Arithmetic::product(dks, ds.transposed(), qs, s.d, T, true, T);
    Arithmetic::product(dvs, p.transposed(), gs, s.e, T, true, T);
  }
  __syncthreads();
  if (first + r < s.m) {
    const long long row = ((long long)n * s.m + first + r) * s.heads + h;
    for (int x = t; x < s.d; x += SHARERS) dk[row * s.d + x] = s.scale * dks(r, x);
    for (int x = t; x < s.e; x += SHARERS) dv[row * s.e + x] = dvs(r, x);
  }
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS) gradient_q(
    const float* __restrict__ g, const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const float* __restrict__ out, const float* __restrict__ lse, const bool* __restrict__ keys,
    float* __restrict__ dq, float* __restrict__ g_out, int length, int m, int heads, int d, int e, float scale,
    int reach, int T) {
  pull_q<Float32>(g, q, k, v, out, lse, keys, dq, g_out, {length, m, heads, d, e, scale, reach, T});
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS) gradient_q_tf32(
    const float* __restrict__ g, const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const float* __restrict__ out, const float* __restrict__ lse, const bool* __restrict__ keys,
    float* __restrict__ dq, float* __restrict__ g_out, int length, int m, int heads, int d, int e, float scale,
    int reach, int T) {
  pull_q<TensorFloat32>(g, q, k, v, out, lse, keys, dq, g_out, {length, m, heads, d, e, scale, reach, T});
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS) gradient_kv(
    const float* __restrict__ g, const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const float* __restrict__ g_out, const float* __restrict__ lse, const bool* __restrict__ keys,
    float* __restrict__ dk, float* __restrict__ dv, int length, int m, int heads, int d, int e, float scale, int reach,
    int T) {
  pull_kv<Float32>(g, q, k, v, g_out, lse, keys, dk, dv, {length, m, heads, d, e, scale, reach, T});
}

extern "C" __global__ void __launch_bounds__(MOST_THREADS) gradient_kv_tf32(
    const float* __restrict__ g, const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v,
    const float* __restrict__ g_out, const float* __restrict__ lse, const bool* __restrict__ keys,
    float* __restrict__ dk, float* __restrict__ dv, int length, int m, int heads, int d, int e, float scale, int reach,
    int T) {
  pull_kv<TensorFloat32>(g, q, k, v, g_out, lse, keys, dk, dv, {length, m, heads, d, e, scale, reach, T});
}
