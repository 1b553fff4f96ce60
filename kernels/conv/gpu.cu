// Convolution by taps as a matrix product whose left matrix is never made: a block gathers tiles of it, tap by tap.
//
// gather: forward and input gradient. Rows are pixels of the output, columns its channels, the sum runs over taps and
// channels read. The gradient of a strided convolution falls into phases, in each of which every tap counts.
// weight_gradient: rows are taps and input channels, columns output channels, the sum runs over pixels in `parts`
// fixed parts, which `add_parts` adds in order. So no result depends on which block comes first.
#include "cuda.cuh"

constexpr int TILE = 64, DEPTH = 16, THREADS = 128;
constexpr int LOADS = TILE * DEPTH / THREADS;  // elements of each tile that a thread brings

// gpu.py makes the plan: this header, then the phases, then the steps of each phase.
struct Axes { int z, y, x; };
struct Phase { Axes first, count; int start, steps; };  // its pixel j is pixel first + j * step of the output
struct Step { Axes offset; int tap; };                  // which reads source pixel j * scale + offset
struct Plan { Axes space, scale, step, shape; };

__device__ __forceinline__ const Phase& phase_of(const Plan* plan, int i) {
  return reinterpret_cast<const Phase*>(plan + 1)[i];
}
__device__ __forceinline__ const Step* steps_of(const Plan* plan, const Phase& phase) {
  return reinterpret_cast<const Step*>(reinterpret_cast<const int*>(plan) + phase.start);
}

struct Pixel { int image; Axes at; };  // image -1: none

// Pixel i of a phase, counted through all images.
__device__ __forceinline__ Pixel pixel(long long i, int images, const Axes& count) {
  const long long each = (long long)count.z * count.y * count.x;
  if (i >= each * images) return {-1, {0, 0, 0}};
  const int image = (int)(i / each), rest = (int)(i % each), row = rest / count.x;
  return {image, {row / count.y, row % count.y, rest % count.x}};
}

// Where a step reads: the source pixel's number, or -1 outside.
__device__ __forceinline__ long long source(const Plan* plan, const Pixel& p, const Axes& offset) {
  const int z = p.at.z * plan->scale.z + offset.z, y = p.at.y * plan->scale.y + offset.y,
            x = p.at.x * plan->scale.x + offset.x;
  const Axes& space = plan->space;
  const bool inside = p.image >= 0 && z >= 0 && z < space.z && y >= 0 && y < space.y && x >= 0 && x < space.x;
  return inside ? (((long long)p.image * space.z + z) * space.y + y) * space.x + x : -1;
}

// Where the pixel of a phase is written: its number in the output.
__device__ __forceinline__ long long target(const Plan* plan, const Phase& phase, const Pixel& p) {
  const int z = phase.first.z + p.at.z * plan->step.z, y = phase.first.y + p.at.y * plan->step.y,
            x = phase.first.x + p.at.x * plan->step.x;
  return (((long long)p.image * plan->shape.z + z) * plan->shape.y + y) * plan->shape.x + x;
}

// ---- a block's share of the product: 64 x 64 sums, 32 a thread ------------------------------------------------------

// float32: a thread has 8 rows and 4 neighbouring columns.
struct Float32 {
  static constexpr int ROW = TILE + 4;  // of the tiles; the gap spreads stores over the banks
  float sum[8][4] = {};

  __device__ __forceinline__ static int row(int i, int) { return threadIdx.x / 16 * 8 + i; }
  __device__ __forceinline__ static int column(int, int j) { return threadIdx.x % 16 * 4 + j; }
  __device__ __forceinline__ void add(const float (&a)[DEPTH][ROW], const float (&b)[DEPTH][ROW]) {
#pragma unroll
    for (int k = 0; k < DEPTH; k++) {
      const float4 low = *reinterpret_cast<const float4*>(&a[k][row(0, 0)]);
      const float4 high = *reinterpret_cast<const float4*>(&a[k][row(4, 0)]);
      const float4 right = *reinterpret_cast<const float4*>(&b[k][column(0, 0)]);
      const float left[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int i = 0; i < 8; i++) {
        sum[i][0] += left[i] * right.x;
        sum[i][1] += left[i] * right.y;
        sum[i][2] += left[i] * right.z;
        sum[i][3] += left[i] * right.w;
      }
    }
  }
};

