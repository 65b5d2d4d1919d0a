// gla_scan on the CPU: first the recurrence, the definition; then the chunked form that is used.
#include "tensor/ops/gla_scan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
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
  const T *q, *k, *v, *log_a, *initial;
  PackingView packing;
  int64_t B, steps, H, K, V;
  T scale;

  explicit View(const GlaScanInputs& in)
      : q(in.q.data<T>()), k(in.k.data<T>()), v(in.v.data<T>()), log_a(in.log_a.data<T>()),
        initial(in.initial ? in.initial.data<T>() : nullptr), packing(in.packing, in.v.size(1)), B(in.v.size(0)),
        steps(in.v.size(1)), H(in.v.size(2)), K(in.k.size(3)), V(in.v.size(3)), scale(T(in.scale)) {}

  int64_t head(int64_t n, int64_t t, int64_t h) const { return (n * steps + t) * H + h; }  // (batch, t, head)
};

// ---- the recurrence ----

// One step of the state, in place or from `before`.
template <class T>
void step(const View<T>& v, int64_t n, int64_t t, int64_t at, const T* before, T* after) {
  const bool resets = v.packing.resets(n, t);
  const T *k = v.k + at * v.K, *log_a = v.log_a + at * v.K, *x = v.v + at * v.V;
  for (int64_t i = 0; i < v.K; ++i) {
    const T decay = resets ? T(0) : std::exp(log_a[i]);
    for (int64_t p = 0; p < v.V; ++p) after[i * v.V + p] = decay * before[i * v.V + p] + k[i] * x[p];
  }
}

template <class T>
void forward_recurrent(const GlaScanForward& a) {
  const View<T> v(a.in);
  T *y = a.y.data<T>(), *final = a.final.data<T>();
  parallel_for(v.B * v.H, 1, [&](int64_t first, int64_t last) {
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t n = bh / v.H, h = bh % v.H, KV = v.K * v.V;
      T* S = final + bh * KV;  // runs in place
      for (int64_t i = 0; i < KV; ++i) S[i] = v.initial ? v.initial[bh * KV + i] : T(0);
      for (int64_t t = 0; t < v.steps; ++t) {
        const int64_t at = v.head(n, t, h);
        step(v, n, t, at, S, S);
        T* out = y + at * v.V;
        std::fill(out, out + v.V, T(0));
        for (int64_t i = 0; i < v.K; ++i) {
          const T q = v.scale * v.q[at * v.K + i];
          for (int64_t p = 0; p < v.V; ++p) out[p] += q * S[i * v.V + p];
        }
      }
    }
  });
}

template <class T>
void backward_recurrent(const GlaScanBackward& a) {
  const View<T> v(a.in);
  const int64_t KV = v.K * v.V;
  const T *d_y = a.d_y ? a.d_y.data<T>() : nullptr, *d_final = a.d_final ? a.d_final.data<T>() : nullptr;
  parallel_for(v.B * v.H, 1, [&](int64_t first, int64_t last) {
    std::vector<T> S(size_t((v.steps + 1) * KV)), Z(static_cast<size_t>(KV));  // every state; d loss / d state
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t n = bh / v.H, h = bh % v.H;
      for (int64_t i = 0; i < KV; ++i) S[size_t(i)] = v.initial ? v.initial[bh * KV + i] : T(0);
      for (int64_t t = 0; t < v.steps; ++t)
        step(v, n, t, v.head(n, t, h), &S[size_t(t * KV)], &S[size_t((t + 1) * KV)]);
      for (int64_t i = 0; i < KV; ++i) Z[size_t(i)] = d_final ? d_final[bh * KV + i] : T(0);
      for (int64_t t = v.steps - 1; t >= 0; --t) {
        const int64_t at = v.head(n, t, h);
        const T *before = &S[size_t(t * KV)], *after = &S[size_t((t + 1) * KV)], *x = v.v + at * v.V;
        T* d_v = a.d_v.data<T>() + at * v.V;
        std::fill(d_v, d_v + v.V, T(0));
        for (int64_t i = 0; i < v.K; ++i) {
          const int64_t c = at * v.K + i;
          const T q = v.scale * v.q[c], k = v.k[c], decay = v.packing.resets(n, t) ? T(0) : std::exp(v.log_a[c]);
          T dq = 0, dk = 0, d_log_a = 0;
          for (int64_t p = 0; p < v.V; ++p) {
            const T dy = d_y ? d_y[at * v.V + p] : T(0);
            T& z = Z[size_t(i * v.V + p)];
            z += q * dy;
            dq += after[i * v.V + p] * dy;
            dk += z * x[p];
            d_v[p] += z * k;
            d_log_a += z * decay * before[i * v.V + p];
            z *= decay;
          }
          a.d_q.data<T>()[c] = v.scale * dq;
          a.d_k.data<T>()[c] = dk;
          a.d_log_a.data<T>()[c] = d_log_a;
        }
      }
      if (a.d_initial) std::copy(Z.begin(), Z.end(), a.d_initial.data<T>() + bh * KV);
    }
  });
}

