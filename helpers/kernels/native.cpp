// The CPU's half of helpers.kernels, called through ctypes by native.py.
//
// Every function works on contiguous arrays and takes the number of threads
// last. Results do not depend on that number: each row, latent or column is
// summed by one thread in a fixed order. Arrays whose type depends on the
// precision of a step are `T`: float, or bf16 (rounded as torch rounds).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>
#ifdef __AVX512BW__
#include <immintrin.h>
#endif

namespace {

struct bf16 {
  uint16_t bits;
};

inline float read(float value) { return value; }
inline float read(bf16 value) {
  const uint32_t bits = uint32_t(value.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

inline void write(float* place, float value) { *place = value; }
inline void write(bf16* place, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  place->bits = uint16_t(value != value ? 0x7fc0 : nearest);
}

#ifdef __AVX512BW__
// Sixteen numbers.
inline __m512 read16(const float* place) { return _mm512_loadu_ps(place); }
inline __m512 read16(const bf16* place) {
  const __m256i bits = _mm256_loadu_si256((const __m256i*)place);
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
#endif

// ---- Selection ---------------------------------------------------------
// Values are compared by keys: integers in the same order. NaN is the
// largest, so that it is never lost; the smallest integer stands for none.

constexpr long LANES = 32;  // keys in a block, one bit of a mask each

inline int16_t key(bf16 value) {
  const int16_t bits = int16_t(value.bits);
  const int16_t rising = bits < 0 ? int16_t(bits ^ 0x7fff) : bits;
  return int16_t(bits & 0x7fff) > 0x7f80 ? int16_t(0x7fff) : rising;
}
inline int32_t key(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const int32_t rising = bits < 0 ? bits ^ 0x7fffffff : bits;
  return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fffffff : rising;
}
template <class T>
using Key = decltype(key(T{}));

template <class K>
constexpr K NONE = std::numeric_limits<K>::min();

inline long blocks_of(long count) { return (count + LANES - 1) / LANES; }

// Bit i is set where keys[i] >= bound, for one block.
#ifdef __AVX512BW__
inline uint32_t at_least(const int16_t* keys, int16_t bound) {
  return _mm512_cmpge_epi16_mask(_mm512_loadu_si512(keys),
                                 _mm512_set1_epi16(bound));
}
inline uint32_t at_least(const int32_t* keys, int32_t bound) {
  const __m512i wide = _mm512_set1_epi32(bound);
  const uint32_t low =
      _mm512_cmpge_epi32_mask(_mm512_loadu_si512(keys), wide);
  const uint32_t high =
      _mm512_cmpge_epi32_mask(_mm512_loadu_si512(keys + 16), wide);
  return low | high << 16;
}
#else
template <class K>
inline uint32_t at_least(const K* keys, K bound) {
  uint32_t mask = 0;
  for (long i = 0; i < LANES; ++i) mask |= uint32_t(keys[i] >= bound) << i;
  return mask;
}
#endif

template <class K>
long count(const K* keys, long blocks, K bound) {
  long found = 0;
  for (long b = 0; b < blocks; ++b)
    found += __builtin_popcount(at_least(keys + b * LANES, bound));
  return found;
}

// The largest bound that at least k keys reach, found bit by bit.
template <class K>
K kth_largest(const K* keys, long blocks, long k) {
  using U = std::make_unsigned_t<K>;
  const U sign = U(U(1) << (8 * sizeof(K) - 1));
  U found = 0;
  for (U bit = sign; bit; bit = U(bit >> 1)) {
    const U tried = U(found | bit);
    if (count(keys, blocks, K(tried ^ sign)) >= k) found = tried;
  }
  return K(found ^ sign);
}

// The sum in the precision of its first part.
template <class T>
inline T sum(T value, float bias) {
  T found;
  write(&found, read(value) + bias);
  return found;
}

// The keys of products plus biases, from column i on.
template <class T>
void read_keys_from(long i, const T* row, const float* bias, long width,
                    Key<T>* keys) {
#pragma omp simd
  for (long j = i; j < width; ++j) keys[j] = key(sum(row[j], bias[j]));
}

inline void read_keys_of(const float* row, const float* bias, long width,
                         int32_t* keys) {
  read_keys_from(0, row, bias, width, keys);
}

inline void read_keys_of(const bf16* row, const float* bias, long width,
                         int16_t* keys) {
  long i = 0;
#ifdef __AVX512BF16__
  const __m512i size = _mm512_set1_epi16(0x7fff);
  const __m512i infinite = _mm512_set1_epi16(0x7f80);
  for (; i + LANES <= width; i += LANES) {
    const __m512 low = read16(row + i) + read16(bias + i);
    const __m512 high = read16(row + i + 16) + read16(bias + i + 16);
    const __m512i bits = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    const __m512i sign = _mm512_srli_epi16(_mm512_srai_epi16(bits, 15), 1);
    const __mmask32 is_nan =
        _mm512_cmpgt_epi16_mask(_mm512_and_si512(bits, size), infinite);
    _mm512_storeu_si512(keys + i, _mm512_mask_mov_epi16(
        _mm512_xor_si512(bits, sign), is_nan, size));
  }
#endif
  read_keys_from(i, row, bias, width, keys);
}

// The keys of a row of products plus biases, filled up to whole blocks.
template <class T>
void read_keys(const T* row, const float* bias, long width, Key<T>* keys) {
  read_keys_of(row, bias, width, keys);
  std::fill(keys + width, keys + blocks_of(width) * LANES, NONE<Key<T>>);
}

// Keys in `groups` blocks of groups, lane by lane; the best of each group.
template <class K>
void group_maxima(const K* keys, long blocks, long groups, K* best) {
  std::copy(keys, keys + groups * LANES, best);
  for (long b = groups, g = 0; b < blocks; ++b, g = g + 1 < groups ? g + 1 : 0)
    for (long i = 0; i < LANES; ++i)
      best[g * LANES + i] =
          std::max(best[g * LANES + i], keys[b * LANES + i]);
}

// Where keys reach the bound, in order; returns how many do.
template <class K, class Index>
long collect(const K* keys, long blocks, K bound, Index* found) {
  long n = 0;
  for (long b = 0; b < blocks; ++b)
    for (uint32_t m = at_least(keys + b * LANES, bound); m; m &= m - 1)
      found[n++] = Index(b * LANES + __builtin_ctz(m));
  return n;
}

// Blocks of groups among which k maxima bound the k largest from below:
// four groups for each of the k, so that few other candidates pass.
inline long groups_for(long k, long blocks) {
  return std::min(blocks, blocks_of(4 * k));
}

// Of n candidates with these keys (room for a whole block), keep the k
// largest, the first of equal ones: moves them to the front, in order.
template <class K, class Index>
void keep_largest(std::vector<K>& keys, Index* candidates, long n, long k) {
  keys.resize(blocks_of(n) * LANES, NONE<K>);
  const long blocks = blocks_of(n);
  const K last = kth_largest(keys.data(), blocks, k);
  const bool top = last == std::numeric_limits<K>::max();
  long ties = k - (top ? 0 : count(keys.data(), blocks, K(last + 1)));
  long kept = 0;
  for (long i = 0; i < n; ++i)
    if (keys[i] > last || (keys[i] == last && ties-- > 0))
      candidates[kept++] = candidates[i];
}

// The k largest of each row plus biases, in order of their indices; values
// after ReLU.
template <class T>
void top_k(const T* pre, const float* bias, long rows, long width, long k,
           int32_t* indices, float* values, long threads) {
  using K = Key<T>;
  const long blocks = blocks_of(width), groups = groups_for(k, blocks);
#pragma omp parallel num_threads(threads)
  {
    std::vector<K> keys(blocks * LANES), best(groups * LANES), chosen;
    std::vector<int32_t> found(width);
#pragma omp for schedule(static)
    for (long r = 0; r < rows; ++r) {
      read_keys(pre + r * width, bias, width, keys.data());
      group_maxima(keys.data(), blocks, groups, best.data());
      const K bound = kth_largest(best.data(), groups, k);
      const long n = collect(keys.data(), blocks, bound, found.data());
      if (n > k) {
        chosen.clear();
        for (long i = 0; i < n; ++i) chosen.push_back(keys[found[i]]);
        keep_largest(chosen, found.data(), n, k);
      }
      for (long i = 0; i < k; ++i) {
        indices[r * k + i] = found[i];
        const long j = found[i];
        const float value = read(sum(pre[r * width + j], bias[j]));
        values[r * k + i] = value < 0 ? 0.0f : value;
      }
    }
  }
}

// ---- Codes above a threshold -------------------------------------------

// How a code stands to its latent's threshold. NaN is active: never lost.
inline bool active(float value, float threshold) {
  return !(value <= threshold);
}
inline bool near(float value, float threshold, float half) {
  return std::fabs(value - threshold) < half;
}

// Of one block of codes, products plus biases, from column j on: one bit for
// each that is active, and for each that is nearer than `half`.
struct Kinds {
  uint32_t active, near;
};
template <class T>
inline Kinds kinds(const T* row, const float* bias, const float* threshold,
                   float half, long j, long width) {
  Kinds found = {0, 0};
#ifdef __AVX512BW__
  for (long i = 0; i < LANES && j + LANES <= width; i += 16) {
    const __m512 bound = read16(threshold + j + i);
    const __m512 value = read16(row + j + i) + read16(bias + j + i);
    const __m512 apart = _mm512_abs_ps(value - bound);
    const uint32_t over = _mm512_cmp_ps_mask(value, bound, _CMP_NLE_UQ);
    const uint32_t close =
        _mm512_cmp_ps_mask(apart, _mm512_set1_ps(half), _CMP_LT_OQ);
    found.active |= over << i, found.near |= close << i;
  }
  if (j + LANES <= width) return found;
#endif
  for (long i = 0; i < std::min(LANES, width - j); ++i) {
    const float value = read(row[j + i]) + bias[j + i];
    found.active |= uint32_t(active(value, threshold[j + i])) << i;
    found.near |= uint32_t(near(value, threshold[j + i], half)) << i;
  }
  return found;
}

// Marks the codes of each row that are active or near (one bit each); counts
// those marked and those active.
template <class T>
void mark(const T* pre, const float* bias, const float* threshold,
          float half, long rows, long width, uint32_t* marks,
          int64_t* marked, int64_t* found, long threads) {
  const long blocks = blocks_of(width);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long r = 0; r < rows; ++r) {
    long both = 0, active = 0;
    for (long b = 0; b < blocks; ++b) {
      const Kinds found_here =
          kinds(pre + r * width, bias, threshold, half, b * LANES, width);
      const uint32_t mask = found_here.active | found_here.near;
      marks[r * blocks + b] = mask;
      both += __builtin_popcount(mask);
      active += __builtin_popcount(found_here.active);
    }
    marked[r] = both, found[r] = active;
  }
}

// Lists the marked codes, those of row r from offsets[r] on.
template <class T>
void list_marked(const T* pre, const float* bias, const uint32_t* marks,
                 long rows, long width, const int64_t* offsets,
                 int32_t* indices, float* values, long threads) {
  const long blocks = blocks_of(width);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long r = 0; r < rows; ++r) {
    const T* row = pre + r * width;
    int32_t* place = indices + offsets[r];
    for (long b = 0; b < blocks; ++b)
      for (uint32_t m = marks[r * blocks + b]; m; m &= m - 1)
        *place++ = int32_t(b * LANES + __builtin_ctz(m));
    for (long i = offsets[r]; i < offsets[r + 1]; ++i)
      values[i] = read(row[indices[i]]) + bias[indices[i]];
  }
}

// Which of n values are the `most` largest, the first of equal ones.
void mark_largest(const float* values, long n, long most, uint8_t* largest,
                  long) {
  const long blocks = blocks_of(n);
  std::vector<int32_t> keys(blocks * LANES, NONE<int32_t>);
  for (long i = 0; i < n; ++i) keys[i] = key(values[i]);
  const int32_t last = kth_largest(keys.data(), blocks, most);
  const bool top = last == std::numeric_limits<int32_t>::max();
  long ties = most - (top ? 0 : count(keys.data(), blocks, last + 1));
  for (long i = 0; i < n; ++i)
    largest[i] = keys[i] > last || (keys[i] == last && ties-- > 0);
}

// Of listed codes those that `which` marks, each row from where new_offsets
// (filled in) says.
void keep(const int64_t* offsets, const int32_t* indices, const float* values,
          const uint8_t* which, long rows, int64_t* new_offsets,
          int32_t* new_indices, float* new_values, long threads) {
  new_offsets[0] = 0;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long r = 0; r < rows; ++r)
    new_offsets[r + 1] =
        std::count(which + offsets[r], which + offsets[r + 1], 1);
  std::partial_sum(new_offsets, new_offsets + rows + 1, new_offsets);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long r = 0; r < rows; ++r) {
    long place = new_offsets[r];
    for (long i = offsets[r]; i < offsets[r + 1]; ++i)
      if (which[i]) {
        new_indices[place] = indices[i];
        new_values[place++] = values[i];
      }
  }
}

