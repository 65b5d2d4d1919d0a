// RULER, lists: variables that hand on a value (vt), common words of a numbered list (cwe), frequent coded words (fwe).
#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>
#include <tuple>

#include "data/tasks/python_text.h"
#include "data/tasks/ruler_parts.h"
#include "tensor/error.h"

namespace taper::ruler {
namespace {

constexpr int64_t hops = 4;

std::vector<std::string> different_names(Draws& draws, size_t count, size_t letters, char first) {
  std::set<std::string> used;
  std::vector<std::string> all;
  while (all.size() < count)
    if (std::string s = draws.letters(letters, first); s != "VAR" && used.insert(s).second) all.push_back(std::move(s));
  return all;
}

class Vt final : public RulerTask {
 public:
  Vt(const RulerMaterials& m, const RulerOptions& o) : RulerTask("vt", o), t_(m.templates) {
    Draws draws(o.seed, fmt::format("ruler.vt.{}.example", o.length));
    int64_t n = least;
    const auto text = [&](int64_t blocks) {
      Draws same = draws;
      const RulerSample s = chain(same, blocks, 3);
      return std::pair(s.input() + " " + join(s.answers, " ") + "\n\n", s.answers);  // the prefix with its spaces
    };
    while (o.tokens(text(n + least).first) + new_tokens() <= 500) n += least;
    std::vector<std::string> names;
    std::tie(example_, names) = text(n);
    for (size_t i = 0; i < names.size(); ++i) example_ = python::replace(example_, names[i], fmt::format("{{{}}}", i));
    fit();
  }
  int64_t new_tokens() const override { return 30; }
  bool published() const override { return t_.published({"vt", "vt_prefix", "vt_noise"}); }

 protected:
  Growth growth() const override { return {.least = least, .start = 10, .step = 10, .most = int64_t(1) << 40}; }
  RulerSample make(Draws& draws, int64_t n, uint64_t) const override {
    RulerSample s = chain(draws, n, 5);
    const std::vector<std::string> v = different_names(draws, hops + 1, 3, 'A');
    s.prefix = python::strip(s.prefix);
    s.prompt = fill(example_, {{"0", v[0]}, {"1", v[1]}, {"2", v[2]}, {"3", v[3]}, {"4", v[4]}}) + "\n\n" + s.prompt;
    return s;
  }

 private:
  std::string counted(const RulerSample& s, bool growing) const override { return growing ? s.input() + " " + python::repr(s.answers) : s.input(); }

  static constexpr int64_t least = hops + 1;  // blocks: each assignment has a place of its own

  RulerSample chain(Draws& draws, int64_t blocks, size_t letters) const {
    const std::vector<std::string> names = different_names(draws, hops + 1, letters, 'A');
    const std::string value = std::to_string(10000 + draws.below(89999));
    std::vector<std::string> lines(size_t(blocks), t_["vt_noise"]);
    std::vector<uint64_t> places = draws.different(names.size(), uint64_t(blocks));
    std::ranges::sort(places);
    for (size_t i = 0; i < names.size(); ++i)
      lines.insert(lines.begin() + int64_t(places[i] + i), i ? "VAR " + names[i] + " = VAR " + names[i - 1] + " " : "VAR " + names[0] + " = " + value);
    const std::string context = python::replace(join(lines, " "), ". \n", ".\n"), count = std::to_string(names.size());
    return {.prompt = fill(t_["vt"], {{"context", context}, {"query", value}}), .prefix = fill(t_["vt_prefix"], {{"num_v", count}, {"query", value}}),
        .answers = names};
  }

  const Templates& t_;
  std::string example_;  // a chain of three letters each, and its answer; the names are {0} to {4}
};

class Cwe final : public RulerTask {
 public:
  Cwe(const RulerMaterials& m, const RulerOptions& o) : RulerTask("cwe", o), t_(m.templates) {
    std::set<std::string> all;
    for (const auto* list : {&m.words.adjectives, &m.words.nouns, &m.words.verbs}) all.insert(list->begin(), list->end());
    words_.assign(all.begin(), all.end());
    check(int64_t(words_.size()) >= 40, Exit::bad_data, "eval: cwe wants at least 40 different words; there are {}", words_.size());
    fit();
  }
  int64_t new_tokens() const override { return 120; }
  bool published() const override { return t_.published({"cwe", "cwe_prefix"}); }

