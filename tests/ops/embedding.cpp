// embedding: rows by token, repeated and missing tokens, ids out of range.
#include "tensor/random.h"
#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

std::vector<int32_t> some_ids(int64_t n, int64_t V) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(int32_t(Random(2, "ids").below(uint64_t(i), uint64_t(V))));
  return ids;
}

Example example(int64_t V, int64_t D, const Shape& ids) {
  return {.name = fmt::format("V={} D={} ids {}", V, D, ids.text()),
          .inputs = {{.edge = "table", .shape = {V, D}}},
          .build = [=](const std::vector<Var>& in, const Packing&) {
            return std::vector{embedding(in[0], from_host(in[0].value.device(), ids, some_ids(ids.numel(), V)))};
          }};
}

void repeated_tokens_add_up() {
  Device& cpu = open_device("cpu");
  for (Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16}) {
    Tape tape;
    const Var table = tape.leaf("table", from_doubles(cpu, {3, 2}, dtype, {{1, 2, 3, 4, 5, 6}}));
    const Var y = embedding(table, from_host<int32_t>(cpu, {4}, {2, 0, 2, 2}));
    expect(to_doubles(y.value) == std::vector<double>{5, 6, 1, 2, 5, 6, 5, 6}, "rows must follow the ids");
    const Tensor d = from_doubles(cpu, {4, 2}, dtype, {{1, 10, 2, 20, 3, 30, 4, 40}});
    expect(to_doubles(backward(y, d).at("table")) == std::vector<double>{2, 20, 0, 0, 8, 80},
           "token 0 came once, token 1 never, token 2 three times");
  }
}

void refuses_ids_out_of_range() {
  Device& cpu = open_device("cpu");
  const Var table = constant(zeros(cpu, {5, 2}, Dtype::f32));
  expect_error([&] { embedding(table, from_host<int32_t>(cpu, {2, 2}, {0, 4, 5, 1})); },
               "embedding: token ids must lie in [0,5); position 2 holds 5");
  expect_error([&] { embedding(table, from_host<int32_t>(cpu, {2}, {-1, 7})); },
               "embedding: token ids must lie in [0,5); position 0 holds -1");
  try {
    embedding(table, from_host<int32_t>(cpu, {1}, {9}));
  } catch (const Error& e) {
    expect(e.code == Exit::bad_data, "a bad id is bad data (65); got {}", int(e.code));
  }
}

void refuses_wrong_types() {
  Device& cpu = open_device("cpu");
  expect_error([&] { embedding(constant(zeros(cpu, {5, 2}, Dtype::f32)), zeros(cpu, {3}, Dtype::i64)); },
               "embedding: ids must be i32; got i64");
  expect_error([&] { embedding(constant(zeros(cpu, {5}, Dtype::f32)), zeros(cpu, {3}, Dtype::i32)); },
               "embedding: table must be [V,D]; got [5]");
}

Bench bench(int64_t V, int64_t B = 1) {
  const double elements = double(B) * 2048 * 768;
  return {.example = example(V, 768, {B, 2048}),
          .forward_bytes = 8 * elements,
          .backward_flops = elements,
          .backward_bytes = 4 * elements + 4.0 * double(V) * 768,
          .large = B > 1};
}

// Every second row twice, none of the others.
Example even_rows(int64_t V, int64_t D) {
  return {.name = fmt::format("V={} D={}, every second row twice", V, D),
          .inputs = {{.edge = "table", .shape = {V, D}}},
          .build = [](const std::vector<Var>& in, const Packing&) {
            std::vector<int32_t> ids(size_t(in[0].size(0)));
            for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i - i % 2);
            return std::vector{embedding(in[0], from_host(in[0].value.device(), {int64_t(ids.size())}, ids))};
          }};
}

const RegisterCase registered{{
    .room = "embedding",
    .ops = {"embedding"},
    .examples = {example(1, 1, {1}), example(7, 3, {2, 5}), example(50, 17, {33}), example(4, 5, {2, 3, 4}),
                 example(3, 2, {700}), example(600, 8, {3, 1500}), example(40000, 1, {100})},
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {bench(257), bench(50280), bench(50280, 8)},
    .checks = {{"repeated tokens add up", repeated_tokens_add_up},
               {"refuses ids out of range", refuses_ids_out_of_range},
               {"refuses wrong types", refuses_wrong_types}},
    .huge = {even_rows(huge_rows(1024), 1024)},
}};

}  // namespace
}  // namespace taper::test
