// Config: writing a configuration as TOML, and comparing two.
#include <fmt/format.h>

#include "apps/config_keys.h"

namespace taper {
namespace {

using config_keys::each_key;
using config_keys::Rule;

std::string quoted(const std::string& s) {
  std::string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') out += '\\', out += c;
    else if (uint8_t(c) < 0x20 || c == 0x7f) out += fmt::format("\\u{:04x}", uint8_t(c));
    else out += c;
  }
  return out + '"';
}
std::string text_of(const std::string& s) { return quoted(s); }
std::string text_of(bool b) { return b ? "true" : "false"; }
std::string text_of(int64_t i) { return fmt::format("{}", i); }
std::string text_of(double x) {
  const std::string s = fmt::format("{}", x);
  return s.find_first_of(".e") == s.npos ? s + ".0" : s;
}
template <class T>
std::string text_of(const std::vector<T>& v) {
  std::string s = "[";
  for (const T& x : v) s += (s.size() > 1 ? ", " : "") + text_of(x);
  return s + "]";
}

struct Writer {
  std::string out = {};
  bool section(const char* name, bool applies = true) {
    if (applies) out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", name);
    return applies;
  }
  template <class T>
  void operator()(const char* key, const T& value, const Rule&) {
    out += fmt::format("{} = {}\n", key, text_of(value));
  }
};

struct Lister {  // "section.key" and its text; every key, or those that apply
  bool all = true;
  std::vector<Setting> keys = {};
  std::string name = {};
  bool section(const char* s, bool applies = true) {
    name = s;
    return all || applies;
  }
  template <class T>
  void operator()(const char* key, const T& value, const Rule&) {
    keys.push_back({name + "." + key, text_of(value)});
  }
};

}  // namespace

std::string write_config(const Config& config) {
  Writer writer;
  each_key(config, writer);
  return writer.out;
}

std::vector<Difference> differences(const Config& before, const Config& after) {
  Lister a, b;
  each_key(before, a);
  each_key(after, b);
  std::vector<Difference> found;
  for (size_t i = 0; i < a.keys.size(); ++i)
    if (a.keys[i].value != b.keys[i].value) found.push_back({a.keys[i].key, a.keys[i].value, b.keys[i].value});
  return found;
}

std::vector<Setting> settings(const Config& config) {
  Lister lister{.all = false};
  each_key(config, lister);
  return lister.keys;
}

}  // namespace taper
