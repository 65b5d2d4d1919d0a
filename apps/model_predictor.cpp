// ModelPredictor: pieces of a batch through the trunk, rows that are asked for through the head.
#include "apps/model_predictor.h"

#include <algorithm>
#include <cmath>

#include "apps/sample.h"
#include "nn/decoder.h"
#include "tensor/error.h"
#include "tensor/ops/argmax.h"
#include "tensor/ops/cast.h"
#include "tensor/ops/cross_entropy.h"
#include "tensor/parallel.h"

namespace taper {
namespace {

constexpr int64_t piece_tokens = 8192;           // of all rows of a piece
constexpr int64_t head_elements = int64_t(1) << 25;  // logits at a time

int64_t piece_length(int64_t rows) { return std::max<int64_t>(64, piece_tokens / rows / 64 * 64); }

// token_score of each row with Softmax::fp32, made where the logits are: of a vocabulary's numbers two come to the host.
std::vector<TokenScore> row_scores(const Tensor& logits, const std::vector<int32_t>& targets) {  // [n,V]
  Device& device = logits.device();
  const Shape n{int64_t(targets.size())};
  Tensor wide = logits;
  if (logits.dtype() != Dtype::f64) {
    wide = Tensor(device, logits.shape(), Dtype::f64);
    kernels::cast({.x = logits, .y = wide});
  }
  const Tensor nll(device, n, Dtype::f64), lse(device, n, Dtype::f64), best(device, n, Dtype::i32);
  kernels::cross_entropy_forward({.logits = wide, .labels = from_host<int32_t>(device, n, targets), .nll = nll, .lse = lse});
  kernels::argmax({.x = wide, .y = best});
  const std::vector<double> losses = to_doubles(nll);
  const std::vector<int32_t> likeliest = to_host<int32_t>(best);
  std::vector<TokenScore> scores;
  for (size_t i = 0; i < targets.size(); ++i) {
    check(!std::isnan(losses[i]), Exit::bad_data, "score: the model's logits must be finite; they hold NaN or infinity");
    scores.push_back({.log_probability = -losses[i], .likeliest = likeliest[i] == targets[i]});
  }
  return scores;
}

Shape stacked_shape(const Shape& one, int64_t rows) {
  Shape s;
  for (int i = 0; i < one.rank(); ++i) s.push_back(i ? one[i] : rows);
  return s;
}

Tensor stack(const std::vector<Tensor>& ones) {  // [1,...] each -> [B,...]
  const Tensor all(ones[0].device(), stacked_shape(ones[0].shape(), int64_t(ones.size())), ones[0].dtype());
  for (size_t b = 0; b < ones.size(); ++b) copy_into(all.rows(int64_t(b), int64_t(b) + 1), ones[b]);
  return all;
}

// One state of B rows from B states of one row, which all have passed at least one token.
ModelState stack(std::vector<ModelState>& ones) {
  std::vector<std::vector<Tensor>> values(ones.size());
  std::vector<Tensor> positions;
  for (size_t b = 0; b < ones.size(); ++b) {
    ones[b].each([&](Var& v) { values[b].push_back(v.value); });
    positions.push_back(ones[b].position);
  }
  ModelState all = ones[0];
  all.position = stack(positions);
  size_t i = 0;
  all.each([&](Var& v) {
    std::vector<Tensor> parts;
    for (const auto& of_row : values) parts.push_back(of_row.at(i));
    v = constant(stack(parts));
    ++i;
  });
  return all;
}

using Tokens = std::span<const int32_t>;

// The state behind each context, a row each. Shorter ones have padding in front, and begin anew behind it: as a packed document
// that no other is seen from.
ModelState read_contexts(const LanguageModel& model, const std::vector<Tokens>& contexts) {
  const int64_t B = int64_t(contexts.size());
  int64_t T = 1;
  for (const Tokens c : contexts) T = std::max(T, int64_t(c.size()));
  const auto begin_of = [&](int64_t b) { return T - int64_t(contexts[size_t(b)].size()); };
  ModelState state;
  const auto restart_at = [&](int64_t t) {  // the rows that begin where a piece does, and so cannot begin inside one
    std::vector<int32_t> keep;
    for (int64_t b = 0; b < B; ++b) keep.push_back(begin_of(b) != t);
    if (std::ranges::find(keep, 0) != keep.end()) state.restart(from_host<int32_t>(model.device, {B}, keep));
  };
  for (int64_t begin = 0, n; begin < T; begin += n) {
    n = std::min(piece_length(B), T - begin);
    if (begin) restart_at(begin);
    std::vector<int32_t> ids(size_t(B * n), 0);
    std::vector<std::vector<int64_t>> starts(static_cast<size_t>(B));
    for (int64_t b = 0; b < B; ++b) {
      const int64_t first = begin_of(b);
      if (begin < first && first < begin + n) starts[size_t(b)] = {first - begin};
      for (int64_t t = std::max(begin, first); t < begin + n; ++t) ids[size_t(b * n + t - begin)] = contexts[size_t(b)][size_t(t - first)];
    }
    Tape tape = Tape::constants();
    model.trunk(tape, from_host<int32_t>(model.device, {B, n}, ids), make_packing(model.device, B, n, starts), &state);
  }
  restart_at(T);
  return state;
}

ModelState rows_of(const ModelState& from, const std::vector<int64_t>& rows) {
  const auto those = [&](const Tensor& all) {
    std::vector<Tensor> parts;
    for (const int64_t r : rows) parts.push_back(all.rows(r, r + 1));
    return stack(parts);
  };
  ModelState to = from;
  to.position = those(from.position);
  to.each([&](Var& v) { v = constant(those(v.value)); });
  return to;
}

// What the questions have in common, so that it is read once: neighbours whose inputs begin alike, each up to the first token that
// a score is asked for at.
struct Shared {
  std::vector<Tokens> contexts;
  std::vector<int64_t> context_of;  // of each question
};
Shared shared_contexts(std::span<const Question> questions) {
  Shared s;
  const auto own = [](const Question& q) { return Tokens(q.input).first(q.input.size() - q.targets.size()); };
  for (size_t i = 0; i < questions.size(); ++i) {
    const Tokens mine = own(questions[i]);
    if (!s.contexts.empty()) {
      Tokens& last = s.contexts.back();
      const size_t alike = size_t(std::ranges::mismatch(last, mine).in1 - last.begin());
      if (last.empty() ? mine.empty() : 2 * alike > last.size()) {
        last = last.first(alike);
        s.context_of.push_back(int64_t(s.contexts.size()) - 1);
        continue;
      }
    }
    s.context_of.push_back(int64_t(s.contexts.size()));
    s.contexts.push_back(mine);
  }
  // Not worth two passes, unless they are a quarter shorter.
  const auto longest = [](size_t n, auto&& length) {
    size_t most = 0;
    for (size_t i = 0; i < n; ++i) most = std::max(most, length(i));
    return n * most;
  };
  const size_t n = questions.size(), alone = longest(n, [&](size_t i) { return questions[i].input.size(); });
  const size_t shared = longest(s.contexts.size(), [&](size_t c) { return s.contexts[c].size(); }) +
                        longest(n, [&](size_t i) { return questions[i].input.size() - s.contexts[size_t(s.context_of[i])].size(); });
  return 4 * shared <= 3 * alone ? s : Shared{};
}

}  // namespace

std::vector<std::vector<TokenScore>> ModelPredictor::ask(std::span<const Question> questions, Softmax softmax) {
  const int64_t B = int64_t(questions.size()), V = model_.embedding.value.size(0);
  std::vector<std::vector<TokenScore>> scores;
  for (const Question& q : questions) {
    check(!q.targets.empty() && q.targets.size() <= q.input.size(), "score: wants 1 to {} targets, the tokens of the input; got {}", q.input.size(),
        q.targets.size());
    for (const int32_t id : q.input)
      check(0 <= id && id < V, Exit::bad_data, "score: token {} is outside the model's vocabulary of {}; its tokenizer is another", id, V);
    for (const int32_t id : q.targets)
      check(0 <= id && id < V, Exit::bad_data, "score: token {} is outside the model's vocabulary of {}; its tokenizer is another", id, V);
    scores.emplace_back(q.targets.size());
  }
  const Shared shared = shared_contexts(questions);
  ModelState state;
  if (!shared.contexts.empty()) {
    state = rows_of(read_contexts(model_, shared.contexts), shared.context_of);
    tokens_read_ += int64_t(shared.contexts.size() * std::ranges::max(shared.contexts, {}, &Tokens::size).size());
  }
  std::vector<Tokens> inputs;  // what is still to be read
  int64_t T = 0;
  for (size_t b = 0; b < questions.size(); ++b) {
    inputs.push_back(questions[b].input);
    if (!shared.contexts.empty()) inputs[b] = inputs[b].subspan(shared.contexts[size_t(shared.context_of[b])].size());
    T = std::max(T, int64_t(inputs[b].size()));
  }
  tokens_read_ += B * T;
  for (int64_t begin = 0, n; begin < T; begin += n) {
    n = std::min(piece_length(B), T - begin);
    std::vector<int32_t> ids(size_t(B * n), 0);
    struct Wanted {
      int32_t row;  // of the piece's B n
      size_t question, target;
    };
    std::vector<Wanted> wanted;
    for (int64_t b = 0; b < B; ++b) {
      const Tokens input = inputs[size_t(b)];
      const int64_t length = int64_t(input.size()), first = length - int64_t(questions[size_t(b)].targets.size());
      for (int64_t t = begin; t < std::min(begin + n, length); ++t) {
        ids[size_t(b * n + t - begin)] = input[size_t(t)];
        if (t >= first) wanted.push_back({int32_t(b * n + t - begin), size_t(b), size_t(t - first)});
      }
    }
    Tape tape = Tape::constants();
    const Var x = model_.trunk(tape, from_host<int32_t>(model_.device, {B, n}, ids), {}, &state);
    const size_t at_once = size_t(std::max<int64_t>(1, head_elements / V));
    for (size_t i = 0; i < wanted.size(); i += at_once) {
      const std::span<const Wanted> some = std::span(wanted).subspan(i, std::min(at_once, wanted.size() - i));
      std::vector<int32_t> which;
      for (const Wanted& w : some) which.push_back(w.row);
      const Var chosen = model_.rows_at(x, from_host<int32_t>(model_.device, {int64_t(which.size())}, which));
      const Tensor some_logits = model_.head_logits(tape, chosen).value;
      if (softmax == Softmax::fp32) {
        std::vector<int32_t> targets;
        for (const Wanted& w : some) targets.push_back(questions[w.question].targets[w.target]);
        const std::vector<TokenScore> found = row_scores(some_logits, targets);
        for (size_t k = 0; k < some.size(); ++k) scores[some[k].question][some[k].target] = found[k];
        continue;
      }
      const std::vector<double> logits = to_doubles(some_logits);
      parallel_for(int64_t(some.size()), 4, [&](int64_t low, int64_t high) {
        for (int64_t k = low; k < high; ++k) {
          const Wanted& w = some[size_t(k)];
          scores[w.question][w.target] = token_score(std::span(logits).subspan(size_t(k * V), size_t(V)), questions[w.question].targets[w.target], softmax);
        }
      });
    }
  }
  return scores;
}

std::vector<std::vector<int32_t>> write_on(const LanguageModel& model, std::span<const std::vector<int32_t>> prompts, const Continue& how) {
  const size_t B = prompts.size();
  const int64_t D = model.config.d_model;
  std::vector<std::vector<int32_t>> written(B);
  if (B == 0 || how.tokens == 0) return written;
  std::vector<ModelState> states(B);
  std::vector<Tensor> first;  // logits [1,V] behind each prompt
  for (size_t b = 0; b < B; ++b) {
    const std::vector<int32_t>& prompt = prompts[b];
    check(!prompt.empty(), "generate: a prompt must have a token; one has none");
    const int64_t T = int64_t(prompt.size());
    for (int64_t begin = 0, n; begin < T; begin += n) {
      n = std::min(piece_length(1), T - begin);
      Tape tape = Tape::constants();
      const Var x = model.trunk(tape, from_host<int32_t>(model.device, {1, n}, std::span(prompt).subspan(size_t(begin), size_t(n))), {}, &states[b]);
      if (begin + n < T) continue;
      const Var last = constant(reshape(x, {n, D}).value.rows(n - 1, n));
      first.push_back(model.head_logits(tape, last).value);
    }
  }
  std::vector<int32_t> next = likeliest(stack(first), how.vocab);
  Decoder decoder(model, stack(states), model.device.kind() == DeviceKind::cuda);
  states.clear();
  std::vector<char> ended(B, 0);
  for (int64_t i = 0;; ++i) {
    bool open = false;
    for (size_t b = 0; b < B; ++b) {
      if (ended[b]) continue;
      if (next[b] == how.stop) ended[b] = 1;
      else written[b].push_back(next[b]), open = true;
    }
    if (!open || i + 1 == how.tokens) return written;
    next = likeliest(decoder.step(next), how.vocab);  // rows that have ended go on, and are not looked at
  }
}

}  // namespace taper
