// ssd_scan on the CPU: first the recurrence, the definition; then the chunked form that is used.
#include "tensor/ops/ssd_scan.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/gemm.h"
#include "tensor/ops/chunk_decay.h"
#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

// The inputs as pointers, with their sizes.
template <class T>
struct View {
  const T *x, *log_a, *b, *c, *dt, *d, *initial;
  PackingView packing;
  int64_t B, steps, H, P, G, N;

  explicit View(const SsdScanInputs& in)
      : x(in.x.data<T>()), log_a(in.log_a.data<T>()), b(in.b.data<T>()), c(in.c.data<T>()),
        dt(in.dt ? in.dt.data<T>() : nullptr), d(in.d ? in.d.data<T>() : nullptr),
        initial(in.initial ? in.initial.data<T>() : nullptr), packing(in.packing, in.x.size(1)),
        B(in.x.size(0)), steps(in.x.size(1)), H(in.x.size(2)), P(in.x.size(3)), G(in.b.size(2)), N(in.b.size(3)) {}

  // Offsets of (batch, t, head).
  int64_t head(int64_t n, int64_t t, int64_t h) const { return (n * steps + t) * H + h; }
  int64_t group(int64_t n, int64_t t, int64_t h) const { return ((n * steps + t) * G + h * G / H) * N; }
  T dt_at(int64_t i) const { return dt ? dt[i] : T(1); }
};

// ---- the recurrence ----

template <class T>
void forward_recurrent(const SsdScanForward& a) {
  const View<T> v(a.in);
  T *y = a.y.data<T>(), *final = a.final.data<T>();
  parallel_for(v.B * v.H, 1, [&](int64_t first, int64_t last) {
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t n = bh / v.H, h = bh % v.H;
      T* S = final + bh * v.N * v.P;  // runs in place
      for (int64_t k = 0; k < v.N * v.P; ++k) S[k] = v.initial ? v.initial[bh * v.N * v.P + k] : T(0);
      for (int64_t t = 0; t < v.steps; ++t) {
        const int64_t at = v.head(n, t, h);
        const T decay = v.packing.resets(n, t) ? T(0) : std::exp(v.log_a[at]), dt = v.dt_at(at);
        const T *x = v.x + at * v.P, *b = v.b + v.group(n, t, h), *c = v.c + v.group(n, t, h);
        T* out = y + at * v.P;
        for (int64_t p = 0; p < v.P; ++p) out[p] = v.d ? v.d[h] * x[p] : T(0);
        for (int64_t i = 0; i < v.N; ++i)
          for (int64_t p = 0; p < v.P; ++p) {
            T& s = S[i * v.P + p];
            s = decay * s + dt * b[i] * x[p];
            out[p] += c[i] * s;
          }
      }
    }
  });
}

