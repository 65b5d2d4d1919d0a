// tokenizer.json: the goldens of GPT-2 and GPT-NeoX, each rule by value on small files, and what is refused.
#include "data/tokenizer_json.h"

#include <zstd.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "tensor/parallel.h"
#include "tensor/random.h"
#include "tests/data/json_tokenizer.h"

using namespace taper;
using namespace taper::test;
using Json = nlohmann::json;

namespace {

std::string golden_file(const std::string& name) {
  const std::string packed = read_file(Path(TAPER_SOURCE_DIR) / "tests/golden" / (name + ".zst"));
  std::string text(size_t(ZSTD_getFrameContentSize(packed.data(), packed.size())), '\0');
  REQUIRE(ZSTD_decompress(text.data(), text.size(), packed.data(), packed.size()) == text.size());
  return text;
}

std::unique_ptr<Tokenizer> golden_tokenizer(const Scratch& s, const std::string& name) {
  write_file(s / (name + ".json"), golden_file(name + ".tokenizer.json"));
  return open_tokenizer((s / (name + ".json")).string());
}

// 800 texts, with their ids by each tokenizer.
const std::vector<Json>& goldens() {
  static const std::vector<Json> lines = [] {
    std::vector<Json> all;
    std::istringstream in(golden_file("tokenizer_goldens.jsonl"));
    for (std::string line; std::getline(in, line);) all.push_back(Json::parse(line));
    return all;
  }();
  REQUIRE(lines.size() == 800);
  return lines;
}

std::string all_golden_text() {
  std::string all;
  for (const Json& j : goldens()) all += j["text"].get<std::string>() + " ";
  return all;
}

Json with(Json json, const std::string& pointer, const Json& value) {
  json[Json::json_pointer(pointer)] = value;
  return json;
}

const Json none = Json::object();

Json added(Json json, std::initializer_list<std::pair<const char*, Json>> tokens, const Json& more = none) {
  for (const auto& [content, flags] : tokens) {
    Json t = {{"id", json["model"]["vocab"].size() + json["added_tokens"].size()}, {"content", content}};
    t.update(flags);
    t.update(more);
    json["added_tokens"].push_back(t);
  }
  return json;
}

// The pieces that the pre-tokenizer makes, told by tokens that are whole pieces.
Json split_json(const Json& step, const std::vector<std::string>& pieces) {
  Json j = small_json();
  for (const std::string& p : pieces)
    if (p.size() > 1) j["model"]["vocab"][byte_letters(p)] = j["model"]["vocab"].size();
  j["model"]["ignore_merges"] = true;
  j["added_tokens"][0]["id"] = j["model"]["vocab"].size();
  j["pre_tokenizer"] = {{"type", "Sequence"},
                        {"pretokenizers", {step, {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  return j;
}

}  // namespace

TEST_CASE("goldens: all 800 lines, the ids of GPT-2 and of GPT-NeoX") {
  const Scratch s;
  for (const std::string name : {"gpt2", "neox"}) {
    const auto t = golden_tokenizer(s, name);
    CHECK(t->vocab() == (name == "gpt2" ? 50257 : 50277));
    CHECK(t->eod() == (name == "gpt2" ? 50256 : 0));
    CHECK(t->bos() == -1);
    CHECK(t->identity().size() == 37);
    int same = 0, round = 0;
    for (const Json& j : goldens()) {
      const std::string text = j["text"];
      const Ids ids = encoded(*t, text);
      same += ids == j[name].get<Ids>();
      std::string nfc;
      if (name == "gpt2" || !append_nfc(text, nfc)) nfc = text;
      round += t->decode(ids) == nfc;
    }
    CHECK(same == 800);
    CHECK(round == 800);
    // The whole in one text, in pieces and on several threads: the same ids.
    const std::string all = all_golden_text();
    const Ids whole = encoded(*t, all);
    CHECK(encoded_in_pieces(*t, all, 7777) == whole);
    std::vector<Ids> by_line(800);
    parallel_for(800, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) by_line[size_t(i)] = encoded(*t, goldens()[size_t(i)]["text"].get<std::string>());
    });
    int right = 0;
    for (size_t i = 0; i < 800; ++i) right += by_line[i] == goldens()[i][name].get<Ids>();
    CHECK(right == 800);
  }
}

// Llama-3's file may not be kept here: the test wants its path in TAPER_LLAMA3_TOKENIZER.
TEST_CASE("goldens: Llama-3's ids, where its file is at hand") {
  const char* path = std::getenv("TAPER_LLAMA3_TOKENIZER");
  if (!path) return;
  const auto t = open_tokenizer(path);
  CHECK(t->eod() == 128001);
  CHECK(t->bos() == 128000);
  int same = 0;
  for (const Json& j : goldens()) same += encoded(*t, j["text"].get<std::string>()) == j["llama3"].get<Ids>();
  CHECK(same == 800);
}

// Files made from GPT-2's and GPT-NeoX's by changing parts, with ids by the original library: the pre-tokenizers of
// Qwen-2, cl100k, o200k and like DeepSeek's, Digits, every behavior of Split, prefixed spaces, all flags of added tokens.
TEST_CASE("goldens: files that use what the two do not") {
  const Scratch s;
  std::istringstream in(golden_file("tokenizer_variants.jsonl"));
  int variants = 0;
  for (std::string line; std::getline(in, line); ++variants) {
    const Json v = Json::parse(line);
    Json json = Json::parse(golden_file(v["base"].get<std::string>() + ".tokenizer.json"));
    for (const auto& [key, value] : v["patch"].items()) key == "model" ? json[key].update(value) : void(json[key] = value);
    const auto t = open_json(s, json);
    int same = 0;
    for (size_t i = 0; i < 50; ++i) same += encoded(*t, v["texts"][i].get<std::string>()) == v["ids"][i].get<Ids>();
    CHECK_MESSAGE(same == 50, v["variant"]);
  }
  CHECK(variants == 11);
}

TEST_CASE("random code points come back, and so do bytes that are no UTF-8") {
  const Scratch s;
  const auto gpt2 = golden_tokenizer(s, "gpt2"), neox = golden_tokenizer(s, "neox");
  const Random random(3, "code points");
  std::string text, bytes;
  for (uint64_t i = 0; i < 200000; ++i) {
    const uint32_t c = uint32_t(random.below(i, code_points - 0x800));
    append_utf8(text, c < 0xd800 ? c : c + 0x800);
    bytes += char(uint8_t(c));
  }
  CHECK(gpt2->decode(encoded(*gpt2, text)) == text);
  CHECK(gpt2->decode(encoded(*gpt2, bytes)) == bytes);
  std::string nfc;
  REQUIRE(append_nfc(text, nfc));
  CHECK(neox->decode(encoded(*neox, text)) == nfc);
  // NeoX has no tokens for the bytes that no UTF-8 holds.
  CHECK(neox->decode(encoded(*neox, "a\x80\xe4\xb8 b")) == "a\x80\xe4\xb8 b");
  expect_failure([&] { encoded(*neox, "a\xffz"); }, Exit::bad_data, "neox.json: the text is no UTF-8, and byte 0xff has no token");
}

TEST_CASE("merging: lowest rank first, leftmost first, short and long, against the plain rule") {
  const Scratch s;
  const Random random(5, "merges");
  uint64_t draw = 0;
  const auto below = [&](uint64_t n) { return random.below(draw++, n); };
  for (int round = 0; round < 6; ++round) {
    std::vector<std::string> tokens{"a", "b", "c"};
    std::vector<std::pair<std::string, std::string>> merges;
    while (merges.size() < 40) {  // in any order: a merge may come before those that make its parts
      const std::string a = tokens[below(tokens.size())], b = tokens[below(tokens.size())];
      if (a.size() + b.size() > 9 || std::ranges::find(merges, std::pair{a, b}) != merges.end()) continue;
      if (std::ranges::find(tokens, a + b) == tokens.end()) tokens.push_back(a + b);
      merges.emplace_back(a, b);
    }
    for (size_t i = merges.size(); i > 1; --i) std::swap(merges[i - 1], merges[below(i)]);
    const Json json = small_json(merges);
    const auto t = open_json(s, json);
    for (const size_t n : {2, 5, 31, 47, 48, 49, 60, 400}) {
      for (int k = 0; k < 20; ++k) {
        std::string text;
        while (text.size() < n) text += "abc"[below(3)];
        std::vector<std::string> parts;
        for (const char c : text) parts.emplace_back(1, c);
        for (;;) {
          size_t best = merges.size(), at = 0;
          for (size_t i = 0; i + 1 < parts.size(); ++i) {
            const size_t rank = size_t(std::ranges::find(merges, std::pair{parts[i], parts[i + 1]}) - merges.begin());
            if (rank < best) best = rank, at = i;
          }
          if (best == merges.size()) break;
          parts[at] += parts[at + 1];
          parts.erase(parts.begin() + std::ptrdiff_t(at) + 1);
        }
        Ids expected;
        for (const std::string& p : parts) expected.push_back(json["model"]["vocab"][p]);
        CHECK(encoded(*t, text) == expected);
        CHECK(encoded(*t, text) == expected);  // and out of the cache
      }
    }
  }
}

TEST_CASE("merging: a word of three megabytes takes its time in proportion") {
  const Scratch s;
  const auto t = open_json(s, small_json({{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}, {"a", "b"}}));
  const Ids ids = encoded(*t, std::string(3'000'007, 'a') + "b");
  CHECK(ids.size() == 375'003);
  CHECK(Ids(ids.end() - 4, ids.end()) == Ids{258, 257, 256, 259});  // 8 of them, then 4, 2, and ab
}

TEST_CASE("merges: both forms are one; ignore_merges takes a piece that is a token as it is") {
  const Scratch s;
  Json json = small_json({{"a", "b"}, {"c", "d"}, {"ab", "c"}});
  CHECK(encoded(*open_json(s, json), "abcd") == Ids{256, 257});  // c d ranks before ab c
  json["model"]["merges"] = Json::array({Json::array({"a", "b"}), Json::array({"c", "d"}), Json::array({"ab", "c"})});
  CHECK(encoded(*open_json(s, json), "abcd") == Ids{256, 257});
  CHECK(encoded(*open_json(s, json), "abc") == Ids{258});
  // A token that no merge leads to.
  json["model"]["vocab"]["xyz"] = 259;
  json["added_tokens"][0]["id"] = 260;
  CHECK(encoded(*open_json(s, json), "xyz") == Ids{'x', 'y', 'z'});
  json["model"]["ignore_merges"] = true;
  CHECK(encoded(*open_json(s, json), "xyz") == Ids{259});
  CHECK(encoded(*open_json(s, json), "xyzab") == Ids{'x', 'y', 'z', 256});
}

TEST_CASE("added tokens: the longest first; spaces taken along; single words; found in NFC or before it") {
  const Scratch s;
  const Json base = small_json();  // <|endoftext|> is 256, what follows 257, 258, ...
  const auto ids = [&](const Json& json, const std::string& text, const EncodeOptions& o = {}) { return encoded(*open_json(s, json), text, o); };
  CHECK(ids(base, "a<|endoftext|>b") == Ids{'a', 256, 'b'});
  CHECK(ids(base, "a<|endoftext|>b", {.special = false}).size() == 15);
  const Json two = added(base, {{"<x>", none}, {"<x><y>", none}, {"<y>z", {{"special", true}}}});
  CHECK(ids(two, "<x><y>y") == Ids{258, 'y'});
  CHECK(ids(two, "<x><y>z") == Ids{257, 259});  // what is not looked for in normalized text comes first
  CHECK(ids(two, "<y>z<x>") == Ids{259, 257});
  CHECK(ids(two, "<y>z<x>", {.special = false}) == Ids{'<', 'y', '>', 'z', 257});
  const Json strips = added(base, {{"<l>", {{"lstrip", true}}}, {"<r>", {{"rstrip", true}}}});
  CHECK(ids(strips, "a \t\xe2\x80\x83<l> b") == Ids{'a', 257, ' ', 'b'});  // U+2003 is white space
  CHECK(ids(strips, "a <r> \n\xe2\x80\x83z") == Ids{'a', ' ', 258, 'z'});
  CHECK(ids(strips, "<r>  <l>z") == Ids{258, 257, 'z'});  // what <r> took is gone
  const Json word = added(base, {{"cat", {{"single_word", true}}}});
  CHECK(ids(word, "cat") == Ids{257});
  CHECK(ids(word, "-cat.") == Ids{'-', 257, '.'});
  CHECK(ids(word, "cats") == Ids{'c', 'a', 't', 's'});
  CHECK(ids(word, "_cat") == Ids{'_', 'c', 'a', 't'});
  CHECK(ids(word, "\xc3\xa9" "cat").size() == 5);  // é is a letter
  CHECK(ids(word, "\xc2\xb2" "cat") == Ids{0xc2, 0xb2, 257});  // ² is no digit
  Json nfc = with(base, "/normalizer", {{"type", "NFC"}});
  nfc = added(nfc, {{"\xd0\xb9", {{"normalized", false}}}, {"i\xcc\x88", {{"normalized", true}}}});  // U+0439, which is U+0438 U+0306; i, U+0308
  CHECK(ids(nfc, "\xd0\xb8\xcc\x86") == Ids{0xd0, 0xb9});  // composed, but token 257 is looked for before that
  CHECK(ids(nfc, "\xd0\xb9") == Ids{257});
  CHECK(ids(nfc, "i\xcc\x88") == Ids{258});
  CHECK(ids(nfc, "\xc3\xaf") == Ids{258});  // its content was composed, too
  // More tokens than are looked at one by one.
  Json many = base;
  std::vector<std::string> contents;
  for (int i = 0; i < 40; ++i) contents.push_back("<" + std::string(size_t(i % 7), 'a') + char('a' + i / 7) + ">");
  std::ranges::sort(contents);
  contents.erase(std::unique(contents.begin(), contents.end()), contents.end());
  for (const std::string& c : contents) many = added(many, {{c.c_str(), none}});
  many = added(many, {{"<a", none}, {"<aaa", none}});
  const auto t = open_json(s, many);
  for (size_t i = 0; i < contents.size(); ++i) CHECK(encoded(*t, contents[i]) == Ids{int32_t(257 + i)});
  CHECK(encoded(*t, "<aaaq") == Ids{int32_t(258 + contents.size()), 'q'});
  CHECK(encoded(*t, "<aaq<a") == Ids{int32_t(257 + contents.size()), 'a', 'q', int32_t(257 + contents.size())});
  CHECK(encoded(*t, "<q") == Ids{'<', 'q'});
}

TEST_CASE("steps: digits, texts, patterns, and what becomes of matches and gaps") {
  const Scratch s;
  // Every substring of the text is a token, so that ids tell the pieces.
  const auto pieces = [&](const Json& step, const std::string& text) {
    std::vector<std::string> all;
    for (size_t i = 0; i < text.size(); ++i)
      for (size_t n = 2; i + n <= text.size(); ++n) all.push_back(text.substr(i, n));
    std::ranges::sort(all);
    all.erase(std::unique(all.begin(), all.end()), all.end());
    const auto t = open_json(s, split_json(step, all));
    std::string shown;
    for (const int32_t id : encoded(*t, text)) shown += (shown.empty() ? "" : "|") + std::string(t->bytes_of(id));
    return shown;
  };
  const auto split = [](const char* behavior, bool invert = false) {
    return Json{{"type", "Split"}, {"pattern", {{"Regex", "[-+]"}}}, {"behavior", behavior}, {"invert", invert}};
  };
  CHECK(pieces(split("Isolated"), "ab--c+d-") == "ab|-|-|c|+|d|-");
  CHECK(pieces(split("Removed"), "ab--c+d-") == "ab|c|d");
  CHECK(pieces(split("Removed", true), "ab--c+d-") == "-|-|+|-");
  CHECK(pieces(split("Contiguous"), "ab--c+d-") == "ab|--|c|+|d|-");
  CHECK(pieces(split("MergedWithPrevious"), "ab--c+d-") == "ab-|-|c+|d-");
  CHECK(pieces(split("MergedWithPrevious"), "-ab") == "-|ab");
  CHECK(pieces(split("MergedWithNext"), "ab--c+d-") == "ab|-|-c|+d|-");
  CHECK(pieces(split("Isolated"), "abc") == "abc");
  CHECK(pieces({{"type", "Split"}, {"pattern", {{"String", "+-"}}}, {"behavior", "Isolated"}}, "a+-+b+-") == "a|+-|+b|+-");
  CHECK(pieces({{"type", "Digits"}, {"individual_digits", true}}, "a12b3") == "a|1|2|b|3");
  CHECK(pieces({{"type", "Digits"}, {"individual_digits", false}}, "a12b3") == "a|12|b|3");
  CHECK(pieces({{"type", "Digits"}}, "x\xc2\xb2\xe2\x85\xa7y") == "x|\xc2\xb2\xe2\x85\xa7|y");  // ² and Ⅷ are numerals
  CHECK(pieces({{"type", "Sequence"}, {"pretokenizers", {{{"type", "Digits"}}, split("Removed")}}}, "a1-2b") == "a|1|2|b");
  // add_prefix_space: in front of every text between added tokens that does not begin with one.
  Json prefix = small_json();
  prefix["pre_tokenizer"]["add_prefix_space"] = true;
  CHECK(encoded(*open_json(s, prefix), "a<|endoftext|>b") == Ids{' ', 'a', 256, ' ', 'b'});
  CHECK(encoded(*open_json(s, prefix), " a") == Ids{' ', 'a'});
}

TEST_CASE("a template frames a text; which token ends and begins one") {
  const Scratch s;
  Json json = added(small_json(), {{"<s>", {{"special", true}}}, {"<|begin_of_text|>", {{"special", true}}}});
  CHECK(open_json(s, json)->bos() == 258);
  CHECK(open_json(s, json)->frame().before.empty());
  json["post_processor"] = {{"type", "Sequence"},
                            {"processors",
                             {{{"type", "ByteLevel"}},
                              {{"type", "TemplateProcessing"},
                               {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
                                           {{"SpecialToken", {{"id", "end"}, {"type_id", 0}}}}}},
                               {"pair", Json::array()},
                               {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {257}}, {"tokens", {"<s>"}}}},
                                                   {"end", {{"id", "end"}, {"ids", {256, 257}}, {"tokens", {"a", "b"}}}}}}}}}};
  const auto t = open_json(s, json);
  CHECK(t->frame().before == Ids{257});
  CHECK(t->frame().after == Ids{256, 257});
  CHECK(t->bos() == 257);
  CHECK(t->eod() == 256);
  CHECK(t->special(257));
  CHECK(!t->special('a'));
  CHECK(encoded(*t, "a") == Ids{'a'});  // encode puts nothing around it
  const auto eod = [&](std::initializer_list<std::pair<const char*, Json>> tokens) {
    Json j = small_json();
    j["added_tokens"] = Json::array();
    return open_json(s, added(j, tokens))->eod();
  };
  const Json special = {{"special", true}};
  CHECK(eod({{"</s>", special}, {"<|end_of_text|>", special}}) == 257);
  CHECK(eod({{"<eos>", special}, {"</s>", special}}) == 256);
  CHECK(eod({{"</s>", special}, {"<|endoftext|>", special}}) == 257);
  expect_failure([&] { eod({{"</s>", {{"special", false}}}}); }, Exit::bad_data,
                 "tokenizer.json: a special token that ends a document is wanted: <|endoftext|>, <|end_of_text|>, <eos> or </s>; its added_tokens have none");
}

