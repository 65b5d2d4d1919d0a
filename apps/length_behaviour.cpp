// Length behaviour: windows and targets are questions; a predictor answers them.
#include "apps/length_behaviour.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "data/tasks/metrics.h"
#include "tensor/error.h"

namespace taper {
namespace {

using Tokens = std::span<const int32_t>;

// The texts within which positions count: the documents, or the windows of the stream.
std::vector<Tokens> pieces(const HeldOutText& text, int64_t length) {
  const Tokens all(text.tokens);
  std::vector<Tokens> out;
  const auto add = [&](int64_t begin, int64_t end) {  // a piece of n + 1 tokens has n that are predicted
    if (end - begin >= 2) out.push_back(all.subspan(size_t(begin), size_t(end - begin)));
  };
  const int64_t n = int64_t(all.size());
  if (text.documents.empty())
    for (int64_t begin = 0; begin + 1 < n; begin += length) add(begin, std::min(n, begin + length + 1));
  for (size_t d = 0; d < text.documents.size(); ++d) {
    const int64_t begin = text.documents[d], end = d + 1 < text.documents.size() ? text.documents[d + 1] : n;
    add(begin, std::min(end, begin + length + 1));
  }
  return out;
}

// Tokens with at least `context` before them in their text, evenly spaced among all of those.
std::vector<int64_t> choose_targets(const HeldOutText& text, int64_t context, int64_t wanted) {
  std::vector<int64_t> possible;
  size_t next = 0;
  int64_t begin = 0;
  for (int64_t i = 0; i < int64_t(text.tokens.size()); ++i) {
    if (next < text.documents.size() && text.documents[next] == i) begin = i, ++next;
    if (i - begin >= context) possible.push_back(i);
  }
  std::vector<int64_t> chosen;
  const int64_t n = int64_t(possible.size()), count = std::min(wanted, n);
  for (int64_t k = 0; k < count; ++k) chosen.push_back(possible[size_t(k * n / count)]);
  return chosen;
}

// first, the text behind `at`'s passage for `distance` tokens, the passage at `at`; all of its tokens but one are asked for.
Question repeated(const std::vector<int32_t>& text, int64_t first, int64_t at, int64_t passage, int64_t distance) {
  Question q;
  const auto add = [&](int64_t begin, int64_t n) { q.input.insert(q.input.end(), text.begin() + begin, text.begin() + begin + n); };
  add(first, passage);
  add(at + passage, distance);
  add(at, passage - 1);
  q.targets.assign(text.begin() + at + 1, text.begin() + at + passage);
  return q;
}

}  // namespace

LengthBehaviour length_behaviour(Predictor& model, const HeldOutText& text, const LengthOptions& o) {
  LengthBehaviour result;
  const std::vector<Tokens> windows = pieces(text, o.length);
  check(!windows.empty(), Exit::bad_data, "eval: positions want held-out text of at least 2 tokens; there are {}", text.tokens.size());
  std::vector<int64_t> contexts = o.contexts;
  if (contexts.empty())
    for (int64_t c = 16; c < o.length; c *= 2) contexts.push_back(c);
  if (o.contexts.empty()) contexts.push_back(o.length);
  std::ranges::sort(contexts);
  contexts.erase(std::ranges::unique(contexts).begin(), contexts.end());
  check(contexts[0] >= 1 && contexts.back() <= o.length, Exit::usage, "eval: --contexts must lie in [1,{}], the window; got {} to {}", o.length, contexts[0],
      contexts.back());
  const std::vector<int64_t> targets = choose_targets(text, contexts.back(), o.targets);
  check(!targets.empty(), Exit::bad_data,
      "eval: a context of {} tokens wants {} that long in the held-out data; give shorter --contexts, or a shorter --length",
        contexts.back(), text.documents.empty() ? "a text" : "a document");

  const int64_t P = o.passage, n = int64_t(text.tokens.size());
  const auto passages = [&](int64_t distance) { return std::min(o.targets, n - P - distance + 1); };  // evenly spaced, as they fit the text
  for (int64_t d = P; P >= 2 && 2 * P + d <= o.length && passages(d) >= 2; d *= 2) result.recalls.push_back({.distance = d});

  int64_t all = 0, done = 0;
  for (const Tokens w : windows) all += int64_t(w.size()) - 1;
  for (const int64_t c : contexts) all += c * int64_t(targets.size());
  for (const Recall& r : result.recalls) all += 2 * passages(r.distance) * (2 * P + r.distance - 1);
  const auto report = [&](std::span<const Question> batch) {
    for (const Question& q : batch) done += int64_t(q.input.size());
    if (o.progress) o.progress(done, all);
  };

  std::vector<Sum> sums;
  for (size_t begin = 0; begin < windows.size(); begin += size_t(o.batch)) {
    std::vector<Question> batch;
    for (size_t i = begin; i < std::min(windows.size(), begin + size_t(o.batch)); ++i) {
      const Tokens w = windows[i];
      batch.push_back({.input = {w.begin(), w.end() - 1}, .targets = {w.begin() + 1, w.end()}});
    }
    for (const auto& scores : model.ask(batch, Softmax::fp32))
      for (size_t t = 0; t < scores.size(); ++t) {
        const size_t bucket = size_t(std::bit_width(uint64_t(t + 1)) - 1);
        while (result.positions.size() <= bucket) {
          const int64_t first = int64_t(1) << result.positions.size();
          result.positions.push_back({.begin = first, .end = 2 * first});
          sums.emplace_back();
        }
        ++result.positions[bucket].tokens;
        sums[bucket].add(-scores[t].log_probability);
      }
    report(batch);
  }
  for (size_t b = 0; b < sums.size(); ++b) result.positions[b].nll = sums[b].value();

  std::vector<std::vector<double>> losses(contexts.size());
  for (size_t k = 0; k < contexts.size(); ++k)
    for (size_t begin = 0; begin < targets.size(); begin += size_t(o.batch)) {
      std::vector<Question> batch;
      for (size_t i = begin; i < std::min(targets.size(), begin + size_t(o.batch)); ++i) {
        const auto at = text.tokens.begin() + targets[i];
        batch.push_back({.input = {at - contexts[k], at}, .targets = {*at}});
      }
      for (const auto& scores : model.ask(batch, Softmax::fp32)) losses[k].push_back(-scores[0].log_probability);
      report(batch);
    }
  for (size_t k = 0; k < contexts.size(); ++k) {
    std::vector<double> gains;
    for (size_t i = 0; i < targets.size(); ++i) gains.push_back(losses[k][i] - losses.back()[i]);
    result.contexts.push_back({.context = contexts[k], .loss = mean(losses[k]), .error = mean_error(losses[k]), .gain = mean(gains),
        .gain_error = mean_error(gains)});
  }
  result.targets = int64_t(targets.size());
  result.effective_context = std::ranges::find_if(result.contexts, [](const ContextLoss& c) { return c.gain <= 0.01; })->context;

  for (Recall& r : result.recalls) {
    const int64_t count = passages(r.distance), last = n - P - r.distance;
    result.passages = std::max(result.passages, count);
    std::vector<double> losses[2], gains;
    Sum right[2];
    for (int64_t begin = 0; begin < count; begin += o.batch) {
      const int64_t size = std::min(o.batch, count - begin);
      for (const bool unseen : {false, true}) {
        std::vector<Question> batch;
        for (int64_t i = begin; i < begin + size; ++i) {
          const int64_t at = i * last / (count - 1), other = (i + count / 2) % count * last / (count - 1);
          batch.push_back(repeated(text.tokens, unseen ? other : at, at, P, r.distance));
        }
        for (const auto& scores : model.ask(batch, Softmax::fp32)) {
          Sum loss;
          for (const TokenScore& s : scores) loss.add(-s.log_probability), right[unseen].add(s.likeliest);
          losses[unseen].push_back(loss.value() / double(P - 1));
        }
        report(batch);
      }
    }
    for (size_t i = 0; i < losses[0].size(); ++i) gains.push_back(losses[1][i] - losses[0][i]);
    const double tokens = double(count * (P - 1));
    r = {.distance = r.distance, .loss = mean(losses[0]), .unseen = mean(losses[1]), .gain = mean(gains), .gain_error = mean_error(gains),
         .right = right[0].value() / tokens, .unseen_right = right[1].value() / tokens};
  }
  return result;
}

std::vector<LayerSpectrum> layer_spectra(const LanguageModel& now, const LanguageModel& initial) {
  std::vector<LayerSpectrum> all;
  for (size_t l = 0; l < now.blocks.size(); ++l) {
    const std::vector<HeadSpectrum> heads = now.blocks[l].mixer->spectrum(), before = initial.blocks[l].mixer->spectrum();
    LayerSpectrum s;
    std::vector<double> logs;
    Sum drift;
    for (size_t h = 0; h < heads.size(); ++h) {
      s.rate.push_back(heads[h].rate), s.time_constant.push_back(heads[h].time_constant), s.alpha.push_back(heads[h].alpha);
      logs.push_back(std::log(heads[h].time_constant));
      const double moved = std::abs(logs.back() - std::log(before[h].time_constant));
      drift.add(moved);
      s.largest_drift = std::max(s.largest_drift, moved);
    }
    std::ranges::sort(logs);
    for (size_t h = 1; h < logs.size(); ++h) s.least_gap = h == 1 ? logs[1] - logs[0] : std::min(s.least_gap, logs[h] - logs[h - 1]);
    if (logs.size() > 1) s.mean_gap = (logs.back() - logs.front()) / double(logs.size() - 1);
    if (!heads.empty()) s.drift = drift.value() / double(heads.size());
    all.push_back(std::move(s));
  }
  return all;
}

}  // namespace taper
