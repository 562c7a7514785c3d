// Runs a kernel over a grid: a fiber for every thread of a threadgroup, threadgroups one after
// another, both in an order that the schedule's number shuffles. Never instrumented itself; under
// ThreadSanitizer (SHIM_THREAD) a switch of fibers orders nothing, so that barriers alone do, as
// on a GPU.
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "runtime.h"

#ifdef SHIM_THREAD
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#else
static void* __tsan_get_current_fiber() { return nullptr; }
static void* __tsan_create_fiber(unsigned) { return nullptr; }
static void __tsan_switch_to_fiber(void*, unsigned) {}
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
#endif
#ifdef SHIM_ADDRESS
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
}
#else
static void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
#endif

namespace {

const size_t STACK = 256 << 10;
const size_t THREADGROUP_MEMORY = 32768;  // bytes, on every Apple GPU
const unsigned NO_ORDER = 1;              // of __tsan_switch_to_fiber: that orders nothing

// Where threads meet: a threadgroup, or a SIMD-group of it. The rounds take turns with two edges:
// a thread that leaves late must not acquire what another did after this round.
struct Meeting {
  uint members, waiting, round;
  int line;
  char edges[2];
};
struct Thread {
  ucontext_t context;
  shim::Position at;
  void* fake_stack;
  uint fiber;
  bool ended;
};
// What a thread runs on. ThreadSanitizer knows it by `identity`; neighbouring threadgroups never
// share one, or what one of them did would count as ordered before what the other does.
struct Fiber {
  char* stack;
  void* identity;
};

std::vector<shim::Slot*>& slots() {
  static std::vector<shim::Slot*> all;
  return all;
}
std::vector<Thread> threads;
std::vector<Fiber> fibers;
std::vector<Meeting> simdgroups;
std::vector<uint64_t> shared_bits;
Meeting everyone;
ucontext_t scheduler;
void* scheduler_identity;
void* scheduler_fake_stack;
const void* scheduler_stack;
size_t scheduler_stack_size;
uint current;
bool progress, shuffled;
std::mt19937 dice;
void* const* arguments;
char starting, ending;  // what ThreadSanitizer's happens-before edges hang on

[[noreturn]] void fault(const char* what) {
  std::fprintf(stderr, "shim: %s\n", what);
  std::_Exit(86);
}

void pause_thread(bool for_good = false) {
  Thread& me = threads[current];
  __sanitizer_start_switch_fiber(for_good ? nullptr : &me.fake_stack, scheduler_stack,
                                 scheduler_stack_size);
  __tsan_switch_to_fiber(scheduler_identity, NO_ORDER);
  swapcontext(&me.context, &scheduler);
  __sanitizer_finish_switch_fiber(me.fake_stack, nullptr, nullptr);
}

void resume_thread(uint which) {
  current = which;
  const Fiber& fiber = fibers[threads[which].fiber];
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber.stack, STACK);
  __tsan_switch_to_fiber(fiber.identity, NO_ORDER);
  swapcontext(&scheduler, &threads[which].context);
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
}

void thread_main() {
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
  __tsan_acquire(&starting);
  shim::run_thread(arguments, threads[current].at);
  __tsan_release(&ending);
  threads[current].ended = true;
  progress = true;
  pause_thread(true);
}

void meet(Meeting& place, bool orders_memory, int line) {
  if (place.waiting && place.line != line) fault("threads wait at different barriers (divergent)");
  place.line = line;
  progress = true;
  const uint round = place.round;
  char* edge = &place.edges[round % 2];
  if (orders_memory) __tsan_release(edge);
  if (++place.waiting == place.members) {
    place.waiting = 0;
    place.round++;
  } else {
    while (place.round == round) pause_thread();
  }
  if (orders_memory) __tsan_acquire(edge);
}

Meeting& my_simdgroup() { return simdgroups[current / 32]; }

#ifdef SHIM_THREAD
// On CUDA a volatile read of a word that others update atomically is as good as an atomic one.
extern "C" {
int __tsan_atomic32_load(const volatile int*, int order);
void __tsan_write4(void*);
void __tsan_volatile_read4(void* place) { __tsan_atomic32_load(static_cast<int*>(place), 0); }
void __tsan_volatile_write4(void* place) { __tsan_write4(place); }
}

