#include "cuda.cuh"

// A block owns SLOTS slots and 32 columns. It reads the whole index, 256 rows at a time, notes those of its slots in the
// order of the rows, and adds them up, each slot's sum in shared memory: no atomics, one order.
#define SLOTS 32
#define ROWS 256

extern "C" __global__ void scatter_add(const long long* __restrict__ index, const float* __restrict__ values,
                                       float* __restrict__ out, int rows, int columns, int slots) {
  __shared__ float sums[SLOTS][32];
  __shared__ int row_of[ROWS], slot_of[ROWS], found_by[ROWS / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int first = blockIdx.x * SLOTS, column = blockIdx.y * 32 + lane;
  for (int s = warp; s < SLOTS; s += ROWS / 32) sums[s][lane] = 0.0f;
  for (int start = 0; start < rows; start += ROWS) {
    const int row = start + threadIdx.x;
    const long long slot = row < rows ? index[row] - first : -1;
    const bool mine = slot >= 0 && slot < SLOTS;
    const unsigned votes = __ballot_sync(ALL_LANES, mine);
    if (lane == 0) found_by[warp] = __popc(votes);
    __syncthreads();
    int place = __popc(votes & ((1u << lane) - 1)), found = 0;
    for (int w = 0; w < ROWS / 32; w++) {
      if (w < warp) place += found_by[w];
      found += found_by[w];
    }
    if (mine) {
      row_of[place] = row;
      slot_of[place] = (int)slot;
    }
    __syncthreads();
    // A slot belongs to one warp: its rows are added in their order.
    for (int i = 0; i < found; i++) {
      if (slot_of[i] % (ROWS / 32) == warp && column < columns)
        sums[slot_of[i]][lane] += values[(long long)row_of[i] * columns + column];
    }
    __syncthreads();
  }
  for (int s = warp; s < SLOTS; s += ROWS / 32)
    if (first + s < slots && column < columns) out[(long long)(first + s) * columns + column] = sums[s][lane];
}
