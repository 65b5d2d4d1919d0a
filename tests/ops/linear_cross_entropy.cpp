// linear_cross_entropy: against its composition (the law "fused = composed"), blocks of rows, ignored labels, its refusals.
#include "tensor/ops/linear_cross_entropy.h"

#include <cmath>

#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

Tensor some_labels(Device& device, const Shape& rows, int64_t V, bool ignore) {
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < rows.numel(); ++i)
    labels.push_back(ignore && i % 3 == 1 ? -100 : int32_t(Random(2, "labels").below(uint64_t(i), uint64_t(V))));
  return from_host<int32_t>(device, rows, labels);
}

Example example(const Shape& rows, int64_t D, int64_t V, bool ignore, double factor) {
  Shape shape = rows;
  shape.push_back(D);
  return {.name = fmt::format("{} V={} factor={}{}", shape.text(), V, factor, ignore ? " ignoring" : ""),
          .inputs = {{.edge = "x", .shape = shape}, {.edge = "weight", .shape = {V, D}, .fill = normal(0, 0.5)}},
          .build = [=](const std::vector<Var>& in, const Packing&) {
            return std::vector{linear_cross_entropy(in[0], in[1], some_labels(in[0].value.device(), rows, V, ignore),
                                                    full(in[0].value.device(), {}, Dtype::f64, factor)).loss};
          },
          .definition = [=](const std::vector<Var>& in, const Packing&) {
            const Var logits = matmul(in[0], in[1], {.b = true});
            return std::vector{scale(sum(cross_entropy(logits, some_labels(in[0].value.device(), rows, V, ignore))), factor)};
          },
          .plain = [=](const std::vector<Var>& in, const Packing&) {
            const Var logits = cast(cast(matmul(in[0], in[1], {.b = true}), Dtype::bf16), Dtype::f64);
            return std::vector{scale(sum(cross_entropy(logits, some_labels(in[0].value.device(), rows, V, ignore))), factor)};
          }};
}

// Where gradients are wanted the forward pass makes them, by two products more; the bench's forward wants none.
Bench bench(int64_t B, int64_t D, int64_t V) {
  const double rows = double(B) * 2048, n = rows * double(V) * double(D);
  return {.example = example({B, 2048}, D, V, false, 1 / rows), .forward_flops = 2 * n, .forward_bytes = 4.0 * double(V * D), .backward_flops = 0,
          .backward_bytes = 0, .large = B > 1};
}

void blocks_of_rows_cover_every_size() {
  const auto rows = kernels::linear_cross_entropy_rows;
  expect(rows(16384, 128256) == 2048, "16384 rows of 128256: want 2048 at once; got {}", rows(16384, 128256));
  expect(rows(100, 257) == 100, "few rows are one block; got {}", rows(100, 257));
  expect(rows(10, int64_t(1) << 40) == 1, "a row is the least; got {}", rows(10, int64_t(1) << 40));
  const auto columns = kernels::linear_cross_entropy_columns;
  expect(columns(50257, Dtype::bf16) == 50264 && columns(50257, Dtype::f32) == 50260 && columns(50257, Dtype::f64) == 50258,
         "a row is whole 16 bytes; got {} {} {}", columns(50257, Dtype::bf16), columns(50257, Dtype::f32), columns(50257, Dtype::f64));
  expect(columns(50304, Dtype::bf16) == 50304, "and no longer than that; got {}", columns(50304, Dtype::bf16));
}

// The kernel itself with room for 7 of 40 rows: six blocks, the last one short.
void several_blocks_are_one_sum() {
  Device& cpu = open_device("cpu");
  const int64_t R = 40, D = 3, V = 5;
  std::vector<double> x, w;
  for (int64_t i = 0; i < R * D; ++i) x.push_back(Random(1, "x").normal(uint64_t(i)));
  for (int64_t i = 0; i < V * D; ++i) w.push_back(Random(1, "w").normal(uint64_t(i)));
  const Tensor tx = from_doubles(cpu, {R, D}, Dtype::f64, x), tw = from_doubles(cpu, {V, D}, Dtype::f64, w);
  kernels::LinearCrossEntropy whole{.x = tx, .weight = tw, .labels = some_labels(cpu, {R}, V, true), .factor = full(cpu, {}, Dtype::f64, 0.5)}, cut;
  for (kernels::LinearCrossEntropy* k : {&whole, &cut}) {
    if (k == &cut) cut = whole;
    k->block = Tensor(cpu, {k == &cut ? 7 : R, kernels::linear_cross_entropy_columns(V, Dtype::f64)}, Dtype::f64);
    k->nll = Tensor(cpu, {R}, Dtype::f64);
    k->loss = Tensor(cpu, {}, Dtype::f64);
    k->d_x = empty_like(tx);
    k->d_weight = empty_like(tw);
    kernels::linear_cross_entropy(*k);
  }
  expect_close(cut.nll, whole.nll, 1e-14, "nll");
  expect_close(cut.loss, whole.loss, 1e-14, "loss");
  expect_close(cut.d_x, whole.d_x, 1e-14, "d_x");
  expect_close(cut.d_weight, whole.d_weight, 1e-13, "d_weight");
}

