// mqar: the examples are those of the task's definition, in content and in distribution.
#include "data/tasks/mqar.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "tensor/parallel.h"
#include "tests/support/scratch.h"

using namespace taper;
using test::expect_failure;

namespace {

struct Rows {  // the examples of one batch
  std::vector<int32_t> ids, labels;
};
Rows rows(const Batch& b) { return {to_host<int32_t>(b.ids), to_host<int32_t>(b.labels)}; }

Rows draw(const MqarOptions& options, const Cursor& at = {}) {
  MqarSource source(options, open_device("cpu"));
  source.seek(at);
  return rows(source.next());
}

MqarOptions options(int64_t vocab, int64_t T, int64_t K, int64_t batch) {
  MqarOptions o;
  o.vocab = vocab;
  o.sequence = T;
  o.pairs = {K};
  o.batch = batch;
  o.examples = batch;
  o.prefetch = 0;
  return o;
}

}  // namespace

TEST_CASE("keys, values, queries and labels are as the task defines them") {
  struct Size {
    int64_t vocab, T, K;
  };
  for (const auto& [vocab, T, K] : {Size{8192, 512, 128}, Size{8192, 512, 16}, Size{64, 61, 15}, Size{11, 16, 4}}) {
    constexpr int64_t B = 50;
    const Rows r = draw(options(vocab, T, K, B));
    for (int64_t b = 0; b < B; ++b) {
      const int32_t* ids = &r.ids[size_t(b * T)];
      const int32_t* labels = &r.labels[size_t(b * T)];
      std::map<int32_t, int32_t> value_of;
      std::set<int32_t> values, asked;
      for (int64_t k = 0; k < K; ++k) {
        REQUIRE(ids[2 * k] >= 1);
        REQUIRE(ids[2 * k] < vocab / 2);
        REQUIRE(ids[2 * k + 1] >= vocab / 2);
        REQUIRE(ids[2 * k + 1] < vocab);
        value_of[ids[2 * k]] = ids[2 * k + 1];
        values.insert(ids[2 * k + 1]);
      }
      REQUIRE(int64_t(value_of.size()) == K);
      REQUIRE(int64_t(values.size()) == K);
      for (int64_t t = 0; t < T; ++t) {
        REQUIRE(ids[t] >= 0);
        REQUIRE(ids[t] < vocab);
        if (labels[t] == ignored_label) continue;
        REQUIRE(t >= 2 * K);
        REQUIRE(t % 2 == 0);
        REQUIRE(value_of.contains(ids[t]));
        REQUIRE(labels[t] == value_of[ids[t]]);
        REQUIRE(asked.insert(ids[t]).second);
      }
      REQUIRE(int64_t(asked.size()) == K);
    }
  }
}

TEST_CASE("T = 4K: every even place after the pairs is a query") {
  const Rows r = draw(options(8192, 64, 16, 4));
  for (size_t t = 0; t < 64; ++t) CHECK((r.labels[t] != ignored_label) == (t >= 32 && t % 2 == 0));
}

TEST_CASE("gaps: the first one drawn has probability (i+1)^(a-1), the second that without the first") {
  // Key 0 is the first in order of drawing, so its place tells the first gap.
  constexpr int64_t B = 40'000, T = 40, K = 2, space = (T - 2 * K) / 2;
  const Rows r = draw(options(64, T, K, B));
  std::vector<double> first(space, 0), second(space, 0), p(space), p2(space, 0);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 2 * K; t < T; t += 2) {
      if (r.labels[size_t(b * T + t)] == ignored_label) continue;
      ++(r.ids[size_t(b * T + t)] == r.ids[size_t(b * T)] ? first : second)[size_t((t - 2 * K) / 2)];
    }
  double total = 0;
  for (size_t i = 0; i < space; ++i) total += p[i] = std::pow(double(i + 1), 0.01 - 1);
  for (double& x : p) x /= total;
  for (size_t i = 0; i < space; ++i)
    for (size_t j = 0; j < space; ++j)
      if (i != j) p2[j] += p[i] * p[j] / (1 - p[i]);
  for (const auto& [seen, expected] : {std::pair(first, p), std::pair(second, p2)}) {
    double chi2 = 0;
    for (size_t i = 0; i < space; ++i)
      chi2 += (seen[i] - B * expected[i]) * (seen[i] - B * expected[i]) / (B * expected[i]);
    INFO(chi2);
    CHECK(chi2 < (space - 1) + 5 * std::sqrt(2.0 * (space - 1)));
  }
}

TEST_CASE("keys, values and the filling are uniform") {
  constexpr int64_t B = 20'000, T = 40, K = 2, vocab = 20;
  const Rows r = draw(options(vocab, T, K, B));
  std::vector<double> key(vocab, 0), value(vocab, 0), filling(vocab, 0);
  double fillings = 0;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t) {
      const size_t id = size_t(r.ids[size_t(b * T + t)]);
      if (t < 2 * K) ++(t % 2 ? value : key)[id];
      else if (r.labels[size_t(b * T + t)] == ignored_label) ++filling[id], ++fillings;
    }
  auto uniform = [](const std::vector<double>& seen, size_t low, size_t high, double total) {
    double chi2 = 0;
    const double expected = total / double(high - low), degrees = double(high - low) - 1;
    for (size_t i = 0; i < seen.size(); ++i) {
      if (i >= low && i < high) chi2 += (seen[i] - expected) * (seen[i] - expected) / expected;
      else CHECK(seen[i] == 0);
    }
    INFO(chi2);
    CHECK(chi2 < degrees + 5 * std::sqrt(2 * degrees));
  };
  uniform(key, 1, 10, 2 * B);
  uniform(value, 10, 20, 2 * B);
  uniform(filling, 0, 20, fillings);
}