template <class T>
void backward_recurrent(const SsdScanBackward& a) {
  const View<T> v(a.in);
  const int64_t NP = v.N * v.P;
  const T *d_y = a.d_y ? a.d_y.data<T>() : nullptr, *d_final = a.d_final ? a.d_final.data<T>() : nullptr;
  // b and c are shared by the heads of a group and d by the batch: each (batch, head) writes its own share.
  std::vector<T> d_b(size_t(v.B * v.steps * v.H * v.N), T(0)), d_c(d_b), d_d(size_t(v.B * v.H), T(0));
  parallel_for(v.B * v.H, 1, [&](int64_t first, int64_t last) {
    std::vector<T> S(size_t((v.steps + 1) * NP)), Z(size_t(NP), T(0));  // every state; d loss / d state
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t n = bh / v.H, h = bh % v.H;
      for (int64_t k = 0; k < NP; ++k) S[size_t(k)] = v.initial ? v.initial[bh * NP + k] : T(0);
      for (int64_t t = 0; t < v.steps; ++t) {
        const int64_t at = v.head(n, t, h);
        const T decay = v.packing.resets(n, t) ? T(0) : std::exp(v.log_a[at]), dt = v.dt_at(at);
        const T *x = v.x + at * v.P, *b = v.b + v.group(n, t, h);
        for (int64_t i = 0; i < v.N; ++i)
          for (int64_t p = 0; p < v.P; ++p)
            S[size_t((t + 1) * NP + i * v.P + p)] = decay * S[size_t(t * NP + i * v.P + p)] + dt * b[i] * x[p];
      }
      for (int64_t k = 0; k < NP; ++k) Z[size_t(k)] = d_final ? d_final[bh * NP + k] : T(0);
      for (int64_t t = v.steps - 1; t >= 0; --t) {
        const int64_t at = v.head(n, t, h);
        const T decay = v.packing.resets(n, t) ? T(0) : std::exp(v.log_a[at]), dt = v.dt_at(at);
        const T *x = v.x + at * v.P, *b = v.b + v.group(n, t, h), *c = v.c + v.group(n, t, h);
        const T *before = &S[size_t(t * NP)], *after = &S[size_t((t + 1) * NP)];
        T* d_x = a.d_x.data<T>() + at * v.P;
        T d_decay = 0, d_dt = 0;
        for (int64_t p = 0; p < v.P; ++p) {
          const T dy = d_y ? d_y[at * v.P + p] : T(0);
          d_x[p] = v.d ? v.d[h] * dy : T(0);
          d_d[size_t(bh)] += x[p] * dy;
        }
        for (int64_t i = 0; i < v.N; ++i) {
          T db = 0, dc = 0;
          for (int64_t p = 0; p < v.P; ++p) {
            const T dy = d_y ? d_y[at * v.P + p] : T(0);
            T& z = Z[size_t(i * v.P + p)];
            z += c[i] * dy;
            dc += after[i * v.P + p] * dy;
            db += dt * z * x[p];
            d_dt += z * b[i] * x[p];
            d_x[p] += dt * z * b[i];
            d_decay += z * decay * before[i * v.P + p];
            z *= decay;
          }
          d_b[size_t(at * v.N + i)] = db;
          d_c[size_t(at * v.N + i)] = dc;
        }
        a.d_log_a.data<T>()[at] = d_decay;
        if (a.d_dt) a.d_dt.data<T>()[at] = d_dt;
      }
      if (a.d_initial) std::copy(Z.begin(), Z.end(), a.d_initial.data<T>() + bh * NP);
    }
  });
  const int64_t share = v.H / v.G;
  for (int64_t row = 0; row < v.B * v.steps * v.G; ++row)
    for (int64_t i = 0; i < v.N; ++i) {
      T db = 0, dc = 0;
      for (int64_t h = 0; h < share; ++h) {
        db += d_b[size_t((row * share + h) * v.N + i)];
        dc += d_c[size_t((row * share + h) * v.N + i)];
      }
      a.d_b.data<T>()[row * v.N + i] = db;
      a.d_c.data<T>()[row * v.N + i] = dc;
    }
  if (a.d_d)
    for (int64_t h = 0; h < v.H; ++h) {
      T sum = 0;
      for (int64_t n = 0; n < v.B; ++n) sum += d_d[size_t(n * v.H + h)];
      a.d_d.data<T>()[h] = sum;
    }
}

// ---- the chunked form ----

template <class T>
struct Chunks {  // where the chunks of a scan lie
  int64_t size, count, NP;
  Chunks(const View<T>& v, int64_t chunk) : size(chunk), count((v.steps + chunk - 1) / chunk), NP(v.N * v.P) {}
  int64_t length(const View<T>& v, int64_t k) const { return std::min(size, v.steps - k * size); }
  int64_t state(const View<T>& v, int64_t n, int64_t k, int64_t h) const { return ((n * count + k) * v.H + h) * NP; }
};

template <class T>
void scaled_rows(const T* from, int64_t stride, int64_t rows, int64_t columns, const T* by, T* to) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t p = 0; p < columns; ++p) to[i * columns + p] = by[i] * from[i * stride + p];
}

