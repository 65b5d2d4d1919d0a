// dplr_scan on the CPU: first the recurrence, the definition; then the chunked form that is used.
#include "tensor/ops/dplr_scan.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "tensor/gemm.h"
#include "tensor/lanes.h"
#include "tensor/parallel.h"
#include "tensor/sums.h"
#include "tensor/vector_math.h"

namespace taper::kernels {
namespace {

// The inputs as pointers, with their sizes.
template <class T>
struct View {
  const T *r, *log_w, *k, *v, *a, *b, *initial;
  PackingView packing;
  int64_t B, steps, H, K, V;

  explicit View(const DplrScanInputs& in)
      : r(in.r.data<T>()), log_w(in.log_w.data<T>()), k(in.k.data<T>()), v(in.v.data<T>()), a(in.a.data<T>()), b(in.b.data<T>()),
        initial(in.initial ? in.initial.data<T>() : nullptr), packing(in.packing, in.r.size(1)), B(in.r.size(0)),
        steps(in.r.size(1)), H(in.r.size(2)), K(in.r.size(3)), V(in.v.size(3)) {}

  int64_t head(int64_t n, int64_t t, int64_t h) const { return (n * steps + t) * H + h; }  // times K or V: an offset
};

// ---- the recurrence ----

// after = the state of token t from `before`; m [V] = what the removal reads. The two may be one.
template <class T>
void step(const View<T>& v, int64_t n, int64_t t, int64_t h, const T* before, T* after, T* m) {
  const int64_t at = v.head(n, t, h), K = v.K, V = v.V;
  const T *a = v.a + at * K, *b = v.b + at * K, *k = v.k + at * K, *w = v.log_w + at * K, *value = v.v + at * V;
  const bool resets = v.packing.resets(n, t);
  for (int64_t p = 0; p < V; ++p) m[p] = 0;
  for (int64_t i = 0; i < K && !resets; ++i)
    for (int64_t p = 0; p < V; ++p) m[p] += a[i] * before[i * V + p];
  for (int64_t i = 0; i < K; ++i) {
    const T decay = resets ? T(0) : std::exp(w[i]);
    for (int64_t p = 0; p < V; ++p) after[i * V + p] = decay * before[i * V + p] + b[i] * m[p] + k[i] * value[p];
  }
}

template <class T>
void forward_recurrent(const DplrScanForward& f) {
  const View<T> v(f.in);
  const int64_t K = v.K, V = v.V, KV = K * V;
  parallel_for(v.B * v.H, 1, [&](int64_t first, int64_t last) {
    std::vector<T> m(static_cast<size_t>(V));
    for (int64_t bh = first; bh < last; ++bh) {
      T* S = f.final.data<T>() + bh * KV;  // runs in place
      for (int64_t i = 0; i < KV; ++i) S[i] = v.initial ? v.initial[bh * KV + i] : T(0);
      for (int64_t t = 0; t < v.steps; ++t) {
        const int64_t at = v.head(bh / v.H, t, bh % v.H);
        step(v, bh / v.H, t, bh % v.H, S, S, m.data());
        T* y = f.y.data<T>() + at * V;
        for (int64_t p = 0; p < V; ++p) y[p] = 0;
        for (int64_t i = 0; i < K; ++i)
          for (int64_t p = 0; p < V; ++p) y[p] += v.r[at * K + i] * S[i * V + p];
      }
    }
  });
}

template <class T>
void backward_recurrent(const DplrScanBackward& g) {
  const View<T> v(g.in);
  const int64_t K = v.K, V = v.V, KV = K * V;
  const T *d_y = g.d_y ? g.d_y.data<T>() : nullptr, *d_final = g.d_final ? g.d_final.data<T>() : nullptr;
  parallel_for(v.B * v.H, 1, [&](int64_t first, int64_t last) {
    std::vector<T> S(size_t((v.steps + 1) * KV)), M(size_t(v.steps * V)), Z(static_cast<size_t>(KV)), dm(static_cast<size_t>(V));
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t n = bh / v.H, h = bh % v.H;
      for (int64_t i = 0; i < KV; ++i) S[size_t(i)] = v.initial ? v.initial[bh * KV + i] : T(0);
      for (int64_t t = 0; t < v.steps; ++t) step(v, n, t, h, &S[size_t(t * KV)], &S[size_t((t + 1) * KV)], &M[size_t(t * V)]);
      for (int64_t i = 0; i < KV; ++i) Z[size_t(i)] = d_final ? d_final[bh * KV + i] : T(0);
      for (int64_t t = v.steps - 1; t >= 0; --t) {
        const int64_t at = v.head(n, t, h), row = at * K;
        const bool resets = v.packing.resets(n, t);
        const T *before = &S[size_t(t * KV)], *after = &S[size_t((t + 1) * KV)], *m = &M[size_t(t * V)], *value = v.v + at * V;
        T* d_v = g.d_v.data<T>() + at * V;
        for (int64_t p = 0; p < V; ++p) d_v[p] = dm[size_t(p)] = 0;
        for (int64_t i = 0; i < K; ++i) {
          T dr = 0, dk = 0, db = 0;
          for (int64_t p = 0; p < V; ++p) {
            const T dy = d_y ? d_y[at * V + p] : T(0);
            T& z = Z[size_t(i * V + p)];
            z += v.r[row + i] * dy;
            dr += after[i * V + p] * dy;
            dk += z * value[p];
            db += z * m[p];
            d_v[p] += z * v.k[row + i];
            dm[size_t(p)] += z * v.b[row + i];
          }
          g.d_r.data<T>()[row + i] = dr;
          g.d_k.data<T>()[row + i] = dk;
          g.d_b.data<T>()[row + i] = db;
        }
        for (int64_t i = 0; i < K; ++i) {
          const T decay = resets ? T(0) : std::exp(v.log_w[row + i]), a = resets ? T(0) : v.a[row + i];
          T da = 0, dw = 0;
          for (int64_t p = 0; p < V; ++p) {
            T& z = Z[size_t(i * V + p)];
            da += before[i * V + p] * dm[size_t(p)];
            dw += decay * z * before[i * V + p];
            z = decay * z + a * dm[size_t(p)];
          }
          g.d_a.data<T>()[row + i] = resets ? T(0) : da;
          g.d_log_w.data<T>()[row + i] = dw;
        }
      }
      if (g.d_initial) std::copy(Z.begin(), Z.end(), g.d_initial.data<T>() + bh * KV);
    }
  });
}

// ---- the chunked form ----

constexpr int64_t longest = dplr_scan_longest_chunk(Dtype::f64), side = 2 * longest;
constexpr int64_t width = lane_count;
static_assert(longest == width && longest == dplr_scan_longest_chunk(Dtype::f32));

// Memory that the next chunk will want: its rows lie apart, and no processor guesses them.
template <class T>
void ask_for(const T* p, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(p + i);
}

// One chunk of one head as the products want it, in two halves of `longest` rows, zero from L on. What asks before the
// decay comes first: of the queries, row i is a_i and row longest+i is r_i; of the keys, k_j and b_j.
template <class T>
struct Chunk {
  int64_t L = 0, K;
  std::vector<T> decay;    // [L,K] exp(log_w), 0 where a document begins
  std::vector<T> whole;    // [K] D_L-
  std::vector<T> queries;  // [side,K] as the state before the chunk sees them
  std::vector<T> keys;     // [K,side] as the end of the chunk sees them
  std::vector<T> pairs;    // [side,side] queries against keys
  std::vector<const T*> a;  // [L+1] the rows of a; zeros where nothing is read: at a document start, and behind the end
  std::vector<T> zeros, ones, gain;
  std::vector<double> sum;

