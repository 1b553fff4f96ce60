// CUDA C on the CPU: what a gpu.cu needs of the language and its library, for a C++17 compiler.
//
// A block is run by one thread of the CPU, which carries each of the block's threads in a fiber: a fiber runs until it
// waits at a barrier or for its warp, and another goes on. Several blocks run at once. So a kernel's arithmetic,
// indices and barriers are put to the test. What is wrong with a barrier ends the launch with a message: threads that
// wait for what cannot come, a lane that reads another that does not take part.
#ifndef MICROGNM_CUDA_ON_CPU_H
#define MICROGNM_CUDA_ON_CPU_H

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#else
#include <ucontext.h>
#endif

// ---- the language --------------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static
#define __shared__ static thread_local  // one thread of the CPU runs a block from its beginning to its end

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define CUDA_ON_CPU_VECTOR(T, name, align)                                                             \
  struct alignas(2 * align) name##2 { T x, y; };                                                       \
  struct name##3 { T x, y, z; };                                                                       \
  struct alignas(4 * align) name##4 { T x, y, z, w; };                                                 \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                           \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                                   \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUDA_ON_CPU_VECTOR(float, float, 4)
CUDA_ON_CPU_VECTOR(int, int, 4)
#undef CUDA_ON_CPU_VECTOR
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

static thread_local uint3 threadIdx, blockIdx;
static thread_local dim3 blockDim, gridDim;
static constexpr int warpSize = 32;

// ---- fibers --------------------------------------------------------------------------------------------------------

