/* The yardstick: what a table per neuron costs when nothing but the hardware is in the way.
 *
 * Plain C with intrinsics and OpenMP, built by benchmarks/evaluation.py with this machine's
 * compiler and never shipped. Fused per neuron: train a table, read it, add the votes up. All
 * tables of a thread stay in its cache. Needs BMI2 (pext).
 */
#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint8_t u8;

static void *room(size_t size) {
    size_t huge = 2u << 20, rounded = (size + huge - 1) / huge * huge;
    void *memory = aligned_alloc(huge, rounded);
    madvise(memory, rounded, MADV_HUGEPAGE);
    return memory;
}

/* Saturating 2-bit counters. A byte is 8 times the state; the next state is a byte of a constant
 * shifted by the cell: no branch, no look-up. */
#define UP 0x18181008ull
#define DOWN 0x10080000ull
#define VOTES 0x04030100u

#define COUNTERS(ABREAST)                                                                        \
    void counters_##ABREAST(const u64 *train, const u8 *positives, long n_train,                 \
                            const u64 *read, long n_read, const int *connections,                \
                            int n_clusters, int per_cluster, int bits, u32 *sums) {              \
        long size = 1L << bits;                                                                  \
        int groups = (per_cluster + ABREAST - 1) / ABREAST;                                      \
        _Pragma("omp parallel") {                                                                \
            u8 *cells = room(size * ABREAST);                                                    \
            _Pragma("omp for schedule(dynamic, 1)") for (int c = 0; c < n_clusters; c++) {       \
                const u8 *y = positives + c * n_train;                                           \
                u32 *sum = sums + c * n_read;                                                    \
                memset(sum, 0, n_read * sizeof *sum);                                            \
                for (int g = 0; g < groups; g++) {                                               \
                    u64 masks[ABREAST] = {0};                                                    \
                    u32 votes[ABREAST] = {0};                                                    \
                    for (int k = 0; k < ABREAST && g * ABREAST + k < per_cluster; k++) {         \
                        const int *row = connections +                                           \
                                         ((long)c * per_cluster + g * ABREAST + k) * bits;       \
                        for (int i = 0; i < bits; i++) masks[k] |= 1ull << row[i];               \
                        votes[k] = VOTES;                                                        \
                    }                                                                            \
                    memset(cells, 8, size * ABREAST);                                            \
                    for (long e = 0; e < n_train; e++) {                                         \
                        u64 x = train[e];                                                        \
                        u64 next = DOWN ^ ((DOWN ^ UP) & (0 - (u64)y[e]));                       \
                        _Pragma("GCC unroll 8") for (int k = 0; k < ABREAST; k++) {              \
                            u8 *cell = cells + k * size + _pext_u64(x, masks[k]);                \
                            *cell = (u8)(next >> (*cell & 63));                                  \
                        }                                                                        \
                    }                                                                            \
                    for (long e = 0; e < n_read; e++) {                                          \
                        u64 x = read[e];                                                         \
                        u32 vote = 0;                                                            \
                        _Pragma("GCC unroll 8") for (int k = 0; k < ABREAST; k++)                \
                            vote += (u8)(votes[k] >>                                             \
                                         (cells[k * size + _pext_u64(x, masks[k])] & 31));       \
                        sum[e] += vote;                                                          \
                    }                                                                            \
                }                                                                                \
            }                                                                                    \
            free(cells);                                                                         \
        }                                                                                        \
    }

COUNTERS(1)
COUNTERS(4)
COUNTERS(8)

/* The same, four cells to a byte: what fits a cache where a byte per cell does not. */
void counters_packed(const u64 *train, const u8 *positives, long n_train, const u64 *read,
                     long n_read, const int *connections, int n_clusters, int per_cluster,
                     int bits, u32 *sums) {
    static u8 next[2][4][256];
    static const u8 step[8] = {0, 1, 0, 2, 1, 3, 2, 3}, weight[4] = {0, 1, 3, 4};
    for (int y = 0; y < 2; y++)
        for (int p = 0; p < 4; p++)
            for (int w = 0; w < 256; w++)
                next[y][p][w] = (w & ~(3 << 2 * p)) | step[(w >> 2 * p & 3) * 2 + y] << 2 * p;
    long size = (1L << bits) / 4;
#pragma omp parallel
    {
        u8 *cells = room(size);
#pragma omp for schedule(dynamic, 1)
        for (int c = 0; c < n_clusters; c++) {
            const u8 *y = positives + c * n_train;
            u32 *sum = sums + c * n_read;
            memset(sum, 0, n_read * sizeof *sum);
            for (int n = 0; n < per_cluster; n++) {
                const int *row = connections + ((long)c * per_cluster + n) * bits;
                u64 mask = 0;
                for (int i = 0; i < bits; i++) mask |= 1ull << row[i];
                memset(cells, 0x55, size);
                for (long e = 0; e < n_train; e++) {
                    u64 a = _pext_u64(train[e], mask);
                    cells[a >> 2] = next[y[e]][a & 3][cells[a >> 2]];
                }
                for (long e = 0; e < n_read; e++) {
                    u64 a = _pext_u64(read[e], mask);
                    sum[e] += weight[cells[a >> 2] >> (a & 3) * 2 & 3];
                }
            }
        }
        free(cells);
    }
}

/* Counts of positives and of all, then the share of positives in 256ths: the vote takes the
 * count's place wherever there are fewer cells than examples read. */
static inline u32 share(u64 cell) {
    double following = (u32)cell + 1.0, twice = 2.0 * (cell >> 32) + 1.0;
    return (u32)((twice * 256.0 + following) / (following * 2.0));
}

