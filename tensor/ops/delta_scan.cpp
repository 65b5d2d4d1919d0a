// delta_scan on the CPU: first the recurrence, the definition; then the chunked form that is used.
#include "tensor/ops/delta_scan.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/gemm.h"
#include "tensor/ops/chunk_decay.h"
#include "tensor/sums.h"

namespace taper::kernels {
namespace {

// The inputs as pointers, with their sizes.
template <class T>
struct View {
  const T *q, *k, *v, *log_a, *beta, *initial;
  T scale;
  PackingView packing;
  int64_t B, steps, H, K, V, KV;

  explicit View(const DeltaScanInputs& in)
      : q(in.q.data<T>()), k(in.k.data<T>()), v(in.v.data<T>()), log_a(in.log_a.data<T>()), beta(in.beta.data<T>()),
        initial(in.initial ? in.initial.data<T>() : nullptr), scale(T(in.scale)), packing(in.packing, in.q.size(1)),
        B(in.q.size(0)), steps(in.q.size(1)), H(in.q.size(2)), K(in.q.size(3)), V(in.v.size(3)), KV(K * V) {}

  int64_t head(int64_t n, int64_t t, int64_t h) const { return (n * steps + t) * H + h; }
};

// ---- the recurrence ----

// S' = decay S, e = v - S'^T k, after = S' + beta k e^T. before and after may be the same.
template <class T>
void step(const View<T>& v, int64_t n, int64_t t, int64_t h, const T* before, T* after, T* e) {
  const int64_t at = v.head(n, t, h);
  const T decay = v.packing.resets(n, t) ? T(0) : std::exp(v.log_a[at]), beta = v.beta[at], *k = v.k + at * v.K;
  std::copy(v.v + at * v.V, v.v + (at + 1) * v.V, e);
  for (int64_t i = 0; i < v.K; ++i)
    for (int64_t p = 0; p < v.V; ++p) {
      after[i * v.V + p] = decay * before[i * v.V + p];
      e[p] -= k[i] * after[i * v.V + p];
    }
  for (int64_t i = 0; i < v.K; ++i)
    for (int64_t p = 0; p < v.V; ++p) after[i * v.V + p] += beta * k[i] * e[p];
}

template <class T>
void forward_recurrent(const DeltaScanForward& a) {
  const View<T> v(a.in);
  T *y = a.y.data<T>(), *final = a.final.data<T>();
  parallel_for(v.B * v.H, 1, [&](int64_t first, int64_t last) {
    std::vector<T> e(static_cast<size_t>(v.V));
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t n = bh / v.H, h = bh % v.H;
      T* S = final + bh * v.KV;  // runs in place
      for (int64_t i = 0; i < v.KV; ++i) S[i] = v.initial ? v.initial[bh * v.KV + i] : T(0);
      for (int64_t t = 0; t < v.steps; ++t) {
        step(v, n, t, h, S, S, e.data());
        const T* q = v.q + v.head(n, t, h) * v.K;
        T* out = y + v.head(n, t, h) * v.V;
        std::fill(out, out + v.V, T(0));
        for (int64_t i = 0; i < v.K; ++i)
          for (int64_t p = 0; p < v.V; ++p) out[p] += v.scale * q[i] * S[i * v.V + p];
      }
    }
  });
}

template <class T>
void backward_recurrent(const DeltaScanBackward& a) {
  const View<T> v(a.in);
  const int64_t V = v.V, KV = v.KV;
  const T *d_y = a.d_y ? a.d_y.data<T>() : nullptr, *d_final = a.d_final ? a.d_final.data<T>() : nullptr;
  parallel_for(v.B * v.H, 1, [&](int64_t first, int64_t last) {
    std::vector<T> S(size_t((v.steps + 1) * KV)), errors(size_t(v.steps * V));  // every state and error
    std::vector<T> Z(static_cast<size_t>(KV)), dy(static_cast<size_t>(V)), w(dy);  // Z: d loss / d state
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t n = bh / v.H, h = bh % v.H;
      for (int64_t i = 0; i < KV; ++i) S[size_t(i)] = v.initial ? v.initial[bh * KV + i] : T(0);
      for (int64_t t = 0; t < v.steps; ++t)
        step(v, n, t, h, &S[size_t(t * KV)], &S[size_t((t + 1) * KV)], &errors[size_t(t * V)]);
      for (int64_t i = 0; i < KV; ++i) Z[size_t(i)] = d_final ? d_final[bh * KV + i] : T(0);
      for (int64_t t = v.steps - 1; t >= 0; --t) {
        const int64_t at = v.head(n, t, h);
        const T decay = v.packing.resets(n, t) ? T(0) : std::exp(v.log_a[at]), beta = v.beta[at];
        const T *q = v.q + at * v.K, *k = v.k + at * v.K, *e = &errors[size_t(t * V)];
        const T *before = &S[size_t(t * KV)], *after = &S[size_t((t + 1) * KV)];
        T *d_q = a.d_q.data<T>() + at * v.K, *d_k = a.d_k.data<T>() + at * v.K, *d_v = a.d_v.data<T>() + at * V;
        for (int64_t p = 0; p < V; ++p) dy[size_t(p)] = d_y ? d_y[at * V + p] : T(0), w[size_t(p)] = 0;
        for (int64_t i = 0; i < v.K; ++i)
          for (int64_t p = 0; p < V; ++p) {
            T& z = Z[size_t(i * V + p)];
            z += v.scale * q[i] * dy[size_t(p)];
            w[size_t(p)] += z * k[i];
          }
        T d_beta = 0, d_decay = 0;
        for (int64_t p = 0; p < V; ++p) {
          d_v[p] = beta * w[size_t(p)];
          d_beta += w[size_t(p)] * e[p];
        }
        for (int64_t i = 0; i < v.K; ++i) {
          T dq = 0, dk = 0;
          for (int64_t p = 0; p < V; ++p) {
            const T s = decay * before[i * V + p];  // S'
            T& z = Z[size_t(i * V + p)];
            dq += after[i * V + p] * dy[size_t(p)];
            dk += z * beta * e[p] - s * d_v[p];
            z -= k[i] * d_v[p];  // d S'
            d_decay += z * s;
            z *= decay;
          }
          d_q[i] = v.scale * dq;
          d_k[i] = dk;
        }
        a.d_log_a.data<T>()[at] = d_decay;
        a.d_beta.data<T>()[at] = d_beta;
      }
      if (a.d_initial) std::copy(Z.begin(), Z.end(), a.d_initial.data<T>() + bh * KV);
    }
  });
}

