// binary on the CPU: one loop for every function, over runs in which b's index moves with a's or stands still.
#include "tensor/ops/binary.h"

#include <tuple>

#include "tensor/sums.h"

namespace taper::kernels {
namespace {

constexpr int64_t grain = 1 << 14;

// Calls run(i, count, j) for stretches of a: elements i..i+count meet b from j on.
template <class Run>
void for_runs(int64_t numel, int64_t n, Run&& run) {
  parallel_for(numel, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin, count; i < end; i += count) {
      count = std::min(end - i, n - i % n);
      run(i, count, i % n);
    }
  });
}

// Runs f<T, U>() with a's and b's type: one, or bf16 and float.
template <class Run>
void visit_operands(const char* who, const Tensor& a, const Tensor& b, Run&& f) {
  visit<float, double, bf16>(who, a.dtype(), [&]<class T>() {
    const auto with = [&]<class U>() { f.template operator()<T, U>(); };
    if (b.dtype() == a.dtype()) with.template operator()<T>();
    else visit<Acc<T>>(who, b.dtype(), with);
  });
}

template <class F>
void forward(const BinaryForward<F>& args) {
  visit_operands(F::name, args.a, args.b, [&]<class T, class U>() {
    using A = Acc<T>;
    const F f;
    const T* a = args.a.template data<T>();
    const U* b = args.b.template data<U>();
    T* y = args.y.template data<T>();
    const int64_t numel = args.a.numel(), n = args.b.numel();
    if (n == 1) {
      parallel_for(numel, grain, [&, b0 = A(b[0])](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) y[i] = T(f.value(A(a[i]), b0));
      });
      return;
    }
    for_runs(numel, n, [&](int64_t i, int64_t count, int64_t j) {
      for (int64_t k = 0; k < count; ++k) y[i + k] = T(f.value(A(a[i + k]), A(b[j + k])));
    });
  });
}

template <class F>
void backward(const BinaryBackward<F>& args) {
  visit_operands(F::name, args.a, args.b, [&]<class T, class U>() {
    using A = Acc<T>;
    const F f;
    const T *a = args.a.template data<T>(), *d_y = args.d_y.template data<T>();
    const U* b = args.b.template data<U>();
    const int64_t numel = args.a.numel(), n = args.b.numel();
    if (args.d_a) {
      T* d_a = args.d_a.template data<T>();
      if (n == 1)
        parallel_for(numel, grain, [&, b0 = A(b[0])](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) d_a[i] = T(f.slope_a(A(a[i]), b0) * A(d_y[i]));
        });
      else
        for_runs(numel, n, [&](int64_t i, int64_t count, int64_t j) {
          for (int64_t k = 0; k < count; ++k)
            d_a[i + k] = T(f.slope_a(A(a[i + k]), A(b[j + k])) * A(d_y[i + k]));
        });
    }
    if (!args.d_b) return;
    U* d_b = args.d_b.template data<U>();
    if (n == numel) {
      for_runs(numel, n, [&](int64_t i, int64_t count, int64_t) {
        for (int64_t k = i; k < i + count; ++k) d_b[k] = U(f.slope_b(A(a[k]), A(b[k])) * A(d_y[k]));
      });
    } else if (n == 1) {
      const double sum = parallel_sum<double>(numel, grain, [&, b0 = A(b[0])](int64_t begin, int64_t end) {
        return lane_sum<double>(end - begin,
                                [&](int64_t k) { return f.slope_b(A(a[begin + k]), b0) * A(d_y[begin + k]); });
      });
      d_b[0] = U(A(sum));
    } else {
      const std::vector<double> sum = sum_columns(numel / n, n, [&](int64_t begin, int64_t end, double* s) {
        for (int64_t i = begin * n; i < end * n; i += n)
          for (int64_t j = 0; j < n; ++j) s[j] += double(f.slope_b(A(a[i + j]), A(b[j])) * A(d_y[i + j]));
      });
      for (int64_t j = 0; j < n; ++j) d_b[j] = U(A(sum[size_t(j)]));
    }
  });
}

template <class... F>
struct Functions {
  std::tuple<Implement<BinaryForward<F>>...> forwards{{binary_forward<F>, DeviceKind::cpu, forward<F>}...};
  std::tuple<Implement<BinaryBackward<F>>...> backwards{{binary_backward<F>, DeviceKind::cpu, backward<F>}...};
};

const Functions<scalar::Add, scalar::Subtract, scalar::Multiply, scalar::Divide, scalar::SwiGlu> functions;

}  // namespace
}  // namespace taper::kernels
