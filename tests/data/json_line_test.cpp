// json_line: what is JSON and what its field holds, against a parser of all of it.
#include "data/json_line.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "data/utf8.h"
#include "tensor/random.h"

using namespace taper;
using Kind = JsonField::Kind;

namespace {

struct Found {
  Kind kind;
  std::string text;
};
Found field(std::string_view line, std::string_view name = "text") {
  std::string value;
  const Kind kind = json_field(line, name, value).kind;
  return {kind, kind == Kind::text ? value : ""};
}

Found by_parser(std::string_view line) {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (json.is_discarded()) return {Kind::not_json, ""};
  if (!json.is_object() || !json.contains("text") || !json["text"].is_string()) return {Kind::missing, ""};
  return {Kind::text, json["text"].get<std::string>()};
}

}  // namespace

TEST_CASE("the field's string, unescaped, wherever it stands") {
  CHECK(field(R"({"text": "plain"})").text == "plain");
  CHECK(field(R"( { "id" : [1, {"text": "inner"}, null], "text":"\"\\\/\b\f\n\r\t\u0041\u00e9\u20ac\ud83d\ude00", "z": -1.5e+3 } )").text ==
        "\"\\/\b\f\n\r\tA\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
  CHECK(field(R"({"te\u0078t": "escaped key"})").text == "escaped key");
  CHECK(field(R"({"text": "first", "text": "last"})").text == "last");
  CHECK(field(R"({"text": "first", "text": 3})").kind == Kind::missing);
  CHECK(field(R"({"content": "c", "text": "t"})", "content").text == "c");
  CHECK(field(R"({"text": ""})").kind == Kind::text);
  for (const char* line : {R"({})", R"([{"text": "x"}])", R"("text")", R"(3)", R"({"text": null})", R"({"a": {"text": "x"}})"})
    CHECK(field(line).kind == Kind::missing);
}

TEST_CASE("what is not JSON: the byte where it ends to be") {
  std::string value;
  auto at = [&](std::string_view line) {
    const JsonField f = json_field(line, "text", value);
    CHECK(f.kind == Kind::not_json);
    return f.at;
  };
  CHECK(at(R"({"text": "a" "b": 1})") == 14);
  CHECK(at(R"({"text": "a"} x)") == 15);
  CHECK(at(R"({"text": })") == 10);
  CHECK(at("{\"text\": \"a\tb\"}") == 12);
  CHECK(at(R"({"text": "cut)") == 14);
  CHECK(at("") == 1);
  CHECK(at(R"({"a": 01})") == 8);
  CHECK(at(R"({"a": truf})") == 10);
  CHECK(at(R"({"a": "\x"})") == 9);
  std::string deep = "{\"a\":" + std::string(600, '[') + std::string(600, ']') + "}";
  at(deep);
  deep = "{\"a\":" + std::string(500, '[') + std::string(500, ']') + ",\"text\":\"t\"}";
  CHECK(field(deep).text == "t");
}

TEST_CASE("half a surrogate pair is U+FFFD, and said so only where it is in the field") {
  std::string value;
  JsonField f = json_field(R"({"text": "a\ud800b\udc00"})", "text", value);
  CHECK(f.kind == Kind::text);
  CHECK(value == "a\xef\xbf\xbd" "b\xef\xbf\xbd");
  CHECK(f.lone_surrogate == 12);
  f = json_field(R"({"text": "\ud800\u0041"})", "text", value);
  CHECK(value == "\xef\xbf\xbd" "A");
  CHECK(f.lone_surrogate == 11);
  f = json_field(R"({"text": "\ud800\ud83d\ude00"})", "text", value);
  CHECK(value == "\xef\xbf\xbd\xf0\x9f\x98\x80");
  f = json_field(R"({"other": "\ud800", "text": "fine"})", "text", value);
  CHECK(f.lone_surrogate == 0);
}

TEST_CASE("200000 mutated lines: accepted, refused and understood as by the parser") {
  const std::string seeds[] = {
      R"({"id": 12, "text": "some \"text\" \u00e9\ud83d\ude00 \n", "meta": {"a": [1, -2.5e-3, true, false, null], "text": "x"}})",
      R"({"text":"a","b":[],"c":{},"d":0,"e":-0.0E+1})", R"([{"text": "x"}, 1e5, "y"])", "{\"text\": \"\xc3\xa9\xe2\x82\xac\"}"};
  const std::string_view pieces = "{}[]\",:\\u0019eE+-.tfn \tx\x01\xc3\xa9";
  const Random random(11, "json");
  uint64_t draw = 0;
  auto below = [&](uint64_t n) { return random.below(draw++, n); };
  int64_t counts[3] = {0, 0, 0}, wrong = 0, compared = 0;
  for (int i = 0; i < 200'000; ++i) {
    std::string line = seeds[below(4)];
    for (uint64_t k = below(3); k > 0 && !line.empty(); --k) {
      const size_t at = below(line.size());
      const char c = pieces[below(pieces.size())];
      switch (below(3)) {
        case 0: line[at] = c; break;
        case 1: line.insert(at, 1, c); break;
        case 2: line.erase(at, 1 + below(4)); break;
      }
    }
    if (valid_utf8(line) < line.size()) continue;  // not for json_field
    std::string value;
    const JsonField f = json_field(line, "text", value);
    const Found wanted = by_parser(line);
    // The parser refuses half a surrogate pair anywhere.
    if (line.find("\\ud") != line.npos && wanted.kind == Kind::not_json && f.kind != Kind::not_json) continue;
    ++compared;
    ++counts[int(f.kind)];
    const bool same = f.kind == wanted.kind && (f.kind != Kind::text || value == wanted.text);
    wrong += !same;
    if (!same && wrong < 5) MESSAGE(line);
  }
  CHECK(wrong == 0);
  CHECK(compared > 150'000);
  for (const int64_t n : counts) CHECK(n > 5'000);
}
