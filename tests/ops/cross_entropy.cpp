// cross_entropy: against its composition, ignored labels, large logits, labels out of range.
#include <cmath>

#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

std::vector<int32_t> some_labels(int64_t n, int64_t V, bool ignore) {
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < n; ++i)
    labels.push_back(ignore && i % 3 == 1 ? -100 : int32_t(Random(2, "labels").below(uint64_t(i), uint64_t(V))));
  return labels;
}

// One row from plain ops: log(sum(exp(x))) - sum(x * onehot).
Var composed(const Var& x, int32_t label) {
  std::vector<double> onehot(size_t(x.size(-1)), 0.0);
  onehot[size_t(label)] = 1;
  const Var picked = sum(multiply(x, constant(from_doubles(x.value.device(), x.shape(), x.value.dtype(), onehot))));
  return subtract(log(sum(exp(x))), picked);
}

Example example(const Shape& rows, int64_t V, bool ignore) {
  Shape shape = rows;
  shape.push_back(V);
  Example e{.name = fmt::format("{}{}", shape.text(), ignore ? " ignoring" : ""),
            .inputs = {{.edge = "logits", .shape = shape, .fill = normal(0, 2)}},
            .build = [=](const std::vector<Var>& in, const Packing&) {
              return std::vector{cross_entropy(
                  in[0], from_host(in[0].value.device(), rows, some_labels(rows.numel(), V, ignore)))};
            }};
  if (rows == Shape{} && V > 1)  // with one word the gradient is 0, here exactly and there to rounding
    e.definition = [=](const std::vector<Var>& in, const Packing&) {
      return std::vector{composed(in[0], some_labels(1, V, ignore)[0])};
    };
  return e;
}

Bench bench(int64_t V) {
  const double n = 2048.0 * double(V);
  return {.example = example({1, 2048}, V, false),
          .forward_flops = 4 * n,
          .forward_bytes = 4 * n,
          .backward_flops = 3 * n,
          .backward_bytes = 8 * n};
}

Tensor labels_of(const std::vector<int32_t>& v) { return from_host<int32_t>(open_device("cpu"), {int64_t(v.size())}, v); }

void equal_logits_cost_log_v() {
  Device& cpu = open_device("cpu");
  for (double shift : {0.0, 1e4, -1e4, 1e30}) {
    const auto nll = to_doubles(cross_entropy(constant(full(cpu, {2, 100}, Dtype::f32, shift)), labels_of({3, 99})).value);
    for (double v : nll)
      expect(std::abs(v - std::log(100.0)) <= std::abs(shift) * 1e-7 + 1e-6, "shift {}: want log 100; got {}", shift, v);
  }
}

// Words masked by -infinity cost nothing and get no gradient, also where a whole stretch of the row is masked.
void masked_words_do_not_count() {
  Device& device = tested_device();
  const int64_t V = 5000;
  for (Dtype dtype : {Dtype::f32, Dtype::f64}) {
    std::vector<double> logits(size_t(V), -INFINITY);
    for (size_t v : {4097, 4500, 4999}) logits[v] = 2 * (double(v) - 4500);
    Tape tape;
    const Var x = tape.leaf("x", from_doubles(device, {1, V}, dtype, logits));
    const Var nll = cross_entropy(x, from_host<int32_t>(device, {1}, std::vector<int32_t>{4999}));
    expect(to_doubles(nll.value)[0] == 0, "the one likely word costs {}", to_doubles(nll.value)[0]);
    for (double d : to_doubles(backward(nll, full(device, {1}, dtype, 1)).at("x"))) expect(d == 0, "a gradient of {}", d);
  }
}

void ignored_rows_are_exactly_zero() {
  Device& cpu = open_device("cpu");
  Tape tape;
  const Var x = tape.leaf("x", from_doubles(cpu, {3, 2}, Dtype::f32, {{1, 2, 3, 4, 5, 6}}));
  const Var nll = cross_entropy(x, labels_of({1, -100, 0}));
  expect(to_doubles(nll.value)[1] == 0, "an ignored row costs 0");
  const auto d = to_doubles(backward(nll, full(cpu, {3}, Dtype::f32, 1)).at("x"));
  expect(d[2] == 0 && d[3] == 0, "an ignored row has no gradient; got {} {}", d[2], d[3]);
  expect(d[0] > 0 && d[1] < 0 && d[4] < 0 && d[5] > 0, "the label's logit goes up, the others down");
}

