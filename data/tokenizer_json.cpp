// tokenizer.json: the file read into its parts, and a text through them: added tokens, normalizer, pieces, merges.
#include "data/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "data/added_tokens.h"
#include "data/bpe.h"
#include "data/pretokenizer.h"
#include "data/unicode.h"
#include "tensor/error.h"
#include "tensor/json.h"

namespace taper {
namespace {

using Json = nlohmann::json;

// A value in the file and the way to it, for what is said of it.
class Node {
 public:
  Node(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  const Json& json() const { return json_; }
  const std::string& where() const { return where_; }
  bool null() const { return json_.is_null(); }

  [[noreturn]] void refuse(std::string_view what) const { fail(Exit::bad_data, "{}: {}", where_, what); }
  [[noreturn]] void wanted(std::string_view what) const { fail(Exit::bad_data, "{}: {} is wanted; got {}", where_, what, shown()); }

  const Node& object() const {
    if (!json_.is_object()) wanted("an object");
    return *this;
  }
  // Keys other than these ask for something that is not known.
  const Node& only(std::initializer_list<std::string_view> keys) const {
    object();
    for (const auto& [key, value] : json_.items())
      check(std::ranges::find(keys, key) != keys.end(), Exit::bad_data, "{}: '{}' is not supported", where_, key);
    return *this;
  }
  bool has(const char* key) const { return json_.contains(key) && !json_.at(key).is_null(); }
  Node at(const char* key) const {
    object();
    const auto found = json_.find(key);
    check(found != json_.end(), Exit::bad_data, "{}: '{}' is missing", where_, key);
    return Node(*found, fmt::format("{}.{}", where_, key));
  }
  std::vector<Node> items() const {
    if (!json_.is_array()) wanted("an array");
    std::vector<Node> nodes;
    for (size_t i = 0; i < json_.size(); ++i) nodes.emplace_back(json_[i], fmt::format("{}[{}]", where_, i));
    return nodes;
  }
  const std::string& text() const {
    if (!json_.is_string()) wanted("a string");
    return json_.get_ref<const std::string&>();
  }
  bool flag(const char* key, bool otherwise) const {
    if (!has(key)) return otherwise;
    const Node n = at(key);
    if (!n.json_.is_boolean()) n.wanted("true or false");
    return n.json_.get<bool>();
  }
  int32_t id() const {
    if (!json_.is_number_integer() || json_.get<int64_t>() < 0 || json_.get<int64_t>() >= int64_t(1) << 24) wanted("an id, 0 to 2^24-1,");
    return json_.get<int32_t>();
  }
  std::string shown() const { return json_.dump(-1, ' ', true).substr(0, 60); }

 private:
  const Json& json_;
  std::string where_;
};

// The bytes that the letters of a byte-level vocabulary stand for: printable ASCII and Latin-1 for themselves,
// the others, in order, as the letters from U+0100 on.
class ByteLetters {
 public:
  ByteLetters() {
    byte_of_.fill(-1);
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool itself = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      byte_of_[itself ? b : next++] = int16_t(b);
    }
  }
  std::optional<std::string> bytes(std::string_view letters) const {  // none: some letter stands for no byte
    std::string s;
    for (const char *p = letters.data(), *end = p + letters.size(); p < end;) {
      const uint32_t c = read_utf8(p);
      if (c >= byte_of_.size() || byte_of_[c] < 0) return std::nullopt;
      s += char(uint8_t(byte_of_[c]));
    }
    return s;
  }

 private:
  std::array<int16_t, 0x144> byte_of_;
};

struct Parts {
  bool nfc = false;
  bool prefix_space = false;
  std::vector<SplitStep> steps;
  Frame frame;
  std::vector<std::string> bytes;     // of each id, for decoding
  std::vector<std::string> mergeable;  // of each id, for merging; empty: no part of it
  std::vector<Merge> merges;
  std::vector<AddedToken> added;
  bool ignore_merges = false;
};

class Reader {
 public:
  explicit Reader(const Node& root) { read(root); }
  Parts parts;

