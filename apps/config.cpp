// Config: reading and checking. The only file that sees toml++.
#include "apps/config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>

#include "apps/config_keys.h"
#include "data/unicode.h"
#include "tensor/error.h"
#include "tensor/file.h"

namespace taper {
namespace {

using namespace config_keys;

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row.back();
}

const std::string& nearest(std::string_view wanted, const std::vector<std::string>& names) {
  return *std::ranges::min_element(names, {}, [&](const std::string& n) { return edit_distance(wanted, n); });
}

// The type a value must have, in words and in TOML.
template <class T>
constexpr const char* words() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  else if constexpr (std::is_same_v<T, int64_t>) return "an integer";
  else if constexpr (std::is_same_v<T, double>) return "a number";
  else if constexpr (std::is_same_v<T, std::string>) return "a string";
  else if constexpr (std::is_same_v<T, std::vector<int64_t>>) return "an array of integers";
  else return "an array of numbers";
}
std::string words(const toml::node& node) {
  if (const auto x = node.value_exact<double>()) return fmt::format("{}", *x);
  std::ostringstream text;
  node.visit([&](const auto& n) { text << n; });
  const char* kind = node.is_string() ? "the string " : node.is_table() ? "the table " : node.is_array() ? "the array " : "";
  return kind + text.str();
}

class Reader {
 public:
  Reader(const std::string& text, const std::string& name, const std::vector<std::string>& set) : name_(name) {
    try {
      root_ = toml::parse(text, name);
    } catch (const toml::parse_error& e) {
      fail(Exit::bad_config, "config {}:{}:{}: {}", name, e.source().begin.line, e.source().begin.column, e.description());
    }
    for (const std::string& s : set) override_with(s);
    for (const auto& [key, node] : root_)
      check(node.is_table(), Exit::bad_config, "{}: '{}' must be a section [{}]; got {}", at(node, key.str()), key.str(), key.str(),
            words(node));
  }

  bool has(const char* section, const char* key) const { return root_[section][key] || sets_.contains(fmt::format("{}.{}", section, key)); }
  bool has(const char* section) const { return root_.contains(section); }
  const toml::node* node(const char* section, const char* key) const { return root_[section][key].node(); }

  bool section(const char* name, bool = true) {
    section_ = name;
    keys_.emplace(name, std::vector<std::string>{});
    sections_.push_back(name);
    return true;
  }

  template <class T>
  void operator()(const char* key, T& value, const Rule& rule) {
    keys_[section_].push_back(key);
    const toml::node* node = root_[section_][key].node();
    if (!node) return;
    const std::string place = at(*node, section_ + "." + key);
    read(*node, value, place, key, rule);
  }

  // Whatever no list named is a mistake.
  void finish() const {
    for (const auto& [section, table] : root_) {
      const std::string name(section.str());
      const auto known = keys_.find(name);
      if (known == keys_.end())
        fail(Exit::bad_config, "{}: no section [{}]; did you mean [{}]?", at(section, table, name), name, nearest(name, sections_));
      for (const auto& [key, node] : *table.as_table())
        if (std::ranges::find(known->second, key.str()) == known->second.end())
          fail(Exit::bad_config, "{}: no key '{}' in [{}]; did you mean '{}'?", at(key, node, name + "." + std::string(key.str())),
               key.str(), name, nearest(key.str(), known->second));
    }
  }

  std::string at(const toml::node& node, std::string_view path) const { return at_region(node.source(), path); }

 private:
  std::string at(const toml::key& key, const toml::node& node, const std::string& path) const {
    return at_region(sets_.contains(path) || !key.source().begin ? node.source() : key.source(), path);
  }
  std::string at_region(const toml::source_region& region, std::string_view path) const {
    if (!region.begin || sets_.contains(path)) return fmt::format("config --set {}", path);
    return fmt::format("config {}:{}:{}", name_, region.begin.line, region.begin.column);
  }

  // "section.key=value". The value is TOML; what is not TOML is a string, so that quotes may be left out.
  void override_with(const std::string& text) {
    const size_t equals = text.find('='), dot = text.find('.');
    check(equals != text.npos && dot < equals && dot > 0 && dot + 1 < equals, Exit::usage,
          "config --set: must be section.key=value; got '{}'", text);
    const size_t valid = valid_utf8(text);  // a run keeps its configuration as TOML, which is UTF-8
    check(valid == text.size(), Exit::usage, "config --set: must be UTF-8; byte {} of '{}' is none", valid + 1, text);
    const std::string section = text.substr(0, dot), key = text.substr(dot + 1, equals - dot - 1), value = text.substr(equals + 1);
    if (!root_.contains(section)) root_.insert(section, toml::table{});
    toml::table* table = root_[section].as_table();
    check(table != nullptr, Exit::bad_config, "config --set {}.{}: '{}' is not a section in {}", section, key, section, name_);
    sets_[section + "." + key] = value;
    table->erase(key);
    try {
      toml::table parsed = toml::parse("x = " + value);
      if (parsed.size() != 1) throw Error("", std::source_location::current());  // a newline smuggled a second key in
      parsed["x"].node()->visit([&](auto& n) { table->insert(key, std::move(n)); });
    } catch (const std::runtime_error&) {
      table->insert(key, value);
    }
  }

