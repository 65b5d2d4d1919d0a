// taper_levels [--seconds N] [--record FILE] [--commit HASH] [KERNEL...]: the kernels of matmul (cuda/levels) against f64 and
// against each other, on a GPU.
//
// Each kernel runs in a process of its own that is ended after N seconds (default 60), so that one that hangs costs only
// itself. Prints one JSON line per kernel and product: TFLOP/s, the ratio to cuBLASLt, the relative error; then the ratio
// of our own kernels to cuBLASLt over a model's products, their geometric mean. --record appends the lines of what was
// timed to a file of records. Exit 1 if a kernel fails or is wrong, 2 for wrong usage; without a GPU it says so, exit 0.
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>

#include "tensor/file.h"
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
  bool of_a_model = false;
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
    all.push_back({rows, N, K, false, true, false, Dtype::bf16, Dtype::bf16, true});
    all.push_back({rows, K, N, false, false, false, Dtype::bf16, Dtype::bf16, true});
    all.push_back({rows, K, N, false, false, true, Dtype::bf16, Dtype::bf16, true});
    all.push_back({N, K, rows, true, false, true, Dtype::bf16, Dtype::f32, true});
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

// One kernel, in its own process: the GPU's name, then a line "case TFLOP/s error" for each product it takes.
void child(MatmulBy by, int out) {
  Device& device = open_device("cuda:0");
  const std::string product = device.product() + "\n";
  if (write(out, product.data(), product.size()) < 0) return;
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
                            .then = kernels::add_to(x.accumulate ? c : Tensor()),
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

constexpr const char* no_gpu = "no GPU";

struct Measured {
  double tflops, error;
};

// What the child printed before it ended or its time was up; `how` says how it ended where that was not in peace.
std::map<size_t, Measured> measure(MatmulBy by, unsigned seconds, std::string& device, std::string& how) {
  int ends[2];
  if (pipe(ends) != 0) raise("pipe failed");
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(seconds);
    int code = 0;
    try {
      child(by, ends[1]);
    } catch (const Error& e) {
      fmt::print(stderr, "{}: {}\n", kernels::name(by), e.what());
      code = e.code == Exit::unavailable && !dynamic_cast<const OutOfMemory*>(&e) ? int(e.code) : 1;
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
  how = WIFEXITED(status) && WEXITSTATUS(status) == int(Exit::unavailable) ? no_gpu
        : WIFSIGNALED(status) ? (WTERMSIG(status) == SIGALRM ? "out of time" : "killed by a signal")
        : WEXITSTATUS(status) ? "failed"
                              : "";
  std::map<size_t, Measured> found;
  std::istringstream lines(text);
  if (std::string product; std::getline(lines, product)) device = product;
  size_t i;
  for (Measured m; lines >> i >> m.tflops >> m.error;) found[i] = m;
  return found;
}

// The first of our own that takes the product, as the rule would choose without cuBLASLt.
const Measured* own(const std::map<MatmulBy, std::map<size_t, Measured>>& measured, size_t i, int64_t rows) {
  for (MatmulBy by : {MatmulBy::wgmma, MatmulBy::pipelined, MatmulBy::tensor_cores}) {
    if (by == MatmulBy::wgmma && rows <= 128) continue;
    if (measured.contains(by) && measured.at(by).contains(i)) return &measured.at(by).at(i);
  }
  return nullptr;
}

struct Options {
  unsigned seconds = 60;
  std::string record, commit;
  std::vector<std::string> kernels;
};

bool parse(int argc, char** argv, Options& o) {
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    if (!a.starts_with("--")) {
      o.kernels.push_back(a);
      continue;
    }
    if (i + 1 == argc) return false;
    if (a == "--seconds") o.seconds = unsigned(std::atoi(argv[++i]));
    else if (a == "--record") o.record = argv[++i];
    else if (a == "--commit") o.commit = argv[++i];
    else return false;
  }
  return o.seconds > 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  if (!parse(argc, argv, o)) {
    fmt::print(stderr, "taper_levels [--seconds N] [--record FILE] [--commit HASH] [KERNEL...]\n");
    return int(Exit::usage);
  }
  const std::vector<Case> all = cases();
  std::map<MatmulBy, std::map<size_t, Measured>> measured;
  std::string device;
  int faults = 0;
  const auto print = [&](std::string line, bool keep) {
    line = "{" + line + fmt::format(",\"device\":\"{}\",\"commit\":\"{}\"}}", device, o.commit);
    fmt::print("{}\n", line);
    std::fflush(stdout);
    if (keep && !o.record.empty()) append_line(o.record, line);
  };
  for (MatmulBy by : {MatmulBy::cublaslt, MatmulBy::wgmma, MatmulBy::pipelined, MatmulBy::tensor_cores,
                      MatmulBy::register_tiles, MatmulBy::shared_tiles, MatmulBy::naive, MatmulBy::rule}) {
    if (!o.kernels.empty() && std::ranges::find(o.kernels, kernels::name(by)) == o.kernels.end()) continue;
    std::string how;
    const auto& found = measured[by] = measure(by, o.seconds, device, how);
    if (how == no_gpu) {
      fmt::print("skipped: no GPU\n");
      return 0;
    }
    const auto& peer = measured[MatmulBy::cublaslt];
    for (const auto& [i, m] : found) {
      const Case& x = all[i];
      const double limit = x.result == Dtype::bf16     ? 5e-3
                           : x.result == Dtype::f64    ? 1e-13
                           : x.operands == Dtype::bf16 ? 5e-5  // tensor cores cut the last bits of long sums
                                                       : 1e-5;
      const bool good = m.error <= limit;  // NaN is not
      faults += !good;
      const double ratio = peer.contains(i) && peer.at(i).tflops > 0 ? m.tflops / peer.at(i).tflops : 0;
      print(fmt::format("\"kernel\":\"{}\",\"case\":\"{}\",\"operands\":\"{}\",\"of_a_model\":{},\"tflops\":{:.1f},"
                        "\"of_cublaslt\":{:.3f},\"error\":{:.2e},\"ok\":{}",
                        kernels::name(by), x.text(), name(x.operands), x.of_a_model, m.tflops, ratio, m.error, good),
            m.tflops > 0);
    }
    if (!how.empty()) {
      print(fmt::format("\"kernel\":\"{}\",\"fault\":\"{} after {} of its cases\"", kernels::name(by), how, found.size()), false);
      ++faults;
    }
  }
  double logarithms = 0, least = 0;
  int products = 0;
  for (const auto& [i, theirs] : measured[MatmulBy::cublaslt]) {
    const Measured* ours = own(measured, i, all[i].M);
    if (!all[i].of_a_model || theirs.tflops == 0 || !ours || ours->tflops == 0) continue;
    const double ratio = ours->tflops / theirs.tflops;
    logarithms += std::log(ratio);
    least = products++ ? std::min(least, ratio) : ratio;
  }
  if (products)
    print(fmt::format("\"kernel\":\"own\",\"case\":\"a model\",\"products\":{},\"geomean_of_cublaslt\":{:.3f},\"least_of_cublaslt\":{:.3f}",
                      products, std::exp(logarithms / products), least),
          true);
  return faults != 0;
}
