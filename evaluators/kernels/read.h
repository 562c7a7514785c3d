// Adds to a number of 64 bits in two words: a carry follows its word, so the order is no matter.
RAM_FN void ram_add64(DEV uint32_t* place, int64_t value) {
  const uint32_t low = (uint32_t)value;
  uint32_t high = (uint32_t)((uint64_t)value >> 32);
  const uint32_t before = ram_atomic_add(place, low);
  if (before + low < before) high += 1u;
  if (high != 0u) ram_atomic_add(place + 1, high);
}
