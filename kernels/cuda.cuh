// What every gpu.cu includes: sums over warps and blocks, shared memory, tensor cores. Blocks that use the sums hold a
// multiple of 32 threads, and all of their threads call them.
#ifndef MICROGNM_CUDA_CUH
#define MICROGNM_CUDA_CUH

#ifdef CUDA_ON_CPU
#include "cuda_on_cpu.h"
#else
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7fc00000)
#endif
#ifndef FLT_MAX
#define FLT_MAX 3.402823466e+38f
#endif

// The shared memory asked for at the launch, `shared` bytes; one array a block.
template <class T> __device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ float4 dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
}
#endif

#define ALL_LANES 0xffffffffu

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// This thread's number in its block.
__device__ __forceinline__ int thread_in_block() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

__device__ __forceinline__ int threads_in_block() { return blockDim.x * blockDim.y * blockDim.z; }

// ---- reductions: every thread gets the result, the same bits in all, whatever ran first ----------------------------

__device__ __forceinline__ float warp_sum(float x) {
  for (int apart = 16; apart > 0; apart /= 2) x += __shfl_xor_sync(ALL_LANES, x, apart);
  return x;
}

// NaN among numbers is lost, as in fmaxf.
__device__ __forceinline__ float warp_max(float x) {
  for (int apart = 16; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, apart));
  return x;
}

__device__ __forceinline__ float block_sum(float x) {
  __shared__ float parts[32];
  const int thread = thread_in_block(), lane = thread % 32;
  x = warp_sum(x);
  if (lane == 0) parts[thread / 32] = x;
  __syncthreads();
  x = warp_sum(lane < threads_in_block() / 32 ? parts[lane] : 0.0f);
  __syncthreads();  // parts may be written again
  return x;
}

__device__ __forceinline__ float block_max(float x) {
  __shared__ float parts[32];
  const int thread = thread_in_block(), lane = thread % 32;
  x = warp_max(x);
  if (lane == 0) parts[thread / 32] = x;
  __syncthreads();
  x = warp_max(lane < threads_in_block() / 32 ? parts[lane] : -INFINITY);
  __syncthreads();
  return x;
}

// ---- tensor cores: TF32, a float32 with 10 bits of mantissa --------------------------------------------------------

// The bits of x rounded to TF32, to the nearest, halves away from zero.
__device__ __forceinline__ unsigned tf32(float x) {
#ifdef CUDA_ON_CPU
  return cuda_on_cpu::tf32(x);
#else
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#endif
}

// d += a b for a warp: a is 16 x 8, b is 8 x 8, d is 16 x 8 (mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32).
// With group = lane / 4 and t = lane % 4 a lane holds
//   a[0] = A[group][t]      a[1] = A[group + 8][t]      a[2] = A[group][t + 4]       a[3] = A[group + 8][t + 4]
//   b[0] = B[t][group]      b[1] = B[t + 4][group]
//   d[0] = D[group][2 t]    d[1] = D[group][2 t + 1]    d[2] = D[group + 8][2 t]     d[3] = D[group + 8][2 t + 1]
// a and b come from tf32(). Products are exact; how the hardware rounds their sum is not documented.
__device__ __forceinline__ void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef CUDA_ON_CPU
  cuda_on_cpu::mma_tf32(d, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

#endif
