// Zero-shot tasks: published questions from local JSONL files, worded to the harness's rules.
//
// DIR/<task>.jsonl holds one record a line, with the fields of the Hugging Face export or of the original file:
//
//   lambada_openai             text
//   hellaswag                  activity_label, ctx_a, ctx_b, endings[4], label (0..3, a number or its digits)
//   piqa                       goal, sol1, sol2, label (0 or 1; or line by line in DIR/piqa.lst)
//   arc_easy, arc_challenge    question, choices.text[], choices.label[], answerKey;  or question.stem, question.choices[{text, label}], answerKey
//   winogrande                 sentence (with _), option1, option2, answer ("1" or "2")
//   openbookqa                 question_stem, choices.text[], choices.label[], answerKey;  or as arc's original
//   wikitext                   page or text: scored as plain text, counted as it is
//   text                       text; or, without DIR/text.jsonl, every DIR/*.txt, a file a document
//
// Errors: a file that is missing (66); a record that lacks a field, or whose fields do not fit (65, FILE:LINE).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/file.h"

namespace taper {

enum class TaskKind {
  choices,    // the likeliest continuation is the answer
  last_word,  // greedily the right continuation, and its perplexity
  text,       // perplexity of all of it
};

struct ZeroShotTask {
  std::string name;
  double version;  // of the harness's task
  TaskKind kind;
  bool normed;     // acc_norm is reported too
};
const ZeroShotTask* find_zero_shot_task(std::string_view name);  // null: there is none
const std::vector<ZeroShotTask>& zero_shot_tasks();

struct Choice {
  std::string context = {}, continuation = {};  // what the model is asked
  int64_t length = 0;                 // code points of the choice without the leading space
};
struct TaskDocument {
  std::string where = {};       // FILE:LINE, for messages
  std::vector<Choice> choices = {};  // one for last_word, none for text
  int64_t gold = 0;             // the right one
  std::string text = {};        // kind text: what is scored
  int64_t words = 0, bytes = 0; //            and what it counts for
  std::string record = {};      // as it was read: JSON, indented by 2 as the harness hashes it
};

// The first `limit` documents (0: all) and how many there are.
struct TaskDocuments {
  std::vector<TaskDocument> documents = {};
  int64_t all = 0;
};
TaskDocuments read_task(const ZeroShotTask& task, const Path& directory, int64_t limit);

// HellaSwag's cleaning: strip; " [title]" becomes ". "; [...] goes; then two spaces become one, once, left to right.
std::string clean_hellaswag(std::string_view text);
// WikiText's tokens back to plain text.
std::string detokenize_wikitext(std::string_view page);

}  // namespace taper