// ---- the chunked form ----

constexpr int64_t block = lane_count;  // tokens inside which decays are running products; lanes of the inner loops

constexpr int64_t padded(int64_t n) { return (n + block - 1) / block * block; }

struct Chunks {  // where the chunks of a scan lie
  int64_t size, count, H, KV, steps;
  template <class T>
  Chunks(const View<T>& v, int64_t chunk)
      : size(chunk), count((v.steps + chunk - 1) / chunk), H(v.H), KV(v.K * v.V), steps(v.steps) {}
  int64_t length(int64_t c) const { return std::min(size, steps - c * size); }
  int64_t at(int64_t n, int64_t c, int64_t h) const { return (n * count + c) * H + h; }  // times KV: its state
};

// Each chunk's slot holds what it adds to the state; it gets the state before the chunk (backwards: after it). A state
// runs from `first` (absent: 0) past all chunks, times `whole` [chunk,K] at each, to `last` (absent: dropped).
template <class T>
void pass_along(const View<T>& v, const Chunks& chunks, bool backwards, const T* whole, const T* first, T* slots, T* last) {
  parallel_for(v.B * v.H, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> S(size_t(chunks.KV));
    for (int64_t bh = begin; bh < end; ++bh) {
      for (int64_t i = 0; i < chunks.KV; ++i) S[size_t(i)] = first ? first[bh * chunks.KV + i] : T(0);
      for (int64_t done = 0; done < chunks.count; ++done) {
        const int64_t at = chunks.at(bh / v.H, backwards ? chunks.count - 1 - done : done, bh % v.H);
        for (int64_t i = 0; i < v.K; ++i) {
          T *state = &S[size_t(i * v.V)], *slot = slots + at * chunks.KV + i * v.V;
          const T w = whole[at * v.K + i];
          for (int64_t p = 0; p < v.V; ++p) {
            const T added = slot[p], now = state[p];
            slot[p] = now;
            state[p] = w * now + added;
          }
        }
      }
      if (last) std::copy(S.begin(), S.end(), last + bh * chunks.KV);
    }
  });
}

// f(begin, mid, end) for each boundary of the tree over L tokens: pairs of [mid,end) with [begin,mid).
template <class F>
void for_each_boundary(int64_t L, F&& f) {
  for (int64_t half = block; half < L; half *= 2)
    for (int64_t begin = 0; begin + half < L; begin += 2 * half) f(begin, begin + half, std::min(begin + 2 * half, L));
}

template <class T>
void scaled(const T* from, int64_t n, T by, T* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = by * from[i];
}

// One chunk of one head: its rows beside each other, padded with zeros to whole blocks in both directions.
template <class T>
struct Chunk {
  int64_t width, side;          // of a [C,K] and of a [C,C] buffer's row
  int64_t L = 0;
  std::vector<T> q, k, a;       // [C,K] q times scale; a = exp(log_a), 0 at a document start
  std::vector<T> since, until;  // [C,K] products of a inside a block: from its begin up to i; behind j up to its end
  std::vector<double> sum;      // [blocks,K] of log_a; -inf where a document starts inside
  std::vector<T> gap;           // [K] the decay over whole blocks in between
  std::vector<T> factor, x;     // [C,K] decays towards a boundary, and q or k times them
  std::vector<T> A;             // [C,C]

  Chunk(const View<T>& v, int64_t C)
      : width(padded(v.K)), side(padded(C)), q(size_t(side * width)), k(q), a(q), since(q), until(q),
        sum(size_t(side / block * width)), gap(size_t(width)), factor(q), x(q), A(size_t(side * side)) {}