namespace cuda_on_cpu {

constexpr size_t STACK = 256 << 10;  // bytes; only what is touched takes memory
constexpr uint64_t CANARY = 0x5ca1ab1e0ddba11ull;

#if defined(__x86_64__)
using Context = void*;  // a stack pointer, below which the registers lie that a call must preserve
extern "C" void cuda_on_cpu_switch(Context* from, Context to);
asm(R"(
.pushsection .text
.local cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
.popsection
)");
inline void change(Context& from, Context& to) { cuda_on_cpu_switch(&from, to); }
inline void prepare(Context& context, char* top, void (*entry)()) {
  void** stack = reinterpret_cast<void**>(top);
  *--stack = nullptr;  // where entry would return to; it keeps the stack aligned as after a call
  *--stack = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; i++) *--stack = nullptr;
  context = stack;
}
#else
using Context = ucontext_t;
inline void change(Context& from, Context& to) { swapcontext(&from, &to); }
inline void prepare(Context& context, char* top, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = top - STACK / 2;
  context.uc_stack.ss_size = STACK / 2;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
#endif

enum State { READY, AT_BARRIER, AT_WARP, RETURNED };

struct Fiber {
  Context context;
  uint3 index;
  State state;
  const char* what;  // it waits at: the name of a function
  int line;
  unsigned mask;     // of the lanes it waits for
  void* record;      // what it brings to its warp and takes from it
  char* stack;
};

using Complete = void (*)(Fiber* lanes, unsigned mask);

struct Block {
  std::vector<Fiber> fibers;
  Context scheduler;
  int size = 0, current = 0, returned = 0, arrived = 0, first = 0, votes = 0, result = 0;
  std::string error;
  void (*body)(void**) = nullptr;
  void** arguments = nullptr;
  std::vector<float> shared_memory;
  size_t shared = 0;

  ~Block() {
    for (Fiber& fiber : fibers) munmap(fiber.stack, STACK);
  }
};

static thread_local Block* block;

inline std::string place(const Fiber& fiber) {
  return "thread (" + std::to_string(fiber.index.x) + ", " + std::to_string(fiber.index.y) + ", " +
         std::to_string(fiber.index.z) + ") at " + fiber.what + " in line " + std::to_string(fiber.line);
}

// Back to the scheduler, until somebody makes this fiber ready.
inline void wait() { change(block->fibers[block->current].context, block->scheduler); }

[[noreturn]] inline void fail(const std::string& why) {
  block->error = why;
  wait();
  __builtin_unreachable();
}

inline int barrier(const char* what, int line, int vote) {
  Block& b = *block;
  Fiber& me = b.fibers[b.current];
  me.what = what;
  me.line = line;
  if (!b.arrived) b.first = b.current;
  const Fiber& first = b.fibers[b.first];
  if (first.line != line) fail("threads of one block wait at different barriers: " + place(first) + ", " + place(me));
  b.votes += vote;
  if (++b.arrived == b.size) {
    b.result = b.votes;
    b.arrived = b.votes = 0;
    for (int i = 0; i < b.size; i++) b.fibers[i].state = READY;
  } else {
    me.state = AT_BARRIER;
    wait();
  }
  return b.result;
}

// The lanes of `mask` meet, but for those that the block does not have; the last one calls complete, then all go on.
inline unsigned meet(const char* what, int line, unsigned mask, void* record, Complete complete) {
  Block& b = *block;
  Fiber& me = b.fibers[b.current];
  const int first = b.current / 32 * 32, lanes = std::min(32, b.size - first);
  me.what = what;
  me.line = line;
  me.mask = mask;
  me.record = record;
  if (!(mask >> (b.current - first) & 1)) fail("the mask leaves out the lane that calls: " + place(me));
  const unsigned wanted = lanes == 32 ? mask : mask & ((1u << lanes) - 1);
  for (int i = 0; i < lanes; i++) {
    const Fiber& other = b.fibers[first + i];
    if (!(wanted >> i & 1) || first + i == b.current) continue;
    if (other.state != AT_WARP || !(other.mask >> (b.current - first) & 1)) {  // it runs, or waits for others first
      me.state = AT_WARP;
      wait();
      return wanted;
    }
    if (strcmp(other.what, what) != 0 || other.mask != mask)
      fail("lanes of one warp wait for each other in different calls: " + place(other) + ", " + place(me));
  }
  me.state = READY;
  complete(&b.fibers[first], wanted);
  for (int i = 0; i < lanes; i++)
    if (wanted >> i & 1) b.fibers[first + i].state = READY;
  return wanted;
}

inline int lane() { return block->current % 32; }

template <class T> struct Exchange { T value, result; int source; };

template <class T> void exchange(Fiber* lanes, unsigned mask) {
  for (int i = 0; i < 32; i++) {
    if (!(mask >> i & 1)) continue;
    auto* mine = static_cast<Exchange<T>*>(lanes[i].record);
    if (!(mask >> mine->source & 1))
      fail(place(lanes[i]) + " reads lane " + std::to_string(mine->source) + ", which does not take part");
    mine->result = static_cast<Exchange<T>*>(lanes[mine->source].record)->value;
  }
}

template <class T> T shuffle(const char* what, int line, unsigned mask, T value, int source) {
  Exchange<T> record{value, value, source};
  meet(what, line, mask, &record, exchange<T>);
  return record.result;
}

struct Vote { bool value; unsigned result; };

inline void count_votes(Fiber* lanes, unsigned mask) {
  unsigned result = 0;
  for (int i = 0; i < 32; i++)
    if (mask >> i & 1) result |= unsigned(static_cast<Vote*>(lanes[i].record)->value) << i;
  for (int i = 0; i < 32; i++)
    if (mask >> i & 1) static_cast<Vote*>(lanes[i].record)->result = result;
}

inline std::pair<unsigned, unsigned> vote(const char* what, int line, unsigned mask, bool value) {
  Vote record{value, 0};
  const unsigned took_part = meet(what, line, mask, &record, count_votes);
  return {record.result, took_part};
}

// ---- tensor cores

inline unsigned tf32(float x) {
  unsigned bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits += 0x1000u;  // half of what is cut off
  return bits & 0xffffe000u;
}

struct Matrices { float* d; const unsigned *a, *b; };

inline void multiply(Fiber* lanes, unsigned mask) {
  if (mask != 0xffffffffu) fail(place(lanes[0]) + " needs all 32 lanes of the warp");
  float a[16][8], b[8][8], d[16][8];
  const auto number = [](unsigned bits) {
    bits &= 0xffffe000u;
    float x;
    memcpy(&x, &bits, 4);
    return x;
  };
  for (int i = 0; i < 32; i++) {
    const auto& m = *static_cast<Matrices*>(lanes[i].record);
    const int group = i / 4, t = i % 4;
    for (int k = 0; k < 4; k++) a[group + k % 2 * 8][t + k / 2 * 4] = number(m.a[k]);
    for (int k = 0; k < 2; k++) b[t + k * 4][group] = number(m.b[k]);
    for (int k = 0; k < 4; k++) d[group + k / 2 * 8][2 * t + k % 2] = m.d[k];
  }
  for (int i = 0; i < 16; i++)
    for (int j = 0; j < 8; j++) {
      double sum = d[i][j];
      for (int k = 0; k < 8; k++) sum += double(a[i][k]) * b[k][j];
      d[i][j] = float(sum);
    }
  for (int i = 0; i < 32; i++) {
    const auto& m = *static_cast<Matrices*>(lanes[i].record);
    for (int k = 0; k < 4; k++) m.d[k] = d[i / 4 + k / 2 * 8][2 * (i % 4) + k % 2];
  }
}

inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line = __builtin_LINE()) {
  Matrices record{d, a, b};
  meet("mma_tf32", line, 0xffffffffu, &record, multiply);
}

