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

// The keys of a row, filled up to whole blocks.
template <class T>
void read_keys(const T* row, long width, Key<T>* keys) {
  for (long i = 0; i < width; ++i) keys[i] = key(row[i]);
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

// The k largest of each row, in order of their indices; values after ReLU.
template <class T>
void top_k(const T* pre, long rows, long width, long k, int32_t* indices,
           float* values, long threads) {
  using K = Key<T>;
  const long blocks = blocks_of(width), groups = groups_for(k, blocks);
#pragma omp parallel num_threads(threads)
  {
    std::vector<K> keys(blocks * LANES), best(groups * LANES), chosen;
    std::vector<int32_t> found(width);
#pragma omp for schedule(static)
    for (long r = 0; r < rows; ++r) {
      read_keys(pre + r * width, width, keys.data());
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
        const float value = read(pre[r * width + found[i]]);
        values[r * k + i] = value < 0 ? 0.0f : value;
      }
    }
  }
}

// The n largest of all rows together, as places in the flattened array.
template <class T>
void batch_top_k(const T* pre, long rows, long width, long n,
                 int64_t* places, long threads) {
  using K = Key<T>;
  const long blocks = blocks_of(width);
  const long groups = groups_for((n + rows - 1) / rows, blocks);
  std::vector<K> best(rows * groups * LANES);
#pragma omp parallel num_threads(threads)
  {
    std::vector<K> keys(blocks * LANES);
#pragma omp for schedule(static)
    for (long r = 0; r < rows; ++r) {
      read_keys(pre + r * width, width, keys.data());
      group_maxima(keys.data(), blocks, groups,
                   best.data() + r * groups * LANES);
    }
  }
  const K bound = kth_largest(best.data(), rows * groups, n);
  std::vector<std::vector<int64_t>> found(threads);
  std::vector<std::vector<K>> chosen(threads);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (long t = 0; t < threads; ++t) {
    std::vector<K> keys(blocks * LANES);
    std::vector<int32_t> columns(width);
    for (long r = rows * t / threads; r < rows * (t + 1) / threads; ++r) {
      read_keys(pre + r * width, width, keys.data());
      const long m = collect(keys.data(), blocks, bound, columns.data());
      for (long i = 0; i < m; ++i) {
        found[t].push_back(r * width + columns[i]);
        chosen[t].push_back(keys[columns[i]]);
      }
    }
  }
  for (long t = 1; t < threads; ++t) {
    found[0].insert(found[0].end(), found[t].begin(), found[t].end());
    chosen[0].insert(chosen[0].end(), chosen[t].begin(), chosen[t].end());
  }
  keep_largest(chosen[0], found[0].data(), long(found[0].size()), n);
  std::copy(found[0].data(), found[0].data() + n, places);
}

// Positive (or NaN) codes of each row: counts first, then the lists.
template <class T>
void count_positive(const T* pre, long rows, long width, int64_t* counts,
                    long threads) {
  const long blocks = blocks_of(width);
#pragma omp parallel num_threads(threads)
  {
    std::vector<Key<T>> keys(blocks * LANES);
#pragma omp for schedule(static)
    for (long r = 0; r < rows; ++r) {
      read_keys(pre + r * width, width, keys.data());
      counts[r] = count(keys.data(), blocks, Key<T>(1));
    }
  }
}

template <class T>
void list_positive(const T* pre, long rows, long width,
                   const int64_t* offsets, int32_t* indices, float* values,
                   long threads) {
  const long blocks = blocks_of(width);
#pragma omp parallel num_threads(threads)
  {
    std::vector<Key<T>> keys(blocks * LANES);
#pragma omp for schedule(static)
    for (long r = 0; r < rows; ++r) {
      int32_t* found = indices + offsets[r];
      read_keys(pre + r * width, width, keys.data());
      const long n = collect(keys.data(), blocks, Key<T>(1), found);
      for (long i = 0; i < n; ++i)
        values[offsets[r] + i] = read(pre[r * width + found[i]]);
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
    const float va = weights[i], vb = weights[i + 1];
    const float vc = weights[i + 2], vd = weights[i + 3];
#pragma omp simd
    for (long j = 0; j < width; ++j)
      sum[j] += (va * read(a[j]) + vb * read(b[j])) +
                (vc * read(c[j]) + vd * read(d[j]));
  }
  for (; i < n; ++i) {
    const T* a = table + rows[i] * width;
    const float va = weights[i];
#pragma omp simd
    for (long j = 0; j < width; ++j) sum[j] += va * read(a[j]);
  }
}

// out[i] = <vector, row i> + shift.
template <class T>
void dot_rows(const float* vector, const T* table, long width,
              const int32_t* rows, long n, float shift, float* out) {
  long i = 0;
  for (; i + 4 <= n; i += 4) {
    const T *a = table + rows[i] * width, *b = table + rows[i + 1] * width;
    const T *c = table + rows[i + 2] * width, *d = table + rows[i + 3] * width;
    float sa = 0, sb = 0, sc = 0, sd = 0;
#pragma omp simd reduction(+ : sa, sb, sc, sd)
    for (long j = 0; j < width; ++j) {
      sa += vector[j] * read(a[j]);
      sb += vector[j] * read(b[j]);
      sc += vector[j] * read(c[j]);
      sd += vector[j] * read(d[j]);
    }
    out[i] = sa + shift, out[i + 1] = sb + shift;
    out[i + 2] = sc + shift, out[i + 3] = sd + shift;
  }
  for (; i < n; ++i) {
    const T* a = table + rows[i] * width;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < width; ++j) sum += vector[j] * read(a[j]);
    out[i] = sum + shift;
  }
}