  void load(const View<T>& v, int64_t n, int64_t begin, int64_t length, int64_t h) {
    L = length;
    std::fill(sum.begin(), sum.end(), 0.0);
    for (int64_t i = 0; i < L; ++i) {
      const int64_t at = v.head(n, begin + i, h) * v.K;
      T* decay = &a[size_t(i * width)];
      double* total = &sum[size_t(i / block * width)];
      scaled(v.q + at, v.K, v.scale, &q[size_t(i * width)]);
      std::copy_n(v.k + at, v.K, &k[size_t(i * width)]);
      for (int64_t c = 0; c < v.K; ++c) total[c] += double(v.log_a[at + c]);
      for (int64_t c = 0; c < v.K; ++c) decay[c] = math::exp(v.log_a[at + c]);
      if (!v.packing.resets(n, begin + i)) continue;
      std::fill_n(decay, v.K, T(0));
      std::fill_n(total, v.K, -std::numeric_limits<double>::infinity());
    }
    for (std::vector<T>* z : {&q, &k, &a}) std::fill(z->begin() + L * width, z->end(), T(0));
    for (int64_t row = 0; row < L; row += block) {
      const int64_t end = std::min(row + block, L);
      std::copy_n(&a[size_t(row * width)], width, &since[size_t(row * width)]);
      for (int64_t i = row + 1; i < end; ++i) product(i - 1, i, i, since);
      std::fill_n(&until[size_t((end - 1) * width)], width, T(1));
      for (int64_t j = end - 2; j >= row; --j) product(j + 1, j + 1, j, until);
    }
  }

  // gap = exp of the sum of log_a over the blocks [first,last).
  const T* between(int64_t first, int64_t last) {
    for (int64_t c = 0; c < width; ++c) {
      double s = 0;
      for (int64_t b = first; b < last; ++b) s += sum[size_t(b * width + c)];
      gap[size_t(c)] = math::exp(T(s));
    }
    return gap.data();
  }
  int64_t blocks() const { return padded(L) / block; }

  // Queries [begin,end) towards the boundary before block `to`, keys towards the boundary behind block `to` - 1: factor
  // and x. The ends of the chunk are such boundaries as well.
  void queries(int64_t begin, int64_t end, int64_t to) {
    for (int64_t row = begin; row < end; row += block) decayed(row, end, since, between(to, row / block), q);
  }
  void keys(int64_t begin, int64_t end, int64_t to) {
    for (int64_t row = begin; row < end; row += block) decayed(row, end, until, between(row / block + 1, to), k);
  }

  // A across one boundary, from x; factor and x stay for the backward.
  void pairs_across(int64_t begin, int64_t mid, int64_t end) {
    keys(begin, mid, mid / block);
    queries(mid, end, mid / block);
    gemm({.transpose_b = true, .m = end - mid, .n = mid - begin, .k = width, .a = &x[size_t(mid * width)], .lda = width,
          .b = &x[size_t(begin * width)], .ldb = width, .c = &A[size_t(mid * side + begin)], .ldc = side});
  }

  // A inside one block, channel by channel: W[j] = k_j D_ij, lanes are the j, runs with i.
  void pairs_inside(int64_t row) {
    Lanes<T> M[block] = {};
    for (int64_t c = 0; c < width; ++c) {
      const int64_t at = row * width + c;
      Lanes<T> W = {};
#pragma GCC unroll 16
      for (int64_t i = 0; i < block; ++i) {
        W *= a[size_t(at + i * width)];
        W[i] = k[size_t(at + i * width)];
        M[i] += q[size_t(at + i * width)] * W;
      }
    }
    for (int64_t i = 0; i < block; ++i) lanes(&A[size_t((row + i) * side + row)]) = M[i];
  }