// ---- running a block

inline void entry() {
  Block& b = *block;
  b.body(b.arguments);
  b.fibers[b.current].state = RETURNED;
  b.returned++;
  wait();
}

inline std::string stuck(const Block& b) {
  int at_barrier = 0, at_warp = 0;
  std::string first;
  for (int i = 0; i < b.size; i++) {
    at_barrier += b.fibers[i].state == AT_BARRIER;
    at_warp += b.fibers[i].state == AT_WARP;
    if (first.empty() && b.fibers[i].state != RETURNED) first = place(b.fibers[i]);
  }
  return "deadlock: of " + std::to_string(b.size) + " threads " + std::to_string(at_barrier) +
         " wait at a barrier of the block, " + std::to_string(at_warp) + " for lanes of their warp and " +
         std::to_string(b.returned) + " have returned; the first that waits is " + first;
}

inline void run_block(Block& b) {
  const int threads = b.size = blockDim.x * blockDim.y * blockDim.z;
  while (int(b.fibers.size()) < threads) {
    void* stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) {
      b.error = "no memory for another thread's stack";
      return;
    }
    b.fibers.emplace_back();
    b.fibers.back().stack = static_cast<char*>(stack);
  }
  // What no thread has written yet is NaN; nothing may be written behind the end.
  b.shared_memory.resize((b.shared + 127) / 4);
  memset(b.shared_memory.data(), 0xff, b.shared_memory.size() * 4);
  b.returned = b.arrived = b.votes = 0;
  b.error.clear();
  for (int i = 0; i < threads; i++) {
    Fiber& fiber = b.fibers[i];
    fiber.state = READY;
    fiber.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    memcpy(fiber.stack, &CANARY, 8);
    // Not all tops at the same place in their pages, where they would share one set of the cache.
    prepare(fiber.context, fiber.stack + STACK - i % 64 * 576, entry);
  }
  // Now from the first thread, now from the last: what a barrier is missing for shows in one of the two orders.
  bool backwards = (blockIdx.x + blockIdx.y + blockIdx.z) % 2;
  while (b.returned < threads) {
    bool ran = false;
    for (int k = 0; k < threads && b.error.empty(); k++) {
      const int i = backwards ? threads - 1 - k : k;
      Fiber& fiber = b.fibers[i];
      if (fiber.state != READY) continue;
      ran = true;
      b.current = i;
      threadIdx = fiber.index;
      change(b.scheduler, fiber.context);
      uint64_t canary;
      memcpy(&canary, fiber.stack, 8);
      if (canary != CANARY) b.error = "a thread's calls take more than its stack of 256 KiB";
    }
    if (b.error.empty() && !ran) b.error = stuck(b);
    if (!b.error.empty()) return;
    backwards = !backwards;
  }
  const char* end = reinterpret_cast<char*>(b.shared_memory.data()) + b.shared;
  for (int i = 0; i < 64; i++)
    if (end[i] != char(0xff)) b.error = "written behind the end of the dynamic shared memory";
}

// Blocks that are not at work, with their stacks, for the next launch.
inline std::vector<std::unique_ptr<Block>>& idle() {
  static std::vector<std::unique_ptr<Block>> blocks;
  return blocks;
}
inline std::mutex& lock() {
  static std::mutex mutex;
  return mutex;
}