// ThreadSanitizer forgets what is unmapped, where it would take a `free` for a write that races.
void* allot(size_t bytes) {
  return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}
void give_back(void* memory, size_t bytes) { munmap(memory, bytes); }
#else
void* allot(size_t bytes) { return std::malloc(bytes); }
void give_back(void* memory, size_t) { std::free(memory); }
#endif

void allot_threadgroup_memory() {
  for (shim::Slot* slot : slots()) {
    slot->memory = allot(slot->bytes);
    for (size_t i = 0; i < slot->bytes; i++) static_cast<char*>(slot->memory)[i] = char(dice());
  }
}

void run_threadgroup(uint3 group, uint3 groups, uint3 grid, uint3 size, bool full, uint bank) {
  uint3 here = size;
  if (!full) {  // as dispatchThreads does: no thread lies outside the grid
    here = uint3{std::min(size.x, grid.x - group.x * size.x),
                 std::min(size.y, grid.y - group.y * size.y),
                 std::min(size.z, grid.z - group.z * size.z)};
  }
  const uint count = here.x * here.y * here.z, simds = (count + 31) / 32;
  threads.resize(count);
  shared_bits.assign(count, 0);
  everyone = Meeting{count, 0, 0, 0, {}};
  simdgroups.resize(simds);
  for (uint i = 0; i < simds; i++) {
    simdgroups[i] = Meeting{std::min(32u, count - 32 * i), 0, 0, 0, {}};
  }
  allot_threadgroup_memory();
  __tsan_release(&starting);
  for (uint i = 0; i < count; i++) {
    Thread& it = threads[i];
    const uint3 tid{i % here.x, i / here.x % here.y, i / here.x / here.y};
    shim::Position& at = it.at;
    at.thread_position_in_grid = uint3{group.x * size.x + tid.x, group.y * size.y + tid.y,
                                       group.z * size.z + tid.z};
    at.thread_position_in_threadgroup = tid;
    at.threadgroup_position_in_grid = group;
    at.threads_per_threadgroup = here;
    at.dispatch_threads_per_threadgroup = size;
    at.threads_per_grid = at.grid_size = grid;
    at.threadgroups_per_grid = groups;
    at.grid_origin = uint3{0, 0, 0};
    at.thread_index_in_threadgroup = i;
    at.thread_index_in_simdgroup = i % 32;
    at.simdgroup_index_in_threadgroup = i / 32;
    at.simdgroups_per_threadgroup = simds;
    at.dispatch_simdgroups_per_threadgroup = (size.x * size.y * size.z + 31) / 32;
    at.threads_per_simdgroup = at.thread_execution_width = 32;
    it.ended = false;
    it.fiber = bank + i;
    it.fake_stack = nullptr;
    getcontext(&it.context);
    it.context.uc_stack.ss_sp = fibers[it.fiber].stack;
    it.context.uc_stack.ss_size = STACK;
    it.context.uc_link = nullptr;
    makecontext(&it.context, thread_main, 0);
  }
  std::vector<uint> order(count);
  for (uint i = 0; i < count; i++) order[i] = i;
  for (uint left = count; left;) {
    left = 0;
    progress = false;
    if (shuffled) std::shuffle(order.begin(), order.end(), dice);
    for (uint i : order) {
      if (threads[i].ended) continue;
      resume_thread(i);
      if (!threads[i].ended) left++;
    }
    if (left && !progress) fault("threads wait at a barrier that others never reach (divergent)");
  }
  for (shim::Slot* slot : slots()) give_back(slot->memory, slot->bytes);
}

