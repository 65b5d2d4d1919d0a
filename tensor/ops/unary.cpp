// unary on the CPU: one loop for every function.
#include "tensor/ops/unary.h"

#include <tuple>

#include "tensor/parallel.h"

namespace taper::kernels {
namespace {

constexpr int64_t grain = 1 << 14;

template <class F>
void forward(const UnaryForward<F>& a) {
  visit<float, double, bf16>(F::name, a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T* x = a.x.template data<T>();
    T* y = a.y.template data<T>();
    parallel_for(a.x.numel(), grain, [&, f = a.f](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = T(f.value(A(x[i])));
    });
  });
}

template <class F>
void backward(const UnaryBackward<F>& a) {
  visit<float, double, bf16>(F::name, a.x.dtype(), [&]<class T>() {
    using A = Acc<T>;
    const T *x = a.x.template data<T>(), *y = a.y.template data<T>(), *d_y = a.d_y.template data<T>();
    T* d_x = a.d_x.template data<T>();
    parallel_for(a.x.numel(), grain, [&, f = a.f](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) d_x[i] = T(f.slope(A(x[i]), A(y[i])) * A(d_y[i]));
    });
  });
}

template <class... F>
struct Functions {
  std::tuple<Implement<UnaryForward<F>>...> forwards{{unary_forward<F>, DeviceKind::cpu, forward<F>}...};
  std::tuple<Implement<UnaryBackward<F>>...> backwards{{unary_backward<F>, DeviceKind::cpu, backward<F>}...};
};

using namespace scalar;
const Functions<Silu, Sigmoid, Tanh, Relu, ReluSquared, Exp, Log, Softplus, Negate, Square, Scale> functions;

}  // namespace
}  // namespace taper::kernels
