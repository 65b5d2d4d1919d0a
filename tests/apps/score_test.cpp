// score: against analytic models, and a network against its own logits.
#include "apps/score.h"

#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <tuple>

#include "apps/model_predictor.h"
#include "tests/apps/toy_predictor.h"

using namespace taper;
using test::toy_coder;
using test::ToyBigram;

namespace {

std::vector<Request> requests(std::vector<std::pair<std::string, std::string>> pairs) {
  std::vector<Request> all;
  for (auto& [context, continuation] : pairs) all.push_back({context, continuation, "a.jsonl:" + std::to_string(all.size() + 1)});
  return all;
}

}  // namespace

TEST_CASE("token_score: log-softmax over all, the lowest id of equals") {
  const std::vector<double> logits{1, 3, 3, 0};
  const double sum = std::exp(1.0) + 2 * std::exp(3.0) + 1;
  CHECK(token_score(logits, 0, Softmax::fp32).log_probability == doctest::Approx(1 - std::log(sum)).epsilon(1e-15));
  CHECK(token_score(logits, 1, Softmax::fp32).likeliest);
  CHECK_FALSE(token_score(logits, 2, Softmax::fp32).likeliest);
  // In bf16 two logits within a step of 1/64 at 3 are one, and a log-probability near -0.8 is a multiple of 1/256.
  const std::vector<double> near{3.001, 3.002, 0};
  CHECK(token_score(near, 1, Softmax::fp32).likeliest);
  CHECK(token_score(near, 0, Softmax::bf16_emulate).likeliest);
  const double rounded = token_score(near, 1, Softmax::bf16_emulate).log_probability;
  CHECK(rounded == token_score(near, 0, Softmax::bf16_emulate).log_probability);
  CHECK(rounded * 256 == std::round(rounded * 256));
  CHECK(rounded == doctest::Approx(-std::log(2 + std::exp(-3))).epsilon(4e-3));
  try {
    token_score(near, 3, Softmax::fp32);
    FAIL("no error");
  } catch (const std::exception& e) {
    CHECK(std::string(e.what()) == "score: token 3 is outside the model's vocabulary of 3; its tokenizer is another");
  }
  CHECK_THROWS(token_score(std::vector<double>{NAN, 1}, 1, Softmax::fp32));
}

TEST_CASE("encode_pair: whitespace moves, the split is by the context's count, an empty context is the prefix") {
  const Coder coder = toy_coder();  // characters, but "ab" is one token
  const auto ids = [&](std::string_view s) { return coder.encode(s); };
  Pair p = encode_pair(coder, "Q: x \n", "yes", "w");
  CHECK(p.context == ids("Q: x"));
  CHECK(p.continuation == ids(" \nyes"));
  p = encode_pair(coder, "x\u00a0", "y", "w");  // Unicode's whitespace
  CHECK(p.context == ids("x"));
  CHECK(p.continuation == ids("\u00a0y"));
  // A merge over the joint: "xa" is 2 tokens, "xab" too, so what is left of the whole is nothing; of "xabc" it is "c".
  CHECK(encode_pair(coder, "xa", "bc", "w").continuation == ids("c"));
  CHECK(encode_pair(coder, "xa", "bc", "w").context == ids("xa"));
  try {
    encode_pair(coder, "xa", "b", "a.jsonl:7");
    FAIL("no error");
  } catch (const std::exception& e) {
    CHECK(std::string(e.what()) == "a.jsonl:7: a continuation must have tokens of its own; 'b' after 'xa' has none");
  }
  p = encode_pair(coder, "", "ab", "w");
  CHECK(p.context == std::vector<int32_t>{test::toy_prefix});
  CHECK(p.continuation == std::vector<int32_t>{test::toy_ab});
  p = encode_pair(coder, " ", "c", "w");  // moved, and then nothing is left
  CHECK(p.context == std::vector<int32_t>{test::toy_prefix});
  CHECK(p.continuation == ids(" c"));

  Coder begins = coder;
  begins.begin = true;  // a tokenizer that puts the prefix in front of everything
  p = encode_pair(begins, "x", " y", "w");
  CHECK(p.context == std::vector<int32_t>{test::toy_prefix, 'x'});
  CHECK(p.continuation == ids(" y"));
  CHECK(encode_pair(begins, "", "y", "w").context == std::vector<int32_t>{test::toy_prefix});
  CHECK(begins.text("~x") == std::vector<int32_t>{test::toy_prefix, 'x'});  // its spelling is there already: not twice
  p = encode_pair(coder, "", "~y", "w");  // and without a context it becomes that
  CHECK(p.context == std::vector<int32_t>{test::toy_prefix});
  CHECK(p.continuation == std::vector<int32_t>{'y'});
}

