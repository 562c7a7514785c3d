// The loss that refinement goes by, as evaluators/loss.py defines it, in integers alone: where that
// divides in IEEE binary64, so does this, bit by bit.
#define ONE64 ((uint64_t)1)
#define FAR 0x4000000  // beyond every score

RAM_FN uint32_t ram_bit_length(uint64_t x) {
  const uint32_t high = (uint32_t)(x >> 32);
  return high != 0u ? 64u - RAM_LEADING_ZEROS(high) : 32u - RAM_LEADING_ZEROS((uint32_t)x);
}

// A factor of 32 bits times one of 53 bits, rounded to 53 bits, ties to even. The exponent grows by
// the bits that are lost.
RAM_FN uint64_t ram_product(uint32_t a, uint64_t b, LOCAL int32_t* exponent) {
  const uint64_t lower = (uint64_t)a * (b & 0xffffffffu);
  const uint64_t upper = (uint64_t)a * (b >> 32) + (lower >> 32);
  const uint32_t word = (uint32_t)lower, lost = ram_bit_length(upper) - 21u;
  uint64_t result = (upper << (32u - lost)) | (word >> lost);
  if (lost != 0u) {
    const uint32_t middle = 1u << (lost - 1u), rest = word & (2u * middle - 1u);
    if (rest > middle || (rest == middle && (result & 1u) != 0u)) result += 1u;
  }
  *exponent += (int32_t)lost;
  if (result != ONE64 << 53) return result;
  *exponent += 1;
  return result >> 1;
}

// floor(value + 1/2), in a range beyond that of scores. Where votes are packed, the value is
// sum * scale / weight, else sum / scale; scale has the bits of a binary64 number above 0.
RAM_FN int32_t ram_quantise(int32_t sum, uint32_t weight, bool packed, uint64_t scale) {
  if (sum == 0 || (packed && weight == 0u)) return 0;
  const uint32_t size = sum < 0 ? 0u - (uint32_t)sum : (uint32_t)sum;
  uint64_t above = (scale & ((ONE64 << 52) - 1u)) | (ONE64 << 52), below = above;
  int32_t exponent = (int32_t)(scale >> 52) - 1075;
  if (packed) {
    above = ram_product(size, above, &exponent);
    const uint32_t shift = 53u - ram_bit_length(weight);
    below = (uint64_t)weight << shift;
    exponent += (int32_t)shift;
  } else {
    const uint32_t shift = 53u - ram_bit_length(size);
    above = (uint64_t)size << shift;
    exponent = -(int32_t)shift - exponent;
  }
  if (above < below) {
    above <<= 1;
    exponent -= 1;
  }
  // The value is now above / below, from 1 on and less than 2, times 2**exponent.
  if (exponent > 25) return sum < 0 ? -FAR : FAR;
  if (exponent < -2) return 0;
  uint64_t rest = above - below, quotient = 1u;
  for (uint32_t i = 0u; i < 52u; i++) {
    rest <<= 1;
    quotient <<= 1;
    if (rest >= below) {
      rest -= below;
      quotient |= 1u;
    }
  }
  rest <<= 1;
  if (rest > below || (rest == below && (quotient & 1u) != 0u)) quotient += 1u;
  const uint32_t places = (uint32_t)(52 - exponent);  // of the quotient after the point
  const uint64_t one_half = ONE64 << (places - 1u);
  if (sum < 0) return quotient < one_half ? 0 : -(int32_t)((quotient + one_half - 1u) >> places);
  // The greatest number below 1/2: the sum with 1/2 is rounded to 1.
  if (exponent == -2 && quotient == (ONE64 << 53) - 1u) return 1;
  return (int32_t)((quotient + one_half) >> places);
}

RAM_FN int32_t ram_within(int32_t value, int32_t least, int32_t most) {
  return value < least ? least : (value > most ? most : value);
}

// The loss of one bit; see BitLoss.
RAM_FN int64_t ram_bit_loss(
    int32_t steps, uint32_t sign, const DEV uint32_t* judging, const DEV int32_t* losses) {
  const int32_t last = (int32_t)judging[J_LAST];
  const int32_t place = ram_within(steps + (int32_t)judging[J_OFFSET], 0, last);
  return losses[sign != 0u ? place : last - place];
}

// The loss of the softmax with other steps of one cluster; see ClassesLoss. Boards have a row of
// places in exps per cluster, then rows of references, of the targets' places, and of the low and
// of the high words of sums of exps.
RAM_FN int64_t ram_softmax_loss(
    int32_t steps, uint32_t sign, uint32_t row, uint32_t example, const DEV uint32_t* judging,
    const DEV int32_t* losses, const DEV uint32_t* exps, const DEV int32_t* board) {
  const uint64_t stride = judging[J_EXAMPLES];
  const DEV int32_t* common = board + judging[J_CLUSTERS] * stride + example;
  const int32_t last = (int32_t)judging[J_LAST], zero = (int32_t)judging[J_OFFSET];
  const int32_t limit = (int32_t)SCORE_LIMIT;
  const int32_t place = ram_within(steps, -limit, limit) - common[0] + zero;
  const uint32_t now = (uint32_t)ram_within(place, 0, last);
  const uint32_t before = (uint32_t)ram_within(board[row * stride + example], 0, last);
  uint64_t mass = ram_wide((uint32_t)common[2u * stride], (uint32_t)common[3u * stride]);
  mass += ram_wide(exps[2u * now], exps[2u * now + 1u]);
  mass -= ram_wide(exps[2u * before], exps[2u * before + 1u]);
  if (mass == 0u) mass = 1u;
  const uint32_t length = ram_bit_length(mass);
  const uint32_t leading = (uint32_t)((mass << (63u - length)) >> (62u - LOG_BITS));
  const int32_t logarithm = losses[length] + losses[64u + (leading & ((1u << LOG_BITS) - 1u))];
  const int32_t target = sign != 0u ? place : common[stride];
  const int64_t loss = (int64_t)logarithm - (int64_t)(target - zero) * (int64_t)PER_STEP;
  return loss > 0 ? loss : 0;
}