struct Launch {
  dim3 grid, size;
  size_t shared;
  void (*body)(void**);
  void** arguments;
  std::atomic<uint64_t> next{0};
  std::string error;

  void work() {
    std::unique_ptr<Block> mine;
    {
      std::lock_guard<std::mutex> guard(lock());
      if (idle().empty()) idle().push_back(std::make_unique<Block>());
      mine = std::move(idle().back());
      idle().pop_back();
    }
#if defined(__x86_64__)
    const unsigned rounding = _mm_getcsr();
    _mm_setcsr(rounding | 0x8040);  // subnormal numbers are zero, as CuPy's -ftz=true makes them
#endif
    mine->shared = shared;
    mine->body = body;
    mine->arguments = arguments;
    block = mine.get();
    gridDim = grid;
    blockDim = size;
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    for (uint64_t i = next++; i < blocks; i = next++) {
      blockIdx = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
      run_block(*mine);
      if (mine->error.empty()) continue;
      next = blocks;
      std::lock_guard<std::mutex> guard(lock());
      if (error.empty())
        error = "block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
                std::to_string(blockIdx.z) + "): " + mine->error;
    }
#if defined(__x86_64__)
    _mm_setcsr(rounding);
#endif
    std::lock_guard<std::mutex> guard(lock());
    idle().push_back(std::move(mine));
  }

  void run(unsigned threads) {
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    std::vector<std::thread> others;
    for (unsigned i = 1; i < threads && i < blocks; i++) others.emplace_back([this] { work(); });
    work();
    for (std::thread& other : others) other.join();
  }
};

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_cv_t<A>*>(arguments[I])...);
}
template <class... A> void call(void (*kernel)(A...), void** arguments) {
  call(kernel, arguments, std::index_sequence_for<A...>());
}
template <auto kernel> void body(void** arguments) { call(kernel, arguments); }

// geometry: grid x, y, z, block x, y, z, threads of the CPU. Returns 0, or 1 with the reason in `error`.
template <auto kernel>
int launch(const unsigned* geometry, size_t shared, void** arguments, char* error, size_t room) {
  Launch launch{dim3(geometry[0], geometry[1], geometry[2]), dim3(geometry[3], geometry[4], geometry[5]), shared,
                body<kernel>, arguments};
  launch.run(geometry[6]);
  snprintf(error, room, "%s", launch.error.c_str());
  return !launch.error.empty();
}