// ---- Sparse decoder and its gradients ----------------------------------

// Ask for a row before it is needed: rows lie anywhere in the table.
template <class T>
inline void fetch(const T* row, long width) {
  const char* place = reinterpret_cast<const char*>(row);
  for (long i = 0; i < width * long(sizeof(T)); i += 64)
    __builtin_prefetch(place + i);
}

// A weight in the precision of the rows that it multiplies, as the operands
// of a matrix product are.
template <class T>
inline float rounded(float weight) {
  T found;
  write(&found, weight);
  return read(found);
}

// sum += the weighted rows; four at a time spare reads of the sum.
template <class T>
void add_rows(float* sum, const T* table, long width, const int32_t* rows,
              const float* weights, long n) {
  long i = 0;
  for (; i + 4 <= n; i += 4) {
    const T *a = table + rows[i] * width, *b = table + rows[i + 1] * width;
    const T *c = table + rows[i + 2] * width, *d = table + rows[i + 3] * width;
    for (long next = i + 4; next < std::min(i + 8, n); ++next)
      fetch(table + rows[next] * width, width);
    const float va = rounded<T>(weights[i]), vb = rounded<T>(weights[i + 1]);
    const float vc = rounded<T>(weights[i + 2]);
    const float vd = rounded<T>(weights[i + 3]);
#pragma omp simd
    for (long j = 0; j < width; ++j)
      sum[j] += (va * read(a[j]) + vb * read(b[j])) +
                (vc * read(c[j]) + vd * read(d[j]));
  }
  for (; i < n; ++i) {
    const T* a = table + rows[i] * width;
    const float va = rounded<T>(weights[i]);
#pragma omp simd
    for (long j = 0; j < width; ++j) sum[j] += va * read(a[j]);
  }
}

