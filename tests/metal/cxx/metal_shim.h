// Stands in for <metal_stdlib>: as much of the Metal shading language as the kernels use, in C++14
// and without a header of the system. With SHIM_CHECK the address spaces are real and nothing is
// defined that could run: that is for reading a text, not for running it.
#pragma once

#include "types.h"

#ifdef SHIM_CHECK
#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#else
#define device
#define constant
#define threadgroup
#endif
#define thread
#define METAL_FUNC inline

#include "runtime.h"

namespace metal {

// What T is not deduced from: `atomic_fetch_add_explicit(p, 1, ...)` finds it in p.
template <class T>
struct shim_same {
  typedef T type;
};
template <class T>
struct shim_narrow {
  static_assert(sizeof(T) <= 4, "SIMD-group functions take no 64-bit types");
  typedef T type;
};
template <class T>
struct shim_atomic;  // Metal has no other atomic integers on every GPU
template <>
struct shim_atomic<uint> {
  typedef uint type;
};
template <>
struct shim_atomic<int> {
  typedef int type;
};

enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
inline mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(int(a) | int(b)); }

inline void threadgroup_barrier(mem_flags flags, int line = __builtin_LINE()) {
  shim::threadgroup_barrier(flags != mem_flags::mem_none, line);
}
inline void simdgroup_barrier(mem_flags flags, int line = __builtin_LINE()) {
  shim::simdgroup_barrier(flags != mem_flags::mem_none, line);
}

// ---- atomics: 32-bit, relaxed, in device and threadgroup memory ----

enum memory_order { memory_order_relaxed };
template <class T>
struct atomic {
  typename shim_atomic<T>::type value;
};
typedef atomic<uint> atomic_uint;
typedef atomic<int> atomic_int;

#ifdef SHIM_CHECK
#define SHIM_ATOMICS(SPACE) \
  template <class T> \
  T atomic_load_explicit(const volatile SPACE atomic<T>*, memory_order); \
  template <class T> \
  void atomic_store_explicit(volatile SPACE atomic<T>*, typename shim_same<T>::type, \
                             memory_order); \
  template <class T> \
  bool atomic_compare_exchange_weak_explicit(volatile SPACE atomic<T>*, thread T*, \
                                             typename shim_same<T>::type, memory_order, \
                                             memory_order); \
  SHIM_UPDATE(SPACE, exchange) \
  SHIM_UPDATE(SPACE, fetch_add) \
  SHIM_UPDATE(SPACE, fetch_sub) \
  SHIM_UPDATE(SPACE, fetch_and) \
  SHIM_UPDATE(SPACE, fetch_or) \
  SHIM_UPDATE(SPACE, fetch_xor) \
  SHIM_UPDATE(SPACE, fetch_min) \
  SHIM_UPDATE(SPACE, fetch_max)
#define SHIM_UPDATE(SPACE, name) \
  template <class T> \
  T atomic_##name##_explicit(volatile SPACE atomic<T>*, typename shim_same<T>::type, memory_order);
SHIM_ATOMICS(device)
SHIM_ATOMICS(threadgroup)
#undef SHIM_UPDATE
#undef SHIM_ATOMICS
#else
template <class T>
inline T atomic_load_explicit(const volatile atomic<T>* p, memory_order) {
  shim::interleave();
  return __atomic_load_n(&p->value, __ATOMIC_RELAXED);
}
template <class T>
inline void atomic_store_explicit(volatile atomic<T>* p, typename shim_same<T>::type x,
                                  memory_order) {
  shim::interleave();
  __atomic_store_n(&p->value, x, __ATOMIC_RELAXED);
}
template <class T>
inline T atomic_exchange_explicit(volatile atomic<T>* p, typename shim_same<T>::type x,
                                  memory_order) {
  shim::interleave();
  return __atomic_exchange_n(&p->value, x, __ATOMIC_RELAXED);
}
template <class T>
inline bool atomic_compare_exchange_weak_explicit(volatile atomic<T>* p, T* expected,
                                                  typename shim_same<T>::type x, memory_order,
                                                  memory_order) {
  shim::interleave();
  if (shim::spurious()) {  // "weak" may fail for no reason, and now and then does
    *expected = __atomic_load_n(&p->value, __ATOMIC_RELAXED);
    return false;
  }
  return __atomic_compare_exchange_n(&p->value, expected, x, false, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED);
}
#define SHIM_UPDATE(name) \
  template <class T> \
  inline T atomic_##name##_explicit(volatile atomic<T>* p, typename shim_same<T>::type x, \
                                    memory_order) { \
    shim::interleave(); \
    return __atomic_##name(&p->value, x, __ATOMIC_RELAXED); \
  }
