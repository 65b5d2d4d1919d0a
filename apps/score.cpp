// Score: from requests to questions, questions in batches by length, scores in the order of the requests.
#include "apps/score.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/tasks/metrics.h"
#include "data/tasks/python_text.h"
#include "tensor/dtype.h"
#include "tensor/error.h"

namespace taper {
namespace {

double round_bf16(double x) { return double(float(bf16(float(x)))); }

double total(std::span<const TokenScore> scores, Softmax softmax) {
  if (softmax == Softmax::fp32) {
    Sum s;
    for (const TokenScore& t : scores) s.add(t.log_probability);
    return s.value();
  }
  float s = 0;
  for (const TokenScore& t : scores) s += float(t.log_probability);
  return round_bf16(s);
}

// Asks all, in batches of about equal length; answers[i] is of questions[i]. Questions of one group, which are neighbours, are
// asked one behind another: a model may read once what they share.
std::vector<std::vector<TokenScore>> ask_all(Predictor& model, std::vector<Question> questions, const std::vector<size_t>& groups, const ScoreOptions& o) {
  std::vector<size_t> order(questions.size()), longest(groups.empty() ? 0 : groups.back() + 1);
  std::iota(order.begin(), order.end(), size_t(0));
  for (size_t i = 0; i < questions.size(); ++i) longest[groups[i]] = std::max(longest[groups[i]], questions[i].input.size());
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return longest[groups[a]] > longest[groups[b]]; });
  std::vector<std::vector<TokenScore>> answers(questions.size());
  for (size_t begin = 0; begin < order.size(); begin += size_t(o.batch)) {
    const size_t end = std::min(order.size(), begin + size_t(o.batch));
    std::vector<Question> batch;
    for (size_t i = begin; i < end; ++i) batch.push_back(std::move(questions[order[i]]));
    auto scores = model.ask(batch, o.softmax);
    check(scores.size() == batch.size(), "score: wants {} answers; the model gave {}", batch.size(), scores.size());
    for (size_t i = begin; i < end; ++i) answers[order[i]] = std::move(scores[i - begin]);
    if (o.progress) o.progress(int64_t(end), int64_t(order.size()));
  }
  return answers;
}

Score summed(std::span<const TokenScore> scores, Softmax softmax) {
  return {.log_probability = total(scores, softmax), .greedy = std::ranges::all_of(scores, &TokenScore::likeliest), .tokens = int64_t(scores.size())};
}

}  // namespace

