// RULER: fitting a length, and scores.
#include "data/tasks/ruler.h"

#include <algorithm>

#include "data/tasks/python_text.h"
#include "data/tasks/ruler_parts.h"
#include "tensor/error.h"

namespace taper {

std::string ruler::join(const std::vector<std::string>& parts, std::string_view between) {
  std::string all;
  for (size_t i = 0; i < parts.size(); ++i) all.append(i ? between : "").append(parts[i]);
  return all;
}

std::string ruler::joined(std::string_view prompt, std::string_view prefix, std::string_view joint) {
  const auto is_space = [](char c) { return python::is_space(uint8_t(c)); };
  const bool apart = !prompt.empty() && !prefix.empty() && !is_space(prompt.back()) && !is_space(prefix.front());
  return std::string(prompt).append(apart ? joint : "").append(prefix);
}

std::string RulerSample::input() const { return ruler::joined(prompt, prefix, joint); }

std::string RulerTask::counted(const RulerSample& s, bool growing) const { return growing ? s.prompt + ruler::join(s.answers, " ") : s.prompt; }

int64_t RulerTask::cost(const RulerSample& s, Count count) const {
  const bool growing = count == Count::growing;
  return options_.compat ? options_.tokens(counted(s, growing)) + reserved(growing) : options_.tokens(s.input()) + new_tokens();
}

RulerSample RulerTask::made(const std::string& which, int64_t size, uint64_t index) const {
  Draws draws(options_.seed, fmt::format("ruler.{}.{}.{}", name_, options_.length, which));
  return make(draws, size, index);
}

void RulerTask::fit() {
  const Growth g = growth();
  const auto fits = [&](int64_t n) { return cost(made("fit", n, 0), Count::growing) <= options_.length; };
  size_ = std::min(g.start, g.most);
  if (fits(size_)) {
    for (int64_t next; next = std::min(size_ + g.step, g.most), next > size_ && fits(next);) size_ = next;
    return;
  }
  int64_t low = g.least, high = size_;  // low is to fit, high does not
  if (low >= high || !fits(low)) {
    const RulerSample whole = made("fit", low, 0), least = cut(whole, 0);
    if (RulerTask::fits(least) || (options_.compat && least.prompt != whole.prompt)) {
      size_ = low;
      return;
    }
    fail(Exit::bad_config, "eval: {} does not fit into --length {}: with this tokenizer it takes {} tokens at least", name_, options_.length,
         cost(least, Count::growing));
  }
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  size_ = low;
}

RulerSample RulerTask::sample(uint64_t index) const {
  const Growth g = growth();
  int64_t n = size_;
  for (;; n = std::max(g.least, n - std::min(g.step, std::max<int64_t>(1, n / 8)))) {
    RulerSample s = made(std::to_string(index), n, index);
    if (fits(s)) return s;
    if (n <= g.least) return cut(std::move(s), index);
  }
}

const std::vector<std::string>& ruler_tasks() {
  static const std::vector<std::string> all{"niah_single_1",   "niah_single_2",   "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
                                            "niah_multivalue", "niah_multiquery", "vt",            "cwe",             "fwe",             "qa_squad",
                                                "qa_hotpot"};
  return all;
}

bool is_ruler_task(std::string_view name) { return std::ranges::find(ruler_tasks(), name) != ruler_tasks().end(); }

std::unique_ptr<RulerTask> make_ruler_task(const std::string& name, const RulerMaterials& m, const RulerOptions& o) {
  if (name == "vt") return ruler::make_vt(m, o);
  if (name == "cwe") return ruler::make_cwe(m, o);
  if (name == "fwe") return ruler::make_fwe(m, o);
  if (name.starts_with("qa_")) return ruler::make_qa(name, m, o);
  return ruler::make_niah(name, m, o);
}

double ruler_score(std::string_view prediction, const std::vector<std::string>& answers) {
  std::string text(python::strip(prediction));
  for (char& c : text)
    if (uint8_t(c) < 0x20) c = '\n';
  text = python::lower(python::strip(text));
  int64_t found = 0;
  for (const std::string& a : answers) found += text.find(python::lower(a)) != std::string::npos;
  return answers.empty() ? 0 : double(found) / double(answers.size());
}

}  // namespace taper
