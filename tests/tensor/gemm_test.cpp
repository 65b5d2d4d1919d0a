// gemm: against a triple loop in f64, our own product against it too; bits do not depend on threads.
#include "tensor/gemm.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tensor/parallel.h"
#include "tensor/random.h"

using namespace taper;

namespace {

template <class T>
std::vector<T> drawn(const char* what, int64_t n) {
  std::vector<T> v(static_cast<size_t>(n));
  for (size_t i = 0; i < v.size(); ++i) v[i] = T(float(Random(3, what).normal(i)));
  return v;
}

// Rows are stored with `gap` unused elements behind each, so that a wrong row length shows.
template <class T>
struct Problem {
  Gemm<T> g;
  std::vector<T> a, b, c;

  Problem(int64_t m, int64_t n, int64_t k, bool ta, bool tb, T alpha, T beta, int64_t gap = 3) {
    const int64_t lda = (ta ? m : k) + gap, ldb = (tb ? k : n) + gap, ldc = n + gap;
    a = drawn<T>("a", lda * (ta ? k : m));
    b = drawn<T>("b", ldb * (tb ? n : k));
    c = drawn<T>("c", ldc * m);
    g = {.transpose_a = ta, .transpose_b = tb, .m = m, .n = n, .k = k, .a = a.data(), .lda = lda, .b = b.data(),
         .ldb = ldb, .c = nullptr, .ldc = ldc, .alpha = alpha, .beta = beta};
  }

  std::vector<double> want() const {
    std::vector<double> w(c.begin(), c.end());  // the gaps keep what they hold
    for (int64_t i = 0; i < g.m; ++i)
      for (int64_t j = 0; j < g.n; ++j) {
        double sum = 0;
        for (int64_t p = 0; p < g.k; ++p)
          sum += double(a[size_t(g.transpose_a ? p * g.lda + i : i * g.lda + p)]) *
                 double(b[size_t(g.transpose_b ? j * g.ldb + p : p * g.ldb + j)]);
        double& to = w[size_t(i * g.ldc + j)];
        to = (g.beta == 0 ? 0 : double(g.beta) * to) + double(g.alpha) * sum;
      }
    return w;
  }

  template <class F>
  std::vector<T> run(F&& f) {
    std::vector<T> out = c;
    g.c = out.data();
    f(g);
    return out;
  }
};

template <class T>
double relative_error(const std::vector<T>& got, const std::vector<double>& want) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += (double(got[i]) - want[i]) * (double(got[i]) - want[i]);
    norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

std::string shape_text(int64_t m, int64_t n, int64_t k, bool ta, bool tb, double beta) {
  std::string s = "m n k ta tb beta:";
  for (double x : {double(m), double(n), double(k), double(ta), double(tb), beta}) s += " " + std::to_string(x);
  return s;
}

template <class T>
void compare_all() {
  const int64_t sizes[][3] = {{1, 1, 1},    {1, 17, 5},    {2, 3, 4},     {7, 1, 9},     {6, 16, 256}, {13, 33, 1},
                              {31, 65, 70}, {121, 30, 257}, {70, 513, 33}, {257, 40, 19}, {5, 1030, 3}};
  const double bound = std::is_same_v<T, float> ? 1e-6 : 2e-15;
  for (const auto& [m, n, k] : sizes)
    for (bool ta : {false, true})
      for (bool tb : {false, true})
        for (auto [alpha, beta] : {std::pair{1.0, 0.0}, {-0.5, 1.0}, {2.0, 0.25}}) {
          const std::string what = shape_text(m, n, k, ta, tb, beta);
          CAPTURE(what);
          Problem<T> p(m, n, k, ta, tb, T(alpha), T(beta));
          const auto want = p.want();
          CHECK(relative_error(p.run([](const Gemm<T>& g) { gemm(g); }), want) < bound);
          CHECK(relative_error(p.run([](const Gemm<T>& g) { gemm_blocked(g); }), want) < bound);
        }
}

template <class T>
void beta_zero_reads_nothing() {
  Problem<T> p(40, 50, 30, false, true, 1, 0, 0);
  const auto want = p.want();
  p.c.assign(p.c.size(), std::numeric_limits<T>::quiet_NaN());
  CHECK(relative_error(p.run([](const Gemm<T>& g) { gemm(g); }), want) < 1e-6);
  CHECK(relative_error(p.run([](const Gemm<T>& g) { gemm_blocked(g); }), want) < 1e-6);
  p.g.k = 0;  // an empty product is 0, whatever C held
  for (T v : p.run([](const Gemm<T>& g) { gemm(g); })) CHECK(v == 0);
  for (T v : p.run([](const Gemm<T>& g) { gemm_blocked(g); })) CHECK(v == 0);
}

template <class T>
void threads_do_not_matter() {
  const int before = thread_count();
  for (bool ta : {false, true}) {
    Problem<T> p(600, 1100, 70, ta, !ta, 1, 0.5);
    std::vector<T> first;
    for (int threads : {1, 2, 3, 8}) {
      set_thread_count(threads);
      const auto c = p.run([](const Gemm<T>& g) { gemm(g); });
      if (first.empty()) first = c;
      CHECK(std::memcmp(first.data(), c.data(), c.size() * sizeof(T)) == 0);
    }
  }
  set_thread_count(before);
}

}  // namespace

