// Sweep configuration: from the file to its runs.
#include "apps/sweep_config.h"

#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <set>

#include "tensor/error.h"
#include "tensor/file.h"

namespace taper {
namespace {

struct Axis {
  std::string key;
  std::vector<std::string> values;
};

struct Group {
  std::string name;
  std::vector<std::string> configs, set;
  std::vector<Axis> axes;
};

class Reader {
 public:
  explicit Reader(const std::filesystem::path& file) : name_(file.string()) {
    try {
      root = toml::parse(read_file(file), name_);
    } catch (const toml::parse_error& e) {
      fail(Exit::bad_config, "sweep {}:{}:{}: {}", name_, e.source().begin.line, e.source().begin.column, e.description());
    }
    known(root, {"sweep", "group"});
  }

  void known(const toml::table& table, const std::vector<std::string_view>& keys) const {
    for (const auto& [key, node] : table)
      check(std::ranges::find(keys, key.str()) != keys.end(), Exit::bad_config, "{}: no key '{}' here; known: {}", at(node), key.str(),
            fmt::format("{}", fmt::join(keys, ", ")));
  }
  const toml::table& table(const toml::node* node, const char* what) const {
    check(node && node->is_table(), Exit::bad_config, "{}: {} is wanted; {}", node ? at(*node) : "sweep " + name_, what,
          node ? "got something else" : "it is missing");
    return *node->as_table();
  }
  std::string text(const toml::table& in, const char* key, bool required) const {
    const toml::node* node = in.get(key);
    check(node || !required, Exit::bad_config, "{}: '{}' is missing; a string is wanted", at(in), key);
    if (!node) return "";
    check(node->is_string(), Exit::bad_config, "{}: '{}' must be a string", at(*node), key);
    return node->as_string()->get();
  }
  std::vector<std::string> texts(const toml::table& in, const char* key, bool required) const {
    const toml::node* node = in.get(key);
    check(node || !required, Exit::bad_config, "{}: '{}' is missing; an array of strings is wanted", at(in), key);
    if (!node) return {};
    const toml::array* array = node->as_array();
    check(array && (!required || !array->empty()) && std::ranges::all_of(*array, [](const toml::node& n) { return n.is_string(); }), Exit::bad_config,
          "{}: '{}' must be an array of strings{}", at(*node), key, required ? ", one or more" : "");
    std::vector<std::string> all;
    for (const toml::node& n : *array) all.push_back(n.as_string()->get());
    return all;
  }
  std::vector<Axis> axes(const toml::table& in) const {
    std::vector<Axis> all;
    if (!in.contains("axes")) return all;
    for (const auto& [key, node] : table(in.get("axes"), "a table of axes")) {
      const toml::array* array = node.as_array();
      check(array && !array->empty(), Exit::bad_config,
            "{}: axis '{}' must be an array of one or more values, its name in quotes: \"optimizer.lr\" = [1e-3, 1e-2]",
            at(node), key.str());
      Axis axis{std::string(key.str()), {}};
      for (const toml::node& n : *array) {
        const std::string value = n.is_string() ? n.as_string()->get() : n.is_integer() ? fmt::format("{}", n.as_integer()->get())
                                : n.is_floating_point() ? fmt::format("{}", n.as_floating_point()->get())
                                : n.is_boolean() ? fmt::format("{}", n.as_boolean()->get()) : "";
        check(!value.empty(), Exit::bad_config, "{}: axis '{}' wants numbers, strings, true or false", at(n), key.str());
        check(std::ranges::find(axis.values, value) == axis.values.end(), Exit::bad_config, "{}: axis '{}' has {} twice", at(n), key.str(), value);
        axis.values.push_back(value);
      }
      all.push_back(std::move(axis));
    }
    return all;
  }
  std::string at(const toml::node& node) const {
    return node.source().begin ? fmt::format("sweep {}:{}:{}", name_, node.source().begin.line, node.source().begin.column) : "sweep " + name_;
  }

  toml::table root;

 private:
  std::string name_;
};

// "optimizer.lr" and "0.001": "-lr=0.001". What does not belong into a file name becomes '_'.
std::string suffix(const std::string& key, std::string value) {
  for (char& c : value)
    if (!std::isalnum(uint8_t(c)) && !std::strchr("._+-", c)) c = '_';
  return fmt::format("-{}={}", key.substr(key.rfind('.') + 1), value);
}

}  // namespace

Sweep load_sweep(const std::filesystem::path& file, const std::vector<std::string>& set) {
  const Reader reader(file);
  const toml::table& head = reader.table(reader.root.get("sweep"), "a section [sweep]");
  reader.known(head, {"dir", "set", "axes"});
  Sweep sweep{.dir = reader.text(head, "dir", true), .runs = {}};
  const std::vector<std::string> common = reader.texts(head, "set", false);
  const std::vector<Axis> outer = reader.axes(head);

  std::vector<Group> groups;
  const toml::array* array = reader.root.get("group") ? reader.root.get("group")->as_array() : nullptr;
  check(array && array->is_array_of_tables(), Exit::bad_config,
        "sweep {}: one or more [[group]] are wanted, each with its configs; none is there", file.string());
  for (const toml::node& node : *array) {
    const toml::table& t = *node.as_table();
    reader.known(t, {"configs", "name", "set", "axes"});
    groups.push_back({reader.text(t, "name", false), reader.texts(t, "configs", true), reader.texts(t, "set", false), reader.axes(t)});
    groups.back().axes.insert(groups.back().axes.end(), outer.begin(), outer.end());
  }

  std::vector<std::pair<size_t, SweepRun>> ordered;  // by combination
  std::set<std::string> names;
  for (const Group& g : groups) {
    size_t combinations = 1;
    for (const Axis& a : g.axes) {
      combinations *= a.values.size();
      for (const std::string& s : set)
        check(!s.starts_with(a.key + "="), Exit::usage, "sweep --set {}: {} is an axis of {}; change it there, or choose runs with --only", s, a.key,
              file.string());
    }
    for (size_t c = 0; c < combinations; ++c)
      for (const std::string& config : g.configs) {
        SweepRun run;
        const std::filesystem::path path = (file.parent_path() / config).lexically_normal();
        run.path = path.string();
        run.model = (g.name.empty() ? "" : g.name + "-") + path.stem().string();
        run.name = run.model;
        run.set = common;
        run.set.insert(run.set.end(), g.set.begin(), g.set.end());
        size_t rest = c;
        for (const Axis& a : g.axes) {
          const std::string& value = a.values[rest % a.values.size()];
          rest /= a.values.size();
          run.values.emplace_back(a.key, value);
          run.set.push_back(a.key + "=" + value);
          if (a.values.size() > 1) run.name += suffix(a.key, value);
        }
        run.set.insert(run.set.end(), set.begin(), set.end());
        check(names.insert(run.name).second, Exit::bad_config, "sweep {}: two runs are called {}; give their groups a name", file.string(), run.name);
        std::vector<std::string> all = run.set;
        all.push_back("run.dir=" + (sweep.dir / run.name).string());
        run.config = load_config(path, all);
        ordered.emplace_back(c, std::move(run));
      }
  }
  std::ranges::stable_sort(ordered, {}, [](const auto& r) { return r.first; });
  for (auto& [c, run] : ordered) sweep.runs.push_back(std::move(run));
  return sweep;
}

}  // namespace taper