// out[i] = <vector, row i>.
template <class T>
void dot_rows(const T* vector, const T* table, long width,
              const int32_t* rows, long n, float* out) {
  long i = 0;
  for (; i + 4 <= n; i += 4) {
    const T *a = table + rows[i] * width, *b = table + rows[i + 1] * width;
    const T *c = table + rows[i + 2] * width, *d = table + rows[i + 3] * width;
    float sa = 0, sb = 0, sc = 0, sd = 0;
#pragma omp simd reduction(+ : sa, sb, sc, sd)
    for (long j = 0; j < width; ++j) {
      sa += read(vector[j]) * read(a[j]);
      sb += read(vector[j]) * read(b[j]);
      sc += read(vector[j]) * read(c[j]);
      sd += read(vector[j]) * read(d[j]);
    }
    out[i] = sa, out[i + 1] = sb, out[i + 2] = sc, out[i + 3] = sd;
  }
  for (; i < n; ++i) {
    const T* a = table + rows[i] * width;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < width; ++j) sum += read(vector[j]) * read(a[j]);
    out[i] = sum;
  }
}

#ifdef __AVX512BF16__
// The same for bf16, two rows or columns an instruction, summed in float32.
constexpr long PAIRS = 32;    // columns that one vector of bf16 holds
constexpr long STRIPE = 256;  // columns whose sums stay in registers