TokenScore token_score(std::span<const double> logits, int32_t target, Softmax softmax) {
  check(0 <= target && size_t(target) < logits.size(), Exit::bad_data, "score: token {} is outside the model's vocabulary of {}; its tokenizer is another",
        target, logits.size());
  if (softmax == Softmax::bf16_emulate) {
    std::vector<float> x(logits.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = float(bf16(float(logits[i])));
    const auto best = std::ranges::max_element(x);
    float sum = 0;
    for (const float v : x) sum += std::exp(v - *best);
    // The likeliest by rounded log-probabilities, as the emulated program sees them: the lowest id of those that round alike.
    const float log_sum = std::log(sum);
    const auto rounded = [&](float v) { return float(bf16(v - *best - log_sum)); };
    const auto first = std::ranges::find_if(x, [&](float v) { return rounded(v) == rounded(*best); });
    return {.log_probability = double(rounded(x[size_t(target)])), .likeliest = first - x.begin() == target};
  }
  const auto best = std::ranges::max_element(logits);  // the first of equals
  double sum = 0;
  for (const double v : logits) sum += std::exp(v - *best);
  const double log_probability = logits[size_t(target)] - *best - std::log(sum);
  check(!std::isnan(log_probability), Exit::bad_data, "score: the model's logits must be finite; they hold NaN or infinity");
  return {.log_probability = log_probability, .likeliest = best - logits.begin() == target};
}

std::vector<int32_t> Coder::text(std::string_view text) const {
  std::vector<int32_t> ids = encode(text);
  if (begin && (ids.empty() || ids[0] != prefix)) ids.insert(ids.begin(), prefix);
  return ids;
}

Pair encode_pair(const Coder& coder, std::string_view context, std::string_view continuation, const std::string& who) {
  const std::string_view kept = python::rstrip(context);
  const std::string moved = std::string(context.substr(kept.size())) + std::string(continuation);
  Pair pair;
  if (kept.empty()) {  // nothing, or nothing but whitespace
    pair = {.context = {coder.prefix}, .continuation = coder.encode(moved)};
    if (!pair.continuation.empty() && pair.continuation[0] == coder.prefix) pair.continuation.erase(pair.continuation.begin());
  } else {
    pair.context = coder.text(kept);
    const std::vector<int32_t> whole = coder.text(std::string(kept) + moved);
    if (whole.size() > pair.context.size()) pair.continuation.assign(whole.begin() + int64_t(pair.context.size()), whole.end());
  }
  check(!pair.continuation.empty(), Exit::bad_data, "{}: a continuation must have tokens of its own; '{}' after '{}' has none", who, continuation,
        kept.size() > 40 ? std::string("...") + std::string(kept.substr(kept.size() - 40)) : std::string(kept));
  return pair;
}

std::vector<Score> score_continuations(Predictor& model, const Coder& coder, std::span<const Request> requests, const ScoreOptions& o) {
  std::vector<Question> questions;
  std::vector<size_t> groups;  // of each question: those of one document
  for (const Request& r : requests) {
    groups.push_back(groups.empty() ? 0 : groups.back() + (r.who != requests[groups.size() - 1].who));
    Pair pair = encode_pair(coder, r.context, r.continuation, r.who);
    check(o.max_length == 0 || int64_t(pair.continuation.size()) <= o.max_length, Exit::bad_data,
          "{}: a continuation may have {} tokens, --max-length; it has {}", r.who, o.max_length, pair.continuation.size());
    Question& q = questions.emplace_back(Question{std::move(pair.context), std::move(pair.continuation)});
    q.input.insert(q.input.end(), q.targets.begin(), q.targets.end() - 1);
    if (const int64_t over = int64_t(q.input.size()) - o.max_length; o.max_length && over > 0) q.input.erase(q.input.begin(), q.input.begin() + over);
  }
  std::vector<Score> scores;
  for (const auto& answer : ask_all(model, std::move(questions), groups, o)) scores.push_back(summed(answer, o.softmax));
  return scores;
}

std::vector<Question> windows(std::span<const int32_t> tokens, int32_t prefix, int64_t max_length) {
  const int64_t n = int64_t(tokens.size()), M = max_length ? max_length : n;
  std::vector<Question> all;
  for (int64_t done = 0; done < n;) {
    const int64_t p = std::min(M, n - done), end = done + p, begin = std::max<int64_t>(end - M - 1, -1);
    Question q;
    if (begin < 0) q.input.push_back(prefix);
    q.input.insert(q.input.end(), tokens.begin() + std::max<int64_t>(begin, 0), tokens.begin() + end - 1);
    q.targets.assign(tokens.begin() + done, tokens.begin() + end);
    all.push_back(std::move(q));
    done = end;
  }
  return all;
}

std::vector<Score> score_texts(Predictor& model, const Coder& coder, std::span<const std::string> texts, const ScoreOptions& o) {
  std::vector<Question> questions;
  std::vector<size_t> of;  // the text of each
  for (size_t i = 0; i < texts.size(); ++i)
    for (Question& q : windows(coder.text(texts[i]), coder.prefix, o.max_length)) questions.push_back(std::move(q)), of.push_back(i);
  std::vector<std::vector<double>> parts(texts.size());
  std::vector<Score> scores(texts.size());
  std::vector<size_t> alone(questions.size());
  std::iota(alone.begin(), alone.end(), size_t(0));
  const auto answers = ask_all(model, std::move(questions), alone, o);
  for (size_t i = 0; i < of.size(); ++i) {
    const Score s = summed(answers[i], o.softmax);
    parts[of[i]].push_back(s.log_probability);
    scores[of[i]].tokens += s.tokens;
    scores[of[i]].greedy = scores[of[i]].greedy && s.greedy;
  }
  for (size_t i = 0; i < texts.size(); ++i) scores[i].log_probability = sum(parts[i]);
  return scores;
}

}  // namespace taper