TEST_CASE("gemm: both products equal a triple loop") {
  compare_all<float>();
  compare_all<double>();
}

TEST_CASE("gemm: beta = 0 never reads C") {
  beta_zero_reads_nothing<float>();
  beta_zero_reads_nothing<double>();
}

TEST_CASE("gemm: 1, 2, 3 and 8 threads give the same bits") {
  threads_do_not_matter<float>();
  threads_do_not_matter<double>();
}

TEST_CASE("gemm: row lengths beyond int are refused") {
  Gemm<float> g{.m = 1, .n = 1, .k = int64_t(1) << 31, .lda = int64_t(1) << 31, .ldb = 1, .ldc = 1};
  CHECK_THROWS_WITH(gemm(g), "gemm: k and row lengths must be below 2^31");
}

TEST_CASE("gemm: the bytes that are packed at once: of as many tiles as there are threads, none of them larger than the product") {
  CHECK(gemm_tiles(1024, 1200) == 12);
  CHECK(gemm_tiles(256, 512) == 1);
  CHECK(gemm_tiles(257, 513) == 4);
  CHECK(gemm_packed_bytes(1024, 1200, 300, 2) == 2 * (256 + 512) * 300 * 4);
  CHECK(gemm_packed_bytes(1024, 1200, 300, 32) == 12 * (256 + 512) * 300 * 4);
  CHECK(gemm_packed_bytes(1024, 64, 4000, 32) == 4 * (256 + 64) * 384 * 4);
  CHECK(gemm_packed_bytes(10, 64, 7, 1) == (10 + 64) * 7 * 4);
}

// Small products run side by side inside other work; a CBLAS that shares a buffer shows here.
TEST_CASE("gemm: products side by side have the bits of products alone") {
  Problem<float> p(64, 64, 1024, true, false, 1, 0);
  const std::vector<float> alone = p.run([](const Gemm<float>& g) { gemm(g); });
  const int threads = thread_count();
  set_thread_count(4);
  std::vector<int> wrong(64, 0);
  parallel_for(64, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int round = 0; round < 500; ++round) {
        std::vector<float> out = p.c;
        Gemm<float> g = p.g;
        g.c = out.data();
        gemm(g);
        wrong[size_t(i)] += std::memcmp(out.data(), alone.data(), out.size() * sizeof(float)) != 0;
      }
  });
  set_thread_count(threads);
  int sum = 0;
  for (int w : wrong) sum += w;
  CHECK(sum == 0);
}