  explicit Chunk(int64_t K)
      : K(K), decay(size_t(longest * K)), whole(size_t(K)), queries(size_t(side * K)), keys(size_t(K * side)),
        pairs(size_t(side * side)), a(size_t(longest + 1)), zeros(size_t(K), T(0)), ones(size_t(K), T(1)), gain(size_t(K)),
        sum(size_t(K)) {}

  // `next`: where the chunk begins that will be loaded after this one, or below 0.
  void load(const View<T>& v, int64_t n, int64_t begin, int64_t length, int64_t h, int64_t next) {
    L = length;
    const int64_t stride = v.H * K, at = v.head(n, begin, h) * K;
    const T* w = v.log_w + at;
    bool cut = false;
    std::fill(sum.begin(), sum.end(), 0.0);
    for (int64_t i = 0; i < L; ++i) {
      const bool resets = v.packing.resets(n, begin + i);
      cut |= resets;
      a[size_t(i)] = resets ? zeros.data() : v.a + at + i * stride;
      T* to = &decay[size_t(i * K)];
      for (int64_t c = 0; c < K; ++c) to[c] = math::exp(w[i * stride + c]);
      for (int64_t c = 0; c < K; ++c) sum[size_t(c)] += double(w[i * stride + c]);
      if (resets) std::fill(to, to + K, T(0));
    }
    a[size_t(L)] = zeros.data();
    for (int64_t c = 0; c < K; ++c) whole[size_t(c)] = math::exp(T(sum[size_t(c)]));
    if (cut) std::fill(whole.begin(), whole.end(), T(0));

    std::fill(keys.begin(), keys.end(), T(0));
    std::fill(pairs.begin(), pairs.begin() + side, T(0));
    std::copy(a[0], a[0] + K, queries.begin());
    std::fill(queries.begin() + L * K, queries.begin() + longest * K, T(0));
    std::fill(gain.begin(), gain.end(), T(1));
    for (int64_t i = 0; i < L; ++i) {
      const T *r = v.r + at + i * stride, *a_next = a[size_t(i + 1)], *d = &decay[size_t(i * K)];
      if (next >= 0 && next + i < v.steps)
        for (const T* p : {v.r, v.log_w, v.k, v.a, v.b}) ask_for(p + v.head(n, next + i, h) * K, K);
      T* seen_r = &queries[size_t((longest + i) * K)];
      for (int64_t c = 0; c < K; ++c) gain[size_t(c)] *= d[c];
      for (int64_t c = 0; c < K; ++c) seen_r[c] = r[c] * gain[size_t(c)];
      if (i + 1 < L)
        for (int64_t c = 0; c < K; ++c) queries[size_t((i + 1) * K + c)] = a_next[c] * gain[size_t(c)];
      meet(v.k + at + i * stride, v.b + at + i * stride, r, a_next, i + 1 < L ? d + K : ones.data(), i);
    }
  }