// TF32 on tensor cores: a warp has 32 x 32, as 2 x 4 products of 16 x 8.
struct TensorFloat32 {
  static constexpr int ROW = TILE + 8;
  float sum[8][4] = {};

  __device__ __forceinline__ static int row(int i, int j) {
    return threadIdx.x / 64 * 32 + i / 4 * 16 + threadIdx.x % 32 / 4 + j / 2 * 8;
  }
  __device__ __forceinline__ static int column(int i, int j) {
    return threadIdx.x / 32 % 2 * 32 + i % 4 * 8 + threadIdx.x % 4 * 2 + j % 2;
  }
  __device__ __forceinline__ void add(const float (&a)[DEPTH][ROW], const float (&b)[DEPTH][ROW]) {
    const int group = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int top = threadIdx.x / 64 * 32 + group, left = threadIdx.x / 32 % 2 * 32 + group;
#pragma unroll
    for (int from = 0; from < DEPTH; from += 8) {
      const int k = from + t;
      unsigned rows[2][4], columns[4][2];
#pragma unroll
      for (int m = 0; m < 2; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) rows[m][i] = tf32(a[k + i / 2 * 4][top + m * 16 + i % 2 * 8]);
#pragma unroll
      for (int n = 0; n < 4; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) columns[n][i] = tf32(b[k + i * 4][left + n * 8]);
#pragma unroll
      for (int i = 0; i < 8; i++) mma_tf32(sum[i], rows[i / 4], columns[i % 4]);
    }
  }
};

// gpu.py puts a formula in the place of this; options are its numbers.
__device__ inline float activated(float x, const float* options) { return x; }

// ---- forward and input gradient -------------------------------------------------------------------------------------

// How weights lie: w [taps, inputs of a group, outputs of all groups].
struct Weights {
  const float* w;
  int inputs, outputs, all;  // outputs: of a group; all: of all groups

  // The weight between an input and an output channel of a group.
  __device__ __forceinline__ float at(int tap, int group, int in, int out) const {
    return w[((long long)tap * inputs + in) * all + group * outputs + out];
  }
};