 private:
  void read(const Node& root) {
    root.only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "model"});
    if (root.has("version") && root.at("version").json() != "1.0") root.at("version").wanted("\"1.0\"");
    for (const char* key : {"truncation", "padding"})
      if (root.has(key)) root.at(key).refuse("not supported; set it to null");
    if (root.has("normalizer")) normalizer(root.at("normalizer"), 0);
    check(root.has("pre_tokenizer"), Exit::bad_data, "{}: a byte-level tokenizer is wanted, which has ByteLevel among its pre_tokenizer; it is null",
          root.where());
    pre_tokenizer(root.at("pre_tokenizer"), 0);
    check(byte_level_, Exit::bad_data, "{}: ByteLevel is wanted, as the last step; without it a tokenizer is not supported",
          root.at("pre_tokenizer").where());
    const Node vocab = root.at("model").object().at("vocab").object();
    most_ids_ = vocab.json().size() + (root.has("added_tokens") ? root.at("added_tokens").json().size() : 0);
    model(root.at("model"));
    if (root.has("added_tokens")) added_tokens(root.at("added_tokens"));
    for (size_t id = 0; id < known_.size(); ++id)
      check(known_[id], Exit::bad_data, "{}: the ids 0 to {} are wanted, each of one token; {} has none", root.where(), known_.size() - 1, id);
    if (root.has("post_processor")) post_processor(root.at("post_processor"), 0);
    if (root.has("decoder")) decoder(root.at("decoder"), 0);
  }

  static void check_depth(const Node& n, int depth) {
    if (depth > 8) n.refuse("Sequences in Sequences more than 8 deep are not supported");
  }

  void normalizer(const Node& n, int depth) {
    check_depth(n, depth);
    const std::string& type = n.at("type").text();
    if (type == "NFC") {
      n.only({"type"});
      parts.nfc = true;
    } else if (type == "Sequence") {
      for (const Node& step : n.only({"type", "normalizers"}).at("normalizers").items()) normalizer(step, depth + 1);
    } else {
      n.refuse(fmt::format("the normalizer {} is not supported; NFC and Sequence are", type));
    }
  }

  void pre_tokenizer(const Node& n, int depth) {
    check_depth(n, depth);
    const std::string& type = n.at("type").text();
    if (byte_level_) n.refuse(fmt::format("{} behind ByteLevel is not supported; ByteLevel must be the last step", type));
    if (type == "Sequence") {
      for (const Node& step : n.only({"type", "pretokenizers"}).at("pretokenizers").items()) pre_tokenizer(step, depth + 1);
    } else if (type == "ByteLevel") {
      n.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
      parts.prefix_space = n.flag("add_prefix_space", true);
      if (parts.prefix_space && !parts.steps.empty()) n.refuse("add_prefix_space behind another step is not supported");
      if (n.flag("use_regex", true)) parts.steps.push_back(SplitStep::pattern(gpt2_pattern, n.where(), SplitBehavior::isolated, false));
      byte_level_ = true;
    } else if (type == "Digits") {
      n.only({"type", "individual_digits"});
      parts.steps.push_back(SplitStep::digits(n.flag("individual_digits", false)));
    } else if (type == "Split") {
      n.only({"type", "pattern", "behavior", "invert"});
      const Node pattern = n.at("pattern");
      const bool invert = n.flag("invert", false);
      const SplitBehavior how = behavior(n.at("behavior"));
      pattern.only({"Regex", "String"});
      if (pattern.has("Regex") == pattern.has("String")) pattern.wanted("either Regex or String");
      if (pattern.has("Regex")) {
        parts.steps.push_back(SplitStep::pattern(pattern.at("Regex").text(), pattern.where(), how, invert));
      } else {
        const std::string& text = pattern.at("String").text();
        if (text.empty()) pattern.wanted("a text that is not empty");
        parts.steps.push_back(SplitStep::literal(text, how, invert));
      }
    } else {
      n.refuse(fmt::format("the pre_tokenizer {} is not supported; ByteLevel, Split, Digits and Sequence are", type));
    }
  }