TEST_CASE("what a file asks for that is not supported is refused by name") {
  const Scratch s;
  const auto refuses = [&](const Json& json, const std::string& message) {
    write_file(s / "t.json", json.dump());
    expect_failure([&] { open_tokenizer((s / "t.json").string()); }, Exit::bad_data, "t.json" + message);
  };
  const Json base = small_json({{"a", "b"}});
  const auto spoilt = [&](const std::string& pointer, const Json& value, const std::string& message) { refuses(with(base, pointer, value), message); };
  spoilt("/colour", 1, ": 'colour' is not supported");
  spoilt("/version", "2.0", ".version: \"1.0\" is wanted; got \"2.0\"");
  spoilt("/truncation", {{"max_length", 512}}, ".truncation: not supported; set it to null");
  spoilt("/padding", {{"length", 512}}, ".padding: not supported; set it to null");
  spoilt("/normalizer", {{"type", "NFKC"}}, ".normalizer: the normalizer NFKC is not supported; NFC and Sequence are");
  spoilt("/normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Lowercase"}}}}},
         ".normalizer.normalizers[1]: the normalizer Lowercase is not supported");
  spoilt("/pre_tokenizer", nullptr, ": a byte-level tokenizer is wanted, which has ByteLevel among its pre_tokenizer; it is null");
  spoilt("/pre_tokenizer", {{"type", "Metaspace"}}, ".pre_tokenizer: the pre_tokenizer Metaspace is not supported; ByteLevel, Split, Digits and Sequence are");
  spoilt("/pre_tokenizer", {{"type", "Digits"}}, ".pre_tokenizer: ByteLevel is wanted, as the last step; without it a tokenizer is not supported");
  spoilt("/pre_tokenizer/colour", 1, ".pre_tokenizer: 'colour' is not supported");
  spoilt("/pre_tokenizer/use_regex", "yes", ".pre_tokenizer.use_regex: true or false is wanted; got \"yes\"");
  const Json level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  const auto sequence = [&](const Json& steps, const std::string& message) {
    spoilt("/pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", steps}}, ".pre_tokenizer.pretokenizers" + message);
  };
  sequence({level, {{"type", "Digits"}}}, "[1]: Digits behind ByteLevel is not supported; ByteLevel must be the last step");
  sequence({{{"type", "Digits"}}, {{"type", "ByteLevel"}}}, "[1]: add_prefix_space behind another step is not supported");
  sequence({{{"type", "Split"}, {"behavior", "Isolated"}}}, "[0]: 'pattern' is missing");
  sequence({{{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "Isolate"}}},
           "[0].behavior: Isolated, Removed, Contiguous, MergedWithPrevious or MergedWithNext is wanted; got \"Isolate\"");
  sequence({{{"type", "Split"}, {"pattern", {{"Regex", "a"}, {"String", "a"}}}, {"behavior", "Isolated"}}}, "[0].pattern: either Regex or String is wanted");
  sequence({{{"type", "Split"}, {"pattern", {{"String", ""}}}, {"behavior", "Isolated"}}}, "[0].pattern: a text that is not empty is wanted");
  sequence({{{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}}},
           "[0].pattern: a pattern is wanted; missing closing parenthesis: (a");
  Json deep = level;
  for (int i = 0; i < 12; ++i) deep = {{"type", "Sequence"}, {"pretokenizers", {deep}}};
  refuses(with(base, "/pre_tokenizer", deep), ".pre_tokenizer.pretokenizers[0].pretokenizers[0]");
  spoilt("/model/type", "WordPiece", ".model: the model WordPiece is not supported; BPE is");
  spoilt("/model/colour", 1, ".model: 'colour' is not supported");
  spoilt("/model/dropout", 0.1, ".model.dropout: not supported; set it to null");
  spoilt("/model/end_of_word_suffix", "</w>", ".model.end_of_word_suffix: not supported; a byte-level vocabulary has none");
  spoilt("/model/continuing_subword_prefix", "##", ".model.continuing_subword_prefix: not supported");
  spoilt("/model/byte_fallback", true, ".model.byte_fallback: not supported; a byte-level vocabulary needs none");
  spoilt("/post_processor", {{"type", "RobertaProcessing"}},
         ".post_processor: the post_processor RobertaProcessing is not supported; ByteLevel, TemplateProcessing and Sequence are");
  spoilt("/decoder", {{"type", "WordPiece"}}, ".decoder: the decoder WordPiece is not supported; ByteLevel and Sequence are");
  const auto framed = [&](const Json& single, const std::string& message) {
    spoilt("/post_processor", {{"type", "TemplateProcessing"}, {"single", single}, {"pair", Json::array()}, {"special_tokens", Json::object()}},
           ".post_processor" + message);
  };
  framed({{{"Sequence", {{"id", "B"}}}}}, ".single[0]: one sequence, A, is supported");
  framed({{{"SpecialToken", {{"id", "<s>"}}}}}, ".special_tokens: '<s>' is missing");
  framed(Json::array(), ".single: a template with the sequence A is wanted; got []");
}

