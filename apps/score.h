// Score: how likely a model finds a continuation of a context, or a whole text, by the published harness's rules.
//
// A continuation's tokens are those of encode(context + continuation) behind as many as encode(context) has; whitespace
// at the context's end first moves to the continuation. Without context the model begins from the prefix token. The model
// reads the last max_length + 1 tokens of both but the very last.
//
// A whole text is cut into windows of max_length tokens, the first from the prefix token, the others from the token before
// them, so that every token is scored once; a last, shorter window is read with as much before it as a full one has.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace taper {

enum class Softmax {
  fp32,          // log-softmax of the logits as they are, and its sum over tokens, in f64
  bf16_emulate,  // as of bf16 logits: log-softmax in f32 rounded to bf16, summed in f32 and rounded again
};

// The model reads `input`; targets[i] is asked for at its position input.size() - targets.size() + i.
struct Question {
  std::vector<int32_t> input, targets;
};
struct TokenScore {
  double log_probability = 0;
  bool likeliest = false;  // of all tokens; a tie is the lowest id's
};
TokenScore token_score(std::span<const double> logits, int32_t target, Softmax softmax);

class Predictor {  // a model that can be asked
 public:
  virtual ~Predictor() = default;
  // A score for each target of each question; together they are one batch.
  virtual std::vector<std::vector<TokenScore>> ask(std::span<const Question> questions, Softmax softmax) = 0;
};

struct Coder {  // text into tokens
  std::function<std::vector<int32_t>(std::string_view)> encode;  // without what begins a document
  int32_t prefix = 0;  // what an empty context stands for: BOS, else EOD
  bool begin = false;  // the tokenizer puts the prefix before every text, unless the text begins with it

  std::vector<int32_t> text(std::string_view text) const;  // encode, and begin
};

struct Pair {
  std::vector<int32_t> context, continuation;  // neither is empty
};
// Errors: a continuation without tokens of its own (65), `who` in front.
Pair encode_pair(const Coder& coder, std::string_view context, std::string_view continuation, const std::string& who);

struct Request {
  std::string context, continuation, who;  // who: where it was read, for messages
};
struct Score {
  double log_probability = 0;
  bool greedy = true;  // every token is the likeliest
  int64_t tokens = 0;  // scored
};
struct ScoreOptions {
  int64_t max_length = 2048;  // tokens that a model reads at once; 0: no limit
  int64_t batch = 16;         // questions at a time
  Softmax softmax = Softmax::fp32;
  std::function<void(int64_t done, int64_t all)> progress = {};  // questions
};

// In the order of the requests; they are asked by falling length, so that those in a batch are about as long. Neighbours of one
// `who` stay together.
std::vector<Score> score_continuations(Predictor& model, const Coder& coder, std::span<const Request> requests, const ScoreOptions& options);

// The windows of a text of tokens; targets are never empty.
std::vector<Question> windows(std::span<const int32_t> tokens, int32_t prefix, int64_t max_length);
std::vector<Score> score_texts(Predictor& model, const Coder& coder, std::span<const std::string> texts, const ScoreOptions& options);

}  // namespace taper