  static SplitBehavior behavior(const Node& n) {
    constexpr std::pair<std::string_view, SplitBehavior> names[] = {{"Isolated", SplitBehavior::isolated},
                                                                    {"Removed", SplitBehavior::removed},
                                                                    {"Contiguous", SplitBehavior::contiguous},
                                                                    {"MergedWithPrevious", SplitBehavior::merged_with_previous},
                                                                    {"MergedWithNext", SplitBehavior::merged_with_next}};
    for (const auto& [name, value] : names)
      if (n.text() == name) return value;
    n.wanted("Isolated, Removed, Contiguous, MergedWithPrevious or MergedWithNext");
  }

  void model(const Node& n) {
    const std::string type = n.object().has("type") ? n.at("type").text() : "BPE";
    if (type != "BPE") n.refuse(fmt::format("the model {} is not supported; BPE is", type));
    n.only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges", "vocab",
            "merges"});
    if (n.has("dropout") && n.at("dropout").json() != 0) n.at("dropout").refuse("not supported; set it to null");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (n.has(key) && !n.at(key).text().empty()) n.at(key).refuse("not supported; a byte-level vocabulary has none");
    if (n.flag("byte_fallback", false)) n.at("byte_fallback").refuse("not supported; a byte-level vocabulary needs none");
    parts.ignore_merges = n.flag("ignore_merges", false);
    vocab(n.at("vocab"));
    merges(n.at("merges"));
  }

  void set(int32_t id, const std::string& token, const Node& n) {
    if (size_t(id) >= most_ids_) n.refuse(fmt::format("id {} is too large: the ids of {} tokens are 0 to {}", id, most_ids_, most_ids_ - 1));
    if (size_t(id) >= known_.size()) {
      known_.resize(size_t(id) + 1);
      parts.bytes.resize(size_t(id) + 1);
      parts.mergeable.resize(size_t(id) + 1);
    }
    if (known_[size_t(id)]) n.refuse(fmt::format("id {} is that of two tokens", id));
    known_[size_t(id)] = true;
    ids_.emplace(token, id);
  }

  void vocab(const Node& n) {
    const ByteLetters letters;
    ids_.reserve(2 * n.json().size());
    for (const auto& [token, value] : n.json().items()) {
      const Node entry(value, fmt::format("{}[{}]", n.where(), Json(token).dump(-1, ' ', true).substr(0, 60)));
      const int32_t id = entry.id();
      if (token.empty()) entry.refuse("a token has at least one letter");
      set(id, token, entry);
      const auto bytes = letters.bytes(token);
      parts.bytes[size_t(id)] = bytes ? *bytes : token;
      if (bytes) parts.mergeable[size_t(id)] = *bytes;
    }
    std::array<bool, 256> byte{};
    for (const std::string& token : parts.mergeable)
      if (token.size() == 1) byte[uint8_t(token[0])] = true;
    for (size_t b = 0; b < 256; ++b)  // 0xc0, 0xc1 and those from 0xf5 on stand in no UTF-8: GPT-NeoX has no tokens for them
      check(byte[b] || b == 0xc0 || b == 0xc1 || b >= 0xf5, Exit::bad_data, "{}: every byte of UTF-8 must be a token; 0x{:02x} is none", n.where(), b);
  }

  void merges(const Node& n) {
    if (!n.json().is_array()) n.wanted("an array");
    std::unordered_map<uint64_t, size_t> seen;
    seen.reserve(2 * n.json().size());
    parts.merges.reserve(n.json().size());
    for (size_t i = 0; i < n.json().size(); ++i) {
      const Json& m = n.json()[i];
      const auto refuse = [&](std::string_view what) { fail(Exit::bad_data, "{}[{}]: {}; got {}", n.where(), i, what, m.dump(-1, ' ', true).substr(0, 60)); };
      std::string left, right;
      if (m.is_string()) {
        const std::string& s = m.get_ref<const std::string&>();
        const size_t space = s.find(' ');
        if (space == s.npos || s.find(' ', space + 1) != s.npos) refuse("two tokens and a space between them are wanted");
        left = s.substr(0, space);
        right = s.substr(space + 1);
      } else if (m.is_array() && m.size() == 2 && m[0].is_string() && m[1].is_string()) {
        left = m[0];
        right = m[1];
      } else {
        refuse("a merge is wanted, \"a b\" or [\"a\", \"b\"]");
      }
      const auto id = [&](const std::string& token) {
        const auto found = ids_.find(token);
        if (found == ids_.end()) refuse(fmt::format("it names {}, which is no token of the vocabulary", Json(token).dump(-1, ' ', true).substr(0, 60)));
        return found->second;
      };
      const Merge merge{id(left), id(right), id(left + right)};
      const auto [at, fresh] = seen.emplace(uint64_t(merge.left) << 32 | uint64_t(merge.right), i);
      if (!fresh) refuse(fmt::format("it stands there twice, first at [{}]", at->second));
      parts.merges.push_back(merge);
    }
  }

  void added_tokens(const Node& n) {
    std::unordered_map<std::string, int32_t> seen;
    for (const Node& entry : n.items()) {
      entry.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
      AddedToken t{.id = entry.at("id").id(), .content = entry.at("content").text()};
      t.single_word = entry.flag("single_word", false);
      t.lstrip = entry.flag("lstrip", false);
      t.rstrip = entry.flag("rstrip", false);
      t.special = entry.flag("special", false);
      t.normalized = entry.flag("normalized", !t.special);
      if (t.content.empty()) entry.at("content").wanted("a text that is not empty");
      if (!seen.emplace(t.content, t.id).second) entry.refuse(fmt::format("the token {} is added twice", entry.at("content").shown()));
      const auto in_vocab = ids_.find(t.content);
      if (in_vocab == ids_.end()) {
        set(t.id, t.content, entry);
      } else if (in_vocab->second != t.id) {
        entry.refuse(fmt::format("the token {} has id {} here and {} in the vocabulary", entry.at("content").shown(), t.id, in_vocab->second));
      }
      parts.bytes[size_t(t.id)] = t.content;
      parts.added.push_back(std::move(t));
    }
  }

  void post_processor(const Node& n, int depth) {
    check_depth(n, depth);
    const std::string& type = n.at("type").text();
    if (type == "Sequence") {
      for (const Node& step : n.only({"type", "processors"}).at("processors").items()) post_processor(step, depth + 1);
    } else if (type == "TemplateProcessing") {
      n.only({"type", "single", "pair", "special_tokens"});
      frame(n);
    } else if (type != "ByteLevel") {  // which changes offsets alone
      n.refuse(fmt::format("the post_processor {} is not supported; ByteLevel, TemplateProcessing and Sequence are", type));
    }
  }

  // "single": special tokens in front, the sequence A, special tokens behind.
  void frame(const Node& n) {
    const Node special = n.at("special_tokens").object();
    bool text = false;
    for (const Node& piece : n.at("single").items()) {
      piece.only({"SpecialToken", "Sequence"});
      if (piece.has("Sequence")) {
        if (text || piece.at("Sequence").at("id").text() != "A") piece.refuse("one sequence, A, is supported");
        text = true;
        continue;
      }
      const std::string& name = piece.at("SpecialToken").at("id").text();
      for (const Node& id : special.at(name.c_str()).at("ids").items()) {
        if (size_t(id.id()) >= known_.size()) id.wanted("the id of a token");
        (text ? parts.frame.after : parts.frame.before).push_back(id.id());
      }
    }
    if (!text) n.at("single").wanted("a template with the sequence A");
  }

  void decoder(const Node& n, int depth) {
    check_depth(n, depth);
    const std::string& type = n.at("type").text();
    if (type == "Sequence") {
      for (const Node& step : n.only({"type", "decoders"}).at("decoders").items()) decoder(step, depth + 1);
    } else if (type != "ByteLevel") {
      n.refuse(fmt::format("the decoder {} is not supported; ByteLevel and Sequence are", type));
    }
  }

  bool byte_level_ = false;
  size_t most_ids_ = 0;
  std::vector<bool> known_;                        // ids that have a token
  std::unordered_map<std::string, int32_t> ids_;  // of each token as it is written
};