void refuses_a_second_walk_and_gradients_of_nll() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var x = tape.leaf("x", full(cpu, {2, 3}, Dtype::f32, 1)), w = tape.leaf("w", full(cpu, {4, 3}, Dtype::f32, 1));
  const Tensor labels = from_host<int32_t>(cpu, {2}, std::vector<int32_t>{1, 2});
  const LossResult r = linear_cross_entropy(x, w, labels);
  const Tensor one = full(cpu, {}, Dtype::f32, 1);
  const BackwardOptions keep{.cut = {}, .ledger = {}, .keep = true, .into = {}};
  backward(r.loss, one, keep);
  expect_error([&] { backward(r.loss, one, keep); }, "linear_cross_entropy: its gradients are scaled in place, so a tape is walked once");
  expect_error([&] { linear_cross_entropy(x, w, from_host<int32_t>(cpu, {1}, std::vector<int32_t>{1})); },
               "linear_cross_entropy: labels must be i32 [2] to match x [2,3]; got i32 [1]");
  expect_error([&] { linear_cross_entropy(x, constant(full(cpu, {4, 2}, Dtype::f32, 1)), labels); },
               "linear_cross_entropy: weight must be f32 [V,3] to match x [2,3]; got f32 [4,2]");
  expect_error([&] { linear_cross_entropy(x, w, labels, one); }, "linear_cross_entropy: factor must be f64 []; got f32 []");
}

// With the labels as an input, so that they are cut with the rows.
// Halves of whole blocks: a product of fewer rows may be summed in another order.
Example labelled(int64_t D, int64_t V) {
  const int64_t least = huge_rows(D), two_blocks = 2 * kernels::linear_cross_entropy_rows(least, V);
  const int64_t rows = (least + two_blocks - 1) / two_blocks * two_blocks;
  return {.name = fmt::format("[{},{}] V={}", rows, D, V),
          .inputs = {{.edge = "x", .shape = {rows, D}},
                     {.edge = "weight", .shape = {V, D}, .fill = normal(0, 0.05)},
                     {.edge = "labels", .shape = {rows}, .fill = whole_numbers(0, double(V - 1)), .wide = true}},
          .build = [](const std::vector<Var>& in, const Packing&) {
            const std::vector<double> ids = to_doubles(in[2].value);
            const Tensor labels = from_host(in[0].value.device(), in[2].shape(), std::vector<int32_t>(ids.begin(), ids.end()));
            return std::vector{linear_cross_entropy(in[0], in[1], labels, full(in[0].value.device(), {}, Dtype::f64, 1e-3)).loss};
          }};
}

const RegisterCase registered{{
    .room = "linear_cross_entropy",
    .ops = {"linear_cross_entropy"},
    .examples = {example({1}, 1, 2, false, 1), example({2, 7}, 5, 11, true, 0.25), example({40}, 16, 64, true, 1),
                 example({3, 50}, 24, 257, false, -2), example({129}, 64, 72, false, 1.0 / 129)},
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {bench(1, 768, 50257), bench(1, 768, 50304), bench(1, 768, 128256), bench(8, 768, 50257), bench(8, 768, 128256)},
    .checks = {{"blocks of rows cover every size", blocks_of_rows_cover_every_size},
               {"several blocks are one sum", several_blocks_are_one_sum},
               {"refuses a second walk, and other labels and weights", refuses_a_second_walk_and_gradients_of_nll}},
    .huge = {labelled(1024, 1024)},
}};

}  // namespace
}  // namespace taper::test