// Of a group, `read` channels are summed over and `made` channels written. TRANSPOSED: from outputs to inputs.
template <class Sum, bool TRANSPOSED>
__device__ __forceinline__ void gather(
    const float* x, const Weights& w, const float* bias, float* y, const Plan* plan, int images, int groups,
    float* before, const float* options) {
  __shared__ __align__(16) float a[DEPTH][Sum::ROW], b[DEPTH][Sum::ROW];
  __shared__ Pixel pixels[TILE];
  const int read = TRANSPOSED ? w.outputs : w.inputs, made = TRANSPOSED ? w.inputs : w.outputs;
  const int group = blockIdx.z % groups, thread = threadIdx.x;
  const Phase phase = phase_of(plan, blockIdx.z / groups);
  const Step* steps = steps_of(plan, phase);
  const int columns = blockIdx.y * TILE, depth = phase.steps * read;
  if (thread < TILE) pixels[thread] = pixel((long long)blockIdx.x * TILE + thread, images, phase.count);
  __syncthreads();

  // A thread brings one k of the left tile, its pixels 8 apart. Of the right tile it brings what lies next to what its
  // neighbours bring: with TRANSPOSED one k again, else one column.
  float left[LOADS], right[LOADS];
  const int own_k = thread % DEPTH, own_row = thread / DEPTH;
  const auto fetch = [&](int from) {
    const int k = from + own_k, i = k < depth ? k / read : 0, channel = k < depth ? k - i * read : 0;
    const Step step = k < depth ? steps[i] : Step{{0, 0, 0}, 0};
#pragma unroll
    for (int r = 0; r < LOADS; r++) {
      const long long at = k < depth ? source(plan, pixels[own_row + r * (TILE / LOADS)], step.offset) : -1;
      left[r] = at < 0 ? 0.0f : x[at * groups * read + group * read + channel];
    }
#pragma unroll
    for (int r = 0; r < LOADS; r++) {
      if (TRANSPOSED) {
        const int column = columns + own_row + r * (TILE / LOADS);
        right[r] = k < depth && column < made ? w.at(step.tap, group, column, channel) : 0.0f;
      } else {  // all taps count, in their order: tap and channel are one index
        const int column = columns + thread % TILE, row = from + thread / TILE + r * (DEPTH / LOADS);
        right[r] = row < depth && column < made ? w.w[(long long)row * w.all + group * made + column] : 0.0f;
      }
    }
  };

  Sum sum;
  fetch(0);
  for (int from = 0; from < depth; from += DEPTH) {
#pragma unroll
    for (int r = 0; r < LOADS; r++) {
      a[own_k][own_row + r * (TILE / LOADS)] = left[r];
      if (TRANSPOSED) b[own_k][own_row + r * (TILE / LOADS)] = right[r];
      else b[thread / TILE + r * (DEPTH / LOADS)][thread % TILE] = right[r];
    }
    __syncthreads();
    if (from + DEPTH < depth) fetch(from + DEPTH);  // while the sums run
    sum.add(a, b);
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < 8; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const Pixel& p = pixels[Sum::row(i, j)];
      const int column = columns + Sum::column(i, j), channel = group * made + column;
      if (p.image < 0 || column >= made) continue;
      const long long at = target(plan, phase, p) * groups * made + channel;
      const float value = sum.sum[i][j] + (bias ? bias[channel] : 0.0f);
      if (before) before[at] = value;
      y[at] = activated(value, options);
    }
  }
}

// For few channels a group, where most of a tile would be idle: a thread for each element of the output.
template <bool TRANSPOSED>
__device__ __forceinline__ void gather_few(
    const float* x, const Weights& w, const float* bias, float* y, const Plan* plan, int images, int groups,
    float* before, const float* options) {
  const int read = TRANSPOSED ? w.outputs : w.inputs, made = TRANSPOSED ? w.inputs : w.outputs;
  const Phase phase = phase_of(plan, blockIdx.z);
  const Step* steps = steps_of(plan, phase);
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  const Pixel p = pixel(i / (groups * made), images, phase.count);
  if (p.image < 0) return;
  const int channel = (int)(i % (groups * made)), group = channel / made, column = channel % made;
  float sum = 0.0f;
  for (int s = 0; s < phase.steps; s++) {
    const long long at = source(plan, p, steps[s].offset);
    if (at < 0) continue;
    const float* from = x + at * groups * read + group * read;
    for (int c = 0; c < read; c++)
      sum += from[c] * (TRANSPOSED ? w.at(steps[s].tap, group, column, c) : w.at(steps[s].tap, group, c, column));
  }
  const long long at = target(plan, phase, p) * groups * made + channel;
  const float value = sum + (bias ? bias[channel] : 0.0f);
  if (before) before[at] = value;
  y[at] = activated(value, options);
}

// ---- gradient to the weights ----------------------------------------------------------------------------------------

