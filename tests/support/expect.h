// expect: the assertion of cases and checks. It raises, so that a runner can count and print it.
#pragma once
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "tensor/error.h"
#include "tensor/tensor.h"

namespace taper::test {

template <class... A>
void expect(bool ok, Message<std::type_identity_t<const A&>...> m, const A&... a) {
  if (!ok) throw Error(fmt::vformat(m.text, fmt::make_format_args(a...)), m.at, Exit::failure);
}

// ||a - b|| / ||b||, NaN where either holds one; absolute where b is all zero.
double relative_error(const std::vector<double>& a, const std::vector<double>& b);
double relative_error(const Tensor& a, const Tensor& b);

void expect_close(const Tensor& a, const Tensor& b, double relative, const char* what);
void expect_same_bits(const Tensor& a, const Tensor& b, const char* what);

// Runs f and expects an Error whose text contains `part`.
void expect_error(const std::function<void()>& f, const std::string& part);

}  // namespace taper::test