TEST_CASE("a file that contradicts itself is refused with the place") {
  const Scratch s;
  const auto refuses_text = [&](const std::string& text, const std::string& message) {
    write_file(s / "t.json", text);
    expect_failure([&] { open_tokenizer((s / "t.json").string()); }, Exit::bad_data, "t.json" + message);
  };
  const auto refuses = [&](const Json& json, const std::string& message) { refuses_text(json.dump(), message); };
  const Json base = small_json({{"a", "b"}});
  const auto spoilt = [&](const std::string& pointer, const Json& value, const std::string& message) { refuses(with(base, pointer, value), message); };
  refuses_text("{\"model\": ", ": valid JSON is wanted; byte ");
  refuses_text("{}", ": a byte-level tokenizer is wanted");
  std::string twice = base.dump();
  twice.replace(twice.find("\"b\":98"), 6, "\"b\":98,\"b\":98");
  refuses_text(twice, ": the JSON key \"b\" must appear once; it appears again");
  Json j = base;
  j["model"].erase("vocab");
  refuses(j, ".model: 'vocab' is missing");
  spoilt("/model/vocab", 3, ".model.vocab: an object is wanted; got 3");
  spoilt("/model/vocab/a", -1, ".model.vocab[\"a\"]: an id, 0 to 2^24-1, is wanted; got -1");
  spoilt("/model/vocab/a", 98, ".model.vocab[\"b\"]: id 98 is that of two tokens");
  spoilt("/model/vocab/", 300, ".model.vocab[\"\"]: a token has at least one letter");
  j = base;
  j["model"]["vocab"].erase("a");
  refuses(j, ".model.vocab: every byte of UTF-8 must be a token; 0x61 is none");
  spoilt("/added_tokens/0/id", 258, ".added_tokens[0]: id 258 is too large: the ids of 258 tokens are 0 to 257");
  spoilt("/model/vocab/a", 1000000, ".model.vocab[\"a\"]: id 1000000 is too large: the ids of 258 tokens are 0 to 257");
  j = base;  // one token is in both lists, so that there are fewer ids than entries
  j["added_tokens"][0]["id"] = 258;
  j["added_tokens"].push_back({{"id", 97}, {"content", "a"}});
  refuses(j, ": the ids 0 to 258 are wanted, each of one token; 257 has none");
  spoilt("/model/merges", "a b", ".model.merges: an array is wanted; got \"a b\"");
  const auto merge = [&](const Json& m, const std::string& message) { spoilt("/model/merges/1", m, ".model.merges[1]: " + message); };
  merge("a", "two tokens and a space between them are wanted; got \"a\"");
  merge("a b c", "two tokens and a space between them are wanted; got \"a b c\"");
  merge(7, "a merge is wanted, \"a b\" or [\"a\", \"b\"]; got 7");
  merge({"a", "b", "c"}, "a merge is wanted, \"a b\" or [\"a\", \"b\"]; got [\"a\",\"b\",\"c\"]");
  merge("a qq", "it names \"qq\", which is no token of the vocabulary; got \"a qq\"");
  merge("a c", "it names \"ac\", which is no token of the vocabulary; got \"a c\"");
  merge("a b", "it stands there twice, first at [0]; got \"a b\"");
  spoilt("/added_tokens", 3, ".added_tokens: an array is wanted; got 3");
  spoilt("/added_tokens/0/content", "", ".added_tokens[0].content: a text that is not empty is wanted; got \"\"");
  spoilt("/added_tokens/0/colour", 1, ".added_tokens[0]: 'colour' is not supported");
  spoilt("/added_tokens/1", {{"id", 258}, {"content", "<|endoftext|>"}}, ".added_tokens[1]: the token \"<|endoftext|>\" is added twice");
  spoilt("/added_tokens/1", {{"id", 257}, {"content", "x y"}}, ".added_tokens[1]: id 257 is that of two tokens");
  spoilt("/added_tokens/1", {{"id", 258}, {"content", "a"}}, ".added_tokens[1]: the token \"a\" has id 258 here and 97 in the vocabulary");
}