TEST_CASE("score_continuations: log-likelihoods of a bigram model, whatever the batch") {
  const Coder coder = toy_coder();
  ToyBigram model;
  const auto all = requests({{"the cat", " sat"}, {"", "ab"}, {"xa", "bc"}, {"a longer context than the others", " b"}, {"q ", "r"}});
  const auto brute = [&](const std::string& tokens_before, std::string_view rest) {
    std::vector<int32_t> ids = tokens_before == "~" ? std::vector<int32_t>{test::toy_prefix} : coder.encode(tokens_before);
    double total = 0;
    for (const int32_t id : coder.encode(rest)) total += model.log_probability(ids.back(), id), ids.push_back(id);
    return total;
  };
  const std::vector<double> want{brute("the cat", " sat"), brute("~", "ab"), brute("a", "c"), brute("s", " b"), brute("q", " r")};
  for (const int64_t batch : {1, 2, 16}) {
    model.asked.clear();
    const auto scores = score_continuations(model, coder, all, {.batch = batch});
    REQUIRE(scores.size() == 5);
    for (size_t i = 0; i < 5; ++i) CHECK(scores[i].log_probability == doctest::Approx(want[i]).epsilon(1e-14));
    CHECK(scores[0].tokens == 4);
    CHECK(scores[2].tokens == 1);
    CHECK(int64_t(model.asked.size()) == (5 + batch - 1) / batch);
    for (size_t i = 1; i < model.asked.size(); ++i) CHECK(model.asked[i - 1].back() >= model.asked[i].front());  // by falling length
  }
}

TEST_CASE("score_continuations: greedy only where every token is the likeliest") {
  const Coder coder = toy_coder();
  ToyBigram model;
  std::string text = "k";
  for (int i = 0; i < 5; ++i) text += char(model.likeliest(text.back()));
  auto scores = score_continuations(model, coder, requests({{"k", text.substr(1)}, {"k", text.substr(1, 3) + "Z"}}), {});
  CHECK(scores[0].greedy);
  CHECK_FALSE(scores[1].greedy);
}

TEST_CASE("score_continuations: a model reads the last tokens, and never the very last") {
  const Coder coder = toy_coder();
  ToyBigram model;
  score_continuations(model, coder, requests({{"0123456789", "xyz"}}), {.max_length = 5});
  REQUIRE(model.inputs.size() == 1);
  CHECK(model.inputs[0] == std::vector<int32_t>{'7', '8', '9', 'x', 'y'});
  model.inputs.clear();
  score_continuations(model, coder, requests({{"0123456789", "xyz"}}), {.max_length = 0});
  CHECK(model.inputs[0].size() == 12);
  try {
    score_continuations(model, coder, requests({{"0", "wxyz"}}), {.max_length = 3});
    FAIL("no error");
  } catch (const std::exception& e) {
    CHECK(std::string(e.what()) == "a.jsonl:1: a continuation may have 3 tokens, --max-length; it has 4");
  }
}

TEST_CASE("bf16_emulate: sums in f32, rounded at the end") {
  const Coder coder = toy_coder();
  ToyBigram model;
  const auto r = requests({{"k", "a continuation of 37 characters or so"}});
  const double exact = score_continuations(model, coder, r, {})[0].log_probability;
  const double rounded = score_continuations(model, coder, r, {.softmax = Softmax::bf16_emulate})[0].log_probability;
  CAPTURE(exact);
  REQUIRE(exact < -128);
  REQUIRE(exact > -256);
  CHECK(rounded == std::round(rounded));  // a step is 1 between 128 and 256
  CHECK(rounded == doctest::Approx(exact).epsilon(1e-2));
}

TEST_CASE("windows: every token once, the last window with its whole left context") {
  const std::vector<int32_t> x{10, 11, 12, 13, 14, 15, 16};
  const auto w = windows(x, 9, 3);
  REQUIRE(w.size() == 3);
  CHECK(w[0].input == std::vector<int32_t>{9, 10, 11});
  CHECK(w[0].targets == std::vector<int32_t>{10, 11, 12});
  CHECK(w[1].input == std::vector<int32_t>{12, 13, 14});
  CHECK(w[1].targets == std::vector<int32_t>{13, 14, 15});
  CHECK(w[2].input == std::vector<int32_t>{13, 14, 15});  // x_{e-M-1} .. x_{e-2} with e = 7
  CHECK(w[2].targets == std::vector<int32_t>{16});
  const auto whole = windows(x, 9, 0);
  REQUIRE(whole.size() == 1);
  CHECK(whole[0].input == std::vector<int32_t>{9, 10, 11, 12, 13, 14, 15});
  CHECK(whole[0].targets == x);
  CHECK(windows(x, 9, 100)[0].targets == x);
  CHECK(windows({}, 9, 3).empty());
}

