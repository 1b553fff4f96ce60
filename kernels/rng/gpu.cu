// reference.py on the GPU: a block of 256 threads makes 1024 elements, four words a thread.
#include "cuda.cuh"

// word[w] = the upper 24 bits of this thread's word w: Philox 4x32-10 of its number in the grid.
__device__ __forceinline__ void draw(unsigned long long key, unsigned (&word)[4]) {
  const unsigned long long counter = blockIdx.x * 256ull + threadIdx.x;
  unsigned c0 = (unsigned)counter, c1 = (unsigned)(counter >> 32), c2 = 0, c3 = 0;
  unsigned k0 = (unsigned)key, k1 = (unsigned)(key >> 32);
  for (int round = 0; round < 10; round++) {
    const unsigned high0 = __umulhi(0xd2511f53u, c0), low0 = 0xd2511f53u * c0;
    const unsigned high1 = __umulhi(0xcd9e8d57u, c2), low1 = 0xcd9e8d57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  word[0] = c0 >> 8;
  word[1] = c1 >> 8;
  word[2] = c2 >> 8;
  word[3] = c3 >> 8;
}

#define UNIT 5.9604644775390625e-8f  // 2^-24
#define ELEMENT(w) (blockIdx.x * 1024ll + (w) * 256 + threadIdx.x)

extern "C" __global__ void __launch_bounds__(256) uniform(float* __restrict__ out, unsigned long long key, long long n) {
  unsigned word[4];
  draw(key, word);
  for (int w = 0; w < 4; w++)
    if (ELEMENT(w) < n) out[ELEMENT(w)] = word[w] * UNIT;
}

extern "C" __global__ void __launch_bounds__(256) normal(float* __restrict__ out, unsigned long long key, long long n) {
  unsigned word[4];
  draw(key, word);
  for (int w = 0; w < 4; w += 2) {
    const float radius = sqrtf(-2.0f * logf((word[w] + 1) * UNIT));
    float sine, cosine;
    sincospif(word[w + 1] * (2 * UNIT), &sine, &cosine);
    if (ELEMENT(w) < n) out[ELEMENT(w)] = radius * cosine;
    if (ELEMENT(w + 1) < n) out[ELEMENT(w + 1)] = radius * sine;
  }
}

extern "C" __global__ void __launch_bounds__(256) dropout(
    const float* __restrict__ x, float* __restrict__ out, unsigned least, float scale, unsigned long long key,
    long long n) {
  unsigned word[4];
  draw(key, word);
  for (int w = 0; w < 4; w++)
    if (ELEMENT(w) < n) out[ELEMENT(w)] = word[w] >= least ? x[ELEMENT(w)] * scale : 0.0f;
}