// ---- the chunked form ----

struct Chunks {  // where the chunks of a scan lie
  int64_t size, count, steps, H, KV;
  template <class T>
  Chunks(const View<T>& v, int64_t chunk)
      : size(chunk), count((v.steps + chunk - 1) / chunk), steps(v.steps), H(v.H), KV(v.KV) {}
  int64_t length(int64_t k) const { return std::min(size, steps - k * size); }
  int64_t at(int64_t n, int64_t k, int64_t h) const { return (n * count + k) * H + h; }
};

// The columns of a state do not meet: passing it along is cut at this many, for the sake of threads.
constexpr int64_t state_columns = 128;

template <class T>
void scaled_rows(const T* from, int64_t stride, int64_t rows, int64_t columns, const T* by, T* to) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t p = 0; p < columns; ++p) to[i * columns + p] = by[i] * from[i * stride + p];
}

// X = (I + A)^-1 for A [L,L], of which the part below the diagonal is read: forward substitution in
// blocks of rows. A product takes off what earlier blocks give, then the block's own rows in turn.
template <class T>
void invert_unit_lower(int64_t L, const T* A, T* X) {
  constexpr int64_t rows = 16;
  std::fill(X, X + L * L, T(0));
  for (int64_t begin = 0; begin < L; begin += rows) {
    const int64_t end = std::min(L, begin + rows);
    if (begin > 0)
      gemm({.m = end - begin, .n = begin, .k = begin,
            .a = A + begin * L, .lda = L, .b = X, .ldb = L, .c = X + begin * L, .ldc = L, .alpha = -1});
    for (int64_t i = begin; i < end; ++i) {
      X[i * L + i] = 1;
      for (int64_t j = begin; j < i; ++j) {
        const T a = A[i * L + j];
        for (int64_t c = 0; c <= j; ++c) X[i * L + c] -= a * X[j * L + c];
      }
    }
  }
}

