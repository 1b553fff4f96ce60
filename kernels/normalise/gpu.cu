// reference.py on the GPU. Columns (batch, instance, group): a block of 32 x 8 threads adds up 32 channels over a part of
// a sample's rows, 8 rows at a time; parts are joined in sets.py, in float64. Rows (layer): a block has one set.
#include "cuda.cuh"

#define CHANNELS 32
#define ROWS 8

__device__ __forceinline__ float logistic(float z) {
  const float e = expf(-fabsf(z));
  return (z >= 0 ? 1.0f : e) / (1.0f + e);
}

__device__ __forceinline__ float activate(float z, float slope, bool swish) {
  return swish ? z * logistic(z) : z > 0 ? z : slope * z;
}

__device__ __forceinline__ float steepness(float z, float slope, bool swish) {
  if (!swish) return z > 0 ? 1.0f : slope;
  const float s = logistic(z);
  return s * (1 + z * (1 - s));
}

// The sum over the 8 rows of threads, for each of 32 channels; every thread gets it.
__device__ __forceinline__ float sum_over_rows(float x) {
  __shared__ float parts[ROWS][CHANNELS];
  parts[threadIdx.y][threadIdx.x] = x;
  __syncthreads();
  float sum = 0;
  for (int r = 0; r < ROWS; r++) sum += parts[r][threadIdx.x];
  __syncthreads();
  return sum;
}

// Block (sample and part, channels): out[0] gets the columns' means, out[1] the squares of what differs from them.
extern "C" __global__ void moments(
    const float* __restrict__ x, double* __restrict__ out, int n, int p, int c, int rows, int parts) {
  const long long job = blockIdx.x, sample = job / parts, first = job % parts * rows;
  const int j = blockIdx.y * CHANNELS + threadIdx.x, count = p - first < rows ? p - first : rows;
  const float* column = x + (sample * p + first) * c + j;
  float sum = 0, off = 0, square = 0;
  if (j < c)
    for (int r = threadIdx.y; r < count; r += ROWS) sum += column[(long long)r * c];
  const float centre = sum_over_rows(sum) / count;
  if (j < c)
    for (int r = threadIdx.y; r < count; r += ROWS) {
      const float d = column[(long long)r * c] - centre;
      off += d;
      square += d * d;
    }
  off = sum_over_rows(off);
  square = sum_over_rows(square);
  if (j < c && threadIdx.y == 0) {
    const double rest = (double)off / count, squares = square - count * rest * rest;
    out[job * c + j] = centre + rest;
    out[(n * (long long)parts + job) * c + j] = squares > 0 ? squares : squares == squares ? 0.0 : squares;
  }
}

// Tables are [1 or n, c]: own and bent say whether each sample has its row.
extern "C" __global__ void apply(
    const float* __restrict__ x, const float* __restrict__ centre, const float* __restrict__ a,
    const float* __restrict__ b, float* __restrict__ y, long long size, long long of_a_sample, int c, bool own,
    float slope, bool swish) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < size; i += gridDim.x * (long long)blockDim.x) {
    const long long j = (own ? i / of_a_sample * c : 0) + i % c;
    y[i] = activate((x[i] - centre[j]) * a[j] + b[j], slope, swish);
  }
}

extern "C" __global__ void sums(
    const float* __restrict__ g, const float* __restrict__ x, const float* __restrict__ centre,
    const float* __restrict__ a, const float* __restrict__ b, double* __restrict__ out, int n, int p, int c, int rows,
    int parts, bool own, float slope, bool swish) {
  const long long job = blockIdx.x, sample = job / parts, first = job % parts * rows;
  const int j = blockIdx.y * CHANNELS + threadIdx.x, count = p - first < rows ? p - first : rows;
  const long long start = (sample * p + first) * c + j, t = (own ? sample * c : 0) + j;
  float along = 0, total = 0;
  if (j < c)
    for (int r = threadIdx.y; r < count; r += ROWS) {
      const long long i = start + (long long)r * c;
      const float d = x[i] - centre[t], gz = g[i] * steepness(d * a[t] + b[t], slope, swish);
      along += gz * d;
      total += gz;
    }
  along = sum_over_rows(along);
  total = sum_over_rows(total);
  if (j < c && threadIdx.y == 0) {
    out[job * c + j] = along;
    out[(n * (long long)parts + job) * c + j] = total;
  }
}

// dx = a g' + bend (x - centre) + move
extern "C" __global__ void pull(
    const float* __restrict__ g, const float* __restrict__ x, const float* __restrict__ centre,
    const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bend,
    const float* __restrict__ move, float* __restrict__ dx, long long size, long long of_a_sample, int c, bool own,
    bool bent, float slope, bool swish) {
  for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < size; i += gridDim.x * (long long)blockDim.x) {
    const long long row = i / of_a_sample * c, j = (own ? row : 0) + i % c, k = (bent ? row : 0) + i % c;
    const float d = x[i] - centre[j], gz = g[i] * steepness(d * a[j] + b[j], slope, swish);
    dx[i] = a[j] * gz + (bend[k] * d + move[k]);
  }
}

