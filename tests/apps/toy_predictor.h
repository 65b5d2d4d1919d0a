// Toy predictor: a bigram model over characters whose log-probabilities are formulas, for tests of scoring.
#pragma once
#include <algorithm>
#include <cmath>

#include "apps/score.h"

namespace taper::test {

constexpr int32_t toy_prefix = 256, toy_ab = 257, toy_vocab = 258;

// Bytes; "ab" is one token (a merge), and "~" spells the prefix.
inline Coder toy_coder() {
  return {.encode = [](std::string_view s) {
            std::vector<int32_t> ids;
            for (size_t i = 0; i < s.size(); ++i)
              if (s.substr(i, 2) == "ab") ids.push_back(toy_ab), ++i;
              else ids.push_back(s[i] == '~' ? toy_prefix : int32_t(uint8_t(s[i])));
            return ids;
          },
          .prefix = toy_prefix};
}

class ToyBigram final : public Predictor {
 public:
  std::vector<std::vector<int64_t>> asked;   // the lengths of each batch's inputs
  std::vector<std::vector<int32_t>> inputs;

  static double logit(int32_t before, int32_t id) {
    return 3 * std::sin(0.37 * before + 1.3 * id) + 0.001 * (id % 17) - (id < ' ' || id > '}' ? 6 : 0);
  }
  static double log_probability(int32_t before, int32_t id) {
    double sum = 0;
    for (int32_t v = 0; v < toy_vocab; ++v) sum += std::exp(logit(before, v));
    return logit(before, id) - std::log(sum);
  }
  static int32_t likeliest(int32_t before) {
    int32_t best = 0;
    for (int32_t v = 0; v < toy_vocab; ++v)
      if (logit(before, v) > logit(before, best)) best = v;
    return best;
  }
  std::vector<std::vector<TokenScore>> ask(std::span<const Question> questions, Softmax softmax) override {
    asked.emplace_back();
    std::vector<std::vector<TokenScore>> all;
    for (const Question& q : questions) {
      asked.back().push_back(int64_t(q.input.size()));
      inputs.push_back(q.input);
      all.emplace_back();
      for (size_t i = 0; i < q.targets.size(); ++i) {
        std::vector<double> logits(toy_vocab);
        for (int32_t v = 0; v < toy_vocab; ++v) logits[size_t(v)] = logit(q.input[q.input.size() - q.targets.size() + i], v);
        all.back().push_back(token_score(logits, q.targets[i], softmax));
      }
    }
    return all;
  }
};

}  // namespace taper::test
