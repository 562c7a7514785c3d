// What the kernels call, in CUDA's words.
#define RAM_IDS \
  const uint32_t thread_index_in_threadgroup = threadIdx.x; \
  const uint32_t thread_index_in_simdgroup = threadIdx.x & 31u; \
  const uint3 threadgroup_position_in_grid = make_uint3(blockIdx.x, blockIdx.y, blockIdx.z); \
  (void)thread_index_in_threadgroup; \
  (void)thread_index_in_simdgroup; \
  (void)threadgroup_position_in_grid;
#define DEV
#define LOCAL
#define RAM_FN static __device__ __forceinline__
#define RAM_SHARED(type, name, size) __shared__ type name[size]
#define RAM_BARRIER() __syncthreads()
#define RAM_SIMD_SUM(value) ram_simd_sum((int)(value))
#define RAM_LEADING_ZEROS(value) (uint32_t)__clz((int)(value))
#define RAM_TRAILING_ZEROS(value) (uint32_t)(__ffs((int)(value)) - 1)

RAM_FN int ram_simd_sum(int value) {
  for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

RAM_FN uint32_t ram_atomic_load(const uint32_t* place) {
  return *(const volatile uint32_t*)place;
}

RAM_FN uint32_t ram_atomic_add(uint32_t* place, uint32_t value) {
  return atomicAdd(place, value);
}

RAM_FN void ram_shared_or(uint32_t* place, uint32_t value) {
  atomicOr(place, value);
}

// Writes value where 0 is; returns what was there.
RAM_FN uint32_t ram_atomic_claim(uint32_t* place, uint32_t value) {
  return atomicCAS(place, 0u, value);
}
