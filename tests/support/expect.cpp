// The assertions of cases and checks.
#include "tests/support/expect.h"

#include <cstring>

namespace taper::test {

double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  expect(a.size() == b.size(), "relative_error: want equal lengths; got {} and {}", a.size(), b.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return norm > 0 || std::isnan(norm) ? std::sqrt(difference / norm) : std::sqrt(difference);
}

double relative_error(const Tensor& a, const Tensor& b) {
  expect(a.shape() == b.shape(), "relative_error: want equal shapes; got {} and {}", a.shape().text(), b.shape().text());
  return relative_error(to_doubles(a), to_doubles(b));
}

void expect_close(const Tensor& a, const Tensor& b, double relative, const char* what) {
  const double error = relative_error(a, b);
  expect(error <= relative, "{}: relative error must be <= {:.2e}; got {:.3e}", what, relative, error);  // NaN fails
}

void expect_same_bits(const Tensor& a, const Tensor& b, const char* what) {
  expect(a.shape() == b.shape() && a.dtype() == b.dtype(), "{}: want {} {}; got {} {}", what, name(b.dtype()),
         b.shape().text(), name(a.dtype()), a.shape().text());
  std::vector<char> x(a.bytes()), y(b.bytes());
  a.device().download(x.data(), a.data<void>(), x.size());
  b.device().download(y.data(), b.data<void>(), y.size());
  expect(std::memcmp(x.data(), y.data(), x.size()) == 0, "{}: the bits must be equal; relative difference {:.3e}", what,
         relative_error(a, b));
}

void expect_error(const std::function<void()>& f, const std::string& part) {
  try {
    f();
  } catch (const Error& e) {
    expect(std::string(e.what()).find(part) != std::string::npos, "want an error with '{}'; got '{}'", part, e.what());
    return;
  }
  expect(false, "want an error with '{}'; got none", part);
}

}  // namespace taper::test
