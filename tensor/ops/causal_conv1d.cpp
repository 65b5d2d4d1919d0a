// causal_conv1d on the CPU. All inner loops run over channels, which lie side by side.
#include "tensor/ops/causal_conv1d.h"

#include "tensor/ops/scalar_math.h"
#include "tensor/sums.h"

namespace taper::kernels {
namespace {

// The inputs of one call, and who sees what.
template <class T>
struct Inputs {
  using A = Acc<T>;
  const int64_t steps, D, W;
  const T *x, *history;  // history: absent is null
  const PackingView packing;
  std::vector<A> taps;   // [W,D]: the weight with channels side by side
  std::vector<A> bias;   // [D]

  template <class Args>
  explicit Inputs(const Args& a)
      : steps(a.x.size(1)), D(a.x.size(2)), W(a.weight.size(2)), x(a.x.template data<T>()),
        history(a.history ? a.history.template data<T>() : nullptr), packing(a.packing, steps),
        taps(size_t(W * D)), bias(static_cast<size_t>(D)) {
    const A* weight = a.weight.template data<A>();
    for (int64_t d = 0; d < D; ++d)
      for (int64_t j = 0; j < W; ++j) taps[size_t(j * D + d)] = weight[d * W + j];
    if (a.bias)
      for (int64_t d = 0; d < D; ++d) bias[size_t(d)] = a.bias.template data<A>()[d];
  }

  // Does position t see the input of time s <= t (s < 0: the history)?
  bool sees(int64_t b, int64_t t, int64_t s) const {
    const int64_t start = packing.start_of(b, t);
    return s >= 0 ? s >= start : start == 0 && history;
  }
  const T* row(int64_t b, int64_t s) const {
    return s >= 0 ? x + (b * steps + s) * D : history + (b * (W - 1) + W - 1 + s) * D;
  }
  void pre(int64_t b, int64_t t, A* out) const {
    std::copy_n(bias.data(), D, out);
    for (int64_t j = 0; j < W; ++j) {
      const int64_t s = t - W + 1 + j;
      if (!sees(b, t, s)) continue;
      const T* in = row(b, s);
      const A* tap = taps.data() + j * D;
      for (int64_t d = 0; d < D; ++d) out[d] += tap[d] * A(in[d]);
    }
  }
};

void forward(const CausalConv1dForward& a) {
  visit<float, double, bf16>("causal_conv1d", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const Inputs<T> in(a);
    const int64_t B = a.x.size(0), steps = in.steps, D = in.D, W = in.W;
    parallel_for(B * steps, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, D)),
                 [&](int64_t begin, int64_t end) {
      std::vector<A> buffer(static_cast<size_t>(D));
      A* pre = buffer.data();
      for (int64_t i = begin; i < end; ++i) {
        in.pre(i / steps, i % steps, pre);
        T* y = a.y.data<T>() + i * D;
        if (a.with_silu)
          for (int64_t d = 0; d < D; ++d) y[d] = T(scalar::Silu().value(pre[d]));
        else
          for (int64_t d = 0; d < D; ++d) y[d] = T(pre[d]);
      }
    });
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = 0; i < W - 1; ++i) {
        const int64_t s = steps - W + 1 + i;
        T* tail = a.tail.data<T>() + (b * (W - 1) + i) * D;
        if (in.sees(b, steps - 1, s)) std::copy_n(in.row(b, s), D, tail);
        else std::fill_n(tail, D, T(A(0)));
      }
  });
}

// Gradients of one stretch of time of one row of the batch.
template <class T>
struct Stretch {
  using A = Acc<T>;
  const CausalConv1dBackward& a;
  const Inputs<T>& in;
  const int64_t b, begin, end;
  const int64_t seen = std::min(in.steps, end + in.W - 1);  // the last t that sees an input of here
  std::vector<A> d_pre = std::vector<A>(size_t((seen - begin) * in.D));

  A* d_pre_row(int64_t t) { return d_pre.data() + (t - begin) * in.D; }