template <class T>
void forward_chunked(const DeltaScanForward& a) {
  const View<T> v(a.in);
  const Chunks chunks(v, a.chunk);
  const int64_t C = a.chunk, K = v.K, V = v.V, KV = v.KV, k_row = v.H * K, v_row = v.H * V;
  const Tensor inverses(a.device(), {v.B * chunks.count * v.H, C, C}, a.in.q.dtype());
  T *states = a.states.data<T>(), *errors = a.errors.data<T>(), *final = a.final.data<T>(), *y = a.y.data<T>();
  T* inverse = inverses.data<T>();

  // 1. The inverse of each chunk's I + B diag(beta).
  parallel_for(v.B * chunks.count, 1, [&](int64_t first, int64_t last) {
    ChunkDecay<T> decay(C);
    std::vector<T> M(size_t(C * C)), E(size_t(C * C));
    for (int64_t nk = first; nk < last; ++nk) {
      const int64_t n = nk / chunks.count, c = nk % chunks.count, begin = c * C, L = chunks.length(c);
      for (int64_t h = 0; h < v.H; ++h) {
        const int64_t at = v.head(n, begin, h);
        const T* k = v.k + at * K;
        decay.load(v.packing, v.log_a + at, v.H, n, begin, L);
        decay.matrix(L, E.data());
        gemm({.transpose_b = true, .m = L, .n = L, .k = K,
              .a = k, .lda = k_row, .b = k, .ldb = k_row, .c = M.data(), .ldc = L});
        for (int64_t i = 0; i < L; ++i)
          for (int64_t j = 0; j < i; ++j) M[size_t(i * L + j)] *= E[size_t(i * L + j)] * v.beta[at + j * v.H];
        invert_unit_lower(L, M.data(), inverse + chunks.at(n, c, h) * C * C);
      }
    }
  });

  // 2. Pass the state along, chunk by chunk: what it gets wrong, then what that adds to it.
  const int64_t blocks = (V + state_columns - 1) / state_columns;
  parallel_for(v.B * v.H * blocks, 1, [&](int64_t first, int64_t last) {
    ChunkDecay<T> decay(C);
    std::vector<T> r(size_t(C * state_columns)), weight(static_cast<size_t>(C));
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t bh = unit / blocks, n = bh / v.H, h = bh % v.H, left = unit % blocks * state_columns;
      const int64_t columns = std::min(state_columns, V - left);
      T* S = final + bh * KV + left;
      for (int64_t i = 0; i < K; ++i)
        for (int64_t p = 0; p < columns; ++p) S[i * V + p] = v.initial ? v.initial[bh * KV + left + i * V + p] : T(0);
      for (int64_t c = 0; c < chunks.count; ++c) {
        const int64_t begin = c * C, L = chunks.length(c), at = v.head(n, begin, h);
        const T *k = v.k + at * K, *value = v.v + at * V + left;
        T *slot = states + chunks.at(n, c, h) * KV + left, *e = errors + at * V + left;
        for (int64_t i = 0; i < K; ++i) std::copy(S + i * V, S + i * V + columns, slot + i * V);
        decay.load(v.packing, v.log_a + at, v.H, n, begin, L);
        gemm({.m = L, .n = columns, .k = K, .a = k, .lda = k_row, .b = S, .ldb = V, .c = r.data(), .ldc = columns});
        for (int64_t i = 0; i < L; ++i) {
          weight[size_t(i)] = decay.out[size_t(i)] * v.beta[at + i * v.H];
          for (int64_t p = 0; p < columns; ++p)
            r[size_t(i * columns + p)] = value[i * v_row + p] - decay.in[size_t(i)] * r[size_t(i * columns + p)];
        }
        gemm({.m = L, .n = columns, .k = L,
              .a = inverse + chunks.at(n, c, h) * C * C, .lda = L, .b = r.data(), .ldb = columns, .c = e,
              .ldc = v_row});
        scaled_rows(e, v_row, L, columns, weight.data(), r.data());
        gemm({.transpose_a = true, .m = K, .n = columns, .k = L,
              .a = k, .lda = k_row, .b = r.data(), .ldb = columns, .c = S, .ldc = V, .beta = decay.whole});
      }
    }
  });

  // 3. Outputs: pairs inside the chunk, and the state before it.
  parallel_for(v.B * chunks.count, 1, [&](int64_t first, int64_t last) {
    ChunkDecay<T> decay(C);
    std::vector<T> P(size_t(C * C)), E(size_t(C * C)), seen(size_t(C * K)), weight(static_cast<size_t>(C));
    for (int64_t nk = first; nk < last; ++nk) {
      const int64_t n = nk / chunks.count, c = nk % chunks.count, begin = c * C, L = chunks.length(c);
      for (int64_t h = 0; h < v.H; ++h) {
        const int64_t at = v.head(n, begin, h);
        const T *q = v.q + at * K, *k = v.k + at * K;
        decay.load(v.packing, v.log_a + at, v.H, n, begin, L);
        decay.matrix(L, E.data());
        for (int64_t j = 0; j < L; ++j) weight[size_t(j)] = v.scale * v.beta[at + j * v.H];
        gemm({.transpose_b = true, .m = L, .n = L, .k = K,
              .a = q, .lda = k_row, .b = k, .ldb = k_row, .c = P.data(), .ldc = L});
        for (int64_t i = 0; i < L; ++i)
          for (int64_t j = 0; j < L; ++j) P[size_t(i * L + j)] *= E[size_t(i * L + j)] * weight[size_t(j)];
        gemm({.m = L, .n = V, .k = L,
              .a = P.data(), .lda = L, .b = errors + at * V, .ldb = v_row, .c = y + at * V, .ldc = v_row});
        for (int64_t i = 0; i < L; ++i) weight[size_t(i)] = v.scale * decay.in[size_t(i)];
        scaled_rows(q, k_row, L, K, weight.data(), seen.data());
        gemm({.m = L, .n = V, .k = K,
              .a = seen.data(), .lda = K, .b = states + chunks.at(n, c, h) * KV, .ldb = V, .c = y + at * V,
              .ldc = v_row, .beta = 1});
      }
    }
  });
}

