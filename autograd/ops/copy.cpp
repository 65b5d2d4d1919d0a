// copy: the rules of split, split_rows, concat, transpose and reshape.
#include "tensor/ops/copy.h"

#include <algorithm>

#include "autograd/ops.h"
#include "tensor/error.h"

namespace taper {
namespace {

constexpr size_t most_parts = 8;
constexpr const char* part_names[most_parts] = {"part0", "part1", "part2", "part3",
                                                "part4", "part5", "part6", "part7"};
std::vector<const char*> parts(size_t n) { return {part_names, part_names + n}; }

// An op has a fixed number of edges, so split and concat are one op for each number of parts.
const Op split_ops[most_parts] = {{"split", {"x"}, parts(1)}, {"split", {"x"}, parts(2)}, {"split", {"x"}, parts(3)},
                                  {"split", {"x"}, parts(4)}, {"split", {"x"}, parts(5)}, {"split", {"x"}, parts(6)},
                                  {"split", {"x"}, parts(7)}, {"split", {"x"}, parts(8)}};
const Op split_rows_ops[most_parts] = {{"split_rows", {"x"}, parts(1)}, {"split_rows", {"x"}, parts(2)}, {"split_rows", {"x"}, parts(3)},
                                       {"split_rows", {"x"}, parts(4)}, {"split_rows", {"x"}, parts(5)}, {"split_rows", {"x"}, parts(6)},
                                       {"split_rows", {"x"}, parts(7)}, {"split_rows", {"x"}, parts(8)}};
const Op concat_ops[most_parts] = {{"concat", parts(1), {"y"}}, {"concat", parts(2), {"y"}},
                                   {"concat", parts(3), {"y"}}, {"concat", parts(4), {"y"}},
                                   {"concat", parts(5), {"y"}}, {"concat", parts(6), {"y"}},
                                   {"concat", parts(7), {"y"}}, {"concat", parts(8), {"y"}}};
const Op transpose_op{"transpose", {"x"}, {"y"}};
const Op reshape_op{"reshape", {"x"}, {"y"}};

Shape with_last(const Shape& shape, int64_t last) {
  Shape s;
  for (int i = 0; i + 1 < shape.rank(); ++i) s.push_back(shape[i]);
  s.push_back(last);
  return s;
}

Tensor transposed(const Tensor& x) {
  Shape shape;
  for (int i = 0; i + 2 < x.rank(); ++i) shape.push_back(x.size(i));
  shape.push_back(x.size(-1));
  shape.push_back(x.size(-2));
  const Tensor y(x.device(), shape, x.dtype());
  kernels::transpose({.from = x, .to = y});
  return y;
}

}  // namespace

std::vector<Var> split(const Var& x, const std::vector<int64_t>& sizes) {
  const Tensor& v = x.value;
  check(x && v.rank() >= 1, "split: x must have a last dimension; got {}", x ? v.shape().text() : "nothing");
  check(1 <= sizes.size() && sizes.size() <= most_parts, "split: want 1 to {} sizes; got {}", most_parts, sizes.size());
  int64_t total = 0;
  for (int64_t size : sizes) total += size;
  check(total == v.size(-1) && std::ranges::min(sizes) >= 0,
        "split: sizes must be >= 0 and add up to the last dimension of {}; they add up to {}", v.shape().text(), total);
  std::vector<Tensor> outs;
  int64_t column = 0;
  for (int64_t size : sizes) {
    outs.push_back({v.device(), with_last(v.shape(), size), v.dtype()});
    kernels::copy_columns({.from = v, .to = outs.back(), .from_column = column, .width = size});
    column += size;
  }
  return record(split_ops[sizes.size() - 1], {x}, outs, [v_shape = v.shape(), dtype = v.dtype(), sizes](Flow& flow) {
    bool whole = true;
    Device* device = nullptr;
    for (size_t i = 0; i < sizes.size(); ++i) {
      whole &= flow.has(part_names[i]);
      if (flow.has(part_names[i])) device = &flow.from(part_names[i]).device();
    }
    // A part that no loss looked at has a zero gradient.
    const Tensor d_x = whole ? Tensor(*device, v_shape, dtype) : zeros(*device, v_shape, dtype);
    int64_t column = 0;
    for (size_t i = 0; i < sizes.size(); column += sizes[i++])
      if (flow.has(part_names[i]))
        kernels::copy_columns({.from = flow.from(part_names[i]), .to = d_x, .to_column = column, .width = sizes[i]});
    flow.to("x", d_x);
  });
}

std::vector<Var> split_rows(const Var& x, const std::vector<int64_t>& sizes) {
  const Tensor& v = x.value;
  check(x && v.rank() >= 1, "split_rows: x must have a first dimension; got {}", x ? v.shape().text() : "nothing");
  check(1 <= sizes.size() && sizes.size() <= most_parts, "split_rows: want 1 to {} sizes; got {}", most_parts, sizes.size());
  int64_t total = 0;
  for (int64_t size : sizes) total += size;
  check(total == v.size(0) && std::ranges::min(sizes) >= 0,
        "split_rows: sizes must be >= 0 and add up to the first dimension of {}; they add up to {}", v.shape().text(), total);
  std::vector<Tensor> outs;
  int64_t row = 0;
  for (int64_t size : sizes) outs.push_back(v.rows(row, row + size)), row += size;
  return record(split_rows_ops[sizes.size() - 1], {x}, outs, [shape = v.shape(), sizes](Flow& flow) {
    Tensor d_x;  // in the dtype of its parts: a weight's gradient is wider than the weight
    bool whole = true;
    for (size_t i = 0; i < sizes.size(); ++i) whole &= flow.has(part_names[i]);
    int64_t row = 0;
    for (size_t i = 0; i < sizes.size(); row += sizes[i++]) {
      if (!flow.has(part_names[i])) continue;
      const Tensor& d = flow.from(part_names[i]);
      if (!d_x) d_x = whole ? Tensor(d.device(), shape, d.dtype()) : zeros(d.device(), shape, d.dtype());
      copy_into(d_x.rows(row, row + sizes[i]), d);
    }
    flow.to("x", d_x);
  });
}

Var concat(const std::vector<Var>& inputs) {
  check(1 <= inputs.size() && inputs.size() <= most_parts, "concat: want 1 to {} parts; got {}", most_parts,
        inputs.size());
  const Tensor& first = inputs[0].value;
  check(inputs[0] && first.rank() >= 1, "concat: parts must have a last dimension; part 0 has none");
  int64_t total = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& v = inputs[i].value;
    check(inputs[i] && v.rank() == first.rank() && v.dtype() == first.dtype() &&
              with_last(v.shape(), 0) == with_last(first.shape(), 0),
          "concat: part {} must be {} {} but for its last dimension; got {} {}", i, name(first.dtype()),
          first.shape().text(), name(v.dtype()), v.shape().text());
    total += v.size(-1);
  }
  const Tensor y(first.device(), with_last(first.shape(), total), first.dtype());
  std::vector<int64_t> widths;
  int64_t column = 0;
  for (const Var& part : inputs) {
    widths.push_back(part.size(-1));
    kernels::copy_columns({.from = part.value, .to = y, .to_column = column, .width = widths.back()});
    column += widths.back();
  }
  return record(concat_ops[inputs.size() - 1], inputs, y, [widths](Flow& flow) {
    const Tensor& d_y = flow.from("y");
    int64_t column = 0;
    for (size_t i = 0; i < widths.size(); column += widths[i++]) {
      if (!flow.wants(part_names[i])) continue;
      const Tensor d(d_y.device(), with_last(d_y.shape(), widths[i]), d_y.dtype());
      kernels::copy_columns({.from = d_y, .to = d, .from_column = column, .width = widths[i]});
      flow.to(part_names[i], d);
    }
  });
}

Var transpose(const Var& x) {
  check(x && x.value.rank() >= 2, "transpose: x must have two dimensions or more; got {}",
        x ? x.shape().text() : "nothing");
  return record(transpose_op, {x}, transposed(x.value),
                [](Flow& flow) { flow.to("x", transposed(flow.from("y"))); });
}

Var reshape(const Var& x, const std::vector<int64_t>& sizes) {
  check(bool(x), "reshape: x must be present; it is absent");
  Var y = record(reshape_op, {x}, x.value.reshape(sizes), [shape = x.shape()](Flow& flow) { flow.to("x", flow.from("y").reshape(shape)); });
  if (x.again) y.again = [again = x.again, sizes] { return again().reshape(sizes); };
  return y;
}

}  // namespace taper