  // What the pairs inside one block send back, from dA [C,C]: adds to dq, dk and d_log_a [C,K]. Lanes are channels.
  void pairs_inside_back(int64_t row, const T* dA, T* dq, T* dk, T* d_log_a) const {
    Lanes<T> W[block][block];  // [i][j]
    for (int64_t c = 0; c < width; c += block) {
      for (int64_t i = 0; i < block; ++i) {
        const int64_t at = (row + i) * width + c;
        const T* d = dA + (row + i) * side + row;
        const Lanes<T> decay = lanes(&a[size_t(at)]);
        Lanes<T> sum = lanes(dq + at);
        for (int64_t j = 0; j < i; ++j) {
          const Lanes<T> w = W[i - 1][j] * decay;
          W[i][j] = w;
          sum += d[j] * w;
        }
        W[i][i] = lanes(&k[size_t(at)]);
        lanes(dq + at) = sum + d[i] * W[i][i];
      }
      Lanes<T> X[block] = {};  // [j]
      for (int64_t i = block - 1; i >= 0; --i) {
        const int64_t at = (row + i) * width + c;
        const T* d = dA + (row + i) * side + row;
        const Lanes<T> decay = lanes(&a[size_t(at)]), query = lanes(&q[size_t(at)]);
        Lanes<T> sum = lanes(d_log_a + at);
        for (int64_t j = 0; j < i; ++j) {
          const Lanes<T> x = X[j] + d[j] * query;
          sum += x * W[i][j];
          X[j] = x * decay;
        }
        lanes(dk + at) += X[i] + d[i] * query;
        lanes(d_log_a + at) = sum;
      }
    }
  }

  // Rows [begin,end) of d, times factor, are a share of dq or dk; what of it crosses each t goes to d_log_a.
  void add_queries(int64_t begin, int64_t end, const T* d, T* dq, T* d_log_a) const {
    for (int64_t c = 0; c < width; c += block) {
      Lanes<T> run = {};  // sum_{i>=t} q_i * dq_i
      for (int64_t at = (end - 1) * width + c; at >= begin * width; at -= width) {
        const Lanes<T> share = lanes(d + at) * lanes(&factor[size_t(at)]);
        lanes(dq + at) += share;
        run += lanes(&q[size_t(at)]) * share;
        lanes(d_log_a + at) += run;
      }
    }
  }
  void add_keys(int64_t begin, int64_t end, const T* d, T* dk, T* d_log_a) const {
    for (int64_t c = 0; c < width; c += block) {
      Lanes<T> run = {};  // sum_{j<t} k_j * dk_j
      for (int64_t at = begin * width + c; at < end * width; at += width) {
        const Lanes<T> share = lanes(d + at) * lanes(&factor[size_t(at)]);
        lanes(dk + at) += share;
        lanes(d_log_a + at) += run;
        run += lanes(&k[size_t(at)]) * share;
      }
    }
  }

 private:
  // A decay below this counts as 0, so that the product of two is no denormal: those make the matrix products several
  // times slower where decays are strong.
  static T above_tiny(T decay) {
    constexpr T tiny = std::is_same_v<T, float> ? T(0x1p-63) : T(0x1p-511);
    return decay < tiny ? T(0) : decay;
  }
  void product(int64_t from, int64_t with, int64_t to, std::vector<T>& of) {  // row `to` = row `from` times a's row `with`
    const T *f = &of[size_t(from * width)], *decay = &a[size_t(with * width)];
    T* p = &of[size_t(to * width)];
    for (int64_t c = 0; c < width; ++c) p[c] = above_tiny(f[c] * decay[c]);
  }
  void decayed(int64_t row, int64_t end, const std::vector<T>& inside, const T* outside, const std::vector<T>& by) {
    for (int64_t at = row * width; at < std::min(row + block, end) * width; at += width) {
      const T *in = &inside[size_t(at)], *z = &by[size_t(at)];
      T *f = &factor[size_t(at)], *to = &x[size_t(at)];
      for (int64_t c = 0; c < width; ++c) f[c] = above_tiny(in[c] * outside[c]);
      for (int64_t c = 0; c < width; ++c) to[c] = z[c] * f[c];
    }
  }
};

// f(chunk, its number, batch, first token, head) for each chunk of each head, loaded.
template <class T, class F>
void for_each_chunk(const View<T>& v, const Chunks& chunks, F&& f) {
  parallel_for(v.B * chunks.count, 1, [&](int64_t first, int64_t last) {
    Chunk<T> chunk(v, chunks.size);
    for (int64_t nc = first; nc < last; ++nc)
      for (int64_t h = 0; h < v.H; ++h) {
        const int64_t n = nc / chunks.count, c = nc % chunks.count, begin = c * chunks.size;
        chunk.load(v, n, begin, chunks.length(c), h);
        f(chunk, chunks.at(n, c, h), n, begin, h);
      }
  });
}