class JsonTokenizer final : public Tokenizer {
 public:
  JsonTokenizer(TokenizerFile file, std::string identity, const std::string& who, Parts parts)
      : file_(std::move(file)), identity_(std::move(identity)), who_(who), nfc_(parts.nfc), prefix_space_(parts.prefix_space),
        steps_(std::move(parts.steps)), frame_(std::move(parts.frame)), bytes_(std::move(parts.bytes)), special_(bytes_.size()),
        bpe_(parts.mergeable, parts.merges, parts.ignore_merges) {
    std::vector<AddedToken> plain, normalized;
    for (AddedToken& t : parts.added) {
      special_[size_t(t.id)] = t.special;
      if (std::string content; t.normalized && nfc_ && append_nfc(t.content, content)) t.content = std::move(content);
      (t.normalized ? normalized : plain).push_back(t);
    }
    for (const std::string_view name : {"<|endoftext|>", "<|end_of_text|>", "<eos>", "</s>"})
      for (const AddedToken& t : parts.added)
        if (eod_ < 0 && t.special && t.content == name) eod_ = t.id;
    check(eod_ >= 0, Exit::bad_data,
          "{}: a special token that ends a document is wanted: <|endoftext|>, <|end_of_text|>, <eos> or </s>; its added_tokens have none", who);
    for (const AddedToken& t : parts.added)
      if (t.special && t.content == "<|begin_of_text|>") bos_ = t.id;
    if (!frame_.before.empty()) bos_ = frame_.before.front();
    plain_ = AddedTokens(std::move(plain));
    normalized_ = AddedTokens(std::move(normalized));
    const bool may = !steps_.empty() && plain_.cuts_before_words() && normalized_.cuts_before_words();
    cuts_before_words_ = may && steps_.front().by_hand();
    searches_cuts_ = may && steps_.front().searchable();
  }