// part [parts, taps * inputs, groups * outputs]: this block's pixels summed, `chunk` of them, a multiple of DEPTH.
template <class Sum>
__device__ __forceinline__ void weights(const float* x, const float* g, float* part, const Plan* plan, int images,
                                        int groups, int inputs, int outputs, int parts, int chunk) {
  __shared__ __align__(16) float a[DEPTH][Sum::ROW], b[DEPTH][Sum::ROW];
  __shared__ Pixel pixels[2][DEPTH];  // of this tile and of the next
  const int group = blockIdx.z / parts, number = blockIdx.z % parts, thread = threadIdx.x;
  const Phase phase = phase_of(plan, 0);
  const int rows = phase.steps * inputs, all = groups * outputs;
  const long long total = (long long)images * phase.count.z * phase.count.y * phase.count.x;
  const long long first = (long long)number * chunk, end = min(first + chunk, total);

  // A thread brings one row of the left tile, a tap and a channel, and one column of the right one.
  const int own = thread % TILE, row = blockIdx.x * TILE + own, column = blockIdx.y * TILE + own;
  const int channel = row < rows ? row % inputs : 0;
  const Axes offset = row < rows ? steps_of(plan, phase)[row / inputs].offset : Axes{0, 0, 0};
  float left[LOADS], right[LOADS];
  const auto decode = [&](long long from, int buffer) {
    if (thread < DEPTH) pixels[buffer][thread] = pixel(from + thread, images, phase.count);
  };
  const auto fetch = [&](long long from, int buffer) {
#pragma unroll
    for (int r = 0; r < LOADS; r++) {
      const int k = thread / TILE + r * (DEPTH / LOADS);
      const long long at = row < rows ? source(plan, pixels[buffer][k], offset) : -1;
      left[r] = at < 0 ? 0.0f : x[at * groups * inputs + group * inputs + channel];
      right[r] = from + k < end && column < outputs ? g[(from + k) * all + group * outputs + column] : 0.0f;
    }
  };

  Sum sum;
  decode(first, 0);
  __syncthreads();
  fetch(first, 0);
  int buffer = 0;
  for (long long from = first; from < end; from += DEPTH) {
    buffer = 1 - buffer;
#pragma unroll
    for (int r = 0; r < LOADS; r++) {
      const int k = thread / TILE + r * (DEPTH / LOADS);
      a[k][own] = left[r];
      b[k][own] = right[r];
    }
    decode(from + DEPTH, buffer);
    __syncthreads();
    fetch(from + DEPTH, buffer);
    sum.add(a, b);
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < 8; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int m = blockIdx.x * TILE + Sum::row(i, j), n = blockIdx.y * TILE + Sum::column(i, j);
      if (m < rows && n < outputs) part[((long long)number * rows + m) * all + group * outputs + n] = sum.sum[i][j];
    }
  }
}

// ---- what gpu.py launches -------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS) forward(
    const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias, float* __restrict__ y,
    const int* __restrict__ plan, int images, int groups, int inputs, int outputs,
    float* __restrict__ before, const float* __restrict__ options) {
  const Weights weights{w, inputs, outputs, groups * outputs};
  gather<Float32, false>(x, weights, bias, y, reinterpret_cast<const Plan*>(plan), images, groups, before, options);
}

extern "C" __global__ void __launch_bounds__(THREADS) forward_tf32(
    const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias, float* __restrict__ y,
    const int* __restrict__ plan, int images, int groups, int inputs, int outputs,
    float* __restrict__ before, const float* __restrict__ options) {
  const Weights weights{w, inputs, outputs, groups * outputs};
  gather<TensorFloat32, false>(x, weights, bias, y, reinterpret_cast<const Plan*>(plan), images, groups, before, options);
}

extern "C" __global__ void forward_few(
    const float* __restrict__ x, const float* __restrict__ w, const float* __restrict__ bias, float* __restrict__ y,
    const int* __restrict__ plan, int images, int groups, int inputs, int outputs,
    float* __restrict__ before, const float* __restrict__ options) {
  const Weights weights{w, inputs, outputs, groups * outputs};
  gather_few<false>(x, weights, bias, y, reinterpret_cast<const Plan*>(plan), images, groups, before, options);
}

extern "C" __global__ void __launch_bounds__(THREADS) input_gradient(
    const float* __restrict__ g, const float* __restrict__ w, const float* __restrict__ bias, float* __restrict__ x,
    const int* __restrict__ plan, int images, int groups, int inputs, int outputs,
    float* __restrict__ before, const float* __restrict__ options) {
  const Weights weights{w, inputs, outputs, groups * outputs};
  gather<Float32, true>(g, weights, bias, x, reinterpret_cast<const Plan*>(plan), images, groups, before, options);
}

