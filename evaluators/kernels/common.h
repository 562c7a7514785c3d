// What all kernels share: which cell an example addresses, and which examples a neuron learns.
// The columns P_.. of params, N_.. of neurons and C_.. of clusters are defined by the host.
#define NONE 0xffffffffu

RAM_FN uint64_t ram_wide(uint32_t low, uint32_t high) {
  return ((uint64_t)high << 32) | (uint64_t)low;
}

// optuna_wnn.genome.mix64
RAM_FN uint64_t ram_mix64(uint64_t z) {
  z += (uint64_t)0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * (uint64_t)0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * (uint64_t)0x94D049BB133111EB;
  return z ^ (z >> 31);
}

// Whether a neuron is trained on an example.
RAM_FN bool ram_kept(const DEV uint32_t* params, const DEV uint32_t* neuron, uint32_t example) {
  if (params[P_SAMPLED] == 0u) return true;
  const uint64_t key = ram_wide(neuron[N_KEY_LOW], neuron[N_KEY_HIGH]);
  const uint64_t threshold = ram_wide(params[P_THRESHOLD_LOW], params[P_THRESHOLD_HIGH]);
  return ram_mix64(key + (uint64_t)example) < threshold;
}

// Whether an example is a positive one: flags has a bit per example, a row per cluster's output.
RAM_FN uint32_t ram_flag(const DEV uint32_t* flags, uint32_t row, uint32_t words, uint32_t example) {
  return (flags[(uint64_t)row * words + (example >> 5)] >> (example & 31u)) & 1u;
}

// What the cells of a cluster vote: its row of pairs by levels of both counts. Where cells vote by
// something else there is one row, and no levels.
RAM_FN const DEV int32_t* ram_votes(
    const DEV int32_t* votes, const DEV uint32_t* params, uint32_t row) {
  const uint32_t levels = params[P_LEVELS];
  return votes + (uint64_t)row * (2u * levels * levels);
}

// The address of a neuron with a cell per address: plan has its inputs, ascending.
// Inputs have a row per 32 of them, a word per example in it.
RAM_FN uint32_t ram_address(
    const DEV uint32_t* inputs, uint64_t stride, uint32_t example,
    const DEV uint32_t* plan, uint32_t bits) {
  uint32_t address = 0u, word = 0u, row = NONE;
  for (uint32_t i = 0u; i < bits; i++) {
    const uint32_t input = plan[i];
    if ((input >> 5) != row) {
      row = input >> 5;
      word = inputs[row * stride + example];
    }
    address |= ((word >> (input & 31u)) & 1u) << i;
  }
  return address;
}

// The hash of a wider neuron's address: plan has rows of inputs and masks, in pairs.
RAM_FN uint32_t ram_hash(
    const DEV uint32_t* inputs, uint64_t stride, uint32_t example,
    const DEV uint32_t* plan, uint32_t pairs) {
  uint32_t h = 0x9E3779B9u;
  for (uint32_t i = 0u; i < pairs; i++) {
    h ^= inputs[plan[2u * i] * stride + example] & plan[2u * i + 1u];
    h = (h ^ (h >> 16)) * 0x7FEB352Du;
    h = (h ^ (h >> 15)) * 0x846CA68Bu;
    h ^= h >> 16;
  }
  return h;
}

// Whether an example makes the same address of a wider neuron as a training example does.
RAM_FN bool ram_same(
    const DEV uint32_t* inputs, uint64_t stride, uint32_t example,
    const DEV uint32_t* train, uint64_t train_stride, uint32_t other,
    const DEV uint32_t* plan, uint32_t pairs) {
  for (uint32_t i = 0u; i < pairs; i++) {
    const uint32_t row = plan[2u * i];
    const uint32_t differ =
        inputs[row * stride + example] ^ train[row * train_stride + other];
    if ((differ & plan[2u * i + 1u]) != 0u) return false;
  }
  return true;
}

// The cell of a training example. A slot of a wider neuron holds 1 + the number of an example
// with that address, so the address itself is compared: nothing collides. Which slot and which
// example it is depends on the order of threads; which examples share a slot does not.
RAM_FN uint32_t ram_insert(
    const DEV uint32_t* train, uint64_t stride, uint32_t example,
    const DEV uint32_t* neuron, const DEV uint32_t* plan, DEV uint32_t* slots) {
  const DEV uint32_t* its_plan = plan + neuron[N_PLAN_FIRST];
  const uint32_t size = neuron[N_PLAN_SIZE], last = neuron[N_LAST_SLOT];
  if (last == 0u) return ram_address(train, stride, example, its_plan, size);
  DEV uint32_t* its_slots = slots + ram_wide(neuron[N_SLOTS_LOW], neuron[N_SLOTS_HIGH]);
  uint32_t slot = ram_hash(train, stride, example, its_plan, size) & last;
  for (;;) {
    uint32_t there = ram_atomic_load(its_slots + slot);
    if (there == 0u) there = ram_atomic_claim(its_slots + slot, example + 1u);
    if (there == 0u) return slot;
    if (ram_same(train, stride, example, train, stride, there - 1u, its_plan, size)) return slot;
    slot = (slot + 1u) & last;
  }
}

// The cell of an example that is read, or NONE where no training example has its address.
RAM_FN uint32_t ram_find(
    const DEV uint32_t* inputs, uint64_t stride, uint32_t example,
    const DEV uint32_t* train, uint64_t train_stride,
    const DEV uint32_t* neuron, const DEV uint32_t* plan, const DEV uint32_t* slots) {
  const DEV uint32_t* its_plan = plan + neuron[N_PLAN_FIRST];
  const uint32_t size = neuron[N_PLAN_SIZE], last = neuron[N_LAST_SLOT];
  if (last == 0u) return ram_address(inputs, stride, example, its_plan, size);
  const DEV uint32_t* its_slots = slots + ram_wide(neuron[N_SLOTS_LOW], neuron[N_SLOTS_HIGH]);
  uint32_t slot = ram_hash(inputs, stride, example, its_plan, size) & last;
  for (;;) {
    const uint32_t there = its_slots[slot];
    if (there == 0u) return NONE;
    if (ram_same(inputs, stride, example, train, train_stride, there - 1u, its_plan, size)) {
      return slot;
    }
    slot = (slot + 1u) & last;
  }
}