inline __m512i load(const bf16* place) { return _mm512_loadu_si512(place); }
inline __m512 dot(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

// The bits of two weights, as often as a vector holds them.
inline __m512i both(float first, float second) {
  bf16 pair[2];
  write(pair, first), write(pair + 1, second);
  return _mm512_set1_epi32(int(pair[0].bits | uint32_t(pair[1].bits) << 16));
}

// sum[0, VECTORS * 32) += the weighted rows, from this column of theirs on.
template <int VECTORS>
void add_stripe(float* sum, const bf16* table, long width,
                const int32_t* rows, const float* weights, long n) {
  __m512 low[VECTORS], high[VECTORS];  // columns 0-3 and 4-7 of each eight
  for (int v = 0; v < VECTORS; ++v) low[v] = high[v] = _mm512_setzero_ps();
  for (long i = 0; i < n; i += 2) {
    const bool two = i + 1 < n;
    const bf16* a = table + rows[i] * width;
    const bf16* b = two ? table + rows[i + 1] * width : nullptr;
    for (long next = i + 4; next < std::min(i + 6, n); ++next)
      fetch(table + rows[next] * width, VECTORS * PAIRS);
    const __m512i weight = both(weights[i], two ? weights[i + 1] : 0);
    for (int v = 0; v < VECTORS; ++v) {
      const __m512i first = load(a + v * PAIRS);
      const __m512i second =
          two ? load(b + v * PAIRS) : _mm512_setzero_si512();
      low[v] = dot(low[v], _mm512_unpacklo_epi16(first, second), weight);
      high[v] = dot(high[v], _mm512_unpackhi_epi16(first, second), weight);
    }
  }
  const __m512i front = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5,
                                          6, 7, 20, 21, 22, 23);
  const __m512i back = _mm512_add_epi32(front, _mm512_set1_epi32(8));
  for (int v = 0; v < VECTORS; ++v) {
    float* place = sum + v * PAIRS;
    for (int half = 0; half < 2; ++half, place += 16) {
      const __m512 part =
          _mm512_permutex2var_ps(low[v], half ? back : front, high[v]);
      _mm512_storeu_ps(place, _mm512_add_ps(_mm512_loadu_ps(place), part));
    }
  }
}

