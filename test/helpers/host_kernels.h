// CUDA's words for kernels.cu on a CPU: a block's threads are fibers, which take turns at every barrier.
#pragma once
#include <immintrin.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

using std::min;
#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static

struct uint3_ { unsigned int x, y, z; };
struct alignas(16) uint4 { unsigned int x, y, z, w; };
inline uint4 make_uint4(unsigned int x, unsigned int y, unsigned int z, unsigned int w) { return {x, y, z, w}; }
inline float __expf(float x) { return std::exp(x); }
inline unsigned int __float_as_uint(float x) { unsigned int bits; std::memcpy(&bits, &x, 4); return bits; }
inline float __uint_as_float(unsigned int bits) { float x; std::memcpy(&x, &bits, 4); return x; }
static uint3_ blockIdx, gridDim, blockDim, threadIdx;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[1 << 16]};
  bool done = false;
};
static std::vector<Fiber>* fibers;
static ucontext_t scheduler;
static float passed[1024];
static void (*body)(void**);
static void** given;

inline void __syncthreads() { swapcontext(&(*fibers)[threadIdx.x].context, &scheduler); }

// Every thread of a block takes part in every exchange, as in kernels.cu.
inline float __shfl_xor_sync(unsigned int, float value, int mask) {
  passed[threadIdx.x] = value;
  __syncthreads();
  float found = passed[threadIdx.x ^ mask];
  __syncthreads();
  return found;
}

static void run_fiber() {
  body(given);
  (*fibers)[threadIdx.x].done = true;
  swapcontext(&(*fibers)[threadIdx.x].context, &scheduler);
}

// Run a kernel as cuLaunchKernel would. values: pointers to its arguments.
static void launch(void (*kernel)(void**), unsigned int x, unsigned int y, unsigned int threads, void** values) {
  body = kernel, given = values;
  gridDim = {x, y, 1}, blockDim = {threads, 1, 1};
  for (unsigned int block = 0; block < x * y; ++block) {
    blockIdx = {block % x, block / x, 0};
    std::vector<Fiber> all(threads);
    fibers = &all;
    for (auto& one : all) {
      getcontext(&one.context);
      one.context.uc_stack.ss_sp = one.stack.get();
      one.context.uc_stack.ss_size = 1 << 16;
      one.context.uc_link = nullptr;
      makecontext(&one.context, run_fiber, 0);
    }
    for (bool more = true; more;) {
      more = false;
      for (unsigned int thread = 0; thread < threads; ++thread) {
        if (all[thread].done) continue;
        threadIdx = {thread, 0, 0};
        swapcontext(&scheduler, &all[thread].context);
        more = more || !all[thread].done;
      }
    }
  }
}
