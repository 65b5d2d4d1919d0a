// argmax: its checks. It has no rule, so no law but these.
#include "tensor/ops/argmax.h"

#include <cmath>

#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

template <class T>
std::vector<int32_t> of(const std::vector<T>& x, int64_t V, int64_t among = 0) {
  const int64_t rows = int64_t(x.size()) / V;
  const Tensor y(tested_device(), {rows}, Dtype::i32);
  kernels::argmax({.x = from_host<T>(tested_device(), {rows, V}, x), .y = y, .among = among});
  return to_host<int32_t>(y);
}

void the_first_of_the_largest() {
  using Rows = std::vector<int32_t>;
  const float inf = INFINITY, nan = NAN;
  expect(of<float>({1, 3, 2, 3, /**/ -5, -6, -5, -7, /**/ 0, 0, 0, 0, /**/ -inf, -inf, -inf, -1, /**/ 1, inf, inf, 2}, 4) == Rows{1, 0, 0, 3, 1}, "ties");
  expect(of<float>({nan, 1, 2, /**/ 1, nan, 0, /**/ nan, nan, nan, /**/ nan, -inf, nan}, 3) == Rows{2, 0, 0, 1}, "NaN is below all");
  expect(of<double>({1, 1 + 1e-15, /**/ 1 + 1e-15, 1}, 2) == Rows{1, 0}, "f64 to its last digit");
  expect(of<float>({7, 8}, 1) == Rows{0, 0}, "rows of one");
  const std::vector<float> wide{1, 0, 2, 9, /**/ 4, 5, 5, 6, /**/ nan, nan, nan, 1};
  expect(of<float>(wide, 4, 3) == Rows{2, 1, 0}, "the first three alone");
  expect(of<float>(wide, 4, 1) == Rows{0, 0, 0}, "the first alone");
  expect(of<float>(wide, 4, 4) == of<float>(wide, 4) && of<float>(wide, 4, 9) == of<float>(wide, 4), "as many as there are, or more");
}

template <class T>
void against_a_plain_search(const char* what) {
  const Random random(3, "argmax");
  for (const auto& [V, rows] : {std::pair{2, 37}, {31, 600}, {32, 37}, {33, 600}, {255, 513}, {1000, 512}, {1025, 3}, {8193, 37}}) {
    const int64_t among = V - V / 4;
    std::vector<T> x;  // few different numbers: many ties
    for (int64_t i = 0; i < int64_t(rows) * V; ++i) x.push_back(T(float(random.below(uint64_t(i), 19)) - 9));
    std::vector<int32_t> want;
    for (int64_t r = 0; r < rows; ++r) {
      int32_t best = 0;
      for (int64_t v = 1; v < among; ++v)
        if (float(x[size_t(r * V + v)]) > float(x[size_t(r * V + best)])) best = int32_t(v);
      want.push_back(best);
    }
    expect(of<T>(x, V, among) == want, "{} [{},{}]", what, rows, V);
  }
}

const RegisterCase registered{{
    .room = "argmax",
    .ops = {},
    .examples = {},
    .checks = {{"the first of the largest", the_first_of_the_largest},
               {"f32 as a plain search", [] { against_a_plain_search<float>("f32"); }},
               {"bf16 as a plain search", [] { against_a_plain_search<bf16>("bf16"); }}},
}};

}  // namespace
}  // namespace taper::test