void add_rows(float* sum, const bf16* table, long width, const int32_t* rows,
              const float* weights, long n) {
  long from = 0;
  for (; from + STRIPE <= width; from += STRIPE)
    add_stripe<STRIPE / PAIRS>(sum + from, table + from, width, rows,
                               weights, n);
  for (; from + PAIRS <= width; from += PAIRS)
    add_stripe<1>(sum + from, table + from, width, rows, weights, n);
  for (long i = 0; i < n && from < width; ++i)
    for (long j = from; j < width; ++j)
      sum[j] += rounded<bf16>(weights[i]) * read(table[rows[i] * width + j]);
}

void dot_rows(const bf16* vector, const bf16* table, long width,
              const int32_t* rows, long n, float* out) {
  const long whole = width / (2 * PAIRS) * 2 * PAIRS;
  for (long i = 0; i < n; i += 4) {
    const bf16* row[4];
    __m512 even[4], odd[4];  // two sums: one would wait for itself
    for (int r = 0; r < 4; ++r) {
      row[r] = table + rows[std::min(i + r, n - 1)] * width;
      even[r] = odd[r] = _mm512_setzero_ps();
    }
    for (long j = 0; j < whole; j += 2 * PAIRS) {
      const __m512i first = load(vector + j), second = load(vector + j + PAIRS);
      for (int r = 0; r < 4; ++r) {
        even[r] = dot(even[r], first, load(row[r] + j));
        odd[r] = dot(odd[r], second, load(row[r] + j + PAIRS));
      }
    }
    for (int r = 0; r < 4 && i + r < n; ++r) {
      float sum = _mm512_reduce_add_ps(_mm512_add_ps(even[r], odd[r]));
      for (long j = whole; j < width; ++j)
        sum += read(vector[j]) * read(row[r][j]);
      out[i + r] = sum;
    }
  }
}
#endif