  template <class T>
  void read(const toml::node& node, T& value, const std::string& place, const char* key, const Rule& rule) const {
    if constexpr (std::is_same_v<T, std::string>) {
      // run.dir=2024 means the text, whatever else it could mean
      const auto set = sets_.find(section_ + "." + key);
      if (!node.is_string() && set != sets_.end()) {
        value = set->second;
        return check_rule(value, place, key, rule);
      }
    }
    if constexpr (requires { value.push_back(0); } && !std::is_same_v<T, std::string>) {
      using E = typename T::value_type;
      const toml::array* array = node.as_array();
      check(array != nullptr, Exit::bad_config, "{}: [{}] {} must be {}; got {}", place, section_, key, words<T>(), words(node));
      check(rule.length ? array->size() == rule.length : !array->empty(), Exit::bad_config, "{}: [{}] {} must have {} elements; got {}",
            place, section_, key, rule.length ? std::to_string(rule.length) : "one or more", array->size());
      value.clear();
      for (const toml::node& element : *array) {
        E e{};
        read(element, e, place, key, rule);
        value.push_back(e);
      }
    } else {
      // An integer is a number, a number is no integer.
      constexpr bool number = std::is_same_v<T, double>;
      const auto got = number && node.is_number() ? node.value<T>() : node.value_exact<T>();
      check(got.has_value(), Exit::bad_config, "{}: [{}] {} must be {}; got {}", place, section_, key, words<T>(), words(node));
      value = *got;
      check_rule(value, place, key, rule);
    }
  }

  template <class T>
  void check_rule(const T& value, const std::string& place, const char* key, const Rule& rule) const {
    if constexpr (std::is_same_v<T, std::string>) {
      std::string all;
      bool found = rule.choices.empty();
      for (const char* c : rule.choices) all += (all.empty() ? "" : " or ") + std::string(c), found |= value == c;
      check(found, Exit::bad_config, "{}: [{}] {} must be {}; got '{}'", place, section_, key, all, value);
    } else if constexpr (!std::is_same_v<T, bool>) {
      const double x = double(value);
      const bool ok = std::isfinite(x) && (rule.above ? x > rule.low : x >= rule.low) && x <= rule.high;
      if (ok) return;
      std::string range = std::isfinite(rule.low) ? fmt::format("{} {}", rule.above ? "greater than" : "at least", rule.low) : "finite";
      if (std::isfinite(rule.high)) range += fmt::format(" and at most {}", rule.high);
      fail(Exit::bad_config, "{}: [{}] {} must be {}; got {}", place, section_, key, range, value);
    }
  }

  toml::table root_;
  std::string name_, section_;
  std::map<std::string, std::string, std::less<>> sets_;
  std::map<std::string, std::vector<std::string>, std::less<>> keys_;
  std::vector<std::string> sections_;
};

}  // namespace

Config parse_config(const std::string& text, const std::string& name, const std::vector<std::string>& set) {
  Reader reader(text, name, set);
  Config c;
  struct Preset {  // model.preset is read first: the other keys of [model] override it
    std::string name;
  } preset;
  reader.section("model");
  reader("preset", preset.name, any);
  if (!preset.name.empty()) {
    try {
      c.model = model_preset(preset.name);
    } catch (const Error& e) {
      fail(Exit::bad_config, "{}: {}", reader.at(*reader.node("model", "preset"), "model.preset"), e.what());
    }
  }
  each_key(c, reader);
  reader.finish();
  if (reader.has("post")) {
    check(!reader.has("model", "post") || c.model.post, Exit::bad_config,
          "config {}: model.post = false contradicts the section [post]; leave one of them out", name);
    c.model.post = true;
  }
  if (!c.model.post) c.model.post_options = {};
  if (c.data.task != "mqar") {
    check(!reader.has("mqar"), Exit::bad_config, "config {}: [mqar] wants data.task = \"mqar\"; got \"{}\"", name, c.data.task);
  } else {
    check(c.mqar.eval_sequence.size() == c.mqar.eval_pairs.size(), Exit::bad_config,
          "config {}: [mqar] eval_sequence and eval_pairs must be of one length; got {} and {}", name, c.mqar.eval_sequence.size(),
          c.mqar.eval_pairs.size());
    if (!c.model.vocab) c.model.vocab = c.mqar.vocab;
  }
  if (c.data.validation.empty()) c.data.validation = c.data.train;
  if (!reader.has("model", "train_length")) c.model.train_length = std::max<int64_t>(2, c.data.sequence);
  check(c.data.sequence % c.train.bptt_segments == 0, Exit::bad_config,
        "config {}: train.bptt_segments must divide data.sequence = {}; got {}", name, c.data.sequence, c.train.bptt_segments);
  const int64_t vocab = c.model.vocab;
  if (!vocab) c.model.vocab = 1;  // it is taken from the data
  try {
    c.model = completed(c.model);
    c.model.vocab = vocab;
  } catch (const Error& e) {
    fail(Exit::bad_config, "config {}: {}", name, e.what());
  }
  return c;
}

Config load_config(const std::filesystem::path& path, const std::vector<std::string>& set) {
  return parse_config(read_file(path), path.string(), set);
}

}  // namespace taper