 private:
  // Token i: its keys join, r_i and a_{i+1} meet all keys so far, then all keys decay as token i+1 asks.
  void meet(const T* k, const T* b, const T* r, const T* a_next, const T* d, int64_t i) {
    const Lanes<T> lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const auto here = lane == T(i);
    Lanes<T> rk = {}, rb = {}, ak = {}, ab = {};
    T* row = keys.data();
    for (int64_t c = 0, end = K; c < end; ++c, row += side) {  // `end`: a store into lanes may, to a compiler, change K
      const Lanes<T> ks = here ? k[c] - Lanes<T>{} : Lanes<T>(lanes(row));
      const Lanes<T> bs = here ? b[c] - Lanes<T>{} : Lanes<T>(lanes(row + longest));
      rk += r[c] * ks;
      rb += r[c] * bs;
      ak += a_next[c] * ks;
      ab += a_next[c] * bs;
      lanes(row) = ks * d[c];
      lanes(row + longest) = bs * d[c];
    }
    T* of_r = &pairs[size_t((longest + i) * side)];
    lanes(of_r) = rk;
    lanes(of_r + longest) = rb;
    if (i + 1 == L) return;
    T* of_a = &pairs[size_t((i + 1) * side)];
    lanes(of_a) = ak;
    lanes(of_a + longest) = ab;
  }
};

// How many heads one thread takes through the chunks side by side: their rows share pages of memory. Heads do not meet,
// so the number changes no result.
template <class T>
int64_t heads_together(const View<T>& v) {
  return (v.B * v.H + thread_count() - 1) / thread_count();
}

// Rows of V numbers beside each other, each padded to whole lanes.
int64_t row_length(int64_t V) { return (V + width - 1) / width * width; }

template <class T>
void copy_rows(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i, from += from_stride, to += to_stride) {
    int64_t p = 0;
    for (; p + width <= columns; p += width) lanes(to + p) = lanes(from + p);
    for (; p < columns; ++p) to[p] = from[p];
  }
}