// For each token and each level l of a nested dictionary (latents below
// ends[l]): error_l = sum value * W_dec[index] + b_dec - x; how steeply the
// loss rises with what the level adds: scale * sum_{m >= l} error_m, in T;
// and the gradient of each listed value, the product of that and its row of
// W_dec. `error` is the last level's, `total` the sum over levels.
template <class T>
void decode(const int64_t* offsets, const int32_t* indices,
            const float* values, const T* W_dec, const float* b_dec,
            const float* x, const int64_t* ends, long levels, long tokens,
            long d_in, float scale, float* error, float* total, T* slope,
            float* d_values, long threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> errors(levels * d_in);
    std::vector<int64_t> starts(levels + 1);
#pragma omp for schedule(static)
    for (long t = 0; t < tokens; ++t) {
      const float* row = x + t * d_in;
      float* last = errors.data();
      for (long j = 0; j < d_in; ++j) last[j] = b_dec[j] - row[j];
      starts[0] = offsets[t];
      for (long l = 0; l < levels; ++l) {
        if (l) last = std::copy(last, last + d_in, last + d_in) - d_in;
        long end = l + 1 < levels ? starts[l] : offsets[t + 1];
        while (end < offsets[t + 1] && indices[end] < ends[l]) ++end;
        add_rows(last, W_dec, d_in, indices + starts[l], values + starts[l],
                 end - starts[l]);
        starts[l + 1] = end;
      }
      std::copy(last, last + d_in, error + t * d_in);
      for (long l = levels - 1; l >= 0; --l) {
        float* sum = errors.data() + l * d_in;
        if (l + 1 < levels)
          for (long j = 0; j < d_in; ++j) sum[j] += sum[d_in + j];
        T* rise = slope + (l * tokens + t) * d_in;
        for (long j = 0; j < d_in; ++j) write(rise + j, sum[j] * scale);
        dot_rows(rise, W_dec, d_in, indices + starts[l],
                 starts[l + 1] - starts[l], d_values + starts[l]);
      }
      if (levels > 1)
        std::copy(errors.data(), errors.data() + d_in, total + t * d_in);
    }
  }
}

// Whether an entry changes any weight's gradient.
inline bool counts(float value, float gradient) {
  return value != 0 || gradient != 0;
}

// Counting sort by latent of the entries that count, stable in the tokens:
// starts [d_sae + 1], and token, value and gradient of each entry.
void transpose(const int64_t* offsets, const int32_t* indices,
               const float* values, const float* d_values, long tokens,
               long d_sae, int64_t* starts, int32_t* by_token,
               float* by_value, float* by_gradient, long threads) {
  std::vector<int64_t> next(threads * d_sae, 0);
  const auto first = [=](long part) { return tokens * part / threads; };
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (long p = 0; p < threads; ++p) {
    int64_t* mine = next.data() + p * d_sae;
    for (long i = offsets[first(p)]; i < offsets[first(p + 1)]; ++i)
      mine[indices[i]] += counts(values[i], d_values[i]);
  }
  int64_t total = 0;
  for (long latent = 0; latent < d_sae; ++latent) {
    starts[latent] = total;
    for (long p = 0; p < threads; ++p) {
      const int64_t here = next[p * d_sae + latent];
      next[p * d_sae + latent] = total;
      total += here;
    }
  }
  starts[d_sae] = total;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (long p = 0; p < threads; ++p) {
    int64_t* mine = next.data() + p * d_sae;
    for (long t = first(p); t < first(p + 1); ++t)
      for (long i = offsets[t]; i < offsets[t + 1]; ++i) {
        if (!counts(values[i], d_values[i])) continue;
        const int64_t place = mine[indices[i]]++;
        by_token[place] = int32_t(t);
        by_value[place] = values[i];
        by_gradient[place] = d_values[i];
      }
  }
}

// For each latent, over the tokens it is listed for: dW_dec = sum value *
// slope (that of the latent's level), dW_enc = sum gradient * centred, the
// sum of the gradients, and the tokens with value != 0. With `add`, on top
// of what is there.
template <class T>
void gather(const int64_t* starts, const int32_t* by_token,
            const float* by_value, const float* by_gradient, const T* slope,
            const T* centred, const int64_t* ends, long levels, long tokens,
            long d_sae, long d_in, long add, float* d_enc, float* d_dec,
            float* d_pre, float* firings, long threads) {
  const auto each = [=](auto&& add_up) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16)
    for (long latent = 0; latent < d_sae; ++latent)
      add_up(latent, starts[latent], starts[latent + 1] - starts[latent]);
  };
  // One table after the other: more of one stays in the cache.
  each([=](long latent, long from, long n) {
    const long level = std::upper_bound(ends, ends + levels, latent) - ends;
    float* row = d_dec + latent * d_in;
    if (!add) std::fill(row, row + d_in, 0.0f);
    add_rows(row, slope + level * tokens * d_in, d_in, by_token + from,
             by_value + from, n);
  });
  each([=](long latent, long from, long n) {
    float* row = d_enc + latent * d_in;
    if (!add) std::fill(row, row + d_in, 0.0f);
    if (!add) d_pre[latent] = firings[latent] = 0;
    add_rows(row, centred, d_in, by_token + from, by_gradient + from, n);
    for (long i = from; i < from + n; ++i) {
      d_pre[latent] += by_gradient[i];
      firings[latent] += by_value[i] != 0;
    }
  });
}