void run_grid(uint3 grid, uint3 size, bool full, uint schedule) {
  size = uint3{std::min(size.x, grid.x), std::min(size.y, grid.y), std::min(size.z, grid.z)};
  const uint3 groups{(grid.x + size.x - 1) / size.x, (grid.y + size.y - 1) / size.y,
                     (grid.z + size.z - 1) / size.z};
  const uint count = size.x * size.y * size.z;
  const uint banks = std::min(std::max(2u, 128 / count), groups.x * groups.y * groups.z);
  shuffled = schedule != 0;
  dice.seed(schedule);
  scheduler_identity = __tsan_get_current_fiber();
  while (fibers.size() < banks * count) {
    void* stack = mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) fault("no memory for a thread's stack");
    fibers.push_back(Fiber{static_cast<char*>(stack), __tsan_create_fiber(0)});
  }
  std::vector<size_t> order(size_t(groups.x) * groups.y * groups.z);
  for (size_t i = 0; i < order.size(); i++) order[i] = i;
  if (shuffled) std::shuffle(order.begin(), order.end(), dice);
  uint turn = 0;
  for (size_t i : order) {
    const uint3 group{uint(i % groups.x), uint(i / groups.x % groups.y),
                      uint(i / groups.x / groups.y)};
    run_threadgroup(group, groups, grid, size, full, turn++ % banks * count);
  }
  __tsan_acquire(&ending);
}

template <class T>
std::vector<T> take(size_t n) {
  std::vector<T> values(n);
  if (n && std::fread(values.data(), sizeof(T), n, stdin) != n) fault("the launch is cut short");
  return values;
}

}  // namespace

namespace shim {

Slot::Slot(size_t size) : bytes(size), memory(nullptr) { slots().push_back(this); }
void threadgroup_barrier(bool orders_memory, int line) { meet(everyone, orders_memory, line); }
void simdgroup_barrier(bool orders_memory, int line) { meet(my_simdgroup(), orders_memory, line); }
void share(uint64_t bits, int line) {
  meet(my_simdgroup(), false, line);  // every lane has read what was shared before
  shared_bits[current] = bits;
  meet(my_simdgroup(), false, line);
}
uint64_t shared(uint lane) { return shared_bits[current / 32 * 32 + lane]; }
const Position& position() { return threads[current].at; }
uint lane() { return current % 32; }
uint lanes() { return my_simdgroup().members; }
void expect_lanes(uint mask) {
  if (mask != 0xffffffffu || lanes() != 32) fault("a warp's function without all of its lanes");
}
void interleave() {
  if (shuffled && dice() % 8 == 0) {
    progress = true;
    pause_thread();
  }
}
bool spurious() { return shuffled && dice() % 8 == 0; }

}  // namespace shim

// Standard input: numbers (inputs, outputs, schedules, full, grid[3], threadgroup[3], bytes of
// every buffer), the inputs, and for every schedule its number and what the outputs hold before.
// Standard output: the outputs after.
int main() {
  const auto head = take<uint64_t>(10);
  const size_t inputs = head[0], buffers = head[0] + head[1];
  const auto sizes = take<uint64_t>(buffers);
  size_t needed = 0;
  for (shim::Slot* slot : slots()) needed += slot->bytes;
  if (needed > THREADGROUP_MEMORY) fault("more than 32 KiB of threadgroup memory");
  std::vector<void*> memory(buffers), pristine(inputs);
  for (size_t i = 0; i < inputs; i++) {
    const auto bytes = take<char>(sizes[i]);
    std::memcpy(memory[i] = std::malloc(sizes[i]), bytes.data(), sizes[i]);
    std::memcpy(pristine[i] = std::malloc(sizes[i]), bytes.data(), sizes[i]);
  }
  for (uint64_t round = 0; round < head[2]; round++) {
    const uint schedule = uint(take<uint64_t>(1)[0]);
    for (size_t i = inputs; i < buffers; i++) {
      const auto bytes = take<char>(sizes[i]);
      std::memcpy(memory[i] = std::malloc(sizes[i]), bytes.data(), sizes[i]);
    }
    arguments = memory.data();
    run_grid(uint3{uint(head[4]), uint(head[5]), uint(head[6])},
             uint3{uint(head[7]), uint(head[8]), uint(head[9])}, head[3] != 0, schedule);
    for (size_t i = 0; i < inputs; i++) {
      if (std::memcmp(memory[i], pristine[i], sizes[i])) fault("an input was written to");
    }
    for (size_t i = inputs; i < buffers; i++) {
      std::fwrite(memory[i], 1, sizes[i], stdout);
      std::free(memory[i]);
    }
  }
  return 0;
}