template <class T>
void forward_chunked(const GlaScanForward& a) {
  const View<T> v(a.in);
  const Chunks chunks(v, a.chunk);
  const int64_t K = v.K, V = v.V, v_row = v.H * V;
  T *states = a.states.data<T>(), *y = a.y.data<T>();
  std::vector<T> whole(size_t(v.B * chunks.count * v.H * K));  // D_L- of each chunk, head and channel

  // 1. What each chunk adds to the state: sum_j (k_j * D_Lj) v_j^T.
  for_each_chunk(v, chunks, [&](Chunk<T>& chunk, int64_t number, int64_t n, int64_t begin, int64_t h) {
    std::copy_n(chunk.between(0, chunk.blocks()), K, &whole[size_t(number * K)]);
    chunk.keys(0, chunk.L, chunk.blocks());
    gemm({.transpose_a = true, .m = K, .n = V, .k = chunk.L, .a = chunk.x.data(), .lda = chunk.width,
          .b = v.v + v.head(n, begin, h) * V, .ldb = v_row, .c = states + number * chunks.KV, .ldc = V});
  });

  // 2. Pass the state along.
  pass_along(v, chunks, false, whole.data(), v.initial, states, a.final.data<T>());

  // 3. Outputs: pairs inside the chunk, and the state before it.
  for_each_chunk(v, chunks, [&](Chunk<T>& chunk, int64_t number, int64_t n, int64_t begin, int64_t h) {
    const int64_t at = v.head(n, begin, h) * V, L = chunk.L;
    for (int64_t row = 0; row < L; row += block) chunk.pairs_inside(row);
    for_each_boundary(L, [&](int64_t b, int64_t mid, int64_t end) { chunk.pairs_across(b, mid, end); });
    gemm({.m = L, .n = V, .k = L, .a = chunk.A.data(), .lda = chunk.side, .b = v.v + at, .ldb = v_row, .c = y + at,
          .ldc = v_row});
    chunk.queries(0, L, 0);
    gemm({.m = L, .n = V, .k = K, .a = chunk.x.data(), .lda = chunk.width, .b = states + number * chunks.KV, .ldb = V,
          .c = y + at, .ldc = v_row, .beta = 1});
  });
}

