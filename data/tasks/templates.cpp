// Templates: this project's sentences, and what the published ones are known by.
#include "data/tasks/templates.h"

#include <algorithm>
#include <array>
#include <vector>

#include "data/sha256.h"
#include "tensor/error.h"

namespace taper {
namespace {

struct Sentence {
  const char* name;
  size_t bytes;         // of the published text
  const char* digest;   // the first 16 digits of its SHA-256
  const char* text;     // ours
  std::vector<const char*> places;
};

const std::vector<Sentence>& sentences() {
  static const std::vector<Sentence> all{
      {"niah", 253, "b373c00e238df12b",
       "Some secret {type} are tucked away in the passage below. Read it closely: a question about the {type} comes at its end.\n{context}\n"
       "Which are all the secret {type} that the passage gives for {query}?",
       {"{type}", "{context}", "{query}"}},
      {"niah_needle", 63, "8b1728a938426e42", "Among the secret {type}, the one kept for {key} is {value}.", {"{key}", "{value}"}},
      {"niah_repeat", 89, "c2fcf70de6081e6f", "Leaves are green. Snow is white. Coal is black. Off we walk. At dusk we come home again.", {}},
      {"niah_prefix_one", 70, "208656f2c159844e", "In the passage, the secret {type} for {query} is", {"{query}"}},
      {"niah_prefix_many", 71, "b7f7f1f8bcaf094c", "In the passage, the secret {type} for {query} are", {"{query}"}},
      {"vt", 179, "fcfaf2eab2bc3e35",
       "Values are handed from variable to variable in the text below; follow them through it.\n\n{context}\nQuestion: Which variables end up with the value "
       "{query} in the text above?",
       {"{context}", "{query}"}},
      {"vt_prefix", 137, "4652e8514a4f6d88", "Answer: Followed through the text above, {num_v} variables have the value {query}:", {"{num_v}", "{query}"}},
      {"vt_noise", 90, "929df76a728833f3", "Leaves are green. Snow is white. Coal is black. Off we walk. At dusk we come home again.\n", {}},
      {"cwe", 201, "45fff5d17627b65a",
       "The words in the list below are numbered, and some stand in it more often than others. Keep in mind which these are.\n{context}\n"
       "Question: Which 10 words stand in the list above most often?",
       {"{context}"}},
      {"cwe_prefix", 65, "8ee526599bbc7372", "Answer: The 10 words that stand in the list most often are:", {}},
      {"fwe", 284, "a0c7b873cf500d6c",
       "The text below is written in code words; count how often each of them is there. {context}\n"
       "Question: Leaving out the dots '...', which three code words are there most often? Explain nothing.",
       {"{context}"}},
      {"fwe_prefix", 89, "9a72271c5762c96d", "Answer: The three code words that are there most often:", {}},
      {"qa", 284, "18a659c9723f24f1",
       "Some documents follow, and then a question that they answer. Reply with that answer alone.\n\n{context}\n\nReply with the answer alone.\n\n"
       "Question: {query}",
       {"{context}", "{query}"}},
      {"qa_prefix", 7, "64f89cf423ee1a16", "Answer:", {}},
      {"qa_document", 24, "ce8bd2851618becf", "Document {i}:\n{document}", {"{i}", "{document}"}}};
  return all;
}

const Sentence& sentence(std::string_view name) { return *std::ranges::find(sentences(), name, &Sentence::name); }

bool is_published(const Sentence& s, std::string_view text) { return text.size() == s.bytes && sha256(text).starts_with(s.digest); }

bool has_place(const std::string& text, std::string_view place) {
  return text.find(place) != std::string::npos || (place == "{type}" && text.find("{type_needle_v}") != std::string::npos);
}

}  // namespace

Templates::Templates() {
  for (const Sentence& s : sentences()) texts_[s.name] = s.text;
}

Templates::Templates(const Path& directory) : Templates() {
  bool any = false;
  for (const Sentence& s : sentences()) {
    const Path file = directory / (std::string(s.name) + ".txt");
    std::error_code error;
    if (!std::filesystem::exists(file, error)) continue;
    any = true;
    std::string text = read_file(file);
    const std::string_view trimmed = std::string_view(text).substr(0, text.size() - text.ends_with('\n'));
    if (!is_published(s, text) && (is_published(s, trimmed) || s.name != std::string("vt_noise"))) text.resize(trimmed.size());
    for (const char* place : s.places) check(has_place(text, place), Exit::bad_data, "{}: the template wants {}; it is not there", file.string(), place);
    texts_[s.name] = std::move(text);
  }
  check(any, Exit::no_input, "{}: holds no template; wanted are files like niah.txt (docs/evaluation.md lists them)", directory.string());
}

bool Templates::published(std::initializer_list<const char*> names) const {
  return std::ranges::all_of(names, [&](const char* name) { return is_published(sentence(name), texts_.at(name)); });
}

std::string Templates::digest() const {
  std::string all;
  for (const auto& [name, text] : texts_) all += sha256(text);
  return sha256(all);
}

std::string fill(std::string_view text, std::initializer_list<std::pair<std::string_view, std::string_view>> values) {
  std::string out;
  while (!text.empty()) {
    const size_t open = text.find('{'), close = text.find('}', open == std::string_view::npos ? open : open + 1);
    if (close == std::string_view::npos) break;
    const std::string_view name = text.substr(open + 1, close - open - 1);
    const auto found = std::ranges::find(values, name, [](const auto& v) { return v.first; });
    out.append(text.substr(0, found == values.end() ? open + 1 : open));
    if (found != values.end()) out.append(found->second);
    text.remove_prefix(found == values.end() ? open + 1 : close + 1);
  }
  return out.append(text);
}

}  // namespace taper