// Block (row and group): a set of `width` neighbours.
extern "C" __global__ void rows(
    const float* __restrict__ x, const float* __restrict__ scale, const float* __restrict__ shift,
    double* __restrict__ mean, double* __restrict__ var, float* __restrict__ y, int c, int groups, bool own,
    bool centred, double eps, float slope, bool swish) {
  const long long set = blockIdx.x, row = set / groups;
  const int width = c / groups, first = set % groups * width;
  const float *from = x + row * c + first, *s = scale + (own ? row * c : 0) + first,
              *t = shift + (own ? row * c : 0) + first;
  float sum = 0, off = 0, square = 0;
  for (int j = threadIdx.x; j < width; j += blockDim.x) sum += from[j];
  const float centre = centred ? block_sum(sum) / width : 0.0f;
  for (int j = threadIdx.x; j < width; j += blockDim.x) {
    const float d = from[j] - centre;
    off += d;
    square += d * d;
  }
  const double rest = centred ? (double)block_sum(off) / width : 0.0;
  const double spread = (double)block_sum(square) / width - rest * rest;
  const double variance = spread > 0 ? spread : spread == spread ? 0.0 : spread;
  const float r = 1 / sqrt(variance + eps), low = rest;
  for (int j = threadIdx.x; j < width; j += blockDim.x)
    y[row * c + first + j] = activate(((from[j] - centre) - low) * r * s[j] + t[j], slope, swish);
  if (threadIdx.x == 0) {
    mean[set] = centre + rest;
    var[set] = variance;
  }
}

extern "C" __global__ void rows_backward(
    const float* __restrict__ g, const float* __restrict__ gmean, const float* __restrict__ gvar,
    const float* __restrict__ x, const float* __restrict__ mean, const float* __restrict__ low,
    const float* __restrict__ var, const float* __restrict__ scale, const float* __restrict__ shift,
    float* __restrict__ dx, int c, int groups, bool own, bool centred, double eps, float slope, bool swish) {
  const long long set = blockIdx.x, row = set / groups;
  const int width = c / groups, first = set % groups * width;
  const float *s = scale + (own ? row * c : 0) + first, *t = shift + (own ? row * c : 0) + first;
  const long long start = row * c + first;
  const double root = 1 / sqrt(var[set] + eps);
  const float r = root;
  float slide = 0, stretch = 0;
  for (int j = threadIdx.x; j < width; j += blockDim.x) {
    const float hat = ((x[start + j] - mean[set]) - low[set]) * r;
    const float ghat = g[start + j] * steepness(hat * s[j] + t[j], slope, swish) * s[j];
    slide += ghat;
    stretch += ghat * hat;
  }
  const float move = centred ? (gmean[set] - root * block_sum(slide)) / width : 0.0;
  const float bend = (2 * gvar[set] / root - root * block_sum(stretch)) / width;
  for (int j = threadIdx.x; j < width; j += blockDim.x) {
    const float hat = ((x[start + j] - mean[set]) - low[set]) * r;
    const float ghat = g[start + j] * steepness(hat * s[j] + t[j], slope, swish) * s[j];
    dx[start + j] = r * ghat + (bend * hat + move);
  }
}

// Block (part, channels): sums over a part's rows of g' hat and of g', where each row has its own statistics.
extern "C" __global__ void row_sums(
    const float* __restrict__ g, const float* __restrict__ x, const float* __restrict__ mean,
    const float* __restrict__ low, const float* __restrict__ var, const float* __restrict__ scale,
    const float* __restrict__ shift, double* __restrict__ out, int n, int c, int groups, int of_a_part, bool own,
    double eps, float slope, bool swish) {
  const long long first = (long long)blockIdx.x * of_a_part, stop = first + of_a_part < n ? first + of_a_part : n;
  const int j = blockIdx.y * CHANNELS + threadIdx.x;
  float along = 0, total = 0;
  if (j < c)
    for (long long row = first + threadIdx.y; row < stop; row += ROWS) {
      const long long i = row * c + j, set = row * groups + j / (c / groups), k = (own ? row * c : 0) + j;
      const float hat = ((x[i] - mean[set]) - low[set]) * (float)(1 / sqrt(var[set] + eps));
      const float gz = g[i] * steepness(hat * scale[k] + shift[k], slope, swish);
      along += gz * hat;
      total += gz;
    }
  along = sum_over_rows(along);
  total = sum_over_rows(total);
  if (j < c && threadIdx.y == 0) {
    out[(long long)blockIdx.x * c + j] = along;
    out[((long long)gridDim.x + blockIdx.x) * c + j] = total;
  }
}