SHIM_UPDATE(fetch_add)
SHIM_UPDATE(fetch_sub)
SHIM_UPDATE(fetch_and)
SHIM_UPDATE(fetch_or)
SHIM_UPDATE(fetch_xor)
#undef SHIM_UPDATE
#define SHIM_UPDATE(name, better) \
  template <class T> \
  inline T atomic_##name##_explicit(volatile atomic<T>* p, typename shim_same<T>::type x, \
                                    memory_order) { \
    shim::interleave(); \
    T old = __atomic_load_n(&p->value, __ATOMIC_RELAXED); \
    while (x better old && !__atomic_compare_exchange_n(&p->value, &old, x, false, \
                                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) { \
    } \
    return old; \
  }
SHIM_UPDATE(fetch_min, <)
SHIM_UPDATE(fetch_max, >)
#undef SHIM_UPDATE
#endif

// ---- SIMD-groups of 32: a value goes to all lanes; no memory is ordered by that ----

template <class T>
inline void shim_share(T value, int line) {
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  shim::share(bits, line);
}
template <class T>
inline T shim_shared(uint lane) {
  const uint64_t bits = shim::shared(lane);
  T value;
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}
#define SHIM_SIMD_REDUCE(name, start, step) \
  template <class T> \
  inline typename shim_narrow<T>::type simd_##name(T value, int line = __builtin_LINE()) { \
    shim_share(value, line); \
    T a = start; \
    for (uint lane = 0; lane < shim::lanes(); lane++) { \
      const T b = shim_shared<T>(lane); \
      (void)a; \
      a = T(step); \
    } \
    return a; \
  }
SHIM_SIMD_REDUCE(sum, T(0), a + b)
SHIM_SIMD_REDUCE(product, T(1), a* b)
SHIM_SIMD_REDUCE(and, T(~T(0)), a& b)
SHIM_SIMD_REDUCE(or, T(0), a | b)
SHIM_SIMD_REDUCE(xor, T(0), a ^ b)
SHIM_SIMD_REDUCE(min, shim_shared<T>(0), b < a ? b : a)
SHIM_SIMD_REDUCE(max, shim_shared<T>(0), a < b ? b : a)
#undef SHIM_SIMD_REDUCE
// The value of lane `which`; where no such lane is, Metal says nothing, and this says garbage.
#define SHIM_SIMD_TAKE(name, which) \
  template <class T> \
  inline typename shim_narrow<T>::type name(T value, uint n, int line = __builtin_LINE()) { \
    shim_share(value, line); \
    const uint from = which; \
    return from < shim::lanes() ? shim_shared<T>(from) : T(0xA5); \
  }
SHIM_SIMD_TAKE(simd_shuffle, n)
SHIM_SIMD_TAKE(simd_broadcast, n)
SHIM_SIMD_TAKE(simd_shuffle_xor, shim::lane() ^ n)
SHIM_SIMD_TAKE(simd_shuffle_up, shim::lane() - n)
SHIM_SIMD_TAKE(simd_shuffle_down, shim::lane() + n)
#undef SHIM_SIMD_TAKE
template <class T>
inline T simd_broadcast_first(T value, int line = __builtin_LINE()) {
  return simd_broadcast(value, 0, line);
}
template <class T>
inline typename shim_narrow<T>::type simd_prefix_exclusive_sum(T value,
                                                               int line = __builtin_LINE()) {
  shim_share(value, line);
  T sum = 0;
  for (uint lane = 0; lane < shim::lane(); lane++) sum = T(sum + shim_shared<T>(lane));
  return sum;
}
template <class T>
inline T simd_prefix_inclusive_sum(T value, int line = __builtin_LINE()) {
  return T(simd_prefix_exclusive_sum(value, line) + value);
}
struct simd_vote {
  uint64_t mask;
  explicit operator uint64_t() const { return mask; }
};
inline simd_vote simd_ballot(bool value, int line = __builtin_LINE()) {
  shim_share(value, line);
  uint64_t mask = 0;
  for (uint lane = 0; lane < shim::lanes(); lane++) {
    mask |= uint64_t(shim_shared<bool>(lane)) << lane;
  }
  return simd_vote{mask};
}
inline bool simd_any(bool value, int line = __builtin_LINE()) {
  return simd_ballot(value, line).mask != 0;
}
inline bool simd_all(bool value, int line = __builtin_LINE()) { return !simd_any(!value, line); }
inline bool simd_is_first() { return shim::lane() == 0; }

// ---- integers ----

inline uint popcount(uint x) { return uint(__builtin_popcount(x)); }
inline uint clz(uint x) { return x ? uint(__builtin_clz(x)) : 32u; }
inline uint ctz(uint x) { return x ? uint(__builtin_ctz(x)) : 32u; }
inline uint mulhi(uint a, uint b) { return uint((uint64_t(a) * b) >> 32); }
inline uint rotate(uint x, uint n) { return x << (n & 31u) | x >> (-n & 31u); }
inline uint reverse_bits(uint x) {
  uint r = 0;
  for (uint i = 0; i < 32; i++) r |= (x >> i & 1u) << (31 - i);
  return r;
}
inline uint extract_bits(uint x, uint offset, uint bits) {
  return bits == 0 ? 0u : (x >> offset) & (~0u >> (32u - bits));
}
inline uint insert_bits(uint base, uint insert, uint offset, uint bits) {
  const uint mask = bits == 0 ? 0u : (~0u >> (32u - bits)) << offset;
  return (base & ~mask) | ((insert << offset) & mask);
}
template <class T>
inline T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
inline T max(T a, T b) {
  return a < b ? b : a;
}
template <class T>
inline T clamp(T x, T low, T high) {
  return min(max(x, low), high);
}
inline int abs(int x) { return x < 0 ? -x : x; }
template <class T>
inline T select(T no, T yes, bool which) {
  return which ? yes : no;
}
template <class T, class U>
inline T as_type(U from) {
  static_assert(sizeof(T) == sizeof(U), "as_type keeps the size");
  T to;
  __builtin_memcpy(&to, &from, sizeof(T));
  return to;
}

}  // namespace metal
using namespace metal;
