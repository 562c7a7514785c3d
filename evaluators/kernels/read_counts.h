// What a cell that counts votes: of its majority, of its share of positives, or of the levels of
// both counts; the example that asks, or its block, is taken out first.
RAM_FN uint32_t ram_level(uint32_t count) {
  const uint32_t shift = 28u - RAM_LEADING_ZEROS(count | 15u);
  return (shift << 3) + (count >> shift);
}

// (positives + 1/2) / (seen + 1) as a multiple of 1/256, rounded: eight steps of long division.
RAM_FN int32_t ram_share(uint32_t positives, uint32_t seen) {
  const uint32_t divisor = 2u * (seen + 1u);
  uint32_t quotient = 0u, rest = 2u * positives + 1u;
  for (uint32_t i = 0u; i < 8u; i++) {
    rest *= 2u;
    quotient *= 2u;
    if (rest >= divisor) {
      rest -= divisor;
      quotient += 1u;
    }
  }
  return (int32_t)(quotient + (2u * rest >= divisor ? 1u : 0u));
}

RAM_FN int32_t ram_vote(
    const DEV uint32_t* cells, const DEV int32_t* votes, const DEV uint32_t* own_block,
    const DEV uint32_t* params, const DEV uint32_t* neuron, uint32_t cell, uint32_t example,
    uint32_t sign, bool leaves_one, LOCAL int32_t* weight) {
  uint32_t negatives = 0u, positives = 0u;
  if (cell != NONE) {
    const uint64_t table = ram_wide(neuron[N_CELLS_LOW], neuron[N_CELLS_HIGH]);
    const DEV uint32_t* counts = cells + 2u * (table + cell);
    negatives = counts[0];
    positives = counts[1];
    if (params[P_BLOCKED] != 0u) {
      const uint64_t skip = (uint64_t)neuron[N_TABLE_SIZE] * (own_block[example] + 1u);
      negatives -= counts[2u * skip];
      positives -= counts[2u * skip + 1u];
    } else if (leaves_one && ram_kept(params, neuron, example + params[P_READ_FIRST])) {
      negatives -= 1u - sign;
      positives -= sign;
    }
  }
  *weight = 0;
  if (params[P_KIND] == KIND_MAJORITY) {
    return votes[positives > negatives ? 2 : (positives < negatives ? 1 : 0)];
  }
  if (params[P_KIND] == KIND_SHARE) return ram_share(positives, positives + negatives);
  const uint32_t entry = ram_level(positives) * params[P_LEVELS] + ram_level(negatives);
  *weight = votes[2u * entry + 1u];
  return votes[2u * entry];
}
