// What the kernels call, in Metal's words.
#define RAM_IDS
#define DEV device
#define LOCAL thread
#define RAM_FN static inline
#define RAM_SHARED(type, name, size) threadgroup type name[size]
#define RAM_BARRIER() threadgroup_barrier(mem_flags::mem_device | mem_flags::mem_threadgroup)
#define RAM_SIMD_SUM(value) simd_sum((int)(value))
#define RAM_LEADING_ZEROS(value) clz((uint32_t)(value))
#define RAM_TRAILING_ZEROS(value) ctz((uint32_t)(value))

RAM_FN uint32_t ram_atomic_load(device uint32_t* place) {
  return atomic_load_explicit((device atomic_uint*)place, memory_order_relaxed);
}

RAM_FN uint32_t ram_atomic_add(device uint32_t* place, uint32_t value) {
  return atomic_fetch_add_explicit((device atomic_uint*)place, value, memory_order_relaxed);
}

RAM_FN void ram_shared_or(threadgroup uint32_t* place, uint32_t value) {
  atomic_fetch_or_explicit((threadgroup atomic_uint*)place, value, memory_order_relaxed);
}

// Writes value where 0 is; returns what was there.
RAM_FN uint32_t ram_atomic_claim(device uint32_t* place, uint32_t value) {
  uint expected = 0u;
  while (!atomic_compare_exchange_weak_explicit(
      (device atomic_uint*)place, &expected, value, memory_order_relaxed, memory_order_relaxed)) {
    if (expected != 0u) return expected;
  }
  return 0u;
}