template <class T> T atomically(T* place, T (*change)(T, T), T x) {
  T old, now;
  __atomic_load(place, &old, __ATOMIC_RELAXED);
  do now = change(old, x);
  while (!__atomic_compare_exchange(place, &old, &now, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_KERNEL(name)                                                                           \
  extern "C" int launch_##name(const unsigned* geometry, size_t shared, void** arguments, char* error,     \
                               size_t room) {                                                              \
    return cuda_on_cpu::launch<name>(geometry, shared, arguments, error, room);                            \
  }

template <class T> T* dynamic_shared() { return reinterpret_cast<T*>(cuda_on_cpu::block->shared_memory.data()); }

// ---- barriers, warps ---------------------------------------------------------------------------------------------

inline void __syncthreads(int line = __builtin_LINE()) { cuda_on_cpu::barrier("__syncthreads", line, 0); }
inline int __syncthreads_count(int predicate, int line = __builtin_LINE()) {
  return cuda_on_cpu::barrier("__syncthreads_count", line, predicate != 0);
}
inline int __syncthreads_or(int predicate, int line = __builtin_LINE()) {
  return cuda_on_cpu::barrier("__syncthreads_or", line, predicate != 0) > 0;
}
inline int __syncthreads_and(int predicate, int line = __builtin_LINE()) {
  return cuda_on_cpu::barrier("__syncthreads_and", line, predicate == 0) == 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
  cuda_on_cpu::vote("__syncwarp", line, mask, false);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return cuda_on_cpu::vote("__ballot_sync", line, mask, predicate != 0).first;
}
inline int __any_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  return cuda_on_cpu::vote("__any_sync", line, mask, predicate != 0).first != 0;
}
inline int __all_sync(unsigned mask, int predicate, int line = __builtin_LINE()) {
  const auto [yes, all] = cuda_on_cpu::vote("__all_sync", line, mask, predicate != 0);
  return yes == all;
}
template <class T> T __shfl_sync(unsigned mask, T x, int source, int width = 32, int line = __builtin_LINE()) {
  const int lane = cuda_on_cpu::lane(), first = lane & ~(width - 1);
  return cuda_on_cpu::shuffle("__shfl_sync", line, mask, x, first + (source & (width - 1)));
}
template <class T> T __shfl_up_sync(unsigned mask, T x, unsigned apart, int width = 32, int line = __builtin_LINE()) {
  const int lane = cuda_on_cpu::lane(), from = lane - int(apart);
  return cuda_on_cpu::shuffle("__shfl_up_sync", line, mask, x, from >= (lane & ~(width - 1)) ? from : lane);
}
template <class T> T __shfl_down_sync(unsigned mask, T x, unsigned apart, int width = 32, int line = __builtin_LINE()) {
  const int lane = cuda_on_cpu::lane(), from = lane + int(apart);
  return cuda_on_cpu::shuffle("__shfl_down_sync", line, mask, x, from <= (lane | (width - 1)) ? from : lane);
}
template <class T> T __shfl_xor_sync(unsigned mask, T x, int apart, int width = 32, int line = __builtin_LINE()) {
  const int lane = cuda_on_cpu::lane(), from = lane ^ apart;
  return cuda_on_cpu::shuffle("__shfl_xor_sync", line, mask, x, from <= (lane | (width - 1)) ? from : lane);
}
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() {}

// ---- atomics -----------------------------------------------------------------------------------------------------

#define CUDA_ON_CPU_ATOMIC(name, T, expression)                                               \
  inline T name(T* place, T x) {                                                              \
    return cuda_on_cpu::atomically<T>(place, [](T old, T x) -> T { return expression; }, x);  \
  }
#define CUDA_ON_CPU_ATOMICS(T)                        \
  CUDA_ON_CPU_ATOMIC(atomicAdd, T, old + x)           \
  CUDA_ON_CPU_ATOMIC(atomicMax, T, std::max(old, x))  \
  CUDA_ON_CPU_ATOMIC(atomicMin, T, std::min(old, x))  \
  CUDA_ON_CPU_ATOMIC(atomicExch, T, ((void)old, x))
CUDA_ON_CPU_ATOMICS(int)
CUDA_ON_CPU_ATOMICS(unsigned)
CUDA_ON_CPU_ATOMICS(unsigned long long)
CUDA_ON_CPU_ATOMIC(atomicAdd, float, old + x)
CUDA_ON_CPU_ATOMIC(atomicAdd, double, old + x)
CUDA_ON_CPU_ATOMIC(atomicExch, float, ((void)old, x))
#undef CUDA_ON_CPU_ATOMICS
#undef CUDA_ON_CPU_ATOMIC
template <class T> T atomicCAS(T* place, T compare, T value) {
  __atomic_compare_exchange(place, &compare, &value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return compare;
}

// ---- numbers -----------------------------------------------------------------------------------------------------

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;

inline float __int_as_float(int x) { float y; memcpy(&y, &x, 4); return y; }
inline int __float_as_int(float x) { int y; memcpy(&y, &x, 4); return y; }
inline float __uint_as_float(unsigned x) { float y; memcpy(&y, &x, 4); return y; }
inline unsigned __float_as_uint(float x) { unsigned y; memcpy(&y, &x, 4); return y; }
inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
inline int __mulhi(int a, int b) { return int64_t(a) * b >> 32; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }

inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline void __sincosf(float x, float* s, float* c) { *s = sinf(x); *c = cosf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __saturatef(float x) { return x >= 1.0f ? 1.0f : x > 0.0f ? x : 0.0f; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline void sincospif(float x, float* s, float* c) {
  const double turn = remainder(double(x), 2.0) * 3.14159265358979323846;
  *s = float(sin(turn));
  *c = float(cos(turn));
}

template <class T> T __ldg(const T* place) { return *place; }
template <class T> T __ldcs(const T* place) { return *place; }
template <class T> void __stcs(T* place, T x) { *place = x; }

#endif