template <class T>
void backward_chunked(const GlaScanBackward& a) {
  const View<T> v(a.in);
  const Chunks chunks(v, a.chunk);
  const int64_t K = v.K, V = v.V, v_row = v.H * V;
  const T *states = a.states.data<T>(), *d_final = a.d_final ? a.d_final.data<T>() : nullptr;
  const Tensor no_d_y = a.d_y ? Tensor{} : zeros_like(a.in.v);
  const T* d_y = a.d_y ? a.d_y.data<T>() : no_d_y.data<T>();
  const Tensor d_states = empty_like(a.states);  // d loss / d state after each chunk
  T *Z = d_states.data<T>(), *d_q = a.d_q.data<T>(), *d_k = a.d_k.data<T>(), *d_log = a.d_log_a.data<T>();
  std::vector<T> whole(size_t(v.B * chunks.count * v.H * K));

  // 1. What each chunk's outputs send to the state before it: sum_i (q_i * D_i-) dy_i^T.
  for_each_chunk(v, chunks, [&](Chunk<T>& chunk, int64_t number, int64_t n, int64_t begin, int64_t h) {
    std::copy_n(chunk.between(0, chunk.blocks()), K, &whole[size_t(number * K)]);
    chunk.queries(0, chunk.L, 0);
    gemm({.transpose_a = true, .m = K, .n = V, .k = chunk.L, .a = chunk.x.data(), .lda = chunk.width,
          .b = d_y + v.head(n, begin, h) * V, .ldb = v_row, .c = Z + number * chunks.KV, .ldc = V});
  });

  // 2. Pass d state back.
  pass_along(v, chunks, true, whole.data(), d_final, Z, a.d_initial ? a.d_initial.data<T>() : nullptr);

  // 3. Everything else, chunk by chunk.
  for_each_chunk(v, chunks, [&](Chunk<T>& chunk, int64_t number, int64_t n, int64_t begin, int64_t h) {
    const int64_t width = chunk.width, side = chunk.side, L = chunk.L, at = v.head(n, begin, h) * V;
    const T *x = v.v + at, *dy = d_y + at, *S = states + number * chunks.KV, *dS = Z + number * chunks.KV;
    T* dv = a.d_v.data<T>() + at;
    std::vector<T> dA(size_t(side * side)), dq(size_t(side * width)), dk(dq), d_log_a(dq), part(dq);
    gemm({.transpose_b = true, .m = L, .n = L, .k = V, .a = dy, .lda = v_row, .b = x, .ldb = v_row, .c = dA.data(), .ldc = side});

    // State to state.
    for (int64_t s = 0; s < K; ++s)
      d_log_a[size_t(s)] = whole[size_t(number * K + s)] *
                           lane_sum<T>(V, [&](int64_t p) { return S[s * V + p] * dS[s * V + p]; });
    for (int64_t i = 1; i < L; ++i) std::copy_n(d_log_a.begin(), K, d_log_a.begin() + i * width);

    // Pairs inside the chunk.
    for (int64_t row = 0; row < L; row += block) {
      chunk.pairs_inside(row);
      chunk.pairs_inside_back(row, dA.data(), dq.data(), dk.data(), d_log_a.data());
    }
    for_each_boundary(L, [&](int64_t b, int64_t mid, int64_t end) {
      chunk.pairs_across(b, mid, end);
      const T *d = &dA[size_t(mid * side + b)], *queries = &chunk.x[size_t(mid * width)], *keys = &chunk.x[size_t(b * width)];
      gemm({.m = end - mid, .n = width, .k = mid - b, .a = d, .lda = side, .b = keys, .ldb = width,
            .c = &part[size_t(mid * width)], .ldc = width});
      gemm({.transpose_a = true, .m = mid - b, .n = width, .k = end - mid, .a = d, .lda = side, .b = queries, .ldb = width,
            .c = &part[size_t(b * width)], .ldc = width});
      chunk.add_queries(mid, end, part.data(), dq.data(), d_log_a.data());
      chunk.add_keys(b, mid, part.data(), dk.data(), d_log_a.data());
    });
    gemm({.transpose_a = true, .m = L, .n = V, .k = L, .a = chunk.A.data(), .lda = side, .b = dy, .ldb = v_row, .c = dv,
          .ldc = v_row});

    // State before the chunk to outputs; inputs to the state after it.
    chunk.queries(0, L, 0);
    gemm({.transpose_b = true, .m = L, .n = K, .k = V, .a = dy, .lda = v_row, .b = S, .ldb = V, .c = part.data(), .ldc = width});
    chunk.add_queries(0, L, part.data(), dq.data(), d_log_a.data());
    chunk.keys(0, L, chunk.blocks());
    gemm({.transpose_b = true, .m = L, .n = K, .k = V, .a = x, .lda = v_row, .b = dS, .ldb = V, .c = part.data(), .ldc = width});
    chunk.add_keys(0, L, part.data(), dk.data(), d_log_a.data());
    gemm({.m = L, .n = V, .k = K, .a = chunk.x.data(), .lda = width, .b = dS, .ldb = V, .c = dv, .ldc = v_row, .beta = 1});

    for (int64_t i = 0; i < L; ++i) {
      const int64_t to = v.head(n, begin + i, h) * K, row = i * width;
      scaled(&dq[size_t(row)], K, v.scale, d_q + to);
      std::copy_n(&dk[size_t(row)], K, d_k + to);
      std::copy_n(&d_log_a[size_t(row)], K, d_log + to);
    }
  });
}

void forward(const GlaScanForward& a) {
  visit<float, double>("gla_scan", a.in.v.dtype(), [&]<class T>() {
    a.chunk ? forward_chunked<T>(a) : forward_recurrent<T>(a);
  });
}
void backward(const GlaScanBackward& a) {
  visit<float, double>("gla_scan", a.in.v.dtype(), [&]<class T>() {
    a.chunk ? backward_chunked<T>(a) : backward_recurrent<T>(a);
  });
}

const Implement f{gla_scan_forward, DeviceKind::cpu, forward};
const Implement b{gla_scan_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