template <class T>
void forward_chunked(const SsdScanForward& a) {
  const View<T> v(a.in);
  const Chunks<T> chunks(v, a.chunk);
  const int64_t C = a.chunk, N = v.N, P = v.P, NP = chunks.NP, x_row = v.H * P, b_row = v.G * N;
  T *states = a.states.data<T>(), *final = a.final.data<T>(), *y = a.y.data<T>();
  std::vector<T> whole(size_t(v.B * chunks.count * v.H));  // exp(G_L) of each chunk and head

  // 1. What each chunk adds to the state: sum_j exp(G_L - G_j) dt_j b_j x_j^T.
  parallel_for(v.B * chunks.count, 1, [&](int64_t first, int64_t last) {
    ChunkDecay<T> decay(C);
    std::vector<T> weighted(size_t(C * P)), weight(static_cast<size_t>(C));
    for (int64_t nk = first; nk < last; ++nk) {
      const int64_t n = nk / chunks.count, k = nk % chunks.count, begin = k * C, L = chunks.length(v, k);
      for (int64_t h = 0; h < v.H; ++h) {
        decay.load(v.packing, v.log_a + v.head(n, begin, h), v.H, n, begin, L);
        whole[size_t(nk * v.H + h)] = decay.whole;
        for (int64_t j = 0; j < L; ++j) weight[size_t(j)] = decay.out[size_t(j)] * v.dt_at(v.head(n, begin + j, h));
        scaled_rows(v.x + v.head(n, begin, h) * P, x_row, L, P, weight.data(), weighted.data());
        gemm({.transpose_a = true, .m = N, .n = P, .k = L, .a = v.b + v.group(n, begin, h), .lda = b_row,
              .b = weighted.data(), .ldb = P, .c = states + chunks.state(v, n, k, h), .ldc = P});
      }
    }
  });

  // 2. Pass the state along: each slot turns from "what the chunk adds" to "the state before it".
  parallel_for(v.B * v.H, 1, [&](int64_t first, int64_t last) {
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t n = bh / v.H, h = bh % v.H;
      T* S = final + bh * NP;
      for (int64_t i = 0; i < NP; ++i) S[i] = v.initial ? v.initial[bh * NP + i] : T(0);
      for (int64_t k = 0; k < chunks.count; ++k) {
        T* slot = states + chunks.state(v, n, k, h);
        const T w = whole[size_t((n * chunks.count + k) * v.H + h)];
        for (int64_t i = 0; i < NP; ++i) {
          const T added = slot[i];
          slot[i] = S[i];
          S[i] = w * S[i] + added;
        }
      }
    }
  });

  // 3. Outputs: pairs inside the chunk, and the state before it.
  parallel_for(v.B * chunks.count, 1, [&](int64_t first, int64_t last) {
    ChunkDecay<T> decay(C);
    std::vector<T> M(size_t(C * C)), E(size_t(C * C)), seen(size_t(C * P));
    for (int64_t nk = first; nk < last; ++nk) {
      const int64_t n = nk / chunks.count, k = nk % chunks.count, begin = k * C, L = chunks.length(v, k);
      for (int64_t h = 0; h < v.H; ++h) {
        const T *b = v.b + v.group(n, begin, h), *c = v.c + v.group(n, begin, h), *x = v.x + v.head(n, begin, h) * P;
        T* out = y + v.head(n, begin, h) * P;
        if (h % (v.H / v.G) == 0)
          gemm({.transpose_b = true, .m = L, .n = L, .k = N, .a = c, .lda = b_row, .b = b, .ldb = b_row, .c = M.data(), .ldc = L});
        decay.load(v.packing, v.log_a + v.head(n, begin, h), v.H, n, begin, L);
        decay.matrix(L, E.data());
        for (int64_t i = 0; i < L; ++i)
          for (int64_t j = 0; j <= i; ++j) E[size_t(i * L + j)] *= M[size_t(i * L + j)];
        if (v.dt)
          for (int64_t i = 0; i < L; ++i)
            for (int64_t j = 0; j <= i; ++j) E[size_t(i * L + j)] *= v.dt[v.head(n, begin + j, h)];
        gemm({.m = L, .n = P, .k = L, .a = E.data(), .lda = L, .b = x, .ldb = x_row, .c = out, .ldc = x_row});
        gemm({.m = L, .n = P, .k = N, .a = c, .lda = b_row, .b = states + chunks.state(v, n, k, h), .ldb = P,
              .c = seen.data(), .ldc = P});
        const T d = v.d ? v.d[h] : T(0);
        for (int64_t i = 0; i < L; ++i)
          for (int64_t p = 0; p < P; ++p)
            out[i * x_row + p] += decay.in[size_t(i)] * seen[size_t(i * P + p)] + d * x[i * x_row + p];
      }
    }
  });
}