// ---- Vectors -----------------------------------------------------------

// centred = x - b_dec, row by row.
template <class T>
void centre(const float* x, const float* b_dec, long rows, long width,
            T* centred, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long r = 0; r < rows; ++r)
    for (long j = 0; j < width; ++j)
      write(centred + r * width + j, x[r * width + j] - b_dec[j]);
}

// sum[j] += sum_i weights[i] * table[i][j], in as many parts as there are
// CHUNKS, added up in their order.
void weigh_rows(const float* table, const float* weights, long rows,
                long width, float* sum, long threads) {
  constexpr long CHUNKS = 16;
  std::vector<float> parts(CHUNKS * width, 0.0f);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long c = 0; c < CHUNKS; ++c) {
    float* part = parts.data() + c * width;
    for (long r = rows * c / CHUNKS; r < rows * (c + 1) / CHUNKS; ++r) {
      const float weight = weights[r];
#pragma omp simd
      for (long j = 0; j < width; ++j)
        part[j] += weight * table[r * width + j];
    }
  }
  for (long c = 0; c < CHUNKS; ++c)
    for (long j = 0; j < width; ++j) sum[j] += parts[c * width + j];
}

// ---- Dense codes -------------------------------------------------------
// Latents in columns, so that one thread sums each over all tokens.

constexpr long COLUMNS = 512;  // latents that one thread sums at a time

// f = product plus bias where that is active, else 0; `f` may be `pre`.
template <class T>
void jump(const T* pre, const float* bias, const float* threshold, long rows,
          long width, T* f, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long r = 0; r < rows; ++r) {
    const T* row = pre + r * width;
    T* code = f + r * width;
#pragma omp simd
    for (long j = 0; j < width; ++j) {
      const float value = read(row[j]) + bias[j];
      write(code + j, active(value, threshold[j]) ? value : 0.0f);
    }
  }
}

// Turns d_f, the slope of the squared error in each code, into that of the
// loss before the threshold: d_f + penalty where active. Adds up over the
// tokens: it; where near, the pull d_f * threshold + price[token]; firings.
template <class T>
void jump_back(const T* pre, const T* f, const float* bias,
               const float* threshold, float half, const float* price,
               float penalty, long rows, long width, T* d_f, float* d_pre,
               float* pull, float* firings, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long from = 0; from < width; from += COLUMNS) {
    const long end = std::min(from + COLUMNS, width);
    for (long r = 0; r < rows; ++r) {
      const T *row = pre + r * width, *code = f + r * width;
      T* slope = d_f + r * width;
      const float paid = price[r];
#pragma omp simd
      for (long j = from; j < end; ++j) {
        const bool fires = read(code[j]) != 0;
        const float value = read(row[j]) + bias[j];
        const float raw = read(slope[j]), kept = fires ? raw + penalty : 0;
        const float pulled = raw * threshold[j] + paid;
        pull[j] += near(value, threshold[j], half) ? pulled : 0;
        d_pre[j] += kept;
        firings[j] += fires ? 1.0f : 0.0f;
        write(slope + j, kept);
      }
    }
  }
}

// Gated codes from `shared` = c W_enc: the gate after ReLU, and the
// magnitude after ReLU where the gate is open.
template <class T>
void gate(const T* shared, const float* b_gate, const float* ratio,
          const float* b_mag, long rows, long width, T* gates, T* f,
          long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long r = 0; r < rows; ++r) {
    const T* row = shared + r * width;
    T *opened = gates + r * width, *code = f + r * width;
#pragma omp simd
    for (long j = 0; j < width; ++j) {
      const float value = read(row[j]), mag = value * ratio[j] + b_mag[j];
      const bool open = active(value, -b_gate[j]);
      write(opened + j, open ? value + b_gate[j] : 0.0f);
      write(code + j, open && !(mag <= 0) ? mag : 0.0f);
    }
  }
}