// error = sum_k value * W_dec[index] + b_dec - x, its scaled copy in T, and
// the gradient of each listed value: <scale * error, W_dec[index]> + penalty.
template <class T>
void decode(const int64_t* offsets, const int32_t* indices,
            const float* values, const T* W_dec, const float* b_dec,
            const float* x, long tokens, long d_in, float scale,
            float penalty, float* error, T* slope, float* d_values,
            long threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scaled(d_in);
#pragma omp for schedule(static)
    for (long t = 0; t < tokens; ++t) {
      const long from = offsets[t], n = offsets[t + 1] - from;
      float* row = error + t * d_in;
      for (long j = 0; j < d_in; ++j) row[j] = b_dec[j] - x[t * d_in + j];
      add_rows(row, W_dec, d_in, indices + from, values + from, n);
      for (long j = 0; j < d_in; ++j) {
        scaled[j] = row[j] * scale;
        write(slope + t * d_in + j, scaled[j]);
      }
      dot_rows(scaled.data(), W_dec, d_in, indices + from, n, penalty,
               d_values + from);
    }
  }
}

// Counting sort of the entries with values != 0 by latent, stable in the
// tokens: starts [d_sae + 1], and token, value and gradient of each entry.
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
      mine[indices[i]] += values[i] != 0;
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
        if (values[i] == 0) continue;
        const int64_t place = mine[indices[i]]++;
        by_token[place] = int32_t(t);
        by_value[place] = values[i];
        by_gradient[place] = d_values[i];
      }
  }
}

// For each latent, over the tokens it is active on: dW_dec = sum value *
// slope, dW_enc = sum gradient * centred, db_enc = sum gradient, firings.
// With `add`, on top of what is there.
template <class T>
void gather(const int64_t* starts, const int32_t* by_token,
            const float* by_value, const float* by_gradient, const T* slope,
            const T* centred, long d_sae, long d_in, long add, float* d_dec,
            float* d_enc, float* d_bias, float* firings, long threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 16)
  for (long latent = 0; latent < d_sae; ++latent) {
    const long from = starts[latent], n = starts[latent + 1] - from;
    float *dec = d_dec + latent * d_in, *enc = d_enc + latent * d_in;
    if (!add) {
      std::fill(dec, dec + d_in, 0.0f);
      std::fill(enc, enc + d_in, 0.0f);
      d_bias[latent] = firings[latent] = 0;
    }
    add_rows(dec, slope, d_in, by_token + from, by_value + from, n);
    add_rows(enc, centred, d_in, by_token + from, by_gradient + from, n);
    for (long i = from; i < from + n; ++i) d_bias[latent] += by_gradient[i];
    firings[latent] += float(n);
  }
}

// sum[j] += sum_i weights[i] * table[i][j], column by column.
void sum_rows(const float* table, const float* weights, long rows,
              long width, float* sum, long threads) {
  constexpr long columns = 64;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long from = 0; from < width; from += columns) {
    const long end = std::min(from + columns, width);
    for (long r = 0; r < rows; ++r) {
      const float weight = weights[r];
#pragma omp simd
      for (long j = from; j < end; ++j)
        sum[j] += weight * table[r * width + j];
    }
  }
}

// ---- Dense ReLU codes --------------------------------------------------

constexpr long COLUMNS = 256;  // latents that one thread sums at a time