template <class T>
void scale_row(const T* from, T by, int64_t n, T* to) {
  int64_t p = 0;
  for (; p + width <= n; p += width) lanes(to + p) = by * lanes(from + p);
  for (; p < n; ++p) to[p] = by * from[p];
}

// What the rows of `pairs` say of each other, by substitution: m_i += pairs_ij v_j + pairs_i,longest+j m_j for j < i.
template <class T>
void substitute(const T* pairs, int64_t L, int64_t R, const T* value, T* m) {
  for (int64_t j = 0; j + 1 < L; ++j)  // m_j is done: send it and v_j on
    for (int64_t p = 0; p < R; p += width) {
      const Lanes<T> vj = lanes(value + j * R + p), mj = lanes(m + j * R + p);
      const T* by = pairs + (j + 1) * side + j;
      T* to = m + (j + 1) * R + p;
      for (int64_t i = j + 1; i < L; ++i, by += side, to += R) lanes(to) += by[0] * vj + by[longest] * mj;
    }
}

// Its transpose: turns d_m into X, from the last row to the first, and sends it on to v.
template <class T>
void substitute_back(const T* pairs, int64_t L, int64_t R, T* d_value, T* d_m) {
  for (int64_t i = L - 1; i > 0; --i)
    for (int64_t p = 0; p < R; p += width) {
      const Lanes<T> x = lanes(d_m + i * R + p);
      const T* by = pairs + i * side;
      T *to_value = d_value + p, *to_m = d_m + p;
      for (int64_t j = 0; j < i; ++j, ++by, to_value += R, to_m += R) {
        lanes(to_value) += by[0] * x;
        lanes(to_m) += by[longest] * x;
      }
    }
}

template <class T>
void forward_chunked(const DplrScanForward& f) {
  const View<T> v(f.in);
  const int64_t K = v.K, V = v.V, KV = K * V, stride = v.H * V, count = (v.steps + f.chunk - 1) / f.chunk, R = row_length(V);
  parallel_for(v.B * v.H, heads_together(v), [&](int64_t first, int64_t last) {
    Chunk<T> c(K);
    std::vector<T> rows(size_t(3 * longest * R));  // v, m, y
    T *value = rows.data(), *m = value + longest * R, *y = m + longest * R;
    auto state = [&](int64_t q, int64_t bh) {
      return q < count ? f.states.data<T>() + ((bh / v.H * count + q) * v.H + bh % v.H) * KV : f.final.data<T>() + bh * KV;
    };
    for (int64_t bh = first; bh < last; ++bh) {
      if (v.initial) std::copy_n(v.initial + bh * KV, KV, state(0, bh));
      else std::fill_n(state(0, bh), KV, T(0));
    }
    for (int64_t q = 0; q < count; ++q) {
      const int64_t begin = q * f.chunk, L = std::min(f.chunk, v.steps - begin);
      for (int64_t bh = first; bh < last; ++bh) {
        const int64_t n = bh / v.H, h = bh % v.H, at = v.head(n, begin, h) * V;
        const T* S = state(q, bh);
        T* S_out = state(q + 1, bh);
        copy_rows(v.v + at, stride, value, R, L, V);
        std::fill(value + L * R, m, T(0));
        for (int64_t t = begin + L; t < std::min(v.steps, begin + 2 * L); ++t) ask_for(v.v + v.head(n, t, h) * V, V);
        c.load(v, n, begin, L, h, begin + L);
        gemm({.m = longest + L, .n = V, .k = K, .a = c.queries.data(), .lda = K, .b = S, .ldb = V, .c = m, .ldc = R});
        substitute(c.pairs.data(), L, R, value, m);
        gemm({.m = L, .n = V, .k = side, .a = &c.pairs[size_t(longest * side)], .lda = side, .b = value, .ldb = R, .c = y,
              .ldc = R, .beta = 1});
        copy_rows(m, R, f.m.data<T>() + ((n * count + q) * v.H + h) * f.chunk * V, V, L, V);
        copy_rows(y, R, f.y.data<T>() + at, stride, L, V);
        for (int64_t i = 0; i < K; ++i) scale_row(S + i * V, c.whole[size_t(i)], V, S_out + i * V);
        gemm({.m = K, .n = V, .k = side, .a = c.keys.data(), .lda = side, .b = value, .ldb = R, .c = S_out, .ldc = V,
              .beta = 1});
      }
    }
  });
}

