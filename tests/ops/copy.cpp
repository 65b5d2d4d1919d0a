// copy: split, concat, transpose and reshape, and that the inverses undo each other.
#include <algorithm>
#include <numeric>

#include "tests/support/expect.h"
#include "tests/support/op_case.h"

namespace taper::test {
namespace {

using Sizes = std::vector<int64_t>;

Example split_example(const Shape& shape, const Sizes& sizes) {
  return {.name = fmt::format("split {} in {}", shape.text(), sizes.size()),
          .inputs = {{.edge = "x", .shape = shape}},
          .build = [sizes](const std::vector<Var>& in, const Packing&) { return split(in[0], sizes); }};
}

// A split of which only the last part is used.
Example partial_split_example() {
  return {.name = "split [3,9], last part alone",
          .inputs = {{.edge = "x", .shape = {3, 9}}},
          .build = [](const std::vector<Var>& in, const Packing&) { return std::vector{split(in[0], {4, 2, 3})[2]}; }};
}

// In views of its own rows; or, with `last`, only the last part is used.
Example split_rows_example(const Shape& shape, const Sizes& sizes, bool last) {
  return {.name = fmt::format("split_rows {} into {}{}", shape.text(), sizes.size(), last ? ", last part alone" : ""),
          .inputs = {{.edge = "x", .shape = shape}},
          .build = [=](const std::vector<Var>& in, const Packing&) {
            const std::vector<Var> parts = split_rows(in[0], sizes);
            return last ? std::vector{parts.back()} : parts;
          }};
}

Example concat_example(const std::vector<Shape>& shapes) {
  Example e{.name = fmt::format("concat of {} from {}", shapes.size(), shapes[0].text()),
            .inputs = {},
            .build = [](const std::vector<Var>& in, const Packing&) { return std::vector{concat(in)}; }};
  for (size_t i = 0; i < shapes.size(); ++i) e.inputs.push_back({.edge = fmt::format("part{}", i), .shape = shapes[i]});
  return e;
}

Example transpose_example(const Shape& shape) {
  return {.name = "transpose " + shape.text(),
          .inputs = {{.edge = "x", .shape = shape}},
          .build = [](const std::vector<Var>& in, const Packing&) { return std::vector{transpose(in[0])}; }};
}

Example reshape_example(const Shape& shape, const Sizes& sizes) {
  return {.name = "reshape " + shape.text(),
          .inputs = {{.edge = "x", .shape = shape}},
          .build = [sizes](const std::vector<Var>& in, const Packing&) { return std::vector{reshape(in[0], sizes)}; }};
}

Tensor counted(const Shape& shape, Dtype dtype = Dtype::f32) {
  std::vector<double> v(size_t(shape.numel()));
  std::iota(v.begin(), v.end(), 0.0);
  return from_doubles(open_device("cpu"), shape, dtype, v);
}

void columns_go_where_they_belong() {
  const std::vector<Var> parts = split(constant(counted({2, 5})), {2, 0, 3});
  expect(to_doubles(parts[0].value) == std::vector<double>{0, 1, 5, 6}, "part 0 must be columns 0 and 1");
  expect(parts[1].shape() == Shape{2, 0}, "part 1 must be empty; got {}", parts[1].shape().text());
  expect(to_doubles(parts[2].value) == std::vector<double>{2, 3, 4, 7, 8, 9}, "part 2 must be columns 2 to 4");
  expect_same_bits(concat(parts).value, counted({2, 5}), "concat of the parts");
}

void transposes_every_matrix() {
  for (Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16}) {
    const Tensor x = counted({3, 4, 5}, dtype), y = transpose(constant(x)).value;
    const auto vx = to_doubles(x), vy = to_doubles(y);
    for (size_t m = 0; m < 3; ++m)
      for (size_t i = 0; i < 4; ++i)
        for (size_t j = 0; j < 5; ++j)
          expect(vy[m * 20 + j * 4 + i] == vx[m * 20 + i * 5 + j], "element {},{},{} is misplaced", m, i, j);
  }
  const Tensor large = counted({2, 67, 131});
  expect_same_bits(transpose(transpose(constant(large))).value, large, "transpose of the transpose");
}

void reshape_shares_memory() {
  const Tensor x = counted({2, 6});
  const Tensor y = reshape(constant(x), {-1, 3}).value;
  expect((y.shape() == Shape{4, 3}) && y.data<float>() == x.data<float>(), "reshape must be a view");
}

void refuses_sizes_that_do_not_fit() {
  const Var x = constant(counted({2, 5}));
  expect_error([&] { split(x, {2, 2}); },
               "split: sizes must be >= 0 and add up to the last dimension of [2,5]; they add up to 4");
  expect_error([&] { split(x, Sizes(9, 1)); }, "split: want 1 to 8 sizes; got 9");
  expect_error([&] { concat({x, constant(counted({3, 5}))}); },
               "concat: part 1 must be f32 [2,5] but for its last dimension; got f32 [3,5]");
  expect_error([&] { concat({x, constant(counted({2, 1}, Dtype::f64))}); },
               "concat: part 1 must be f32 [2,5] but for its last dimension; got f64 [2,1]");
  expect_error([&] { transpose(constant(counted({4}))); }, "transpose: x must have two dimensions or more; got [4]");
  expect_error([&] { reshape(x, {3, 3}); }, "reshape: [3,3] must hold the 10 elements of [2,5]; it holds 9");
}

const double moved = 4.0 * 2048 * 3352;  // in_proj's output at d_model 768

// Columns taken apart and put together again in another order.
Example reordered_example(const Shape& shape, const Sizes& sizes) {
  return {.name = fmt::format("reorder {} parts of {}", sizes.size(), shape.text()),
          .inputs = {{.edge = "x", .shape = shape}},
          .build = [sizes](const std::vector<Var>& in, const Packing&) {
            std::vector<Var> parts = split(in[0], sizes);
            std::reverse(parts.begin(), parts.end());
            return std::vector{concat(parts)};
          }};
}

const RegisterCase registered{{
    .room = "copy",
    .ops = {"split", "split_rows", "concat", "transpose", "reshape"},
    .examples = {split_example({7}, {7}), split_example({3, 9}, {4, 2, 3}), split_example({2, 3, 8}, Sizes(8, 1)),
                 split_example({2, 12}, {1, 2, 3, 6}), split_example({4, 5}, {2, 3}),
                 split_example({2, 10}, {1, 2, 3, 4, 0}), split_example({2, 6}, Sizes(6, 1)),
                 split_example({2, 7}, Sizes(7, 1)), partial_split_example(), split_rows_example({7}, {7}, false),
                 split_rows_example({9, 3}, {4, 2, 3}, false), split_rows_example({9, 2, 2}, {4, 2, 3}, true), concat_example({{3}}),
                 concat_example({{2, 3}, {2, 1}}), concat_example({{2, 2, 3}, {2, 2, 1}, {2, 2, 4}}),
                 concat_example(std::vector<Shape>(8, Shape{2, 1})), transpose_example({1, 1}),
                 transpose_example({3, 5}), transpose_example({2, 33, 70}), reshape_example({6, 4}, {2, -1, 4}),
                 reshape_example({5}, {1, 5, 1}),
                 // Units of 2, 4, 8 and 16 bytes, in each dtype others.
                 split_example({5, 56}, {8, 16, 32}), split_example({3, 5, 31}, {4, 27}), concat_example({{9, 24}, {9, 4}, {9, 2}}),
                 transpose_example({3, 64, 65}), transpose_example({130, 32})},
    .bf16 = Tolerance{5e-3, 8e-3},
    .bench = {{.example = split_example({1, 2048, 3352}, {1536, 1792, 24}),
               .forward_bytes = 2 * moved,
               .backward_bytes = 2 * moved},
              {.example = transpose_example({2048, 1536}),
               .forward_bytes = 8.0 * 2048 * 1536,
               .backward_bytes = 8.0 * 2048 * 1536},
              {.example = split_example({8, 2048, 3352}, {1536, 1792, 24}),
               .forward_bytes = 16 * moved,
               .backward_bytes = 16 * moved,
               .large = true},
              {.example = transpose_example({8, 2048, 1536}),
               .forward_bytes = 8 * 8.0 * 2048 * 1536,
               .backward_bytes = 8 * 8.0 * 2048 * 1536,
               .large = true}},
    .checks = {{"columns go where they belong", columns_go_where_they_belong},
               {"transposes every matrix", transposes_every_matrix},
               {"reshape shares memory", reshape_shares_memory},
               {"refuses sizes that do not fit", refuses_sizes_that_do_not_fit}},
    .huge = {reordered_example({huge_rows(1000), 1000}, {104, 896}), transpose_example({huge_rows(65 * 96), 65, 96})},
}};

}  // namespace
}  // namespace taper::test
