// Tensor: shapes, views, copies between host and device, allocation counts, and refusals.
#include "tensor/tensor.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

using namespace taper;
using Sizes = std::vector<int64_t>;

TEST_CASE("shape: sizes, negative indices, text") {
  const Shape s{2, 3, 4};
  CHECK(s.rank() == 3);
  CHECK(s[-1] == 4);
  CHECK(s.numel() == 24);
  CHECK(s.text() == "[2,3,4]");
  CHECK(Shape{}.numel() == 1);
  CHECK(Shape{}.text() == "[]");
  CHECK(Shape{3, 0}.numel() == 0);
  CHECK(s == Shape{2, 3, 4});
  CHECK_FALSE(s == Shape{2, 3});
  CHECK_THROWS_WITH(s[3], "shape: dimension 3 of [2,3,4] does not exist");
  CHECK_THROWS_WITH(s[-4], "shape: dimension -4 of [2,3,4] does not exist");
  CHECK_THROWS_WITH((Shape{1, -2}), "shape: sizes must be >= 0; got -2");
  CHECK_THROWS_WITH((Shape{1, 1, 1, 1, 1, 1, 1}), "shape: at most 6 dimensions; got a seventh");
  CHECK_THROWS_WITH((void)(Shape{int64_t(1) << 40, int64_t(1) << 40}).numel(),
                    "shape: [1099511627776,1099511627776] overflows 64 bits");
}

TEST_CASE("tensor: bytes beyond 64 bits are refused before anything is allocated") {
  Device& plan = open_device("plan");
  CHECK_THROWS_WITH((Tensor(plan, {int64_t(1) << 61}, Dtype::f64)),
                    "tensor: the bytes of f64 [2305843009213693952] must fit in 63 bits");
}

TEST_CASE("tensor: values travel to the device and back") {
  Device& cpu = open_device("cpu");
  const std::vector<float> f = {1, -2.5f, INFINITY, 1e-40f};
  CHECK(to_host<float>(from_host(cpu, {2, 2}, f)) == f);
  CHECK(to_host<int64_t>(from_host<int64_t>(cpu, {2}, {int64_t(1) << 40, -1})) == std::vector<int64_t>{int64_t(1) << 40, -1});
  CHECK(to_doubles(from_doubles(cpu, {2}, Dtype::bf16, {{1.0, 1.00390625}})) == std::vector<double>{1, 1});
  CHECK(item(full(cpu, {}, Dtype::f64, 0.1)) == 0.1);
  CHECK(to_doubles(zeros(cpu, {3}, Dtype::i32)) == std::vector<double>{0, 0, 0});
  CHECK_THROWS_WITH((from_host<float>(cpu, {3}, {1, 2})), "from_host: [3] wants 3 values; got 2");
  CHECK_THROWS_WITH(item(zeros(cpu, {2}, Dtype::f32)), "item: want one element; got [2]");
}

TEST_CASE("tensor: views share memory, clones do not") {
  Device& cpu = open_device("cpu");
  const Tensor t = from_doubles(cpu, {3, 2}, Dtype::f32, {{1, 2, 3, 4, 5, 6}});
  const Tensor r = t.rows(1, 3), s = t.reshape(Sizes{2, -1});
  CHECK(r.shape() == Shape{2, 2});
  CHECK(to_doubles(r) == std::vector<double>{3, 4, 5, 6});
  CHECK(r.data<float>() == t.data<float>() + 2);
  CHECK(s.shape() == Shape{2, 3});
  CHECK(t.rows(2, 2).numel() == 0);
  const Tensor c = clone(t);
  t.data<float>()[2] = 30;
  CHECK(to_doubles(r)[0] == 30);
  CHECK(to_doubles(c)[2] == 3);
  CHECK_THROWS_WITH(t.reshape(Sizes{4, 2}), "reshape: [4,2] must hold the 6 elements of [3,2]; it holds 8");
  CHECK_THROWS_WITH(t.reshape(Sizes{-1, -1}), "reshape: at most one size may be -1; got 2");
  CHECK_THROWS_WITH(t.rows(1, 4), "rows: want a range inside the first dimension of [3,2]; got [1,4)");
  CHECK_THROWS_WITH(t.data<double>(), "tensor: data is f32 [3,2]; it was asked for as f64");
  CHECK_THROWS_WITH(copy_into(t, zeros(cpu, {2, 3}, Dtype::f32)),
                    "copy: both sides must agree; got f32 [3,2] on cpu from f32 [2,3] on cpu");
}

TEST_CASE("tensor: unique says whether anybody else holds the memory") {
  Device& cpu = open_device("cpu");
  Tensor t = zeros(cpu, {4}, Dtype::f32);
  CHECK(t.unique());
  {
    const Tensor view = t.reshape(Shape{2, 2});
    CHECK_FALSE(t.unique());
  }
  CHECK(t.unique());
  CHECK_FALSE(Tensor{});
  CHECK(bool(t));
}

TEST_CASE("device: counts what lives and the most that ever did") {
  Device& cpu = open_device("cpu");
  const size_t before = cpu.bytes_live();
  cpu.reset_peak();
  {
    const Tensor a = zeros(cpu, {1024}, Dtype::f32);
    { const Tensor b = zeros(cpu, {512}, Dtype::f64); }
    CHECK(cpu.bytes_live() == before + 4096);
  }
  CHECK(cpu.bytes_live() == before);
  CHECK(cpu.bytes_peak() == before + 8192);
}

TEST_CASE("device: memory is 64-byte aligned, and poison fills it with NaN") {
  Device& cpu = open_device("cpu");
  cpu.poison(true);
  for (int64_t n : {1, 3, 17, 1000}) {
    const Tensor t(cpu, {n}, Dtype::f32);
    CHECK(reinterpret_cast<uintptr_t>(t.data<void>()) % 64 == 0);
    for (float x : to_host<float>(t)) CHECK(std::isnan(x));
  }
  cpu.poison(false);
}

TEST_CASE("device: a plan counts and runs nothing") {
  Device& plan = open_device("plan");
  const size_t before = plan.bytes_live();
  const Tensor t(plan, {int64_t(1) << 40}, Dtype::f32);  // 4 TiB
  CHECK(plan.bytes_live() == before + (size_t(1) << 42));
}
