// binary on CUDA: one map for every function and every way in which b meets a; sums over rows where b is a tail or a scalar.
//   plan     y and, where b is as large as a, both gradients: maps. Else one kernel forms d_a and a block's part of d_b, a
//            second adds the parts in their order
//   grid     maps numel/(512 n) blocks of 256 threads; sums over rows up to 528 blocks of 256, 32 vectors by 8 rows at a time
//   traffic  a, d_y and (as large as a) b read once, y, d_a, d_b written once; a tail comes from L1 and L2
//            16384 x 768 in bf16: add 76 MB, 25 us; multiply by a tail 50 MB, 17 us, its backward 76 MB, 25 us
//            16384 x 2048 in bf16: swiglu 201 MB, 67 us, its backward 336 MB, 112 us; by silu and multiply 335 and 604 MB
//   limits   f32 f64 bf16, b of bf16 a in bf16 or f32; any size; one element at a time where a tail or a tensor does not
//            hold whole vectors
//   ceiling  HBM; d_b in f64 takes a quarter of the time in conversions, beside the loads
#include "tensor/ops/binary.h"

#include <tuple>

#include "cuda/elementwise.cuh"
#include "cuda/sigmoid.cuh"
#include "cuda/sums.cuh"

namespace taper::kernels {
namespace {

// What computes F in T: swiglu's sigmoid is the one of gates.
template <class F, class T>
struct Computed : F {};
template <class T>
struct Computed<scalar::SwiGlu, T> {
  using A = Acc<T>;
  __device__ A value(A a, A b) const { return a * cuda::sigmoid<T>(a) * b; }
  __device__ A slope_a(A a, A b) const {
    const A s = cuda::sigmoid<T>(a);
    return s * (1 + a * (1 - s)) * b;
  }
  __device__ A slope_b(A a, A) const { return a * cuda::sigmoid<T>(a); }
};

enum class Meet { whole, tail, scalar };  // b has a's shape; its last dimensions; one element

// n elements of b that meet a[i .. i+n-1].
template <Meet meet, int n, class U>
__device__ inline cuda::Vector<U, n> load_b(const U* g_b, int64_t i, int64_t columns) {
  if constexpr (meet == Meet::whole) {
    return cuda::load<n>(g_b + i);
  } else if constexpr (meet == Meet::tail) {
    return cuda::load<n>(g_b + i % columns);
  } else {
    cuda::Vector<U, n> b;
#pragma unroll
    for (int k = 0; k < n; ++k) b.at[k] = *g_b;
    return b;
  }
}

template <class T, class U, class F, Meet meet>
struct ForwardMap {
  const T* g_a;
  const U* g_b;
  T* g_y;
  int64_t columns;  // of b

  template <int n>
  struct Read {
    cuda::Vector<T, n> a;
    cuda::Vector<U, n> b;
  };
  template <int n>
  __device__ auto read(int64_t i) const {
    return Read<n>{cuda::load<n>(g_a + i), load_b<meet, n>(g_b, i, columns)};
  }
  template <int n, class R>
  __device__ void write(int64_t i, const R& r) const {
    Acc<T> y[n];
#pragma unroll
    for (int k = 0; k < n; ++k) y[k] = F().value(Acc<T>(r.a.at[k]), Acc<T>(r.b.at[k]));
    cuda::store(g_y + i, y);
  }
};

// d_a, and d_b where b is as large as a. Absent: not written.
template <class T, class U, class F, Meet meet>
struct BackwardMap {
  const T* g_a;
  const U* g_b;
  const T* g_d_y;
  T* g_d_a;
  U* g_d_b;
  int64_t columns;

  template <int n>
  struct Read {
    cuda::Vector<T, n> a;
    cuda::Vector<U, n> b;
    cuda::Vector<T, n> d_y;
  };
  template <int n>
  __device__ auto read(int64_t i) const {
    return Read<n>{cuda::load<n>(g_a + i), load_b<meet, n>(g_b, i, columns), cuda::load<n>(g_d_y + i)};
  }
  template <int n, class R>
  __device__ void write(int64_t i, const R& r) const {
    Acc<T> d_a[n], d_b[n];  // both at once: they may share what they are made of
#pragma unroll
    for (int k = 0; k < n; ++k) {
      d_a[k] = F().slope_a(Acc<T>(r.a.at[k]), Acc<T>(r.b.at[k])) * Acc<T>(r.d_y.at[k]);
      if constexpr (meet == Meet::whole) d_b[k] = F().slope_b(Acc<T>(r.a.at[k]), Acc<T>(r.b.at[k])) * Acc<T>(r.d_y.at[k]);
    }
    if (g_d_a) cuda::store(g_d_a + i, d_a);
    if constexpr (meet == Meet::whole)
      if (g_d_b) cuda::store(g_d_b + i, d_b);
  }
};

// d_b as a sum over rows or over everything; d_a on the way, where it is wanted.
template <class T, class U, class F, Meet meet>
struct Sums {
  BackwardMap<T, U, F, meet> map;