TEST_CASE("cut: before a word, and nowhere that an added token forbids") {
  const Scratch s;
  const Json base = small_json();
  const auto cut = [&](const Json& json, std::string_view text) { return open_json(s, json)->cut(text); };
  CHECK(cut(base, "one two") == 3);
  CHECK(cut(base, "one two three") == 7);
  CHECK(cut(base, "one two  ") == 3);
  CHECK(cut(base, "one  two") == 0);
  CHECK(cut(base, "1 2") == 0);
  CHECK(cut(base, "a") == 0);
  CHECK(cut(base, "") == 0);
  CHECK(cut(added(base, {{"  ", none}}), "one two") == 3);
  CHECK(cut(added(base, {{"x y", none}}), "one two") == 0);
  CHECK(cut(added(base, {{"x ", none}}), "one two") == 0);
  CHECK(cut(added(base, {{"<l>", {{"lstrip", true}}}}), "one two") == 0);
  CHECK(cut(added(base, {{" w", {{"single_word", true}}}}), "one two") == 0);
  CHECK(cut(with(base, "/pre_tokenizer/use_regex", false), "one two") == 0);
}

TEST_CASE("cut: where only PCRE2 can tell, a place is certain whatever follows") {
  const Scratch s;
  // With and without gaps, with looks ahead that reach over the place, and looks behind, which know no certain place.
  const std::vector<std::pair<std::string, bool>> patterns{{R"([^\s\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", true},
                                                           {R"( ?[a-z]+|\s+)", true},
                                                           {R"([a-z]+)", true},
                                                           {R"([a-z]+(?= [a-z]+!)|[a-z])", true},
                                                           {R"(a+(?= b*c)|[a-z]|\s)", true},
                                                           {R"([a-z ]+(?=!)|[a-z]+| )", false},
                                                           {R"((?<=a)b+|[a-z]+| )", false}};
  const std::string letters = "aabbcd  e!f.1\n";
  const Random random(8, "cuts");
  uint64_t draw = 0;
  for (const auto& [pattern, sure] : patterns) {
    CAPTURE(pattern);
    const nlohmann::json split{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
    const nlohmann::json bytes{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
    nlohmann::json json = small_json({{"a", "b"}, {"b", " "}, {" ", "b"}, {"b", "c"}, {"ab", " "}, {"e", " "}, {"a", " b"}, {"c", "d"}});
    json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}};
    const auto t = open_json(s, json);
    int64_t cuts = 0;
    for (int round = 0; round < 3000; ++round) {
      const auto some = [&](uint64_t n) {
        std::string text;
        for (uint64_t i = random.below(draw++, n); i > 0; --i) text += letters[random.below(draw++, letters.size())];
        return text;
      };
      const std::string text = some(40);
      const size_t cut = t->cut(text);
      if (cut == 0) continue;
      ++cuts;
      REQUIRE(text[cut] == ' ');
      for (const std::string& after : {std::string(), some(6), some(20), std::string("!"), std::string(" c")}) {
        Ids parts = encoded(*t, text.substr(0, cut));
        const Ids rest = encoded(*t, text.substr(cut) + after);
        parts.insert(parts.end(), rest.begin(), rest.end());
        REQUIRE_MESSAGE(parts == encoded(*t, text + after), "'", text, "' at ", cut, " before '", after, "'");
      }
    }
    if (sure) CHECK(cuts > 300);
  }
  // Behind every cut the next is found: a text without end goes in pieces.
  nlohmann::json json = small_json({{"t", "h"}, {"th", "e"}});
  json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", patterns[0].first}}}, {"behavior", "Isolated"}, {"invert", false}};
  json["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers", {json["pre_tokenizer"], {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}}}}};
  const auto t = open_json(s, json);
  std::string line;
  while (line.size() < 100000) line += "the slow head, number 17, remembers longest; ";
  CHECK(encoded_in_pieces(*t, line, 3000) == encoded(*t, line));
  CHECK(t->cut(line.substr(0, 3000)) > 2900);
  CHECK(t->cut("one <|endoftext|> two three four") == 0);  // nor where an added token parts the text
}

TEST_CASE("merging: a word that is too long for memory is refused in one line") {
  const Scratch s;
  const auto t = open_json(s, small_json({{"a", "a"}}));
  const std::string word(size_t(16 << 20) + 1, 'a');
  expect_failure([&] { encoded(*t, word); }, Exit::bad_data,
                 "a word of 16777217 bytes is too long to encode: text needs a place to cut (a space, for one) in every 16777216");
}
