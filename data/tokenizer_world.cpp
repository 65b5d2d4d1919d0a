// RWKV's "world" vocabulary: reading its lines, and the greedy walk.
#include "data/tokenizer_world.h"

#include <algorithm>
#include <array>
#include <bitset>
#include <charconv>

#include "data/unicode.h"
#include "tensor/error.h"

namespace taper {
namespace {

// What a Python literal of a string or of bytes stands for, as repr() writes it; `where` is for errors.
std::string python_literal(std::string_view s, const std::string& where) {
  const auto bad = [&](std::string_view what) { fail(Exit::bad_data, "{}: a Python string or bytes is wanted between id and length; {}", where, what); };
  const bool bytes = s.starts_with('b');
  if (bytes) s.remove_prefix(1);
  if (s.size() < 2 || (s[0] != '\'' && s[0] != '"') || s.back() != s[0]) bad("got no quoted literal");
  const char quote = s[0];
  s = s.substr(1, s.size() - 2);
  std::string out;
  for (size_t i = 0; i < s.size();) {
    const char c = s[i++];
    if (c == quote) bad("a quote inside it is not escaped");
    if (c != '\\') {
      if (bytes && uint8_t(c) >= 0x80) bad("bytes beyond 0x7f must be escaped");
      out += c;
      continue;
    }
    if (i == s.size()) bad("it ends in a lone backslash");
    const char e = s[i++];
    if (const size_t at = std::string_view("\\'\"nrtabfv").find(e); at != std::string_view::npos) {
      out += "\\'\"\n\r\t\a\b\f\v"[at];
      continue;
    }
    const size_t digits = e == 'x' ? 2 : e == 'u' && !bytes ? 4 : e == 'U' && !bytes ? 8 : 0;
    uint32_t value = 0;
    const char *begin = s.data() + i, *end = begin + std::min(digits, s.size() - i);
    if (digits == 0 || size_t(end - begin) < digits || std::from_chars(begin, end, value, 16).ptr != end)
      bad(fmt::format("unknown escape '\\{}'", std::string_view(s).substr(i - 1, digits + 1)));
    i += digits;
    if (bytes) {
      out += char(uint8_t(value));
    } else if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) {
      bad("an escape in it is no character");
    } else {
      append_utf8(out, value);
    }
  }
  return out;
}

class World final : public Tokenizer {
 public:
  World(TokenizerFile file, std::string identity, const std::string& who) : file_(std::move(file)), identity_(std::move(identity)), who_(who) {
    read_tokens(who);
    build();
  }

  std::string identity() const override { return identity_; }
  int64_t vocab() const override { return int64_t(tokens_.size()); }
  int32_t eod() const override { return 0; }
  const TokenizerFile& file() const override { return file_; }

  std::string_view bytes_of(int32_t id) const override {
    check(0 <= id && id < vocab(), "tokenizer {}: ids must lie in [0,{}); got {}", who_, vocab(), id);
    return tokens_[size_t(id)];
  }

  void encode(std::string_view text, std::vector<int32_t>& append_to, const EncodeOptions&) const override {
    const auto byte = [&](size_t i) { return uint8_t(text[i]); };
    for (size_t i = 0; i < text.size();) {
      int32_t best = single_[byte(i)];
      size_t end = i + 1;
      if (end < text.size()) {
        uint32_t node = pairs_[size_t(byte(i)) << 8 | byte(end)];
        for (size_t at = i + 2; node; node = at < text.size() ? child(node, byte(at)) : 0, ++at)
          if (nodes_[node].id >= 0) best = nodes_[node].id, end = at;
      }
      append_to.push_back(best);
      i = end;
    }
  }

  // Between two bytes that stand side by side in no token.
  size_t cut(std::string_view text) const override {
    for (size_t i = text.size(); i-- > 1;)
      if (!joined_[size_t(uint8_t(text[i - 1])) << 8 | uint8_t(text[i])]) return i;
    return 0;
  }

 private:
  struct Node {  // its children stand in edges_, by byte
    int32_t id = -1;
    uint32_t begin = 0, end = 0;
  };
  struct Edge {
    uint8_t byte;
    uint32_t node;
  };

  uint32_t child(uint32_t node, uint8_t byte) const {
    const Node& n = nodes_[node];
    const auto begin = edges_.begin() + n.begin, end = edges_.begin() + n.end;
    const auto at = std::lower_bound(begin, end, byte, [](const Edge& e, uint8_t b) { return e.byte < b; });
    return at != end && at->byte == byte ? at->node : 0;
  }