  std::string identity() const override { return identity_; }
  int64_t vocab() const override { return int64_t(bytes_.size()); }
  int32_t eod() const override { return eod_; }
  int32_t bos() const override { return bos_; }
  bool special(int32_t id) const override { return special_.at(size_t(id)); }
  const Frame& frame() const override { return frame_; }
  const TokenizerFile& file() const override { return file_; }

  std::string_view bytes_of(int32_t id) const override {
    check(0 <= id && id < vocab(), "tokenizer {}: ids must lie in [0,{}); got {}", who_, vocab(), id);
    return bytes_[size_t(id)];
  }

  void encode(std::string_view text, std::vector<int32_t>& append_to, const EncodeOptions& options) const override {
    while (!text.empty()) {
      const size_t valid = valid_utf8(text);
      if (valid > 0) encode_valid(text.substr(0, valid), append_to, options);
      text.remove_prefix(valid);
      size_t bad = 0;  // bytes that begin no character, as a piece of their own
      while (bad < text.size() && valid_utf8(text.substr(bad, 4)) == 0) ++bad;
      for (const char c : text.substr(0, bad))
        check(bpe_.has(c), Exit::bad_data, "tokenizer {}: the text is no UTF-8, and byte 0x{:02x} has no token", who_, uint8_t(c));
      bpe_.encode(text.substr(0, bad), append_to);
      text.remove_prefix(bad);
    }
  }