TEST_CASE("score_texts: a bigram model does not see the windows") {
  const Coder coder = toy_coder();
  ToyBigram model;
  const std::vector<std::string> texts{"abc and then some", "", "z"};
  for (const int64_t M : {1, 4, 100, 0}) {
    const auto scores = score_texts(model, coder, texts, {.max_length = M, .batch = 3});
    double want = 0;
    int32_t before = test::toy_prefix;
    for (const int32_t id : coder.encode(texts[0])) want += model.log_probability(before, id), before = id;
    CHECK(scores[0].log_probability == doctest::Approx(want).epsilon(1e-13));
    CHECK(scores[0].tokens == 16);
    CHECK(scores[1].tokens == 0);
    CHECK(scores[1].log_probability == 0);
    CHECK(scores[2].log_probability == doctest::Approx(model.log_probability(test::toy_prefix, 'z')).epsilon(1e-14));
  }
}

TEST_CASE("a network: scores are its logits', in pieces, beside longer rows, at any batch") {
  Device& cpu = open_device("cpu");
  for (const char* arch : {"mamba2", "rwkv7", "gdn"}) {
    CAPTURE(arch);
    ModelConfig c;
    c.arch = arch;
    c.post = true;
    c.d_model = 32, c.layers = 2, c.heads = 2, c.head_dim = c.arch == "mamba2" ? 32 : 16, c.d_state = 16, c.vocab = 50, c.train_length = 32;
    const LanguageModel model(c, 3, cpu);
    std::vector<Question> questions;
    for (const int64_t n : {3, 700, 130}) {
      Question q;
      for (int64_t i = 0; i < n; ++i) q.input.push_back(int32_t((i * i + 3 * n) % 50));
      for (int64_t i = 0; i < std::min<int64_t>(n, 90); ++i) q.targets.push_back(int32_t((i * 7 + n) % 50));
      questions.push_back(q);
    }
    ModelPredictor predictor(model);
    const auto together = predictor.ask(questions, Softmax::fp32);
    for (size_t i = 0; i < questions.size(); ++i) {
      const Question& q = questions[i];
      const int64_t n = int64_t(q.input.size());
      Tape tape = Tape::constants();
      const Tensor logits = model.logits(tape, from_host<int32_t>(cpu, {1, n}, q.input), {}).value;
      const int64_t V = logits.size(2);
      double worst = 0;
      for (size_t k = 0; k < q.targets.size(); ++k) {
        const int64_t row = n - int64_t(q.targets.size()) + int64_t(k);
        const TokenScore want = token_score(to_doubles(logits.reshape(Shape{n, V}).rows(row, row + 1)), q.targets[k], Softmax::fp32);
        worst = std::max(worst, std::abs(want.log_probability - together[i][k].log_probability));
      }
      CHECK(worst < 2e-5);
    }
    // 12000 tokens in one row are two pieces.
    Question longer;
    for (int i = 0; i < 12000; ++i) longer.input.push_back((i * 31 + i / 7) % 50);
    longer.targets = {7};
    const double pieces = predictor.ask({&longer, 1}, Softmax::fp32)[0][0].log_probability;
    Tape tape = Tape::constants();
    const Tensor logits = model.logits(tape, from_host<int32_t>(cpu, {1, 12000}, longer.input), {}).value;
    const double whole = token_score(to_doubles(logits.reshape(Shape{12000, logits.size(2)}).rows(11999, 12000)), 7, Softmax::fp32).log_probability;
    CHECK(pieces == doctest::Approx(whole).epsilon(1e-5));
  }
}