template <class T>
void backward_chunked(const DeltaScanBackward& a) {
  const View<T> v(a.in);
  const Chunks chunks(v, a.chunk);
  const int64_t C = a.chunk, K = v.K, V = v.V, KV = v.KV, k_row = v.H * K, v_row = v.H * V;
  const T *states = a.states.data<T>(), *errors = a.errors.data<T>();
  const T* d_final = a.d_final ? a.d_final.data<T>() : nullptr;
  const Tensor no_d_y = a.d_y ? Tensor{} : zeros_like(a.in.v);
  const T* d_y = a.d_y ? a.d_y.data<T>() : no_d_y.data<T>();
  const Tensor inverses(a.device(), {v.B * chunks.count * v.H, C, C}, a.in.q.dtype());
  const Tensor d_states = empty_like(a.states);  // d loss / d state after each chunk
  T *inverse = inverses.data<T>(), *Z = d_states.data<T>(), *d_v = a.d_v.data<T>();

  // 1. The inverse of each chunk's I + diag(beta) B; what its outputs send to u (kept in d_v) and to the
  // state before it.
  parallel_for(v.B * chunks.count, 1, [&](int64_t first, int64_t last) {
    ChunkDecay<T> decay(C);
    std::vector<T> M(size_t(C * C)), E(size_t(C * C)), seen(size_t(C * K)), weight(static_cast<size_t>(C));
    for (int64_t nk = first; nk < last; ++nk) {
      const int64_t n = nk / chunks.count, c = nk % chunks.count, begin = c * C, L = chunks.length(c);
      for (int64_t h = 0; h < v.H; ++h) {
        const int64_t at = v.head(n, begin, h);
        const T *q = v.q + at * K, *k = v.k + at * K, *dy = d_y + at * V;
        decay.load(v.packing, v.log_a + at, v.H, n, begin, L);
        decay.matrix(L, E.data());
        gemm({.transpose_b = true, .m = L, .n = L, .k = K,
              .a = k, .lda = k_row, .b = k, .ldb = k_row, .c = M.data(), .ldc = L});
        for (int64_t i = 0; i < L; ++i) {
          const T beta = v.beta[at + i * v.H];
          for (int64_t j = 0; j < i; ++j) M[size_t(i * L + j)] *= E[size_t(i * L + j)] * beta;
        }
        invert_unit_lower(L, M.data(), inverse + chunks.at(n, c, h) * C * C);
        gemm({.transpose_b = true, .m = L, .n = L, .k = K,
              .a = q, .lda = k_row, .b = k, .ldb = k_row, .c = M.data(), .ldc = L});
        for (int64_t i = 0; i < L * L; ++i) M[size_t(i)] *= v.scale * E[size_t(i)];
        gemm({.transpose_a = true, .m = L, .n = V, .k = L,
              .a = M.data(), .lda = L, .b = dy, .ldb = v_row, .c = d_v + at * V, .ldc = v_row});
        for (int64_t i = 0; i < L; ++i) weight[size_t(i)] = v.scale * decay.in[size_t(i)];
        scaled_rows(q, k_row, L, K, weight.data(), seen.data());
        gemm({.transpose_a = true, .m = K, .n = V, .k = L,
              .a = seen.data(), .lda = K, .b = dy, .ldb = v_row, .c = Z + chunks.at(n, c, h) * KV, .ldc = V});
      }
    }
  });

  // 2. Pass d state back; on the way d_v turns into w, and each slot into d of the state after the chunk.
  const int64_t blocks = (V + state_columns - 1) / state_columns;
  parallel_for(v.B * v.H * blocks, 1, [&](int64_t first, int64_t last) {
    ChunkDecay<T> decay(C);
    std::vector<T> after(size_t(K * state_columns)), du(size_t(C * state_columns)), weight(static_cast<size_t>(C));
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t bh = unit / blocks, n = bh / v.H, h = bh % v.H, left = unit % blocks * state_columns;
      const int64_t columns = std::min(state_columns, V - left);
      for (int64_t i = 0; i < K; ++i)
        for (int64_t p = 0; p < columns; ++p)
          after[size_t(i * columns + p)] = d_final ? d_final[bh * KV + left + i * V + p] : T(0);
      for (int64_t c = chunks.count - 1; c >= 0; --c) {
        const int64_t begin = c * C, L = chunks.length(c), at = v.head(n, begin, h);
        const T* k = v.k + at * K;
        T *slot = Z + chunks.at(n, c, h) * KV + left, *w = d_v + at * V + left;
        decay.load(v.packing, v.log_a + at, v.H, n, begin, L);
        gemm({.m = L, .n = columns, .k = K,
              .a = k, .lda = k_row, .b = after.data(), .ldb = columns, .c = du.data(), .ldc = columns});
        for (int64_t j = 0; j < L; ++j) {
          weight[size_t(j)] = -decay.in[size_t(j)] * v.beta[at + j * v.H];
          for (int64_t p = 0; p < columns; ++p)
            du[size_t(j * columns + p)] = w[j * v_row + p] + decay.out[size_t(j)] * du[size_t(j * columns + p)];
        }
        gemm({.transpose_a = true, .m = L, .n = columns, .k = L,
              .a = inverse + chunks.at(n, c, h) * C * C, .lda = L, .b = du.data(), .ldb = columns, .c = w,
              .ldc = v_row});
        for (int64_t i = 0; i < K; ++i)
          for (int64_t p = 0; p < columns; ++p) {
            T& z = after[size_t(i * columns + p)];
            const T sent = slot[i * V + p];
            slot[i * V + p] = z;
            z = decay.whole * z + sent;
          }
        scaled_rows(w, v_row, L, columns, weight.data(), du.data());
        gemm({.transpose_a = true, .m = K, .n = columns, .k = L,
              .a = k, .lda = k_row, .b = du.data(), .ldb = columns, .c = after.data(), .ldc = columns, .beta = 1});
      }
      if (a.d_initial)
        for (int64_t i = 0; i < K; ++i)
          std::copy_n(&after[size_t(i * columns)], columns, a.d_initial.data<T>() + bh * KV + left + i * V);
    }
  });

  // 3. Everything else, chunk by chunk.
  parallel_for(v.B * chunks.count, 1, [&](int64_t first, int64_t last) {
    ChunkDecay<T> decay(C);
    std::vector<T> E(size_t(C * C)), QK(size_t(C * C)), KK(size_t(C * C)), dP(size_t(C * C)), dM(size_t(C * C));
    std::vector<T> X(size_t(C * K)), Y(X), W(X), beta(static_cast<size_t>(C)), pairs(beta);
    std::vector<double> d_log_a(static_cast<size_t>(C)), ends(d_log_a), starts(d_log_a);
    for (int64_t nk = first; nk < last; ++nk) {
      const int64_t n = nk / chunks.count, c = nk % chunks.count, begin = c * C, L = chunks.length(c);
      for (int64_t h = 0; h < v.H; ++h) {
        const int64_t at = v.head(n, begin, h);
        const T *q = v.q + at * K, *k = v.k + at * K, *dy = d_y + at * V, *e = errors + at * V;
        const T *S = states + chunks.at(n, c, h) * KV, *dS = Z + chunks.at(n, c, h) * KV;
        T *dq = a.d_q.data<T>() + at * K, *dk = a.d_k.data<T>() + at * K, *l = d_v + at * V;
        decay.load(v.packing, v.log_a + at, v.H, n, begin, L);
        decay.matrix(L, E.data());
        for (int64_t i = 0; i < L; ++i) {
          T* row = l + i * v_row;  // w
          beta[size_t(i)] = v.beta[at + i * v.H];
          a.d_beta.data<T>()[at + i * v.H] = lane_sum<T>(V, [&](int64_t p) { return e[i * v_row + p] * row[p]; });
          for (int64_t p = 0; p < V; ++p) row[p] *= beta[size_t(i)];
          d_log_a[size_t(i)] = 0;
        }

        // Pairs inside the chunk.
        gemm({.transpose_b = true, .m = L, .n = L, .k = K,
              .a = q, .lda = k_row, .b = k, .ldb = k_row, .c = QK.data(), .ldc = L});
        gemm({.transpose_b = true, .m = L, .n = L, .k = K,
              .a = k, .lda = k_row, .b = k, .ldb = k_row, .c = KK.data(), .ldc = L});
        gemm({.transpose_b = true, .m = L, .n = L, .k = V,
              .a = dy, .lda = v_row, .b = e, .ldb = v_row, .c = dP.data(), .ldc = L});
        gemm({.transpose_b = true, .m = L, .n = L, .k = V,
              .a = l, .lda = v_row, .b = e, .ldb = v_row, .c = dM.data(), .ldc = L});
        for (int64_t i = 0; i < L; ++i) {
          T *dp = &dP[size_t(i * L)], *dm = &dM[size_t(i * L)];
          const T *x = &E[size_t(i * L)], *qk = &QK[size_t(i * L)], *kk = &KK[size_t(i * L)];
          for (int64_t j = 0; j < L; ++j) {
            const T u = x[j] * beta[size_t(j)];
            dp[j] *= v.scale * u;
            dm[j] *= j < i ? -u : T(0);
            pairs[size_t(j)] = dp[j] * qk[j] + dm[j] * kk[j];
          }
          double left = 0;  // over j < t
          for (int64_t t = 1; t <= i; ++t) d_log_a[size_t(t)] += left += double(pairs[size_t(t - 1)]);
        }
        for (int64_t i = 0; i < L; ++i)
          for (int64_t j = 0; j < i; ++j) dM[size_t(j * L + i)] = dM[size_t(i * L + j)];
        gemm({.m = L, .n = K, .k = L, .a = dP.data(), .lda = L, .b = k, .ldb = k_row, .c = dq, .ldc = k_row});
        gemm({.transpose_a = true, .m = L, .n = K, .k = L,
              .a = dP.data(), .lda = L, .b = q, .ldb = k_row, .c = dk, .ldc = k_row});
        gemm({.m = L, .n = K, .k = L,
              .a = dM.data(), .lda = L, .b = k, .ldb = k_row, .c = dk, .ldc = k_row, .beta = 1});

        // State before the chunk to outputs (X) and to errors (Y); inputs to the state after it (W).
        gemm({.transpose_b = true, .m = L, .n = K, .k = V,
              .a = dy, .lda = v_row, .b = S, .ldb = V, .c = X.data(), .ldc = K});
        gemm({.transpose_b = true, .m = L, .n = K, .k = V,
              .a = l, .lda = v_row, .b = S, .ldb = V, .c = Y.data(), .ldc = K});
        gemm({.transpose_b = true, .m = L, .n = K, .k = V,
              .a = e, .lda = v_row, .b = dS, .ldb = V, .c = W.data(), .ldc = K});
        for (int64_t i = 0; i < L; ++i) {
          T *x = &X[size_t(i * K)], *y = &Y[size_t(i * K)], *w = &W[size_t(i * K)];
          T *to_q = dq + i * k_row, *to_k = dk + i * k_row;
          const T *key = k + i * k_row, *query = q + i * k_row;
          const T in = decay.in[size_t(i)], out = decay.out[size_t(i)] * beta[size_t(i)];
          for (int64_t s = 0; s < K; ++s) {
            to_q[s] += x[s] *= v.scale * in;
            to_k[s] += (y[s] *= -in) + (w[s] *= out);
          }
          ends[size_t(i)] = lane_sum<double>(K, [&](int64_t s) { return query[s] * x[s] + key[s] * y[s]; });
          starts[size_t(i)] = lane_sum<double>(K, [&](int64_t s) { return key[s] * w[s]; });
        }
        double right = 0, left = 0;
        for (int64_t t = L - 1; t >= 0; --t) d_log_a[size_t(t)] += right += ends[size_t(t)];
        for (int64_t t = 1; t < L; ++t) d_log_a[size_t(t)] += left += starts[size_t(t - 1)];

        // State to state.
        const double kept = double(decay.whole) * lane_sum<double>(KV, [&](int64_t i) { return S[i] * dS[i]; });
        for (int64_t t = 0; t < L; ++t) a.d_log_a.data<T>()[at + t * v.H] = T(d_log_a[size_t(t)] + kept);
      }
    }
  });
}

void forward(const DeltaScanForward& a) {
  visit<float, double>("delta_scan", a.in.q.dtype(),
                       [&]<class T>() { a.chunk ? forward_chunked<T>(a) : forward_recurrent<T>(a); });
}
void backward(const DeltaScanBackward& a) {
  visit<float, double>("delta_scan", a.in.q.dtype(),
                       [&]<class T>() { a.chunk ? backward_chunked<T>(a) : backward_recurrent<T>(a); });
}

const Implement f{delta_scan_forward, DeviceKind::cpu, forward};
const Implement b{delta_scan_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
