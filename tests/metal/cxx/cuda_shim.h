// Stands in for what CUDA's compiler knows by itself: as much of it as the kernels use, in C++14.
#pragma once

#include "runtime.h"

#define __global__
#define __device__
#define __forceinline__ inline

namespace cooperative_groups {}

inline uint3 make_uint3(uint x, uint y, uint z) { return uint3{x, y, z}; }
#define threadIdx (shim::position().thread_position_in_threadgroup)
#define blockIdx (shim::position().threadgroup_position_in_grid)
#define blockDim (shim::position().threads_per_threadgroup)
#define gridDim (shim::position().threadgroups_per_grid)

inline void __syncthreads(int line = __builtin_LINE()) { shim::threadgroup_barrier(true, line); }
inline void __syncwarp(uint mask = 0xffffffffu, int line = __builtin_LINE()) {
  shim::expect_lanes(mask);
  shim::simdgroup_barrier(true, line);
}

#define SHIM_UPDATE(name, builtin) \
  inline uint name(uint* p, uint x) { \
    shim::interleave(); \
    return builtin(p, x, __ATOMIC_RELAXED); \
  } \
  inline int name(int* p, int x) { \
    shim::interleave(); \
    return builtin(p, x, __ATOMIC_RELAXED); \
  }
SHIM_UPDATE(atomicAdd, __atomic_fetch_add)
SHIM_UPDATE(atomicSub, __atomic_fetch_sub)
SHIM_UPDATE(atomicAnd, __atomic_fetch_and)
SHIM_UPDATE(atomicOr, __atomic_fetch_or)
SHIM_UPDATE(atomicXor, __atomic_fetch_xor)
SHIM_UPDATE(atomicExch, __atomic_exchange_n)
#undef SHIM_UPDATE
inline uint atomicCAS(uint* p, uint expected, uint x) {
  shim::interleave();
  __atomic_compare_exchange_n(p, &expected, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}

// A mask names the lanes that take part; a lane that is not there must not be named.
template <class T>
inline T shim_lane_value(uint mask, T value, uint from, int line) {
  static_assert(sizeof(T) <= 8, "a lane hands on at most 64 bits");
  shim::expect_lanes(mask);
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  shim::share(bits, line);
  if (from < 32u) bits = shim::shared(from);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}
template <class T>
inline T __shfl_sync(uint mask, T value, uint from, int line = __builtin_LINE()) {
  return shim_lane_value(mask, value, from & 31u, line);
}
template <class T>
inline T __shfl_xor_sync(uint mask, T value, uint other, int line = __builtin_LINE()) {
  return shim_lane_value(mask, value, shim::lane() ^ other, line);
}
template <class T>
inline T __shfl_up_sync(uint mask, T value, uint step, int line = __builtin_LINE()) {
  return shim_lane_value(mask, value, shim::lane() - step, line);
}
template <class T>
inline T __shfl_down_sync(uint mask, T value, uint step, int line = __builtin_LINE()) {
  return shim_lane_value(mask, value, shim::lane() + step, line);
}
inline uint __ballot_sync(uint mask, int value, int line = __builtin_LINE()) {
  shim::expect_lanes(mask);
  shim::share(value != 0, line);
  uint votes = 0;
  for (uint lane = 0; lane < 32u; lane++) votes |= uint(shim::shared(lane)) << lane;
  return votes;
}

inline int __popc(uint x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(uint(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline uint __umulhi(uint a, uint b) { return uint((uint64_t(a) * b) >> 32); }