// The corners off the diagonal of each square of 2s lanes in rows r and r+s change places.
template <class T, size_t s, size_t... I>
void swap_corners(Lanes<T>& low, Lanes<T>& high, std::index_sequence<I...>) {
  const Lanes<T> a = low, b = high;
  low = __builtin_shufflevector(a, b, (I & s ? width + I - s : I)...);
  high = __builtin_shufflevector(a, b, (I & s ? width + I : I + s)...);
}
template <class T, size_t s>
void swap_corners(Lanes<T>* row) {
  for (size_t r = 0; r < width; ++r)
    if (!(r & s)) swap_corners<T, s>(row[r], row[r + s], std::make_index_sequence<width>());
}

// to [columns,rows] = the transpose of from [rows,columns]. A small product with a transposed right side takes OpenBLAS
// twice as long as one without.
template <class T>
void transpose(const T* from, int64_t rows, int64_t columns, T* to) {
  for (int64_t i = 0; i < rows; i += width)
    for (int64_t j = 0; j < columns; j += width) {
      if (i + width > rows || j + width > columns) {
        for (int64_t r = i; r < std::min(rows, i + width); ++r)
          for (int64_t c = j; c < std::min(columns, j + width); ++c) to[c * rows + r] = from[r * columns + c];
        continue;
      }
      Lanes<T> row[width];
      for (int64_t r = 0; r < width; ++r) row[r] = lanes(from + (i + r) * columns + j);
      swap_corners<T, 8>(row);
      swap_corners<T, 4>(row);
      swap_corners<T, 2>(row);
      swap_corners<T, 1>(row);
      for (int64_t r = 0; r < width; ++r) lanes(to + (j + r) * rows + i) = row[r];
    }
}

// What the products' gradients mean for the inputs of one chunk, `width` channels at a time.
template <class T>
struct Spread {
  using Rows = Lanes<T>[longest + 1];
  Rows r, a, k, b, decay, d_r, d_a, d_w, d_k, d_b;

  // d_queries d_keys [side,K], d_pairs [side,side], as Chunk orders them; kept [K]: dlog_w from state to state.
  void run(const View<T>& v, const Chunk<T>& c, int64_t n, int64_t begin, int64_t h, const T* d_queries, const T* d_keys,
           const T* d_pairs, const T* kept, const DplrScanBackward& g) {
    const int64_t L = c.L, K = c.K, stride = v.H * K;
    for (int64_t from = 0; from < K; from += width) {
      const int64_t columns = std::min(width, K - from), at = v.head(n, begin, h) * K + from;
      load(v.r + at, stride, r, L, columns);
      load(v.k + at, stride, k, L, columns);
      load(v.b + at, stride, b, L, columns);
      for (int64_t i = 0; i <= L; ++i) load(c.a[size_t(i)] + from, 0, &a[i], 1, columns);
      load(c.decay.data() + from, K, decay, L, columns);
      load(d_queries + from, K, d_a, L, columns);
      load(d_queries + longest * K + from, K, d_r, L, columns);
      load(d_keys + from, K, d_k, L, columns);
      load(d_keys + longest * K + from, K, d_b, L, columns);
      load(kept + from, 0, d_w, L, columns);
      to_queries(L, d_pairs);
      to_keys(L, d_pairs);
      for (int64_t i = 0; i < L; ++i)
        if (c.a[size_t(i)] == c.zeros.data()) d_a[i] = Lanes<T>{};
      store(d_r, g.d_r.data<T>() + at, stride, L, columns);
      store(d_a, g.d_a.data<T>() + at, stride, L, columns);
      store(d_k, g.d_k.data<T>() + at, stride, L, columns);
      store(d_b, g.d_b.data<T>() + at, stride, L, columns);
      store(d_w, g.d_log_w.data<T>() + at, stride, L, columns);
    }
  }

