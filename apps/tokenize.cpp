// tokenize: JSON lines of text into JSON lines of ids, or back, from stdin to stdout.
#include <CLI/CLI.hpp>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/commands.h"
#include "apps/progress.h"
#include "data/tokenizer.h"
#include "data/unicode.h"
#include "tensor/error.h"
#include "tensor/parallel.h"

namespace taper {
namespace {

using Json = nlohmann::json;

struct Options {
  std::string tokenizer;
  bool decode = false, literal = false, special = false, about = false;
};

struct Line {
  std::string_view text;
  int64_t number = 0;
};

// What became of lines that one thread took: theirs up to the first bad one, which `error` tells of.
struct Made {
  std::string text;
  int64_t lines = 0, tokens = 0;
  std::optional<Error> error;
};

class Tokenize {
 public:
  Tokenize(const Options& o, const Tokenizer& tokenizer) : o_(o), tokenizer_(tokenizer) {
    if (o.special) {
      frame_ = tokenizer.frame();
      if (frame_.before.empty() && frame_.after.empty() && tokenizer.bos() >= 0) frame_.before = {tokenizer.bos()};
      check(!frame_.before.empty() || !frame_.after.empty(), Exit::bad_config,
            "tokenize: --special wants a tokenizer with a template or a token that begins a text; {} has neither", o.tokenizer);
    }
  }

  // Appends a line of output; none for a blank one.
  void rewrite(const Line& line, Made& to) const {
    if (blank(line.text)) return;
    Json json;
    try {
      json = Json::parse(line.text);
    } catch (const Json::exception& e) {
      const auto* parse = dynamic_cast<const Json::parse_error*>(&e);
      fail(Exit::bad_data, "standard input:{}: not JSON, at byte {} of the line", line.number, parse ? parse->byte : 0);
    }
    o_.decode ? decode(json, line.number, to) : encode(json, line.number, to);
    to.text += '\n';
    ++to.lines;
  }

 private:
  static bool blank(std::string_view s) { return s.find_first_not_of(" \t\r") == s.npos; }

  void encode(const Json& json, int64_t number, Made& to) const {
    check(json.is_object() && json.contains("text") && json["text"].is_string(), Exit::bad_data, "standard input:{}: wants an object with a string 'text'",
          number);
    std::vector<int32_t> ids = frame_.before;
    try {
      tokenizer_.encode(json["text"].get_ref<const std::string&>(), ids, {.special = !o_.literal});
    } catch (const Error& e) {
      throw Error(fmt::format("standard input:{}: {}", number, e.what()), e.at, e.code);
    }
    ids.insert(ids.end(), frame_.after.begin(), frame_.after.end());
    to.tokens += int64_t(ids.size());
    to.text += "{\"ids\":[";
    for (size_t i = 0; i < ids.size(); ++i) {
      if (i) to.text += ',';
      char digits[16];
      to.text.append(digits, std::to_chars(digits, digits + sizeof digits, ids[i]).ptr);
    }
    to.text += "]}";
  }

  void decode(const Json& json, int64_t number, Made& to) const {
    check(json.is_object() && json.contains("ids") && json["ids"].is_array(), Exit::bad_data, "standard input:{}: wants an object with an array 'ids'",
          number);
    std::vector<int32_t> ids;
    for (const Json& id : json["ids"]) {
      const bool good = id.is_number_integer() && (!id.is_number_unsigned() || id.get<uint64_t>() < uint64_t(1) << 31) && id.get<int64_t>() >= 0 &&
                        id.get<int64_t>() < tokenizer_.vocab();
      check(good, Exit::bad_data, "standard input:{}: ids of {} are 0 to {}; got {}", number, o_.tokenizer, tokenizer_.vocab() - 1,
            id.dump(-1, ' ', true).substr(0, 40));
      ids.push_back(id.get<int32_t>());
    }
    to.tokens += int64_t(ids.size());
    // Bytes that are no UTF-8, half of a character for one, become U+FFFD: JSON cannot say them.
    to.text += Json{{"text", tokenizer_.decode(ids)}}.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  const Options& o_;
  const Tokenizer& tokenizer_;
  Frame frame_;
};

// Lines of standard input, some megabytes at a time.
class Lines {
 public:
  // The next lines, until they are asked for again; none: the end.
  const std::vector<Line>& next() {
    bytes_.erase(0, taken_);
    taken_ = 0;
    lines_.clear();
    for (size_t newlines = 0; taken_ < batch && !ended_;) {  // newlines: where the next is looked for
      const size_t before = bytes_.size();
      bytes_.resize(before + step);
      const size_t n = std::fread(bytes_.data() + before, 1, step, stdin);
      check(n == step || !std::ferror(stdin), Exit::io, "standard input: read failed: {}", std::generic_category().message(errno));
      bytes_.resize(before + n);
      ended_ = n < step;
      if (ended_ && !bytes_.empty() && bytes_.back() != '\n') bytes_ += '\n';
      newlines = std::max(newlines, before);
      for (size_t end; (end = bytes_.find('\n', newlines)) != bytes_.npos; newlines = taken_) ends_.push_back(end), taken_ = end + 1;
    }
    // Views, when the bytes stay where they are.
    size_t begin = 0;
    for (const size_t end : ends_) {
      lines_.push_back({std::string_view(bytes_).substr(begin, end - begin), ++number_});
      begin = end + 1;
    }
    ends_.clear();
    return lines_;
  }