  void read_tokens(const std::string& who) {
    std::vector<std::pair<int32_t, std::string>> read;
    const std::string_view text = file_.contents;
    for (size_t begin = 0, line = 1; begin < text.size(); ++line) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      std::string_view s = text.substr(begin, end - begin);
      begin = end + 1;
      if (s.ends_with('\r')) s.remove_suffix(1);
      if (s.empty()) continue;
      const std::string where = fmt::format("{}:{}", who, line);
      const size_t first = s.find(' '), last = s.rfind(' ');
      int32_t id = 0;
      size_t length = 0;
      const bool good = first < last && std::from_chars(s.data(), s.data() + first, id).ptr == s.data() + first &&
                        std::from_chars(s.data() + last + 1, s.data() + s.size(), length).ptr == s.data() + s.size() && last + 1 < s.size();
      check(good, Exit::bad_data, "{}: a line is wanted of `id literal length`", where);
      std::string token = python_literal(s.substr(first + 1, last - first - 1), where);
      check(token.size() == length && length > 0, Exit::bad_data, "{}: token {} has {} bytes; the line says {}", where, id, token.size(), length);
      check(id > 0 && id < int32_t(1) << 24, Exit::bad_data, "{}: ids lie in 1..2^24-1 (0 is the end of a document); got {}", where, id);
      read.emplace_back(id, std::move(token));
    }
    tokens_.resize(read.size() + 1);
    for (auto& [id, token] : read) {
      check(size_t(id) < tokens_.size(), Exit::bad_data, "{}: {} tokens have the ids 1 to {}; one has {}, so that some id has none", who, read.size(),
            read.size(), id);
      check(tokens_[size_t(id)].empty(), Exit::bad_data, "{}: id {} stands there twice", who, id);
      tokens_[size_t(id)] = std::move(token);
    }
  }

  // Tokens in the order of their bytes: those that share a beginning stand together, and so do a node's children.
  void build() {
    std::vector<int32_t> order;
    for (int32_t id = 1; id < vocab(); ++id) order.push_back(id);
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return tokens_[size_t(a)] < tokens_[size_t(b)]; });
    for (size_t i = 1; i < order.size(); ++i)
      check(tokens_[size_t(order[i])] != tokens_[size_t(order[i - 1])], Exit::bad_data, "{}: ids {} and {} are the same token", who_,
            order[i - 1], order[i]);
    for (const std::string& token : tokens_)
      for (size_t i = 1; i < token.size(); ++i) joined_.set(size_t(uint8_t(token[i - 1])) << 8 | uint8_t(token[i]));
    single_.fill(-1);
    nodes_.emplace_back();  // 0: no node
    struct Task {
      size_t begin, end, depth;
      uint32_t node;
    };
    std::vector<Task> tasks;
    const auto same = [&](size_t begin, size_t end, size_t depth) {  // from begin on, those of one byte at `depth`
      const char c = tokens_[size_t(order[begin])][depth];
      size_t i = begin + 1;
      while (i < end && tokens_[size_t(order[i])][depth] == c) ++i;
      return i;
    };
    for (size_t i = 0; i < order.size();) {
      const size_t end = same(i, order.size(), 0);
      const uint8_t first = uint8_t(tokens_[size_t(order[i])][0]);
      if (tokens_[size_t(order[i])].size() == 1) single_[first] = order[i++];
      while (i < end) {
        const size_t next = same(i, end, 1);
        const uint8_t second = uint8_t(tokens_[size_t(order[i])][1]);
        pairs_[size_t(first) << 8 | second] = uint32_t(nodes_.size());
        tasks.push_back({i, next, 2, uint32_t(nodes_.size())});
        nodes_.emplace_back();
        i = next;
      }
    }
    for (size_t t = 0; t < tasks.size(); ++t) {
      auto [i, end, depth, node] = tasks[t];
      if (tokens_[size_t(order[i])].size() == depth) nodes_[node].id = order[i++];
      nodes_[node].begin = uint32_t(edges_.size());
      while (i < end) {
        const size_t next = same(i, end, depth);
        edges_.push_back({uint8_t(tokens_[size_t(order[i])][depth]), uint32_t(nodes_.size())});
        tasks.push_back({i, next, depth + 1, uint32_t(nodes_.size())});
        nodes_.emplace_back();
        i = next;
      }
      nodes_[node].end = uint32_t(edges_.size());
    }
    for (size_t b = 0; b < 256; ++b) check(single_[b] >= 0, Exit::bad_data, "{}: every byte must be a token; 0x{:02x} is none", who_, b);
  }

  TokenizerFile file_;
  std::string identity_, who_;
  std::vector<std::string> tokens_;  // by id; 0: EOD, empty
  std::array<int32_t, 256> single_;
  std::vector<uint32_t> pairs_ = std::vector<uint32_t>(65536);  // node of each two first bytes
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::bitset<65536> joined_;  // two bytes that stand side by side in some token
};

}  // namespace

std::unique_ptr<Tokenizer> world_tokenizer(TokenizerFile file, std::string identity, const std::string& who) {
  return std::make_unique<World>(std::move(file), std::move(identity), who);
}

}  // namespace taper
