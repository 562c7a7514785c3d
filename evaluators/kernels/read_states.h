// What a cell that has a state votes.
RAM_FN int32_t ram_vote(
    const DEV uint8_t* cells, const DEV int32_t* votes, const DEV uint32_t* own_block,
    const DEV uint32_t* params, const DEV uint32_t* neuron, uint32_t cell, uint32_t example,
    uint32_t sign, bool leaves_one, LOCAL int32_t* weight) {
  (void)own_block; (void)params; (void)example; (void)sign; (void)leaves_one;
  *weight = 0;
  if (cell == NONE) return votes[0];
  return votes[cells[ram_wide(neuron[N_CELLS_LOW], neuron[N_CELLS_HIGH]) + cell]];
}