 private:
  static constexpr size_t step = size_t(1) << 20, batch = size_t(16) << 20;
  std::string bytes_;  // lines that were given out, and what follows them
  size_t taken_ = 0;
  std::vector<size_t> ends_;
  std::vector<Line> lines_;
  int64_t number_ = 0;
  bool ended_ = false;
};

// Lines into groups of about this many bytes, each the work of one thread: where each begins.
std::vector<size_t> groups(const std::vector<Line>& lines) {
  std::vector<size_t> begins;
  size_t bytes = size_t(-1);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (bytes >= size_t(64) << 10) begins.push_back(i), bytes = 0;
    bytes += lines[i].text.size() + 64;
  }
  begins.push_back(lines.size());
  return begins;
}

void print_about(const Tokenizer& t, const Common& common) {
  int64_t special = 0;
  for (int32_t id = 0; id < t.vocab(); ++id) special += t.special(id);
  nlohmann::ordered_json about = {{"identity", t.identity()}, {"vocab", t.vocab()}, {"special", special}, {"eod", t.eod()}};
  if (!t.bytes_of(t.eod()).empty()) about["eod_text"] = t.bytes_of(t.eod());
  if (t.bos() >= 0) about["bos"] = t.bos(), about["bos_text"] = t.bytes_of(t.bos());
  about["unicode"] = unicode_versions();
  if (common.json) return fmt::print("{}\n", about.dump());
  for (const auto& [key, value] : about.items()) fmt::print("{}: {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
}

int tokenize(const Options& o, const Common& common) {
  const auto tokenizer = open_tokenizer(o.tokenizer);
  if (o.about) {
    print_about(*tokenizer, common);
    return 0;
  }
  const Tokenize work(o, *tokenizer);
  const bool terminal = terminal_stderr();
  if (terminal && ::isatty(STDIN_FILENO)) fmt::print(stderr, "reading JSON lines from the terminal; Ctrl-D ends them\n");
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  Clock::time_point drawn = begin;
  int64_t lines_done = 0, tokens = 0;
  double bytes = 0;
  Lines input;
  std::vector<Made> made;  // kept, for their memory
  while (true) {
    const std::vector<Line>& lines = input.next();
    if (lines.empty()) break;
    const std::vector<size_t> begins = groups(lines);
    if (made.size() + 1 < begins.size()) made.resize(begins.size() - 1);
    for (const Line& line : lines) bytes += double(line.text.size() + 1);
    parallel_for(int64_t(begins.size()) - 1, 1, [&](int64_t from, int64_t to) {
      for (int64_t g = from; g < to; ++g) {
        Made& m = made[size_t(g)];
        m.text.clear();
        m.lines = m.tokens = 0;
        size_t whole = 0;  // a line that turns out bad leaves nothing
        try {
          for (size_t i = begins[size_t(g)]; i < begins[size_t(g) + 1]; ++i) work.rewrite(lines[i], m), whole = m.text.size();
        } catch (const Error& e) {
          m.error = e;
          m.text.resize(whole);
        }
      }
    });
    // What precedes a bad line is written all the same.
    for (size_t g = 0; g + 1 < begins.size(); ++g) {
      const Made& m = made[g];
      check(std::fwrite(m.text.data(), 1, m.text.size(), stdout) == m.text.size() && (!m.error || std::fflush(stdout) == 0), Exit::io,
            "standard output: write failed: {}", std::generic_category().message(errno));
      lines_done += m.lines;
      tokens += m.tokens;
      if (!m.error) continue;
      if (terminal) fmt::print(stderr, "\r\x1b[K");
      throw *m.error;
    }
    const auto now = Clock::now();
    if (!terminal || now - drawn < std::chrono::milliseconds(100)) continue;
    drawn = now;
    fmt::print(stderr, "\r{} lines | {:.1f} MB | {} tokens | {:.1f} MB/s\x1b[K", lines_done, bytes / 1e6, tokens,
               bytes / 1e6 / std::chrono::duration<double>(now - begin).count());
  }
  if (terminal) fmt::print(stderr, "\r\x1b[K{} lines, {:.1f} MB, {} tokens, {}\n", lines_done, bytes / 1e6, tokens,
                           duration_text(std::chrono::duration<double>(Clock::now() - begin).count()));
  return 0;
}

}  // namespace

void tokenize_command(CLI::App& program, Common& common) {
  auto o = std::make_shared<Options>();
  CLI::App& app = *program.add_subcommand("tokenize", "JSON lines {\"text\"} on stdin to {\"ids\"} on stdout, or back");
  app.add_option("--tokenizer", o->tokenizer, "bytes, or the path of a tokenizer.json, of RWKV's vocabulary, or of a directory that holds one")->required();
  auto* decode = app.add_flag("--decode", o->decode, "{\"ids\"} to {\"text\"}");
  app.add_flag("--literal", o->literal, "Spellings of special tokens (<|endoftext|>) are text like any other, as in `taper prepare`")->excludes(decode);
  app.add_flag("--special", o->special, "Around each text the special tokens of the file's template, or in front the one that begins a text")
      ->excludes(decode);
  app.add_flag("--about", o->about, "Print what the tokenizer is, and the versions of Unicode's tables; read nothing");
  app.callback([=, &common] { common.chosen = [=, &common] { return tokenize(*o, common); }; });
}

}  // namespace taper