 private:
  static void load(const T* from, int64_t stride, Lanes<T>* to, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i)
      if (columns == width) to[i] = lanes(from + i * stride);
      else
        for (int64_t l = 0; l < width; ++l) to[i][l] = l < columns ? from[i * stride + l] : T(0);
  }
  static void store(const Lanes<T>* from, T* to, int64_t stride, int64_t rows, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i)
      if (columns == width) lanes(to + i * stride) = from[i];
      else
        for (int64_t l = 0; l < columns; ++l) to[i * stride + l] = from[i][l];
  }

  struct Four {  // d of the pairs of r_i and of a_{i+1} with k_j and b_j
    T rk, rb, ak = 0, ab = 0;
    Four(const T* d_pairs, int64_t L, int64_t i, int64_t j)
        : rk(d_pairs[(longest + i) * side + j]), rb(d_pairs[(longest + i) * side + longest + j]) {
      if (i + 1 == L) return;
      ak = d_pairs[(i + 1) * side + j];
      ab = d_pairs[(i + 1) * side + longest + j];
    }
  };

  // d_r and d_a, each from the farthest source to the nearest; the sum so far is what crosses the next token.
  void to_queries(int64_t L, const T* d_pairs) {
    Rows key_k, key_b;  // as token i sees them
    Lanes<T> gain = Lanes<T>{} + T(1);
    d_a[L] = Lanes<T>{};
    for (int64_t i = 0; i < L; ++i) {
      const Lanes<T> by = decay[i], ri = r[i], next = a[i + 1];
      gain *= by;
      Lanes<T> sum_r = gain * d_r[i], sum_a = gain * d_a[i + 1];
      d_w[0] += ri * sum_r + next * sum_a;
      for (int64_t j = 0; j < i; ++j) {
        const Four d(d_pairs, L, i, j);
        const Lanes<T> kj = key_k[j] * by, bj = key_b[j] * by;
        key_k[j] = kj;
        key_b[j] = bj;
        sum_r += d.rk * kj + d.rb * bj;
        sum_a += d.ak * kj + d.ab * bj;
        d_w[j + 1] += ri * sum_r + next * sum_a;
      }
      const Four d(d_pairs, L, i, i);
      key_k[i] = k[i];
      key_b[i] = b[i];
      d_r[i] = sum_r + d.rk * k[i] + d.rb * b[i];
      d_a[i + 1] = sum_a + d.ak * k[i] + d.ab * b[i];
    }
    Lanes<T> sum = {};  // keys to the state after the chunk
    for (int64_t j = 0; j + 1 < L; ++j) {
      sum += key_k[j] * d_k[j] + key_b[j] * d_b[j];
      d_w[j + 1] += sum;
    }
  }

  // d_k and d_b, back from the state after the chunk: what token i sends joins, then all decays to token i-1.
  void to_keys(int64_t L, const T* d_pairs) {
    for (int64_t i = L - 1; i >= 0; --i) {
      const Lanes<T> by = decay[i], ri = r[i], next = a[i + 1];
      for (int64_t j = 0; j < i; ++j) {
        const Four d(d_pairs, L, i, j);
        d_k[j] = by * (d_k[j] + d.rk * ri + d.ak * next);
        d_b[j] = by * (d_b[j] + d.rb * ri + d.ab * next);
      }
      const Four d(d_pairs, L, i, i);
      d_k[i] += d.rk * ri + d.ak * next;
      d_b[i] += d.rb * ri + d.ab * next;
    }
  }
};

