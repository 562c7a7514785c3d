// What the functions of Metal and CUDA ask of the grid that runs them, and what a kernel tells it.
#pragma once

#include "types.h"

namespace shim {

// The attributes that MLX passes to a kernel that names them.
struct Position {
  uint3 thread_position_in_grid, thread_position_in_threadgroup, threadgroup_position_in_grid;
  uint3 threads_per_threadgroup, dispatch_threads_per_threadgroup;
  uint3 threads_per_grid, threadgroups_per_grid, grid_size, grid_origin;
  uint thread_index_in_threadgroup, thread_index_in_simdgroup, simdgroup_index_in_threadgroup;
  uint simdgroups_per_threadgroup, dispatch_simdgroups_per_threadgroup;
  uint threads_per_simdgroup, thread_execution_width;
};

void run_thread(void* const* buffers, const Position& at);  // defined by the kernel's text

// `line` tells barriers apart: threads that wait at different ones are a fault.
void threadgroup_barrier(bool orders_memory, int line);
void simdgroup_barrier(bool orders_memory, int line);
void share(uint64_t bits, int line);  // hands `bits` to the other lanes
uint64_t shared(uint lane);           // what `lane` shared last
const Position& position();
uint lane();
uint lanes();       // in this SIMD-group: the last one of a threadgroup may have fewer than 32
void expect_lanes(uint mask);  // CUDA: all 32 of them, named and there
void interleave();  // a moment at which another thread may go on
bool spurious();

// A threadgroup variable; all of them are allotted before a threadgroup starts.
struct Slot {
  Slot(size_t bytes);
  size_t bytes;
  void* memory;
};
template <class T, int number>
struct ThreadgroupVariable {
  static Slot slot;
};
template <class T, int number>
Slot ThreadgroupVariable<T, number>::slot(sizeof(T));
template <class T, int number>
T& threadgroup_variable() {
  return *static_cast<T*>(ThreadgroupVariable<T, number>::slot.memory);
}

}  // namespace shim