void gradients_of_a_row_cancel() {
  Device& cpu = open_device("cpu");
  const int64_t V = 1000;
  std::vector<double> logits;
  for (int64_t i = 0; i < V; ++i) logits.push_back(5 * Random(1, "logits").normal(uint64_t(i)));
  Tape tape;
  const Var x = tape.leaf("x", from_doubles(cpu, {1, V}, Dtype::f64, logits));
  double sum = 0;
  for (double d : to_doubles(backward(cross_entropy(x, labels_of({17})), full(cpu, {1}, Dtype::f64, 1)).at("x"))) sum += d;
  expect(std::abs(sum) < 1e-14, "softmax minus one-hot must add up to 0; got {}", sum);
}

void refuses_labels_out_of_range() {
  Device& cpu = open_device("cpu");
  const Var x = constant(zeros(cpu, {3, 5}, Dtype::f32));
  expect_error([&] { cross_entropy(x, labels_of({0, 4, 5})); },
               "cross_entropy: labels must lie in [0,5) or be -100; position 2 holds 5");
  expect_error([&] { cross_entropy(x, labels_of({0, -1, 9})); },
               "cross_entropy: labels must lie in [0,5) or be -100; position 1 holds -1");
  try {
    cross_entropy(x, labels_of({0, 0, 77}));
  } catch (const Error& e) {
    expect(e.code == Exit::bad_data, "a bad label is bad data (65); got {}", int(e.code));
  }
}

void refuses_wrong_types() {
  Device& cpu = open_device("cpu");
  expect_error([&] { cross_entropy(constant(zeros(cpu, {3, 5}, Dtype::f32)), labels_of({1, 2})); },
               "cross_entropy: labels must be i32 [3] to match logits [3,5]; got i32 [2]");
  expect_error([&] { cross_entropy(constant(zeros(cpu, {2, 5}, Dtype::bf16)), labels_of({1, 2})); },
               "cross_entropy: logits must be f32 or f64; got bf16");
}

// With the labels as an input, so that they are cut with the rows.
Example labelled(int64_t rows, int64_t V) {
  return {.name = fmt::format("[{},{}]", rows, V),
          .inputs = {{.edge = "logits", .shape = {rows, V}, .fill = normal(0, 2)},
                     {.edge = "labels", .shape = {rows}, .fill = whole_numbers(0, double(V - 1)), .wide = true}},
          .build = [](const std::vector<Var>& in, const Packing&) {
            const std::vector<double> labels = to_doubles(in[1].value);
            return std::vector{cross_entropy(in[0], from_host(in[0].value.device(), in[1].shape(),
                                                              std::vector<int32_t>(labels.begin(), labels.end())))};
          }};
}

const RegisterCase registered{{
    .room = "cross_entropy",
    .ops = {"cross_entropy"},
    .examples = {example({}, 1, false), example({}, 9, false), example({}, 130, false), example({1}, 2, false),
                 example({2, 7}, 11, true), example({5}, 257, true), example({40}, 3, false),
                 example({3}, 2608, true), example({2}, 9001, false)},
    .bf16 = Tolerance{5e-3, 8e-3},
    .rounded_alone = true,
    .bench = {bench(257), bench(50280)},
    .checks = {{"equal logits cost log V", equal_logits_cost_log_v},
               {"masked words do not count", masked_words_do_not_count},
               {"ignored rows are exactly zero", ignored_rows_are_exactly_zero},
               {"gradients of a row cancel", gradients_of_a_row_cancel},
               {"refuses labels out of range", refuses_labels_out_of_range},
               {"refuses wrong types", refuses_wrong_types}},
    .huge = {labelled(huge_rows(50304), 50304), labelled(huge_rows(1001), 1001)},
}};

}  // namespace
}  // namespace taper::test
