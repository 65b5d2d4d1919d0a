// RULER: synthetic questions about long texts (Hsieh et al., 2024): needles in a haystack, variables to trace, frequent
// words, documents with an answer.
//
//   niah_single_1 .. 3, niah_multikey_1 .. 3, niah_multivalue, niah_multiquery, vt, cwe, fwe, qa_squad, qa_hotpot
//
// A sample is a pure function of (task, length, seed, index). Its text is as long as fits: in steps, while the tokens of
// prompt, answer prefix and new tokens stay within the length. Where not even one step fits, it is halved; where not even one
// of qa's documents fits, its end is cut off.
//
// compat: what the published program counts. The answers while growing; of niah and qa the prefix is not counted; cwe's unused
// example is counted too; fwe's new tokens are not; of qa's text that is too long the first tokens stay, all but new tokens and 5,
// and the question is said again. (Its random numbers are not reproduced: the samples are others of the same kind.)
//
// Errors: a length that is too short (78, says what is needed); qa without its file (66), or with one that does not fit (65).
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/tasks/haystack.h"
#include "data/tasks/templates.h"
#include "data/tasks/words.h"

namespace taper {

struct RulerSample {
  std::string prompt, prefix;        // what is told and asked; how the answer begins
  std::vector<std::string> answers;  // all are wanted
  std::string joint = " ";           // between the two, unless there is whitespace
  std::string uncounted = {};        // compat: text that is counted but not asked

  std::string input() const;  // prompt, joint, prefix
};

struct QaDocuments {
  std::vector<std::string> documents;  // sorted, each once
  struct Question {
    std::string text;
    std::vector<std::string> answers;
    std::vector<size_t> needed, related;  // documents: with the answer; of the same article
  };
  std::vector<Question> questions;  // in the file's order
};
QaDocuments read_squad(const Path& file);   // version 2.0's JSON; questions without an answer are left out
QaDocuments read_hotpot(const Path& file);  // the distractor setting's JSON

struct RulerMaterials {
  Templates templates;
  Haystack haystack;
  Words words;
  QaDocuments squad, hotpot;  // empty: not there
  std::map<std::string, std::string> given = {};  // SHA-256 of what the user brought, by its option: haystack, words-adj, ..., squad
};

struct RulerOptions {
  int64_t length = 1024;  // tokens
  uint64_t seed = 0;
  bool compat = false;
  std::function<int64_t(std::string_view)> tokens;
};

class RulerTask {  // of one length
 public:
  virtual ~RulerTask() = default;
  virtual int64_t new_tokens() const = 0;  // that an answer may have
  virtual bool published() const = 0;      // all its sentences are the published ones
  virtual int64_t samples() const { return int64_t(1) << 40; }  // there are
  RulerSample sample(uint64_t index) const;
  int64_t size() const { return size_; }   // what was found to fit: words of a haystack, lines, ...

 protected:
  struct Growth {
    int64_t least, start, step, most;
  };
  RulerTask(std::string name, const RulerOptions& options) : name_(std::move(name)), options_(options) {}
  virtual RulerSample make(class Draws& draws, int64_t size, uint64_t index) const = 0;
  virtual Growth growth() const = 0;
  virtual std::string counted(const RulerSample& s, bool growing) const;           // compat: the text whose tokens count
  virtual int64_t reserved(bool) const { return new_tokens(); }                    // compat: and as many besides
  virtual RulerSample cut(RulerSample s, uint64_t) const { return s; }             // s is of the least size, and does not fit
  bool fits(const RulerSample& s) const { return cost(s, Count::sample) <= options_.length; }
  void fit();  // finds the size; a constructor's last act
  const std::string name_;
  const RulerOptions options_;

 private:
  enum class Count { growing, sample };
  int64_t cost(const RulerSample& s, Count count) const;
  RulerSample made(const std::string& which, int64_t size, uint64_t index) const;
  int64_t size_ = 0;
};

const std::vector<std::string>& ruler_tasks();
bool is_ruler_task(std::string_view name);
// The materials must outlive the task.
std::unique_ptr<RulerTask> make_ruler_task(const std::string& name, const RulerMaterials& materials, const RulerOptions& options);

// The share of answers that occur in the prediction, whatever their case; control characters are newlines.
double ruler_score(std::string_view prediction, const std::vector<std::string>& answers);

}  // namespace taper