extern "C" __global__ void __launch_bounds__(THREADS) input_gradient_tf32(
    const float* __restrict__ g, const float* __restrict__ w, const float* __restrict__ bias, float* __restrict__ x,
    const int* __restrict__ plan, int images, int groups, int inputs, int outputs,
    float* __restrict__ before, const float* __restrict__ options) {
  const Weights weights{w, inputs, outputs, groups * outputs};
  gather<TensorFloat32, true>(g, weights, bias, x, reinterpret_cast<const Plan*>(plan), images, groups, before, options);
}

extern "C" __global__ void input_gradient_few(
    const float* __restrict__ g, const float* __restrict__ w, const float* __restrict__ bias, float* __restrict__ x,
    const int* __restrict__ plan, int images, int groups, int inputs, int outputs,
    float* __restrict__ before, const float* __restrict__ options) {
  const Weights weights{w, inputs, outputs, groups * outputs};
  gather_few<true>(g, weights, bias, x, reinterpret_cast<const Plan*>(plan), images, groups, before, options);
}

extern "C" __global__ void __launch_bounds__(THREADS) weight_gradient(
    const float* __restrict__ x, const float* __restrict__ g, float* __restrict__ part, const int* __restrict__ plan,
    int images, int groups, int inputs, int outputs, int parts, int chunk) {
  const Plan* p = reinterpret_cast<const Plan*>(plan);
  weights<Float32>(x, g, part, p, images, groups, inputs, outputs, parts, chunk);
}

extern "C" __global__ void __launch_bounds__(THREADS) weight_gradient_tf32(
    const float* __restrict__ x, const float* __restrict__ g, float* __restrict__ part, const int* __restrict__ plan,
    int images, int groups, int inputs, int outputs, int parts, int chunk) {
  const Plan* p = reinterpret_cast<const Plan*>(plan);
  weights<TensorFloat32>(x, g, part, p, images, groups, inputs, outputs, parts, chunk);
}

// Few channels a group: a block has 32 output channels and one tap and input channel of their groups; its 8 rows of
// threads take pixels in turn.
extern "C" __global__ void weight_gradient_few(
    const float* __restrict__ x, const float* __restrict__ g, float* __restrict__ part, const int* __restrict__ plan,
    int images, int groups, int inputs, int outputs, int parts, int chunk) {
  __shared__ float sums[8][32];
  const Plan* p = reinterpret_cast<const Plan*>(plan);
  const Phase phase = phase_of(p, 0);
  const int all = groups * outputs, o = blockIdx.x * 32 + threadIdx.x, tap = blockIdx.y / inputs, rows = gridDim.y;
  const int channel = o < all ? o / outputs * inputs + (int)blockIdx.y % inputs : 0;
  const Axes offset = steps_of(p, phase)[tap].offset;
  const long long total = (long long)images * phase.count.z * phase.count.y * phase.count.x;
  const long long first = (long long)blockIdx.z * chunk, end = min(first + chunk, total);
  float sum = 0.0f;
  for (long long i = first + threadIdx.y; i < end; i += 8) {
    const long long at = source(p, pixel(i, images, phase.count), offset);
    if (at >= 0 && o < all) sum += x[at * groups * inputs + channel] * g[i * all + o];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && o < all) {
    for (int i = 1; i < 8; i++) sum += sums[i][threadIdx.x];
    part[((long long)blockIdx.z * rows + blockIdx.y) * all + o] = sum;
  }
}

// w = the sum of part [parts, size] over its first axis.
extern "C" __global__ void add_parts(
    const float* __restrict__ part, float* __restrict__ w, long long size, int parts) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  float sum = 0.0f;
  for (int p = 0; p < parts; p++) sum += part[p * size + i];
  w[i] = sum;
}