  template <int n>
  __device__ void add(int64_t row, int64_t j, double (&sum)[1][n]) const {
    const int64_t i = row * map.columns + j;
    const typename BackwardMap<T, U, F, meet>::template Read<n> r{cuda::load<n>(map.g_a + i), cuda::load<n>(map.g_b + j),
                                                                  cuda::load<n>(map.g_d_y + i)};
#pragma unroll
    for (int k = 0; k < n; ++k)
      sum[0][k] += double(F().slope_b(Acc<T>(r.a.at[k]), Acc<T>(r.b.at[k])) * Acc<T>(r.d_y.at[k]));
    map.template write<n>(i, r);
  }
  template <int n>
  __device__ double add(int64_t i) const {
    const auto r = map.template read<n>(i);
    double sum = 0;
#pragma unroll
    for (int k = 0; k < n; ++k) sum += double(F().slope_b(Acc<T>(r.a.at[k]), Acc<T>(r.b.at[k])) * Acc<T>(r.d_y.at[k]));
    map.template write<n>(i, r);
    return sum;
  }
};

// Runs f<T, U, Meet>() for the dtypes of a and b and the way b meets a.
template <class Run>
void visit_operands(const char* who, const Tensor& a, const Tensor& b, Run&& f) {
  visit<float, double, bf16>(who, a.dtype(), [&]<class T>() {
    const auto with = [&]<class U>() {
      if (b.numel() == a.numel()) f.template operator()<T, U, Meet::whole>();
      else if (b.numel() == 1) f.template operator()<T, U, Meet::scalar>();
      else f.template operator()<T, U, Meet::tail>();
    };
    if (b.dtype() == a.dtype()) with.template operator()<T>();
    else visit<Acc<T>>(who, b.dtype(), with);
  });
}

// Whether n elements of a and of b move together.
template <Meet meet, class T, class U>
bool vectors_fit(int n, const T* a, const U* b, int64_t columns) {
  return cuda::aligned(n, a) && (meet == Meet::scalar || (cuda::aligned(n, b) && (meet == Meet::whole || columns % n == 0)));
}

template <class F>
void forward(const BinaryForward<F>& args) {
  visit_operands(F::name, args.a, args.b, [&]<class T, class U, Meet meet>() {
    constexpr int n = cuda::vector_width<T>;
    const ForwardMap<T, U, Computed<F, T>, meet> map{args.a.template data<T>(), args.b.template data<U>(), args.y.template data<T>(),
                                        args.b.numel()};
    const bool vectors = vectors_fit<meet>(n, map.g_a, map.g_b, map.columns) && cuda::aligned(n, map.g_y);
    cuda::run_map<n>(args.device(), args.a.numel(), vectors, map);
  });
}

template <class F>
void backward(const BinaryBackward<F>& args) {
  visit_operands(F::name, args.a, args.b, [&]<class T, class U, Meet meet>() {
    constexpr int n = cuda::vector_width<T>;
    const int64_t numel = args.a.numel(), columns = args.b.numel();
    Device& device = args.device();
    const BackwardMap<T, U, Computed<F, T>, meet> map{
        args.a.template data<T>(),        args.b.template data<U>(),        args.d_y.template data<T>(),
        cuda::data_or_null<T>(args.d_a), cuda::data_or_null<U>(args.d_b), columns};
    const bool vectors = vectors_fit<meet>(n, map.g_a, map.g_b, columns) && cuda::aligned(n, map.g_d_y) &&
                         cuda::aligned(n, map.g_d_a) && (meet != Meet::whole || cuda::aligned(n, map.g_d_b));
    if (meet == Meet::whole || !args.d_b) return cuda::run_map<n>(device, numel, vectors, map);

    const Sums<T, U, Computed<F, T>, meet> sums{map};
    if constexpr (meet == Meet::scalar) cuda::sum_total<U, n>(device, numel, vectors, sums, map.g_d_b);
    else if (columns > 0) {
      const Tensor partials = vectors ? cuda::column_partials<1, n>(device, numel / columns, columns, sums)
                                   : cuda::column_partials<1, 1>(device, numel / columns, columns, sums);
      cuda::add_partials<double>(partials, cuda::ToArray<U>{args.d_b.template data<U>()});
    }
  });
}

template <class... F>
struct Functions {
  std::tuple<Implement<BinaryForward<F>>...> forwards{{binary_forward<F>, DeviceKind::cuda, forward<F>}...};
  std::tuple<Implement<BinaryBackward<F>>...> backwards{{binary_backward<F>, DeviceKind::cuda, backward<F>}...};
};

const Functions<scalar::Add, scalar::Subtract, scalar::Multiply, scalar::Divide, scalar::SwiGlu> functions;

}  // namespace
}  // namespace taper::kernels