TEST_CASE("a network: what neighbouring questions share is read once, and their scores are those of each alone") {
  Device& cpu = open_device("cpu");
  for (const char* arch : {"mamba2", "rwkv7", "gdn", "gla", "retnet"})
    for (const bool post : {false, true}) {
      CAPTURE(arch);
      CAPTURE(post);
      ModelConfig c;
      c.arch = arch;
      c.post = post;
      c.d_model = 32, c.layers = 2, c.heads = 2,
      c.head_dim = c.arch == "mamba2" ? 32
                   : c.arch == "gla"  ? 8
                                      : 16,
      c.d_state = 16, c.vocab = 50, c.train_length = 32;
      const LanguageModel model(c, 3, cpu);
      const auto questions = [](std::initializer_list<int64_t> contexts) {  // of each length two endings of 3 and 6 tokens
        std::vector<Question> all;
        for (const int64_t n : contexts)
          for (const int64_t ending : {3, 6}) {
            Question q;
            for (int64_t i = 0; i < n; ++i) q.input.push_back(int32_t((i * i + 3 * n) % 50));
            for (int64_t i = 0; i < ending; ++i) q.targets.push_back(int32_t((i * 7 + n + ending) % 50));
            q.input.insert(q.input.end(), q.targets.begin(), q.targets.end() - 1);
            all.push_back(q);
          }
        return all;
      };
      const auto agree = [&](const std::vector<Question>& all, int64_t tokens) {
        ModelPredictor predictor(model);
        const auto together = predictor.ask(all, Softmax::fp32);
        CHECK(predictor.tokens_read() == tokens);
        double worst = 0;
        for (size_t i = 0; i < all.size(); ++i) {
          const auto alone = ModelPredictor(model).ask({&all[i], 1}, Softmax::fp32)[0];
          REQUIRE(alone.size() == together[i].size());
          for (size_t k = 0; k < alone.size(); ++k) {
            worst = std::max(worst, std::abs(alone[k].log_probability - together[i][k].log_probability));
            CHECK(alone[k].likeliest == together[i][k].likeliest);
          }
        }
        CHECK(worst < 1e-5);
      };
      // Two contexts of which all but the last token is read once, 39 and 29 padded, then four rows of 1 + 5 tokens. The plain way: 4 x 45.
      agree(questions({40, 30}), 2 * 39 + 4 * 6);
      agree(questions({40, 1}), 2 * 39 + 4 * 6);   // of a context of one token nothing is read before
      agree(questions({3, 2}), 4 * 8);             // short ones are not worth two passes
      Question other = questions({50})[0];         // begins unlike the others
      std::vector<Question> mixed = questions({60, 58, 59});
      mixed.insert(mixed.begin() + 2, other);
      agree(mixed, 4 * 59 + 7 * 6);
      if (c.arch == "gdn" && post) agree(questions({3001, 313, 101}), 3 * 3000 + 6 * 6);  // pieces of 2688 = 3000 - 312 tokens: one begins with a piece
    }
}

TEST_CASE("score_continuations: choices of one document are asked one behind another") {
  const Coder coder = toy_coder();
  ToyBigram model;
  std::vector<Request> all;
  for (const auto& [who, context, ending] : {std::tuple{"a", "short", " x"}, {"a", "short", " a very long ending"}, {"b", "middling length", " y"},
                                             {"b", "middling length", " z"}, {"a", "short", " w"}})
    all.push_back({context, ending, who});
  const auto scores = score_continuations(model, coder, all, {.batch = 2});
  std::vector<int32_t> last;
  for (const auto& input : model.inputs) last.push_back(int32_t(input.size()));
  CHECK(last == std::vector<int32_t>{6, 23, 16, 16, 6});  // by each group's longest; in their order within
  for (size_t i = 0; i < all.size(); ++i) CHECK(scores[i].log_probability == score_continuations(model, coder, {&all[i], 1}, {})[0].log_probability);
}

TEST_CASE("write_on: each row as it would be alone, by one pass over all that came before") {
  Device& cpu = open_device("cpu");
  ModelConfig c;
  c.arch = "gdn";
  c.d_model = 32, c.layers = 2, c.heads = 2, c.head_dim = 16, c.vocab = 40, c.train_length = 32;
  const LanguageModel model(c, 5, cpu);
  const std::vector<std::vector<int32_t>> prompts{{1, 2, 3}, {39}, {5, 4, 3, 2, 1, 0, 7, 7, 7}};
  const auto together = write_on(model, prompts, {.tokens = 12, .vocab = 40});
  for (size_t b = 0; b < 3; ++b) {
    CHECK(together[b] == write_on(model, {&prompts[b], 1}, {.tokens = 12, .vocab = 40})[0]);
    std::vector<int32_t> ids = prompts[b];
    for (int i = 0; i < 12; ++i) {
      const int64_t n = int64_t(ids.size());
      Tape tape = Tape::constants();
      const Tensor logits = model.logits(tape, from_host<int32_t>(cpu, {1, n}, ids), {}).value;
      const auto row = to_doubles(logits.reshape(Shape{n, logits.size(2)}).rows(n - 1, n));
      ids.push_back(int32_t(std::ranges::max_element(row.begin(), row.begin() + 40) - row.begin()));
    }
    CHECK(std::vector<int32_t>(ids.begin() + int64_t(prompts[b].size()), ids.end()) == together[b]);
  }
  // A row that stops keeps what it had; the others go on.
  const int32_t stop = together[0][3];
  const auto stopped = write_on(model, prompts, {.tokens = 12, .stop = stop, .vocab = 40});
  for (size_t b = 0; b < 3; ++b) {
    const auto end = std::ranges::find(together[b], stop);
    CHECK(stopped[b] == std::vector<int32_t>(together[b].begin(), end));
  }
  CHECK(write_on(model, prompts, {.tokens = 0, .vocab = 40})[1].empty());
  // Ids that the tokenizer does not know are not chosen, however likely.
  const auto known = write_on(model, prompts, {.tokens = 12, .vocab = 7});
  for (const auto& row : known) CHECK(std::ranges::max(row) < 7);
  CHECK(known != together);
}
