#include "cuda.cuh"

// A block takes ROWS rows of z and goes through the codebook by tiles of CODES entries, both in shared memory DEPTH
// numbers at a time; a thread multiplies 4 rows with 4 entries, and keeps the best of those it has seen.
#define ROWS 64
#define CODES 64
#define DEPTH 16

// half[k] = |e_k|^2 / 2: one warp an entry.
extern "C" __global__ void half_squares(const float* __restrict__ codebook, float* __restrict__ half, int entries,
                                        int depth) {
  const int k = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  float sum = 0.0f;
  if (k < entries)
    for (int d = threadIdx.x % 32; d < depth; d += 32) sum += codebook[(long long)k * depth + d] * codebook[(long long)k * depth + d];
  sum = warp_sum(sum);
  if (k < entries && threadIdx.x % 32 == 0) half[k] = 0.5f * sum;
}

extern "C" __global__ void nearest(const float* __restrict__ z, const float* __restrict__ codebook,
                                   const float* __restrict__ half, long long* __restrict__ index,
                                   float* __restrict__ square, int rows, int entries, int depth) {
  __shared__ float left[DEPTH][ROWS + 1], right[DEPTH][CODES + 1];
  __shared__ float best_of[ROWS][CODES / 4];
  __shared__ int entry_of[ROWS][CODES / 4];
  const int thread = threadIdx.x, first = blockIdx.x * ROWS;
  const int row0 = thread / 16, code0 = thread % 16;  // this thread's rows are row0 + 16 i, its entries code0 + 16 j
  float best[4];
  int entry[4];
  for (int i = 0; i < 4; i++) best[i] = -INFINITY, entry[i] = 0;
  for (int tile = 0; tile < entries; tile += CODES) {
    float sums[4][4] = {};
    for (int d0 = 0; d0 < depth; d0 += DEPTH) {
      __syncthreads();
      for (int i = thread; i < ROWS * DEPTH; i += 256) {
        const int d = i % DEPTH, r = i / DEPTH;
        const bool inside = d0 + d < depth;
        left[d][r] = inside && first + r < rows ? z[(long long)(first + r) * depth + d0 + d] : 0.0f;
        right[d][r] = inside && tile + r < entries ? codebook[(long long)(tile + r) * depth + d0 + d] : 0.0f;
      }
      __syncthreads();
      for (int d = 0; d < DEPTH; d++)
        for (int i = 0; i < 4; i++)
          for (int j = 0; j < 4; j++) sums[i][j] += left[d][row0 + 16 * i] * right[d][code0 + 16 * j];
    }
    for (int j = 0; j < 4; j++) {
      const int k = tile + code0 + 16 * j;
      if (k >= entries) continue;
      for (int i = 0; i < 4; i++)
        if (sums[i][j] - half[k] > best[i]) best[i] = sums[i][j] - half[k], entry[i] = k;
    }
  }
  for (int i = 0; i < 4; i++) {
    best_of[row0 + 16 * i][code0] = best[i];
    entry_of[row0 + 16 * i][code0] = entry[i];
  }
  __syncthreads();
  if (thread < ROWS && first + thread < rows) {
    float top = best_of[thread][0];
    int k = entry_of[thread][0];
    for (int c = 1; c < CODES / 4; c++) {
      const float b = best_of[thread][c];
      const int e = entry_of[thread][c];
      if (b > top || (b == top && e < k)) top = b, k = e;
    }
    float total = 0.0f;
    for (int d = 0; d < depth; d++) {
      const float apart = z[(long long)(first + thread) * depth + d] - codebook[(long long)k * depth + d];
      total += apart * apart;
    }
    index[first + thread] = k;
    square[first + thread] = total;
  }
}