  // Between a letter and a space before a letter, where no piece, no added token and no composition reaches over.
  size_t cut(std::string_view text) const override {
    if (searches_cuts_) return searched_cut(text);
    if (!cuts_before_words_) return 0;
    const auto letter = [&](size_t i) { return (text[i] >= 'a' && text[i] <= 'z') || (text[i] >= 'A' && text[i] <= 'Z'); };
    for (size_t i = text.size(); i-- > 2;)
      if (text[i - 1] == ' ' && letter(i) && letter(i - 2)) return i - 1;
    return 0;
  }

 private:
  // The same where only a pattern's run can tell where pieces end. Not in a text that holds added tokens, or is not in NFC.
  size_t searched_cut(std::string_view text) const {
    text = text.substr(0, valid_utf8(text));
    std::string other;
    if (nfc_ && append_nfc(text, other)) return 0;
    bool found = false;
    const auto token = [&](int32_t) { found = true; };
    plain_.split(text, true, [](std::string_view) {}, token);
    normalized_.split(text, true, [](std::string_view) {}, token);
    if (found) return 0;
    if (!prefix_space_ || text.starts_with(' ')) return steps_.front().cut(text);
    const size_t cut = steps_.front().cut(other.assign(" ").append(text));
    return cut ? cut - 1 : 0;
  }

  void encode_valid(std::string_view text, std::vector<int32_t>& out, const EncodeOptions& options) const {
    const auto token = [&](int32_t id) { out.push_back(id); };
    const auto plain = [&](std::string_view part) { encode_part(part, out, options); };
    if (plain_.empty()) plain(text);
    else plain_.split(text, options.special, plain, token);
  }

  void encode_part(std::string_view part, std::vector<int32_t>& out, const EncodeOptions& options) const {
    std::string normal;
    if (nfc_ && append_nfc(part, normal)) part = normal;
    const auto token = [&](int32_t id) { out.push_back(id); };
    const auto text = [&](std::string_view t) { encode_text(t, out); };
    if (normalized_.empty()) text(part);
    else normalized_.split(part, options.special, text, token);
  }

  void encode_text(std::string_view text, std::vector<int32_t>& out) const {
    std::string with_space;
    if (prefix_space_ && !text.starts_with(' ')) {
      with_space = " ";
      with_space += text;
      text = with_space;
    }
    if (steps_.size() == 1 && steps_[0].by_hand()) {
      const char *p = text.data(), *end = p + text.size();
      while (p < end) {
        const char* next = steps_[0].piece_end(p, end);
        bpe_.encode({p, size_t(next - p)}, out);
        p = next;
      }
      return;
    }
    walk(0, text, out);
  }

  void walk(size_t step, std::string_view text, std::vector<int32_t>& out) const {
    if (step == steps_.size()) return bpe_.encode(text, out);
    steps_[step].split(text, [&](std::string_view piece) { walk(step + 1, piece, out); });
  }

  TokenizerFile file_;
  std::string identity_, who_;
  bool nfc_, prefix_space_;
  bool cuts_before_words_ = false, searches_cuts_ = false;  // cut() knows places by their letters; by running the pattern
  std::vector<SplitStep> steps_;
  Frame frame_;
  std::vector<std::string> bytes_;
  std::vector<bool> special_;
  Bpe bpe_;
  AddedTokens plain_, normalized_;  // found in the text as it is, and in its NFC
  int32_t eod_ = -1, bos_ = -1;
};

}  // namespace

std::unique_ptr<Tokenizer> json_tokenizer(TokenizerFile file, std::string identity, const std::string& who) {
  check_json_object(file.contents, who);
  const Json json = Json::parse(file.contents);
  Reader reader(Node(json, who));
  return std::make_unique<JsonTokenizer>(std::move(file), std::move(identity), who, std::move(reader.parts));
}

}  // namespace taper
