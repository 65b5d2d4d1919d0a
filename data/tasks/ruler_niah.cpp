// RULER, needles: sentences that give a key its value, hidden in repeated lines, running text or other needles.
#include <algorithm>
#include <array>
#include <set>

#include "data/tasks/python_text.h"
#include "data/tasks/ruler_parts.h"
#include "tensor/error.h"

namespace taper::ruler {
namespace {

enum class Hay { repeat, essay, needles };
enum class Kind { words, numbers, uuids };

struct Recipe {
  const char* name;
  Hay hay;
  Kind key, value;
  uint64_t keys, values, queries;  // values: of each key
};
constexpr std::array recipes{Recipe{"niah_single_1", Hay::repeat, Kind::words, Kind::numbers, 1, 1, 1},
                             Recipe{"niah_single_2", Hay::essay, Kind::words, Kind::numbers, 1, 1, 1},
                             Recipe{"niah_single_3", Hay::essay, Kind::words, Kind::uuids, 1, 1, 1},
                             Recipe{"niah_multikey_1", Hay::essay, Kind::words, Kind::numbers, 4, 1, 1},
                             Recipe{"niah_multikey_2", Hay::needles, Kind::words, Kind::numbers, 1, 1, 1},
                             Recipe{"niah_multikey_3", Hay::needles, Kind::uuids, Kind::uuids, 1, 1, 1},
                             Recipe{"niah_multivalue", Hay::essay, Kind::words, Kind::numbers, 1, 4, 1},
                             Recipe{"niah_multiquery", Hay::essay, Kind::words, Kind::numbers, 4, 1, 4}};

constexpr int64_t depths = 40;  // places in running text: 0 to 100 percent, rounded, evenly spaced
int64_t depth(uint64_t i) { return (200 * int64_t(i) + depths - 1) / (2 * (depths - 1)); }

const char* plural(Kind kind) { return kind == Kind::words ? "words" : kind == Kind::numbers ? "numbers" : "uuids"; }

std::string uuid(Draws& draws) {  // version 4
  const uint64_t a = (draws.bits() & ~0xf000ull) | 0x4000, b = (draws.bits() & ~(3ull << 62)) | 1ull << 63;
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xffff, b >> 48, b & 0xffffffffffffull);
}

class Niah final : public RulerTask {
 public:
  Niah(const Recipe& recipe, const RulerMaterials& m, const RulerOptions& o) : RulerTask(recipe.name, o), r_(recipe), m_(m), t_(m.templates) { fit(); }
  int64_t new_tokens() const override { return 128; }
  bool published() const override {
    return t_.published({"niah", "niah_needle", r_.queries * r_.values == 1 ? "niah_prefix_one" : "niah_prefix_many"}) &&
           (r_.hay != Hay::repeat || t_.published({"niah_repeat"}));
  }

 protected:
  Growth growth() const override {
    if (r_.hay == Hay::essay) return {.least = 1, .start = 500, .step = 500, .most = m_.haystack.words()};
    const int64_t step = options_.length < 4096 ? 5 : 25;
    return {.least = int64_t(r_.keys * r_.values), .start = step, .step = step, .most = int64_t(1) << 40};
  }