#define COUNTS(ABREAST)                                                                          \
    void counts_##ABREAST(const u64 *train, const u8 *positives, long n_train, const u64 *read,  \
                          long n_read, const int *connections, int n_clusters, int per_cluster,  \
                          int bits, u32 *sums) {                                                 \
        long size = 1L << bits;                                                                  \
        int groups = (per_cluster + ABREAST - 1) / ABREAST;                                      \
        _Pragma("omp parallel") {                                                                \
            u64 *cells = room(size * ABREAST * sizeof *cells);                                   \
            _Pragma("omp for schedule(dynamic, 1)") for (int c = 0; c < n_clusters; c++) {       \
                const u8 *y = positives + c * n_train;                                           \
                u32 *sum = sums + c * n_read;                                                    \
                memset(sum, 0, n_read * sizeof *sum);                                            \
                for (int g = 0; g < groups; g++) {                                               \
                    u64 masks[ABREAST] = {0};                                                    \
                    int here = 0;                                                                \
                    for (; here < ABREAST && g * ABREAST + here < per_cluster; here++) {         \
                        const int *row = connections +                                           \
                                         ((long)c * per_cluster + g * ABREAST + here) * bits;    \
                        for (int i = 0; i < bits; i++) masks[here] |= 1ull << row[i];            \
                    }                                                                            \
                    memset(cells, 0, size * ABREAST * sizeof *cells);                            \
                    for (long e = 0; e < n_train; e++) {                                         \
                        u64 x = train[e], one = 1 + ((u64)y[e] << 32);                           \
                        _Pragma("GCC unroll 4") for (int k = 0; k < ABREAST; k++)                \
                            cells[k * size + _pext_u64(x, masks[k])] += one;                     \
                    }                                                                            \
                    int in_place = 2 * size <= n_read;                                           \
                    if (in_place)                                                                \
                        for (long a = 0; a < size * ABREAST; a++)                                \
                            cells[a] = a < size * here ? share(cells[a]) : 0;                    \
                    for (long e = 0; in_place && e < n_read; e++) {                              \
                        u64 x = read[e], vote = 0;                                               \
                        _Pragma("GCC unroll 4") for (int k = 0; k < ABREAST; k++)                \
                            vote += cells[k * size + _pext_u64(x, masks[k])];                    \
                        sum[e] += vote;                                                          \
                    }                                                                            \
                    for (int k = 0; !in_place && k < here; k++)                                  \
                        for (long e = 0; e < n_read; e++)                                        \
                            sum[e] += share(cells[k * size + _pext_u64(read[e], masks[k])]);     \
                }                                                                                \
            }                                                                                    \
            free(cells);                                                                         \
        }                                                                                        \
    }

COUNTS(1)
COUNTS(2)
COUNTS(4)

/* Counters where an example takes several words; they come a word of all examples at a time, so
 * that an address is made of runs of consecutive loads. */
enum { RUN = 1024, MOST_BITS = 64 };

typedef struct { u64 mask; int word, shift; } Step;

static int plan(const int *observed, int bits, Step *steps) {
    int n = 0;
    for (int i = 0; i < bits; i++) {
        int word = observed[i] / 64;
        if (!n || steps[n - 1].word != word) {
            steps[n].mask = 0;
            steps[n].word = word;
            steps[n++].shift = i;
        }
        steps[n - 1].mask |= 1ull << (observed[i] % 64);
    }
    return n;
}

static void find(const u64 *inputs, long n_examples, long first, int count, const Step *steps,
                 int n_steps, u32 *found) {
    memset(found, 0, count * sizeof *found);
    for (int s = 0; s < n_steps; s++) {
        const u64 *words = inputs + steps[s].word * n_examples + first;
        u64 mask = steps[s].mask;
        int shift = steps[s].shift;
        for (int i = 0; i < count; i++) found[i] |= _pext_u64(words[i], mask) << shift;
    }
}

void counters_words(const u64 *train, const u8 *positives, long n_train, const u64 *read,
                    long n_read, const int *connections, int n_clusters, int per_cluster,
                    int bits, u32 *sums) {
    long size = 1L << bits;
#pragma omp parallel
    {
        u8 *cells = room(size);
        u32 found[RUN];
        Step steps[MOST_BITS];
#pragma omp for schedule(dynamic, 1)
        for (int c = 0; c < n_clusters; c++) {
            const u8 *y = positives + c * n_train;
            u32 *sum = sums + c * n_read;
            memset(sum, 0, n_read * sizeof *sum);
            for (int n = 0; n < per_cluster; n++) {
                int n_steps =
                    plan(connections + ((long)c * per_cluster + n) * bits, bits, steps);
                memset(cells, 8, size);
                for (long first = 0; first < n_train; first += RUN) {
                    int count = n_train - first < RUN ? n_train - first : RUN;
                    find(train, n_train, first, count, steps, n_steps, found);
                    for (int i = 0; i < count; i++) {
                        u64 next = DOWN ^ ((DOWN ^ UP) & (0 - (u64)y[first + i]));
                        cells[found[i]] = (u8)(next >> (cells[found[i]] & 63));
                    }
                }
                for (long first = 0; first < n_read; first += RUN) {
                    int count = n_read - first < RUN ? n_read - first : RUN;
                    find(read, n_read, first, count, steps, n_steps, found);
                    for (int i = 0; i < count; i++)
                        sum[first + i] += (u8)(VOTES >> (cells[found[i]] & 31));
                }
            }
        }
        free(cells);
    }
}