  void fill_d_pre() {
    if (!a.d_y) return;
    for (int64_t t = begin; t < seen; ++t) {
      A* row = d_pre_row(t);
      const T* d_y = a.d_y.template data<T>() + (b * in.steps + t) * in.D;
      if (a.with_silu) {
        in.pre(b, t, row);
        for (int64_t d = 0; d < in.D; ++d) row[d] = scalar::Silu().slope(row[d], A(0)) * A(d_y[d]);
      } else {
        for (int64_t d = 0; d < in.D; ++d) row[d] = A(d_y[d]);
      }
    }
  }

  // d_in of time s, from the outputs that saw it and from the tail.
  void input_gradient(int64_t s, A* sum, T* to) {
    const int64_t W = in.W, last = in.steps - 1;
    std::fill_n(sum, in.D, A(0));
    for (int64_t t = std::max<int64_t>(s, 0); t <= std::min(last, s + W - 1); ++t) {
      if (!in.sees(b, t, s)) continue;
      const A *tap = in.taps.data() + (s - t + W - 1) * in.D, *d = d_pre_row(t);
      for (int64_t k = 0; k < in.D; ++k) sum[k] += tap[k] * d[k];
    }
    const int64_t i = s - in.steps + W - 1;  // its place in the tail
    if (a.d_tail && i >= 0 && in.sees(b, last, s)) {
      const T* d = a.d_tail.template data<T>() + (b * (W - 1) + i) * in.D;
      for (int64_t k = 0; k < in.D; ++k) sum[k] += A(d[k]);
    }
    for (int64_t k = 0; k < in.D; ++k) to[k] = T(sum[k]);
  }

  // sum [W+1,D]: the taps' gradients, then the bias's. Added in A within the stretch, then in f64.
  void parameter_gradients(double* sum) {
    std::vector<A> local(size_t((in.W + 1) * in.D));
    for (int64_t t = begin; t < end; ++t) {
      const A* d = d_pre_row(t);
      for (int64_t j = 0; j < in.W; ++j) {
        const int64_t s = t - in.W + 1 + j;
        if (!in.sees(b, t, s)) continue;
        const T* x = in.row(b, s);
        A* to = local.data() + j * in.D;
        for (int64_t k = 0; k < in.D; ++k) to[k] += d[k] * A(x[k]);
      }
      A* to = local.data() + in.W * in.D;
      for (int64_t k = 0; k < in.D; ++k) to[k] += d[k];
    }
    for (size_t k = 0; k < local.size(); ++k) sum[k] += double(local[k]);
  }
};

void backward(const CausalConv1dBackward& a) {
  visit<float, double, bf16>("causal_conv1d", a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    constexpr int64_t length = 64;  // a stretch's d_pre stays in the second cache
    const Inputs<T> in(a);
    const int64_t B = a.x.size(0), steps = in.steps, D = in.D, W = in.W, stretches = (steps + length - 1) / length;
    const std::vector<double> sums = sum_columns(B * stretches, (W + 1) * D, [&](int64_t first, int64_t last, double* sum) {
      std::vector<A> row(static_cast<size_t>(D));
      for (int64_t i = first; i < last; ++i) {
        const int64_t b = i / stretches, begin = i % stretches * length;
        Stretch<T> here{a, in, b, begin, std::min(steps, begin + length)};
        here.fill_d_pre();
        if (a.d_x)
          for (int64_t s = begin; s < here.end; ++s)
            here.input_gradient(s, row.data(), a.d_x.data<T>() + (b * steps + s) * D);
        if (a.d_history && begin == 0)
          for (int64_t s = 1 - W; s < 0; ++s)
            here.input_gradient(s, row.data(), a.d_history.data<T>() + (b * (W - 1) + W - 1 + s) * D);
        if (a.d_weight || a.d_bias) here.parameter_gradients(sum);
      }
    });
    for (int64_t d = 0; d < D && a.d_weight; ++d)
      for (int64_t j = 0; j < W; ++j) a.d_weight.data<A>()[d * W + j] = A(sums[size_t(j * D + d)]);
    for (int64_t d = 0; d < D && a.d_bias; ++d) a.d_bias.data<A>()[d] = A(sums[size_t(W * D + d)]);
  });
}

const Implement f{causal_conv1d_forward, DeviceKind::cpu, forward};
const Implement b{causal_conv1d_backward, DeviceKind::cpu, backward};

}  // namespace
}  // namespace taper::kernels