TEST_CASE("an example depends on seed, split and index alone; on the epoch when fresh ones are wanted") {
  MqarOptions o = options(64, 32, 4, 6);
  const Rows base = draw(o);
  CHECK(draw(o).ids == base.ids);
  CHECK(draw(o, {1, 0}).ids == base.ids);
  o.batch = 1;
  CHECK(std::equal(base.ids.begin() + 3 * 32, base.ids.begin() + 4 * 32, draw(o, {0, 3}).ids.begin()));
  o.batch = 6;
  o.fresh = true;
  CHECK(draw(o).ids == base.ids);
  CHECK(draw(o, {1, 0}).ids != base.ids);
  o.fresh = false;
  o.split = "test";
  CHECK(draw(o).ids != base.ids);
  o.split = "train";
  o.seed = 124;
  CHECK(draw(o).ids != base.ids);
  std::set<std::vector<int32_t>> different;
  for (int64_t b = 0; b < 6; ++b)
    different.emplace(base.ids.begin() + b * 32, base.ids.begin() + (b + 1) * 32);
  CHECK(different.size() == 6);
}

TEST_CASE("an epoch goes through the segments in order; labels are counted; a pass ends") {
  MqarOptions o = options(64, 32, 1, 4);
  o.pairs = {2, 8};
  o.examples = 6;
  o.once = true;
  MqarSource source(o, open_device("cpu"));
  CHECK(source.samples_per_epoch() == 12);
  CHECK(source.remaining() == 3);
  CHECK(source.vocab() == 64);
  CHECK(source.identity() == "mqar train vocab 64 sequence 32 pairs 2,8 examples 6 seed 123");
  for (const int64_t labelled : {4 * 2, 2 * 2 + 2 * 8, 4 * 8}) CHECK(source.next().labelled == labelled);
  CHECK(source.remaining() == 0);
  expect_failure([&] { source.next(); }, Exit::internal, "loader: the pass is over; remaining() was 0");
}

TEST_CASE("a batch lists as many positions as it can have queries, all of them among them; from any number of threads the same") {
  MqarOptions o = options(64, 32, 8, 9);
  o.pairs = {2, 8};
  const auto lists = [&] {
    MqarSource source(o, open_device("cpu"));
    std::vector<std::vector<int32_t>> all;
    for (const int64_t K : {2, 8}) {
      const Batch b = source.next();
      const Rows r = rows(b);
      const std::vector<int32_t> at = to_host<int32_t>(b.at), labels = to_host<int32_t>(b.labels_at);
      REQUIRE(at.size() == size_t(9 * 8));
      CHECK(b.wanted().shape() == Shape{9 * 8});
      REQUIRE(labels.size() == at.size());
      for (size_t i = 0; i < at.size(); ++i) {
        CHECK(labels[i] == r.labels.at(size_t(at[i])));
        CHECK(at[i] / 32 == int32_t(i / 8));  // eight of each row
        if (i > 0) CHECK(at[i] > at[i - 1]);
      }
      CHECK(int64_t(at.size()) - std::ranges::count(labels, ignored_label) == 9 * K);
      CHECK(b.labelled == 9 * K);
      all.insert(all.end(), {r.ids, r.labels});
    }
    return all;
  };
  const int before = thread_count();
  set_thread_count(1);
  const auto one = lists();
  set_thread_count(3);
  CHECK(lists() == one);
  set_thread_count(before);
}

TEST_CASE("an example, number by number") {
  MqarOptions o = options(16, 24, 4, 1);
  o.seed = 5;
  const Rows r = draw(o);
  CHECK(r.ids == std::vector<int32_t>{5, 15, 7, 13, 4, 10, 1, 8, 5, 15, 4, 11, 11, 1, 9, 11, 7, 12, 1, 2, 6, 5, 11, 6});
  std::vector<int32_t> labels(24, ignored_label);
  labels[8] = 15, labels[10] = 10, labels[16] = 13, labels[18] = 8;  // gaps 0, 4, 1, 5 in the order of the keys
  CHECK(r.labels == labels);
}

TEST_CASE("sizes that cannot be are refused") {
  Device& cpu = open_device("cpu");
  expect_failure([&] { MqarSource(options(8192, 63, 16, 1), cpu); }, Exit::bad_config,
                 "mqar: wants 1 <= pairs and 4 pairs <= sequence; got 16 pairs, sequence 63");
  expect_failure([&] { MqarSource(options(8192, 64, 0, 1), cpu); }, Exit::bad_config, "got 0 pairs");
  expect_failure([&] { MqarSource(options(32, 64, 16, 1), cpu); }, Exit::bad_config,
                 "mqar: wants pairs <= vocab/2 - 1, the number of keys; got 16 pairs, vocab 32");
  expect_failure([&] { MqarSource(options(3, 64, 1, 1), cpu); }, Exit::bad_config, "mqar: wants vocab in [4,2^30]");
  MqarSource(options(34, 64, 16, 1), cpu);
}
