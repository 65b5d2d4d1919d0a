// Small models of every kind, and what their tests do with them.
#pragma once
#include <doctest/doctest.h>

#include <cmath>

#include "nn/model.h"
#include "tensor/random.h"

namespace taper::test {

inline Device& cpu() { return open_device("cpu"); }

inline ModelConfig small_model(const std::string& arch, bool post = false) {
  ModelConfig c;
  c.arch = arch;
  c.post = post;
  c.d_model = 16;
  c.layers = 2;
  c.heads = 4;
  c.d_state = 5;
  c.ffn_width = 24;
  c.decay_rank = c.rate_rank = c.value_rank = 6;
  c.gate_rank = 5;
  c.vocab = 13;
  c.train_length = 64;
  return c;
}

struct Kind {
  std::string name;
  ModelConfig config;
};

// The ten models; with `wirings`, also the wirings and forms that compute something else.
inline std::vector<Kind> kinds(bool wirings) {
  std::vector<Kind> all;
  for (const std::string& arch : architectures())
    for (const bool post : {false, true}) {
      all.push_back({arch + (post ? "_post" : ""), small_model(arch, post)});
      if (!wirings) continue;
      ModelConfig c = small_model(arch, post);
      c.wiring = "mqar";
      c.output_gate = arch != "gdn";
      all.push_back({all.back().name + " mqar", c});
      if (arch == "gla" || arch == "retnet") {
        c.wiring = "mixer";
        all.push_back({arch + (post ? "_post" : "") + " mixer", c});
      }
    }
  ModelConfig c = small_model("retnet", true);
  c.post_options.data_dependent = true;
  all.push_back({"retnet_post data-dependent", c});
  return all;
}

inline Tensor tokens(int64_t B, int64_t T, int64_t vocab = 13) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < B * T; ++i) ids.push_back(int32_t(Random(1, "tokens").below(uint64_t(i), uint64_t(vocab))));
  return from_host<int32_t>(cpu(), {B, T}, ids);
}

// Off the initial values, so that zero biases, even gaps and equal weights hide nothing; weights as large
// as their inputs are many, so that norms do not divide by almost nothing.
inline void nudge(LanguageModel& model) {
  for (Parameter* p : model.parameters()) {
    std::vector<double> v = to_doubles(p->value);
    const double size = p->value.rank() > 1 ? std::sqrt(double(p->value.size(0)) / double(p->value.numel())) : 0.1;
    for (size_t i = 0; i < v.size(); ++i) v[i] += size * Random(2, p->name).normal(i);
    p->value = from_doubles(p->value.device(), p->value.shape(), p->value.dtype(), v);
  }
}

inline Parameter* find(LanguageModel& model, const std::string& name) {
  for (Parameter* p : model.parameters())
    if (p->name == name) return p;
  FAIL("no parameter " << name);
  return nullptr;
}

inline std::vector<double> columns(const Tensor& t, int64_t begin, int64_t end) {  // [B,T,V] -> times [begin,end)
  const std::vector<double> all = to_doubles(t);
  std::vector<double> part;
  const int64_t T = t.size(1), V = t.size(2);
  for (int64_t b = 0; b < t.size(0); ++b)
    part.insert(part.end(), all.begin() + (b * T + begin) * V, all.begin() + (b * T + end) * V);
  return part;
}

inline double difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double d = 0, n = 0;
  for (size_t i = 0; i < a.size(); ++i) d += (a[i] - b[i]) * (a[i] - b[i]), n += b[i] * b[i];
  return std::sqrt(d / n);
}

inline Tensor piece(const Tensor& ids, int64_t begin, int64_t end) {  // [B,T] i32
  const std::vector<int32_t> all = to_host<int32_t>(ids);
  std::vector<int32_t> part;
  for (int64_t b = 0; b < ids.size(0); ++b)
    part.insert(part.end(), all.begin() + b * ids.size(1) + begin, all.begin() + b * ids.size(1) + end);
  return from_host<int32_t>(cpu(), {ids.size(0), end - begin}, part);
}

}  // namespace taper::test
