// taper_levels [SECONDS [KERNEL...]]: the kernels of matmul (cuda/levels) against f64 and against each other, on a GPU.
//
// Each kernel runs in a process of its own that is ended after SECONDS (default 60), so that one that hangs costs only
// itself. Prints one JSON line per kernel and product: TFLOP/s, the ratio to cuBLASLt, the relative error. Exit 1 if a
// kernel fails or is wrong.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>

#include "tensor/ops/matmul.h"

using namespace taper;
using kernels::MatmulBy;

namespace {

constexpr int64_t period = 4194301;  // prime: no two rows are alike

// Element i of every operand, between -2 and 2: it can be named again without keeping the operand.
double number(int64_t i) {
  static const std::vector<double> all = [] {
    std::vector<double> x;
    for (uint64_t k = 0; k < uint64_t(period); ++k) {
      uint64_t h = k * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;
      h = (h ^ (h >> 29)) * 0xbf58476d1ce4e5b9u;
      x.push_back(double(float(bf16(float(int64_t((h >> 32) & 0xffffff) - 0x800000) / 0x400000))));
    }
    return x;
  }();
  return all[size_t(i % period)];
}

Tensor numbers(Device& device, const Shape& shape, Dtype dtype) {
  const int64_t numel = shape.numel(), part = std::min(numel, period);
  std::vector<double> x;
  for (int64_t i = 0; i < part; ++i) x.push_back(number(i));
  const Tensor flat(device, {numel}, dtype), once = from_doubles(device, {part}, dtype, x);
  for (int64_t at = 0; at < numel; at += part) {
    const int64_t end = std::min(numel, at + part);
    copy_into(flat.rows(at, end), once.rows(0, end - at));
  }
  return flat.reshape(shape);
}

struct Case {
  int64_t M, N, K;
  bool transpose_a, transpose_b, accumulate;
  Dtype operands, result;
  std::string text() const {
    return fmt::format("{}x{}x{} {}{} {}{}", M, N, K, transpose_a ? "T" : "N", transpose_b ? "T" : "N", name(result),
                       accumulate ? " +=" : "");
  }
  double flops() const { return 2.0 * double(M) * double(N) * double(K); }
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (auto [M, N, K] :
       {std::array<int64_t, 3>{333, 271, 197}, {1, 8, 8}, {200, 136, 72}, {520, 776, 1000}, {128, 512, 4096}})
    for (bool a : {false, true})
      for (bool b : {false, true})
        for (Dtype result : {Dtype::bf16, Dtype::f32}) all.push_back({M, N, K, a, b, M % 5 == 0, Dtype::bf16, result});
  // Tokens by features: a projection, the gradient of its input, the gradient of its weight; the last is the head.
  for (auto [N, K] : {std::array<int64_t, 2>{3352, 768},
                      {768, 1536},
                      {4608, 768},
                      {3072, 768},
                      {1536, 768},
                      {768, 768},
                      {256, 768},
                      {64, 768},
                      {24, 768},
                      {6, 768},
                      {257, 768},
                      {128256, 768}}) {
    const int64_t rows = N > 100000 ? 4096 : 16384;
    all.push_back({rows, N, K, false, true, false, Dtype::bf16, Dtype::bf16});
    all.push_back({rows, K, N, false, false, false, Dtype::bf16, Dtype::bf16});
    all.push_back({rows, K, N, false, false, true, Dtype::bf16, Dtype::bf16});
    all.push_back({N, K, rows, true, false, true, Dtype::bf16, Dtype::f32});
  }
  for (Dtype t : {Dtype::f32, Dtype::f64}) {
    all.push_back({333, 271, 197, false, true, true, t, t});
    all.push_back({4096, 3352, 768, false, true, false, t, t});
    all.push_back({3352, 768, 4096, true, false, true, t, t});
  }
  return all;
}

// ||c - f64|| / ||f64|| over some rows and columns; c was `before` when it was added to.
double error_of(const Case& x, const Tensor& c, bool added) {
  double difference = 0, norm = 0;
  for (int64_t r = 0; r < std::min<int64_t>(x.M, 6); ++r) {
    const int64_t m = x.M <= 6 ? r : r * (x.M - 1) / 5;
    const auto row = to_doubles(c.rows(m, m + 1));
    const int64_t stride = std::max<int64_t>(1, x.N / 300);
    for (int64_t n = 0; n < x.N; n += stride) {
      double want = added ? number(m * x.N + n) : 0;
      for (int64_t k = 0; k < x.K; ++k)
        want += number(x.transpose_a ? k * x.M + m : m * x.K + k) * number(x.transpose_b ? n * x.K + k : k * x.N + n);
      difference += (row[size_t(n)] - want) * (row[size_t(n)] - want);
      norm += want * want;
    }
  }
  return std::sqrt(difference / norm);
}

// One kernel, in its own process: a line "case TFLOP/s error" for each product it takes.
void child(MatmulBy by, int out) {
  Device& device = open_device("cuda:0");
  const std::vector<Case> all = cases();
  const bool slow = by == MatmulBy::naive || by == MatmulBy::shared_tiles;
  for (size_t i = 0; i < all.size(); ++i) {
    const Case& x = all[i];
    if (by < MatmulBy::tensor_cores &&
        x.flops() > (by == MatmulBy::rule || by == MatmulBy::register_tiles ? 2e11 : 9e10))
      continue;
    const Tensor a = numbers(device, x.transpose_a ? Shape{x.K, x.M} : Shape{x.M, x.K}, x.operands),
                 b = numbers(device, x.transpose_b ? Shape{x.N, x.K} : Shape{x.K, x.N}, x.operands),
                 c = numbers(device, {x.M, x.N}, x.result);
    const kernels::Matmul m{.a = a,
                            .b = b,
                            .c = c,
                            .transpose_a = x.transpose_a,
                            .transpose_b = x.transpose_b,
                            .accumulate = x.accumulate,
                            .by = by};
    if (!kernels::matmul_takes(m)) continue;
    kernels::matmul(m);
    const double error = error_of(x, c, x.accumulate);
    double tflops = 0;
    if (x.flops() > 1e8) {
      std::vector<double> seconds;
      const int calls = slow ? 1 : int(std::clamp(4e12 / x.flops(), 1.0, 40.0));
      for (int repeat = 0; repeat < 6; ++repeat) {
        const auto begin = device.mark();
        for (int call = 0; call < calls; ++call) kernels::matmul(m);
        seconds.push_back(device.seconds_between(begin, device.mark()) / calls);
      }
      std::nth_element(seconds.begin() + 1, seconds.begin() + 3, seconds.end());  // the first warmed up
      tflops = x.flops() / seconds[3] * 1e-12;
    }
    const std::string line = fmt::format("{} {} {}\n", i, tflops, error);
    if (write(out, line.data(), line.size()) < 0) return;
  }
}

struct Measured {
  double tflops, error;
};

// What the child printed before it ended or its time was up; `how` says how it ended where that was not in peace.
std::map<size_t, Measured> measure(MatmulBy by, unsigned seconds, std::string& how) {
  int ends[2];
  if (pipe(ends) != 0) raise("pipe failed");
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(seconds);
    int code = 0;
    try {
      child(by, ends[1]);
    } catch (const std::exception& e) {
      fmt::print(stderr, "{}: {}\n", kernels::name(by), e.what());
      code = 1;
    }
    _exit(code);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) text.append(buffer, size_t(n));
  close(ends[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  how = WIFSIGNALED(status)   ? (WTERMSIG(status) == SIGALRM ? "out of time" : "killed by a signal")
        : WEXITSTATUS(status) ? "failed"
                              : "";
  std::map<size_t, Measured> found;
  std::istringstream lines(text);
  size_t i;
  for (Measured m; lines >> i >> m.tflops >> m.error;) found[i] = m;
  return found;
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned seconds = argc > 1 ? unsigned(std::stoi(argv[1])) : 60;
  const std::vector<Case> all = cases();
  std::map<size_t, Measured> peer;
  int faults = 0;
  for (MatmulBy by : {MatmulBy::cublaslt, MatmulBy::wgmma, MatmulBy::pipelined, MatmulBy::tensor_cores,
                      MatmulBy::register_tiles, MatmulBy::shared_tiles, MatmulBy::naive, MatmulBy::rule}) {
    if (argc > 2 && std::none_of(argv + 2, argv + argc,
                                 [&](const char* wanted) { return std::string_view(wanted) == kernels::name(by); }))
      continue;
    std::string how;
    const auto found = measure(by, seconds, how);
    if (by == MatmulBy::cublaslt) peer = found;
    for (const auto& [i, m] : found) {
      const double limit = all[i].result == Dtype::bf16     ? 5e-3
                           : all[i].result == Dtype::f64    ? 1e-13
                           : all[i].operands == Dtype::bf16 ? 5e-5  // tensor cores cut the last bits of long sums
                                                            : 1e-5;
      const bool good = m.error <= limit;  // NaN is not
      faults += !good;
      const double ratio = peer.contains(i) && peer[i].tflops > 0 ? m.tflops / peer[i].tflops : 0;
      fmt::print(
          "{{\"kernel\":\"{}\",\"case\":\"{}\",\"operands\":\"{}\",\"tflops\":{:.1f},\"of_cublaslt\":{:.3f},\"error\":{"
          ":.2e},\"ok\":{}}}\n",
          kernels::name(by), all[i].text(), name(all[i].operands), m.tflops, ratio, m.error, good);
    }
    if (!how.empty()) {
      fmt::print("{{\"kernel\":\"{}\",\"fault\":\"{} after {} of its cases\"}}\n", kernels::name(by), how,
                 found.size());
      ++faults;
    }
    std::fflush(stdout);
  }
  return faults != 0;
}