// Turns d_gate and d_f, the slopes in both codes, into that in `shared` (in
// place of d_f). Adds up over the tokens: it; those in b_gate, b_mag and in
// the ratio; firings.
template <class T>
void gate_back(const T* shared, const T* f, const float* b_gate,
               const float* ratio, float penalty, long rows, long width,
               const T* d_gate, T* d_f, float* d_pre, float* by_gate,
               float* by_mag, float* by_ratio, float* firings,
               long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long from = 0; from < width; from += COLUMNS) {
    const long end = std::min(from + COLUMNS, width);
    for (long r = 0; r < rows; ++r) {
      const T *row = shared + r * width, *code = f + r * width;
      const T* slope_gate = d_gate + r * width;
      T* slope = d_f + r * width;
#pragma omp simd
      for (long j = from; j < end; ++j) {
        const bool open = active(read(row[j]), -b_gate[j]);
        const bool fires = read(code[j]) != 0;
        const float gated = open ? read(slope_gate[j]) + penalty : 0;
        const float mag = fires ? read(slope[j]) : 0;
        const float kept = gated + mag * ratio[j];
        d_pre[j] += kept;
        by_gate[j] += gated;
        by_mag[j] += mag;
        by_ratio[j] += mag * read(row[j]);
        firings[j] += fires ? 1.0f : 0.0f;
        write(slope + j, kept);
      }
    }
  }
}

// ---- Optimiser ---------------------------------------------------------

struct Rates {
  float beta1, beta2, step, root, eps;  // lr / correction1, sqrt(correction2)
};

// One row of Adam; returns the squared length of the new row.
float adam_row(float* w, float* m, float* v, const float* g, long width,
               float along, const Rates& rate) {
  float square = 0;
#pragma omp simd reduction(+ : square)
  for (long j = 0; j < width; ++j) {
    const float slope = g[j] - along * w[j];
    m[j] += (1 - rate.beta1) * (slope - m[j]);
    v[j] = rate.beta2 * v[j] + (1 - rate.beta2) * slope * slope;
    w[j] -= rate.step * m[j] / (std::sqrt(v[j]) / rate.root + rate.eps);
    square += w[j] * w[j];
  }
  return square;
}

// Adam on every row; with `unit`, the gradient's component along the row is
// taken out before and the row made unit after. `low`: a bf16 copy, or null.
void adam_rows(float* w, float* m, float* v, const float* g, long rows,
               long width, long unit, float beta1, float beta2, float step,
               float root, float eps, bf16* low, long threads) {
  const Rates rate = {beta1, beta2, step, root, eps};
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long r = 0; r < rows; ++r) {
    float* row = w + r * width;
    const float* slope = g + r * width;
    float along = 0;
    if (unit) {
#pragma omp simd reduction(+ : along)
      for (long j = 0; j < width; ++j) along += slope[j] * row[j];
    }
    const float square = adam_row(row, m + r * width, v + r * width, slope,
                                  width, along, rate);
    const float length = unit ? std::sqrt(square) : 1.0f;
    if (unit)
      for (long j = 0; j < width; ++j) row[j] /= length;
    if (low)
      for (long j = 0; j < width; ++j) write(low + r * width + j, row[j]);
  }
}

}  // namespace

// ---- What Python sees: pointers to functions ---------------------------

#define BOTH(name)                \
  auto* name##_f32 = &name<float>; \
  auto* name##_bf16 = &name<bf16>;
#define ONE(name) auto* name##_only = &name;

extern "C" {

BOTH(top_k)
BOTH(mark)
BOTH(list_marked)
BOTH(decode)
BOTH(gather)
BOTH(centre)
BOTH(jump)
BOTH(jump_back)
BOTH(gate)
BOTH(gate_back)
ONE(mark_largest)
ONE(keep)
ONE(transpose)
ONE(weigh_rows)
ONE(adam_rows)

}  // extern "C"