template <class T>
void backward_chunked(const SsdScanBackward& a) {
  const View<T> v(a.in);
  const Chunks<T> chunks(v, a.chunk);
  const int64_t C = a.chunk, N = v.N, P = v.P, NP = chunks.NP, x_row = v.H * P, b_row = v.G * N;
  const T *states = a.states.data<T>(), *d_final = a.d_final ? a.d_final.data<T>() : nullptr;
  const Tensor no_d_y = a.d_y ? Tensor{} : zeros_like(a.in.x);
  const T* d_y = a.d_y ? a.d_y.data<T>() : no_d_y.data<T>();
  const Tensor d_states = empty_like(a.states);  // d loss / d state after each chunk
  T* Z = d_states.data<T>();
  std::vector<T> whole(size_t(v.B * chunks.count * v.H)), d_d(whole.size());

  // 1. What each chunk's outputs send to the state before it: sum_i exp(G_i) c_i dy_i^T.
  parallel_for(v.B * chunks.count, 1, [&](int64_t first, int64_t last) {
    ChunkDecay<T> decay(C);
    std::vector<T> weighted(size_t(C * P));
    for (int64_t nk = first; nk < last; ++nk) {
      const int64_t n = nk / chunks.count, k = nk % chunks.count, begin = k * C, L = chunks.length(v, k);
      for (int64_t h = 0; h < v.H; ++h) {
        decay.load(v.packing, v.log_a + v.head(n, begin, h), v.H, n, begin, L);
        whole[size_t(nk * v.H + h)] = decay.whole;
        scaled_rows(d_y + v.head(n, begin, h) * P, x_row, L, P, decay.in.data(), weighted.data());
        gemm({.transpose_a = true, .m = N, .n = P, .k = L, .a = v.c + v.group(n, begin, h), .lda = b_row,
              .b = weighted.data(), .ldb = P, .c = Z + chunks.state(v, n, k, h), .ldc = P});
      }
    }
  });

  // 2. Pass d state back: each slot turns from "what the chunk sends" to "d of the state after it".
  parallel_for(v.B * v.H, 1, [&](int64_t first, int64_t last) {
    std::vector<T> after(static_cast<size_t>(NP));
    for (int64_t bh = first; bh < last; ++bh) {
      const int64_t n = bh / v.H, h = bh % v.H;
      for (int64_t i = 0; i < NP; ++i) after[size_t(i)] = d_final ? d_final[bh * NP + i] : T(0);
      for (int64_t k = chunks.count - 1; k >= 0; --k) {
        T* slot = Z + chunks.state(v, n, k, h);
        const T w = whole[size_t((n * chunks.count + k) * v.H + h)];
        for (int64_t i = 0; i < NP; ++i) {
          const T sent = slot[i];
          slot[i] = after[size_t(i)];
          after[size_t(i)] = w * after[size_t(i)] + sent;
        }
      }
      if (a.d_initial) std::copy(after.begin(), after.end(), a.d_initial.data<T>() + bh * NP);
    }
  });

  // 3. Everything else, chunk by chunk; the heads of a group add to d_b and d_c in order.
  parallel_for(v.B * chunks.count, 1, [&](int64_t first, int64_t last) {
    ChunkDecay<T> decay(C);
    std::vector<T> M(size_t(C * C)), dM(size_t(C * C)), E(size_t(C * C)), dYX(size_t(C * C));
    std::vector<T> U(size_t(C * N)), weighted(size_t(C * std::max(N, P))), BZ(size_t(C * P)), d_log_a(static_cast<size_t>(C)),
        d_dt(static_cast<size_t>(C)), dt(static_cast<size_t>(C)), crossing(static_cast<size_t>(C));
    for (int64_t nk = first; nk < last; ++nk) {
      const int64_t n = nk / chunks.count, k = nk % chunks.count, begin = k * C, L = chunks.length(v, k);
      for (int64_t h = 0; h < v.H; ++h) {
        const T *b = v.b + v.group(n, begin, h), *c = v.c + v.group(n, begin, h), *x = v.x + v.head(n, begin, h) * P;
        const T *dy = d_y + v.head(n, begin, h) * P, *S = states + chunks.state(v, n, k, h), *dS = Z + chunks.state(v, n, k, h);
        T *db = a.d_b.data<T>() + v.group(n, begin, h), *dc = a.d_c.data<T>() + v.group(n, begin, h);
        T* dx = a.d_x.data<T>() + v.head(n, begin, h) * P;
        const bool first_of_group = h % (v.H / v.G) == 0, last_of_group = (h + 1) % (v.H / v.G) == 0;
        if (first_of_group) {
          gemm({.transpose_b = true, .m = L, .n = L, .k = N, .a = c, .lda = b_row, .b = b, .ldb = b_row, .c = M.data(), .ldc = L});
          std::fill(dM.begin(), dM.end(), T(0));
          for (int64_t i = 0; i < L; ++i)
            for (int64_t s = 0; s < N; ++s) db[i * b_row + s] = dc[i * b_row + s] = T(0);
        }
        decay.load(v.packing, v.log_a + v.head(n, begin, h), v.H, n, begin, L);
        decay.matrix(L, E.data());
        for (int64_t j = 0; j < L; ++j) {
          dt[size_t(j)] = v.dt_at(v.head(n, begin + j, h));
          d_log_a[size_t(j)] = d_dt[size_t(j)] = T(0);
        }

        // Pairs inside the chunk.
        gemm({.transpose_b = true, .m = L, .n = L, .k = P, .a = dy, .lda = x_row, .b = x, .ldb = x_row, .c = dYX.data(), .ldc = L});
        for (int64_t i = 0; i < L; ++i) {
          T *e = &E[size_t(i * L)], *g = &dYX[size_t(i * L)], *dm = &dM[size_t(i * L)];
          const T* m = &M[size_t(i * L)];
          for (int64_t j = 0; j <= i; ++j) {
            const T q = g[j] * e[j];
            dm[j] += q * dt[size_t(j)];
            d_dt[size_t(j)] += q * m[j];
            g[j] = q * m[j] * dt[size_t(j)];  // R_ij
            e[j] *= m[j] * dt[size_t(j)];     // the forward's weights
          }
          T left = 0;  // sum_{j<t} R_ij
          for (int64_t t = 1; t <= i; ++t) d_log_a[size_t(t)] += left += g[t - 1];
        }
        gemm({.transpose_a = true, .m = L, .n = P, .k = L, .a = E.data(), .lda = L, .b = dy, .ldb = x_row, .c = dx, .ldc = x_row});

        // State before the chunk to outputs: U.
        scaled_rows(dy, x_row, L, P, decay.in.data(), weighted.data());
        gemm({.transpose_b = true, .m = L, .n = N, .k = P, .a = weighted.data(), .lda = P, .b = S, .ldb = P, .c = U.data(), .ldc = N});
        for (int64_t i = 0; i < L; ++i) {
          T dot = 0;
          for (int64_t s = 0; s < N; ++s) {
            dc[i * b_row + s] += U[size_t(i * N + s)];
            dot += c[i * b_row + s] * U[size_t(i * N + s)];
          }
          crossing[size_t(i)] = dot;
        }
        T right = 0;
        for (int64_t t = L - 1; t >= 0; --t) d_log_a[size_t(t)] += right += crossing[size_t(t)];

        // Inputs to the state after the chunk: V.
        scaled_rows(x, x_row, L, P, decay.out.data(), weighted.data());
        gemm({.transpose_b = true, .m = L, .n = N, .k = P, .a = weighted.data(), .lda = P, .b = dS, .ldb = P, .c = U.data(), .ldc = N});
        for (int64_t j = 0; j < L; ++j) {
          T dot = 0;
          for (int64_t s = 0; s < N; ++s) {
            db[j * b_row + s] += dt[size_t(j)] * U[size_t(j * N + s)];
            dot += b[j * b_row + s] * U[size_t(j * N + s)];
          }
          d_dt[size_t(j)] += dot;
          crossing[size_t(j)] = dt[size_t(j)] * dot;
        }
        T left = 0;
        for (int64_t t = 1; t < L; ++t) d_log_a[size_t(t)] += left += crossing[size_t(t - 1)];
        gemm({.m = L, .n = P, .k = N, .a = b, .lda = b_row, .b = dS, .ldb = P, .c = BZ.data(), .ldc = P});

        // State to state.
        T kept = 0;
        for (int64_t i = 0; i < NP; ++i) kept += S[i] * dS[i];
        kept *= decay.whole;

        const T skip = v.d ? v.d[h] : T(0);
        T dd = 0;
        for (int64_t j = 0; j < L; ++j) {
          const T w = decay.out[size_t(j)] * dt[size_t(j)];
          for (int64_t p = 0; p < P; ++p) {
            dx[j * x_row + p] += w * BZ[size_t(j * P + p)] + skip * dy[j * x_row + p];
            dd += x[j * x_row + p] * dy[j * x_row + p];
          }
          a.d_log_a.data<T>()[v.head(n, begin + j, h)] = d_log_a[size_t(j)] + kept;
          if (a.d_dt) a.d_dt.data<T>()[v.head(n, begin + j, h)] = d_dt[size_t(j)];
        }
        d_d[size_t(nk * v.H + h)] = dd;

        if (last_of_group) {
          gemm({.m = L, .n = N, .k = L, .a = dM.data(), .lda = L, .b = b, .ldb = b_row, .c = dc, .ldc = b_row, .beta = 1});
          gemm({.transpose_a = true, .m = L, .n = N, .k = L, .a = dM.data(), .lda = L, .b = c, .ldb = b_row, .c = db, .ldc = b_row, .beta = 1});
        }
      }
    }
  });
  if (a.d_d)
    for (int64_t h = 0; h < v.H; ++h) {
      double sum = 0;
      for (int64_t nk = 0; nk < v.B * chunks.count; ++nk) sum += double(d_d[size_t(nk * v.H + h)]);
      a.d_d.data<T>()[h] = T(sum);
    }
}

void forward(const SsdScanForward& a) {
  visit<float, double>("ssd_scan", a.in.x.dtype(), [&]<class T>() { a.chunk ? forward_chunked<T>(a) : forward_recurrent<T>(a); });
}
void backward(const SsdScanBackward& a) {
  visit<float, double>("ssd_scan", a.in.x.dtype(), [&]<class T>() { a.chunk ? backward_chunked<T>(a) : backward_recurrent<T>(a); });
}

const Implement f{ssd_scan_forward, DeviceKind::cpu, forward};
const Implement b{ssd_scan_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