// ReLU in place; firings += tokens each latent is active on.
template <class T>
void rectify(T* pre, long rows, long width, float* firings, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long from = 0; from < width; from += COLUMNS) {
    const long n = std::min(COLUMNS, width - from);
    for (long r = 0; r < rows; ++r) {
      T* row = pre + r * width + from;
      float* fired = firings + from;
#pragma omp simd
      for (long j = 0; j < n; ++j) {
        const float value = read(row[j]);
        write(row + j, value < 0 ? 0.0f : value);
        fired[j] += value > 0 ? 1.0f : 0.0f;
      }
    }
  }
}

// slope = (slope + penalty) where f > 0, else 0; d_bias += its sum.
template <class T>
void rectify_back(const T* f, T* slope, long rows, long width,
                  float penalty, float* d_bias, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long from = 0; from < width; from += COLUMNS) {
    const long n = std::min(COLUMNS, width - from);
    for (long r = 0; r < rows; ++r) {
      const T* code = f + r * width + from;
      T* row = slope + r * width + from;
      float* sum = d_bias + from;
#pragma omp simd
      for (long j = 0; j < n; ++j) {
        const float shifted = read(row[j]) + penalty;
        const float kept = read(code[j]) > 0 ? shifted : 0.0f;
        write(row + j, kept);
        sum[j] += kept;
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
void adam(float* w, float* m, float* v, const float* g, long rows,
          long width, long unit, const Rates& rate, bf16* low, long threads) {
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

#define BOTH(T, SUFFIX)                                                      \
  void top_k_##SUFFIX(const T* pre, long rows, long width, long k,           \
                      int32_t* indices, float* values, long threads) {       \
    top_k(pre, rows, width, k, indices, values, threads);                    \
  }                                                                          \
  void batch_top_k_##SUFFIX(const T* pre, long rows, long width, long n,     \
                            int64_t* places, long threads) {                  \
    batch_top_k(pre, rows, width, n, places, threads);                       \
  }                                                                          \
  void count_positive_##SUFFIX(const T* pre, long rows, long width,          \
                               int64_t* counts, long threads) {               \
    count_positive(pre, rows, width, counts, threads);                       \
  }                                                                          \
  void list_positive_##SUFFIX(const T* pre, long rows, long width,           \
                              const int64_t* offsets, int32_t* indices,      \
                              float* values, long threads) {                  \
    list_positive(pre, rows, width, offsets, indices, values, threads);      \
  }                                                                          \
  void decode_##SUFFIX(const int64_t* offsets, const int32_t* indices,       \
                       const float* values, const T* W_dec,                  \
                       const float* b_dec, const float* x, long tokens,      \
                       long d_in, float scale, float penalty, float* error,  \
                       T* slope, float* d_values, long threads) {             \
    decode(offsets, indices, values, W_dec, b_dec, x, tokens, d_in, scale,   \
           penalty, error, slope, d_values, threads);                        \
  }                                                                          \
  void gather_##SUFFIX(const int64_t* starts, const int32_t* by_token,       \
                       const float* by_value, const float* by_gradient,      \
                       const T* slope, const T* centred, long d_sae,         \
                       long d_in, long add, float* d_dec, float* d_enc,       \
                       float* d_bias, float* firings, long threads) {         \
    gather(starts, by_token, by_value, by_gradient, slope, centred, d_sae,   \
           d_in, add, d_dec, d_enc, d_bias, firings, threads);               \
  }                                                                          \
  void rectify_##SUFFIX(T* pre, long rows, long width, float* firings,       \
                        long threads) {                                       \
    rectify(pre, rows, width, firings, threads);                             \
  }                                                                          \
  void rectify_back_##SUFFIX(const T* f, T* slope, long rows, long width,    \
                             float penalty, float* d_bias, long threads) {    \
    rectify_back(f, slope, rows, width, penalty, d_bias, threads);           \
  }

extern "C" {

BOTH(float, f32)
BOTH(bf16, bf16)

void transpose_entries(const int64_t* offsets, const int32_t* indices,
                       const float* values, const float* d_values,
                       long tokens, long d_sae, int64_t* starts,
                       int32_t* by_token, float* by_value,
                       float* by_gradient, long threads) {
  transpose(offsets, indices, values, d_values, tokens, d_sae, starts,
            by_token, by_value, by_gradient, threads);
}

void weigh_rows(const float* table, const float* weights, long rows,
                long width, float* sum, long threads) {
  sum_rows(table, weights, rows, width, sum, threads);
}

void adam_rows(float* w, float* m, float* v, const float* g, long rows,
               long width, long unit, float beta1, float beta2, float step,
               float root, float eps, bf16* low, long threads) {
  adam(w, m, v, g, rows, width, unit, {beta1, beta2, step, root, eps}, low,
       threads);
}

}  // extern "C"