template <class T>
void backward_chunked(const DplrScanBackward& g) {
  const View<T> v(g.in);
  const int64_t K = v.K, V = v.V, KV = K * V, stride = v.H * V, count = (v.steps + g.chunk - 1) / g.chunk, R = row_length(V);
  const T *d_y = g.d_y ? g.d_y.data<T>() : nullptr, *d_final = g.d_final ? g.d_final.data<T>() : nullptr;
  parallel_for(v.B * v.H, heads_together(v), [&](int64_t first, int64_t last) {
    Chunk<T> c(K);
    Spread<T> spread;
    std::vector<T> rows(size_t(side * R)), d_rows(size_t(3 * longest * R));  // v, m; d of v, m, y
    T *value = rows.data(), *m = value + longest * R;
    T *d_value = d_rows.data(), *d_m = d_value + longest * R, *d_out = d_m + longest * R;
    std::vector<T> d_queries(size_t(side * K)), d_keys(d_queries), d_pairs(size_t(side * side)), kept(static_cast<size_t>(K));
    std::vector<T> all(size_t((last - first) * KV), T(0)), turned(static_cast<size_t>(KV));  // d loss / d state of each head
    if (d_final) std::copy(d_final + first * KV, d_final + last * KV, all.begin());
    for (int64_t q = count - 1; q >= 0; --q) {
      const int64_t begin = q * g.chunk, L = std::min(g.chunk, v.steps - begin), next = begin - g.chunk;
      for (int64_t bh = first; bh < last; ++bh) {
        const int64_t n = bh / v.H, h = bh % v.H, at = v.head(n, begin, h) * V, slot = (n * count + q) * v.H + h;
        T* Z = &all[size_t((bh - first) * KV)];
        const T* S = g.states.data<T>() + slot * KV;
        copy_rows(v.v + at, stride, value, R, L, V);
        copy_rows(g.m.data<T>() + slot * g.chunk * V, V, m, R, L, V);
        if (d_y) copy_rows(d_y + at, stride, d_out, R, L, V);
        for (T* half : {value, m}) std::fill(half + L * R, half + longest * R, T(0));
        if (next >= 0) ask_for(S - v.H * KV, KV);
        for (int64_t t = next; t >= 0 && t < begin; ++t)
          for (const T* p : {v.v, d_y ? d_y : v.v}) ask_for(p + v.head(n, t, h) * V, V);
        c.load(v, n, begin, L, h, next);

        // To v and m.
        gemm({.transpose_a = true, .m = side, .n = V, .k = K, .a = c.keys.data(), .lda = side, .b = Z, .ldb = V,
              .c = d_value, .ldc = R});
        gemm({.transpose_a = true, .m = side, .n = V, .k = L, .a = &c.pairs[size_t(longest * side)], .lda = side, .b = d_out,
              .ldb = R, .c = d_value, .ldc = R, .beta = 1});
        substitute_back(c.pairs.data(), L, R, d_value, d_m);
        copy_rows(d_value, R, g.d_v.data<T>() + at, stride, L, V);

        gemm({.transpose_b = true, .m = longest + L, .n = side, .k = V, .a = d_m, .lda = R, .b = value, .ldb = R,
              .c = d_pairs.data(), .ldc = side});
        transpose(S, K, V, turned.data());
        gemm({.m = longest + L, .n = K, .k = V, .a = d_m, .lda = R, .b = turned.data(), .ldb = K, .c = d_queries.data(),
              .ldc = K});
        transpose(Z, K, V, turned.data());
        gemm({.m = side, .n = K, .k = V, .a = value, .lda = R, .b = turned.data(), .ldb = K, .c = d_keys.data(), .ldc = K});
        for (int64_t i = 0; i < K; ++i) {
          const T *s = S + i * V, w = c.whole[size_t(i)];
          T* z = Z + i * V;
          kept[size_t(i)] = w * lane_sum<T>(V, [=](int64_t p) { return s[p] * z[p]; });
          scale_row(z, w, V, z);
        }
        spread.run(v, c, n, begin, h, d_queries.data(), d_keys.data(), d_pairs.data(), kept.data(), g);

        gemm({.transpose_a = true, .m = K, .n = V, .k = longest + L, .a = c.queries.data(), .lda = K, .b = d_m, .ldb = R,
              .c = Z, .ldc = V, .beta = 1});
      }
    }
    if (g.d_initial) std::copy(all.begin(), all.end(), g.d_initial.data<T>() + first * KV);
  });
}

void forward(const DplrScanForward& f) {
  visit<float, double>("dplr_scan", f.in.r.dtype(), [&]<class T>() { f.chunk ? forward_chunked<T>(f) : forward_recurrent<T>(f); });
}
void backward(const DplrScanBackward& g) {
  visit<float, double>("dplr_scan", g.in.r.dtype(), [&]<class T>() { g.chunk ? backward_chunked<T>(g) : backward_recurrent<T>(g); });
}

const Implement f{dplr_scan_forward, DeviceKind::cpu, forward};
const Implement b{dplr_scan_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
