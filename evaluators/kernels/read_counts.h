// What a cell that counts votes: of its majority, of its share of positives, or of the levels of
// both counts; the example that asks, or its block, is taken out first.
RAM_FN uint32_t ram_level(uint32_t count) {
  const uint32_t shift = 28u - RAM_LEADING_ZEROS(count | 15u);
  return (shift << 3) + (count >> shift);
}

RAM_FN int32_t ram_vote(
    const DEV uint32_t* cells, const DEV int32_t* votes, const DEV uint32_t* own_block,
    const DEV uint32_t* params, const DEV uint32_t* neuron, uint32_t cell, uint32_t example,
    uint32_t sign, LOCAL int32_t* weight) {
  uint32_t negatives = 0u, positives = 0u;
  if (cell != NONE) {
    const uint64_t table = ram_wide(neuron[N_CELLS_LOW], neuron[N_CELLS_HIGH]);
    const uint64_t place = (uint64_t)2 * (table + cell);
    negatives = cells[place];
    positives = cells[place + (uint64_t)1];
    if (params[P_BLOCKED] != 0u) {
      const uint64_t skip = (own_block[example] + (uint64_t)1) * (uint64_t)neuron[N_TABLE_SIZE];
      negatives -= cells[place + (uint64_t)2 * skip];
      positives -= cells[place + (uint64_t)2 * skip + (uint64_t)1];
    } else if (params[P_LEAVES_ONE] != 0u) {
      if (ram_kept(params, neuron, example + params[P_READ_FIRST])) {
        negatives -= 1u - sign;
        positives -= sign;
      }
    }
  }
  *weight = 0;
  if (params[P_KIND] == KIND_MAJORITY) {
    return votes[positives > negatives ? 2 : (positives < negatives ? 1 : 0)];
  }
  if (params[P_KIND] == KIND_SHARE) {
    const uint32_t seen = positives + negatives + 1u;
    if (seen < (1u << 22)) {
      return (int32_t)(((2u * positives + 1u) * 256u + seen) / (2u * seen));
    }
    return (int32_t)((((uint64_t)2 * positives + (uint64_t)1) * (uint64_t)256 + seen) / ((uint64_t)2 * seen));
  }
  const uint32_t entry = ram_level(positives) * params[P_LEVELS] + ram_level(negatives);
  *weight = votes[2u * entry + 1u];
  return votes[2u * entry];
}