  RulerSample make(Draws& draws, int64_t n, uint64_t) const override {
    std::set<std::string> used;  // neither keys nor values come twice
    const auto fresh = [&](Kind kind) {
      for (int tries = 0; tries < 100000; ++tries) {
        std::string s = kind == Kind::uuids     ? uuid(draws)
                        : kind == Kind::numbers ? std::to_string(1000000 + draws.below(9000000))
                                                : draws.of(m_.words.adjectives) + "-" + draws.of(m_.words.nouns);
        if (used.insert(s).second && !(r_.hay == Hay::essay && m_.haystack.contains(s))) return s;
      }
      fail(Exit::bad_data, "eval: {} found no new key or value in 100000 draws, after {}; {} adjectives and {} nouns are too few: give longer lists", name_,
           used.size(), m_.words.adjectives.size(), m_.words.nouns.size());
    };
    const auto needle = [&](const std::string& key, const std::string& value) {
      return fill_type(t_["niah_needle"], plural(r_.value), {{"key", key}, {"value", value}});
    };
    std::vector<std::string> keys, needles;
    std::vector<std::vector<std::string>> values;
    for (uint64_t k = 0; k < r_.keys; ++k) {
      keys.push_back(fresh(r_.key));
      values.emplace_back();
      for (uint64_t v = 0; v < r_.values; ++v) values.back().push_back(fresh(r_.value)), needles.push_back(needle(keys.back(), values.back().back()));
    }
    draws.shuffle(needles);

    std::string context;
    if (r_.hay == Hay::essay) {
      context = in_text(draws, needles, n);
    } else {
      std::vector<std::string> lines;
      for (int64_t i = 0; i < n; ++i) lines.push_back(r_.hay == Hay::repeat ? t_["niah_repeat"] : needle(fresh(r_.key), fresh(r_.value)));
      std::vector<uint64_t> places = draws.different(needles.size(), uint64_t(n));
      std::ranges::sort(places, std::greater<>());
      for (size_t i = 0; i < needles.size(); ++i) lines.insert(lines.begin() + int64_t(places[i]), needles[i]);
      context = join(lines, "\n");
    }

    RulerSample s;
    std::vector<std::string> queries;
    for (const uint64_t k : draws.different(r_.queries, r_.keys)) {
      queries.push_back(keys[k]);
      s.answers.insert(s.answers.end(), values[k].begin(), values[k].end());
    }
    std::string query = queries[0];
    for (size_t i = 1; i < queries.size(); ++i) query += (i + 1 < queries.size() ? ", " : ", and ") + queries[i];
    std::string text = t_["niah"], type = plural(r_.value);
    const bool one = r_.queries * r_.values == 1;
    if (one) {
      for (const auto& [from, to] : {std::pair{"Some", "A"}, {"are all", "is"}, {"are", "is"}, {"answers", "answer"}}) text = python::replace(text, from, to);
      type.pop_back();
    }
    s.prompt = fill_type(text, type, {{"context", context}, {"query", query}});
    s.prefix = fill_type(t_[one ? "niah_prefix_one" : "niah_prefix_many"], type, {{"query", query}});
    return s;
  }

 private:
  static std::string fill_type(std::string_view text, std::string_view type, std::initializer_list<std::pair<std::string_view, std::string_view>> values) {
    const auto& v = values.begin();
    return values.size() == 1 ? fill(text, {{"type", type}, {"type_needle_v", type}, v[0]}) : fill(text, {{"type", type}, {"type_needle_v", type}, v[0], v[1]});
  }

  // Among the sentences of the first n words, each at a depth of its own.
  std::string in_text(Draws& draws, const std::vector<std::string>& needles, int64_t n) const {
    const std::vector<std::string_view> sentences = split_sentences(m_.haystack.front(n));
    std::vector<size_t> places;
    for (const uint64_t d : draws.different(needles.size(), uint64_t(depths))) places.push_back(sentences.size() * size_t(depth(d)) / 100);
    std::ranges::sort(places);
    std::string text;
    const auto add = [&](std::string_view sentence) { text.append(text.empty() ? "" : " ").append(sentence); };
    size_t at = 0;
    for (size_t i = 0; i < needles.size(); ++i) {
      while (at < places[i]) add(sentences[at++]);
      add(needles[i]);
    }
    while (at < sentences.size()) add(sentences[at++]);
    return text;
  }

  const Recipe& r_;
  const RulerMaterials& m_;
  const Templates& t_;
};

}  // namespace

std::unique_ptr<RulerTask> make_niah(const std::string& name, const RulerMaterials& m, const RulerOptions& o) {
  const auto found = std::ranges::find(recipes, name, &Recipe::name);
  check(found != recipes.end(), "ruler: no task '{}'", name);
  return std::make_unique<Niah>(*found, m, o);
}

}  // namespace taper::ruler
