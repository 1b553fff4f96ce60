#include "cuda.cuh"

// The scans of reference.py. A block runs one direction of one image, step by step: a step's cells depend on those of the
// step before alone. A thread computes one channel of a few lines' cells, so that a weight it has loaded serves them all;
// threads beside each other have channels beside each other. States are read back from `hidden` and `cells`, where a
// barrier makes them visible to the block; what a block needs fits into the level 1 cache, and no size is too large.

#define FEW 4     // lines a thread computes at once
#define TILE 32   // rows and columns of the weight's gradient in a block
#define DEPTH 16  // cells that it sums between two barriers

struct Scan {
  int height, width, directions, taps, h, diagonal;

  __device__ int lines() const { return diagonal ? height : width; }
  __device__ int steps() const { return diagonal ? height + width - 1 : height; }
  __device__ int start(int s) const { return diagonal ? max(0, s - width + 1) : 0; }
  __device__ int stop(int s) const { return diagonal ? min(height, s + 1) : width; }
  __device__ bool began(int s, int line) const { return s > (diagonal ? line : 0); }
  // The line that a line reads through a tap.
  __device__ int read(int line, int t) const { return diagonal ? line + t - 1 : line + t - taps / 2; }
  // The number of a cell among all, in images of height * width * directions.
  __device__ long long cell(int s, int line, int image, int direction) const {
    const int y = diagonal ? line : s, x = !diagonal ? line : direction == 0 ? s - line : width - 1 - s + line;
    return (((long long)image * height + y) * width + x) * directions + direction;
  }
  // The state of a line before step s: of its last cell, or the initial one; null beyond the sides or the top.
  __device__ const float* before(const float* states, const float* initial, int s, int line, int image, int direction) const {
    if (line < 0 || line >= lines()) return nullptr;
    if (!began(s, line)) return initial + ((long long)direction * lines() + line) * h;
    return states + cell(s - 1, line, image, direction) * h;
  }
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

extern "C" __global__ void forward(const float* __restrict__ gates, const float* __restrict__ weight, const float* h0,
                                   const float* c0, float* hidden, float* cells, float* gated, int height, int width,
                                   int directions, int taps, int h, int diagonal) {
  const Scan scan = {height, width, directions, taps, h, diagonal};
  const int image = blockIdx.x, direction = blockIdx.y;
  weight += (long long)direction * taps * h * 4 * h;
  for (int s = 0; s < scan.steps(); s++) {
    const int start = scan.start(s), stop = scan.stop(s);
    for (int item = threadIdx.x; item < ceil_div(stop - start, FEW) * h; item += blockDim.x) {
      const int j = item % h, first = start + item / h * FEW;
      float total[FEW][4] = {};
      for (int t = 0; t < taps; t++) {
        const float* states[FEW];
        for (int r = 0; r < FEW; r++)
          states[r] = first + r < stop ? scan.before(hidden, h0, s, scan.read(first + r, t), image, direction) : nullptr;
        for (int k = 0; k < h; k++) {
          const float* w = weight + ((long long)t * h + k) * 4 * h + j;
          const float w0 = w[0], w1 = w[h], w2 = w[2 * h], w3 = w[3 * h];
          for (int r = 0; r < FEW; r++) {
            const float state = states[r] ? states[r][k] : 0.0f;
            total[r][0] += state * w0;
            total[r][1] += state * w1;
            total[r][2] += state * w2;
            total[r][3] += state * w3;
          }
        }
      }
      for (int r = 0; r < FEW && first + r < stop; r++) {
        const long long at = scan.cell(s, first + r, image, direction), gate = at * 4 * h + j;
        const float o = sigmoid(total[r][0] + gates[gate]), f = sigmoid(total[r][1] + gates[gate + h]);
        const float i = sigmoid(total[r][2] + gates[gate + 2 * h]), g = tanhf(total[r][3] + gates[gate + 3 * h]);
        const float c = f * scan.before(cells, c0, s, first + r, image, direction)[j] + i * g;
        gated[gate] = o;
        gated[gate + h] = f;
        gated[gate + 2 * h] = i;
        gated[gate + 3 * h] = g;
        cells[at * h + j] = c;
        hidden[at * h + j] = o * tanhf(c);
      }
    }
    __syncthreads();
  }
}

// What the cells that read each of FEW lines from `first` on, before step s, ask of channel j. transposed: [D, taps, 4h, h].
__device__ void asked(const Scan& scan, const float* dgates, const float* transposed, int s, int first, int stop, int j,
                      int image, int direction, float (&total)[FEW]) {
  const int h = scan.h;
  for (int t = 0; t < scan.taps; t++) {
    const float* slopes[FEW];
    for (int r = 0; r < FEW; r++) {
      const int reader = first + r - scan.read(0, t);
      const bool reads = first + r < stop && s < scan.steps() && scan.start(s) <= reader && reader < scan.stop(s);
      slopes[r] = reads ? dgates + scan.cell(s, reader, image, direction) * 4 * h : nullptr;
    }
    for (int k = 0; k < 4 * h; k++) {
      const float w = transposed[((long long)(direction * scan.taps + t) * 4 * h + k) * h + j];
      for (int r = 0; r < FEW; r++) total[r] += slopes[r] ? slopes[r][k] * w : 0.0f;
    }
  }
}

// dh0 and dc0 are of one image each, [N, D, lines, h]; dc0 serves as memory while the scan runs.
extern "C" __global__ void backward(const float* __restrict__ g, const float* __restrict__ transposed,
                                    const float* __restrict__ c0, const float* __restrict__ cells,
                                    const float* __restrict__ gated, float* dgates, float* dh0, float* dc0, int height,
                                    int width, int directions, int taps, int h, int diagonal) {
  const Scan scan = {height, width, directions, taps, h, diagonal};
  const int image = blockIdx.x, direction = blockIdx.y, lines = scan.lines();
  dh0 += ((long long)image * directions + direction) * lines * h;
  dc0 += ((long long)image * directions + direction) * lines * h;
  for (int item = threadIdx.x; item < lines * h; item += blockDim.x) dc0[item] = dh0[item] = 0.0f;
  __syncthreads();
  for (int s = scan.steps() - 1; s >= 0; s--) {
    const int start = scan.start(s), stop = scan.stop(s);
    for (int item = threadIdx.x; item < ceil_div(stop - start, FEW) * h; item += blockDim.x) {
      const int j = item % h, first = start + item / h * FEW;
      float total[FEW] = {};
      asked(scan, dgates, transposed, s + 1, first, stop, j, image, direction, total);
      for (int r = 0; r < FEW && first + r < stop; r++) {
        const long long at = scan.cell(s, first + r, image, direction), gate = at * 4 * h + j;
        const float o = gated[gate], f = gated[gate + h], i = gated[gate + 2 * h], n = gated[gate + 3 * h];
        const float squashed = tanhf(cells[at * h + j]), dh = g[at * h + j] + total[r];
        const float dc = dc0[(first + r) * h + j] + dh * o * (1.0f - squashed * squashed);
        dgates[gate] = dh * squashed * o * (1.0f - o);
        dgates[gate + h] = dc * scan.before(cells, c0, s, first + r, image, direction)[j] * f * (1.0f - f);
        dgates[gate + 2 * h] = dc * n * i * (1.0f - i);
        dgates[gate + 3 * h] = dc * i * (1.0f - n * n);
        dc0[(first + r) * h + j] = dc * f;
      }
    }
    __syncthreads();
  }
  // h0 is read where a line begins: in a row scan by step 0, in a diagonal one to the left of (line, 0), at step `line`.
  for (int item = threadIdx.x; item < ceil_div(lines, FEW) * h && scan.steps() > 0; item += blockDim.x) {
    const int j = item % h, first = item / h * FEW;
    float total[FEW] = {};
    if (!diagonal) asked(scan, dgates, transposed, 0, first, lines, j, image, direction, total);
    for (int r = 0; r < FEW && first + r < lines; r++) {
      const int line = first + r;
      if (diagonal && width > 0)
        for (int k = 0; k < 4 * h; k++)
          total[r] += dgates[scan.cell(line, line, image, direction) * 4 * h + k] *
                      transposed[((long long)(direction * taps + 1) * 4 * h + k) * h + j];
      dh0[line * h + j] = total[r];
    }
  }
}

// parts[part, direction, taps * h, 4h]: the sum over `images` images of (what each cell read)^T dgates.
extern "C" __global__ void weight_gradient(const float* __restrict__ hidden, const float* __restrict__ h0,
                                           const float* __restrict__ dgates, float* __restrict__ parts, int n, int images,
                                           int height, int width, int directions, int taps, int h, int diagonal) {
  __shared__ float read[DEPTH][TILE], slope[DEPTH][TILE];
  const Scan scan = {height, width, directions, taps, h, diagonal};
  const int columns = ceil_div(4 * h, TILE), column = blockIdx.x % columns * TILE, row = blockIdx.x / columns * TILE;
  const int direction = blockIdx.y, part = blockIdx.z, pixels = height * width;
  const int first = part * images * pixels, last = min(n, (part + 1) * images) * pixels;
  float total[TILE / 8] = {};
  for (int begin = first; begin < last; begin += DEPTH) {
    for (int k = threadIdx.y; k < DEPTH; k += 8) {
      const int pixel = begin + k, m = row + threadIdx.x, q = column + threadIdx.x;
      float a = 0.0f, b = 0.0f;
      if (pixel < last) {
        const int image = pixel / pixels, y = pixel % pixels / width, x = pixel % width;
        const int line = diagonal ? y : x, s = !diagonal ? y : y + (direction == 0 ? x : width - 1 - x);
        if (m < taps * h) {
          const float* state = scan.before(hidden, h0, s, scan.read(line, m / h), image, direction);
          if (state) a = state[m % h];
        }
        if (q < 4 * h) b = dgates[((long long)pixel * directions + direction) * 4 * h + q];
      }
      read[k][threadIdx.x] = a;
      slope[k][threadIdx.x] = b;
    }
    __syncthreads();
    for (int k = 0; k < DEPTH; k++)
      for (int r = 0; r < TILE / 8; r++) total[r] += read[k][threadIdx.y + 8 * r] * slope[k][threadIdx.x];
    __syncthreads();
  }
  for (int r = 0; r < TILE / 8; r++) {
    const int m = row + threadIdx.y + 8 * r, q = column + threadIdx.x;
    if (m < taps * h && q < 4 * h) parts[(((long long)part * directions + direction) * taps * h + m) * 4 * h + q] = total[r];
  }
}