 protected:
  Growth growth() const override { return {.least = common + 1, .start = 20, .step = 10, .most = int64_t(words_.size())}; }
  RulerSample make(Draws& draws, int64_t n, uint64_t) const override {
    const bool few = options_.length < 4096;
    const auto example = list(draws, few ? 20 : 40, few ? 3 : 10, few ? 1 : 3);
    const auto [context, words] = list(draws, n, few ? 6 : 30, few ? 1 : 3);
    RulerSample s{.prompt = fill(t_["cwe"], {{"context", context}, {"query", ""}}), .prefix = std::string(python::strip(t_["cwe_prefix"])), .answers = words,
                  .joint = "\n\n"};
    s.uncounted = joined(fill(t_["cwe"], {{"context", example.first}, {"query", ""}}), t_["cwe_prefix"]) + numbered(example.second) + "\n";
    return s;
  }
  std::string counted(const RulerSample& s, bool growing) const override {
    const std::string asked = joined(s.prompt, t_["cwe_prefix"]);
    return growing ? s.uncounted + asked + " " + numbered(s.answers) : asked;
  }

 private:
  static constexpr int64_t common = 10;
  static std::string numbered(const std::vector<std::string>& words) {  // "1. one 2. two"
    std::string text;
    for (size_t i = 0; i < words.size(); ++i) text += fmt::format("{}{}. {}", i ? " " : "", i + 1, words[i]);
    return text;
  }
  std::pair<std::string, std::vector<std::string>> list(Draws& draws, int64_t n, int64_t often, int64_t seldom) const {
    std::vector<std::string> all, first;
    int64_t i = 0;
    for (const uint64_t w : draws.different(uint64_t(n), words_.size())) {
      if (i < common) first.push_back(words_[w]);
      all.insert(all.end(), size_t(i < common ? often : seldom), words_[w]);
      ++i;
    }
    draws.shuffle(all);
    return {numbered(all), first};
  }
  const Templates& t_;
  std::vector<std::string> words_;
};

class Fwe final : public RulerTask {
 public:
  Fwe(const RulerMaterials& m, const RulerOptions& o) : RulerTask("fwe", o), t_(m.templates) { fit(); }
  int64_t new_tokens() const override { return 50; }
  bool published() const override { return t_.published({"fwe", "fwe_prefix"}); }

 protected:
  std::string counted(const RulerSample& s, bool) const override { return joined(s.prompt, t_["fwe_prefix"]); }
  int64_t reserved(bool growing) const override { return growing; }  // it grows until the length is reached, then takes a step back
  Growth growth() const override {
    const int64_t L = options_.length, step = std::max<int64_t>(1, L / 32);
    return {.least = 60, .start = std::max<int64_t>(60, L / 6), .step = step, .most = int64_t(1) << 40};
  }
  RulerSample make(Draws& draws, int64_t n, uint64_t) const override {
    std::vector<std::string> code = different_names(draws, size_t(std::max<int64_t>(4, options_.length / 50)), 6, 'a'), all;
    code[0] = "...";  // the most frequent is noise
    for (size_t k = 0; k < code.size(); ++k) {
      const double rank = double(k + 1), zeta2 = std::numbers::pi * std::numbers::pi / 6;
      all.insert(all.end(), size_t(double(n) / (rank * rank) / zeta2), code[k]);
    }
    draws.shuffle(all);
    return {.prompt = fill(t_["fwe"], {{"context", join(all, " ")}, {"query", ""}}),
            .prefix = std::string(python::strip(t_["fwe_prefix"])),
            .answers = {code.begin() + 1, code.begin() + 4}};
  }

 private:
  const Templates& t_;
};

}  // namespace

std::unique_ptr<RulerTask> make_vt(const RulerMaterials& m, const RulerOptions& o) { return std::make_unique<Vt>(m, o); }
std::unique_ptr<RulerTask> make_cwe(const RulerMaterials& m, const RulerOptions& o) { return std::make_unique<Cwe>(m, o); }
std::unique_ptr<RulerTask> make_fwe(const RulerMaterials& m, const RulerOptions& o) { return std::make_unique<Fwe>(m, o); }

}  // namespace taper::ruler
