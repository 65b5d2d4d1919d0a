// Dtype: bf16 rounding over all its values, sizes and names, and the choice by dtype.
#include "tensor/dtype.h"

#include <doctest/doctest.h>

#include <cmath>

using namespace taper;

TEST_CASE("dtype: every bf16 survives the way to f32 and back") {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    bf16 x;
    x.bits = uint16_t(bits);
    const float f = float(x);
    const uint16_t back = bf16(f).bits;
    if (std::isnan(f)) REQUIRE(std::isnan(float(bf16(f))));
    else REQUIRE(back == x.bits);
  }
}

TEST_CASE("dtype: f32 to bf16 takes the nearest, ties to even") {
  for (uint32_t bits = 0x00800000u; bits < 0x7f000000u; bits += 0x3f1fu) {
    const float x = std::bit_cast<float>(bits);
    const uint16_t got = bf16(x).bits, below = uint16_t(bits >> 16), above = uint16_t(below + 1);
    const double down = double(x) - double(std::bit_cast<float>(uint32_t(below) << 16));
    const double up = double(std::bit_cast<float>(uint32_t(above) << 16)) - double(x);
    REQUIRE(got == (down < up || (down == up && below % 2 == 0) ? below : above));
  }
  CHECK(float(bf16(std::bit_cast<float>(0x3f808000u))) == 1);                    // a tie, down to even
  CHECK(bf16(std::bit_cast<float>(0x3f818000u)).bits == 0x3f82);                 // a tie, up to even
  CHECK(std::isinf(float(bf16(std::bit_cast<float>(0x7f7fffffu)))));             // the largest f32
  CHECK(std::isnan(float(bf16(std::bit_cast<float>(0x7f800001u)))));             // a NaN with a low payload
  CHECK(std::signbit(float(bf16(-0.0f))));
}

TEST_CASE("dtype: sizes, names, types") {
  CHECK(size_of(Dtype::f32) == 4);
  CHECK(size_of(Dtype::f64) == 8);
  CHECK(size_of(Dtype::bf16) == 2);
  CHECK(size_of(Dtype::i32) == 4);
  CHECK(size_of(Dtype::i64) == 8);
  CHECK(std::string(name(Dtype::bf16)) == "bf16");
  CHECK(dtype_of<double>() == Dtype::f64);
  CHECK(std::is_same_v<Acc<bf16>, float>);
  CHECK(std::is_same_v<Acc<double>, double>);
}

TEST_CASE("dtype: visit runs the one that matches, or names those it would take") {
  int runs = 0;
  visit<float, double>("test", Dtype::f64, [&]<class T>() {
    ++runs;
    CHECK(std::is_same_v<T, double>);
  });
  CHECK(runs == 1);
  CHECK_THROWS_WITH((visit<float, double>("scan", Dtype::i32, []<class T>() {})), "scan: dtype must be f32 or f64; got i32");
}
