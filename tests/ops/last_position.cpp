// last_position: its checks. It has no rule, so no law but these.
#include "tensor/ops/last_position.h"


#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

std::vector<int64_t> after(const Packing& packing, int64_t B, int64_t T) {
  const Tensor y(tested_device(), {B}, Dtype::i64);
  kernels::last_position({.packing = packing, .T = T, .y = y});
  return to_host<int64_t>(y);
}

void counts_the_tokens_of_the_last_document() {
  using Positions = std::vector<int64_t>;
  const Tensor t0 = from_host<int64_t>(tested_device(), {4}, Positions{0, 5, 5, 7});
  const Tensor start = make_packing(tested_device(), 4, 9, {{}, {}, {3, 8}, {0}}).start;
  expect(after({}, 2, 9) == Positions{9, 9}, "from the beginning: T");
  expect(after({.t0 = t0}, 4, 9) == Positions{9, 14, 14, 16}, "with a state: t0 + T");
  expect(after({.start = start}, 4, 9) == Positions{9, 9, 1, 9}, "a document that began inside counts from there");
  expect(after({.start = start, .t0 = t0}, 4, 9) == Positions{9, 14, 1, 16}, "both");
  expect(after({.t0 = t0}, 4, 1) == Positions{1, 6, 6, 8}, "a single token");
}

void may_be_written_over_t0() {
  const int64_t B = 600;
  std::vector<int64_t> before, want;
  for (int64_t b = 0; b < B; ++b) before.push_back(b * b), want.push_back(b * b + 3);
  const Tensor t0 = from_host(tested_device(), {B}, before);
  kernels::last_position({.packing = {.t0 = t0}, .T = 3, .y = t0});
  expect(to_host<int64_t>(t0) == want, "in place");
}

const RegisterCase registered{{
    .room = "last_position",
    .ops = {},
    .examples = {},
    .checks = {{"counts the tokens of the last document", counts_the_tokens_of_the_last_document},
               {"may be written over t0", may_be_written_over_t0}},
}};

}  // namespace
}  // namespace taper::test
