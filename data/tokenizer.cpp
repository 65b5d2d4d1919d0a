// Tokenizers: bytes, and which one a name or an identity opens.
#include "data/tokenizer.h"

#include <xxhash.h>

#include <algorithm>
#include <charconv>

#include "data/tokenizer_json.h"
#include "data/tokenizer_world.h"
#include "tensor/error.h"

namespace taper {
namespace {

constexpr std::string_view json_file = "tokenizer.json", world_file = "vocab.txt";
constexpr std::string_view json_kind = "json:", world_kind = "rwkv:", ids_kind = "ids:";

class Bytes final : public Tokenizer {
 public:
  std::string identity() const override { return "bytes:v1"; }
  int64_t vocab() const override { return 257; }
  int32_t eod() const override { return 256; }
  void encode(std::string_view text, std::vector<int32_t>& append_to, const EncodeOptions&) const override {
    append_to.reserve(append_to.size() + text.size());
    for (const char c : text) append_to.push_back(uint8_t(c));
  }
  std::string_view bytes_of(int32_t id) const override {
    check(0 <= id && id < vocab(), "tokenizer bytes: ids must lie in [0,257); got {}", id);
    static const std::string all = [] {
      std::string s;
      for (int c = 0; c < 256; ++c) s += char(uint8_t(c));
      return s;
    }();
    return id == eod() ? std::string_view() : std::string_view(all).substr(size_t(id), 1);
  }
  size_t cut(std::string_view text) const override { return text.size(); }
};

// Ids whose tokenizer is not known: "ids:VOCAB:EOD".
class OnlyIds final : public Tokenizer {
 public:
  explicit OnlyIds(std::string_view name) {
    const size_t colon = name.find(':', ids_kind.size());
    const auto number = [&](std::string_view text, int64_t& n) {
      const auto r = std::from_chars(text.data(), text.data() + text.size(), n);
      return !text.empty() && r.ec == std::errc() && r.ptr == text.data() + text.size();
    };
    const bool good = colon != name.npos && number(name.substr(ids_kind.size(), colon - ids_kind.size()), vocab_) && number(name.substr(colon + 1), eod_) &&
                      1 <= vocab_ && vocab_ <= int64_t(1) << 30 && 0 <= eod_ && eod_ < vocab_;
    check(good, Exit::bad_config, "tokenizer: ids:VOCAB:EOD with EOD in [0,VOCAB) is wanted; got {}", name);
  }
  std::string identity() const override { return fmt::format("{}{}:{}", ids_kind, vocab_, eod_); }
  int64_t vocab() const override { return vocab_; }
  int32_t eod() const override { return int32_t(eod_); }
  void encode(std::string_view, std::vector<int32_t>&, const EncodeOptions&) const override {
    fail(Exit::bad_config, "tokenizer: {} are ids of a tokenizer that is not known; import them with --tokenizer FILE to work with text", identity());
  }
  std::string_view bytes_of(int32_t) const override { return {}; }
  size_t cut(std::string_view) const override { return 0; }

 private:
  int64_t vocab_ = 0, eod_ = 0;
};

std::string identity_of(std::string_view kind, std::string_view contents) {
  const XXH128_hash_t h = XXH3_128bits(contents.data(), contents.size());
  return fmt::format("{}{:016x}{:016x}", kind, h.high64, h.low64);
}

// What the file holds is told by its first character: JSON begins with a brace, the vocabulary with an id.
std::unique_ptr<Tokenizer> open_file(const Path& path) {
  TokenizerFile file{.name = {}, .contents = read_file(path)};
  const size_t first = file.contents.find_first_not_of(" \t\r\n");
  const char c = first == std::string::npos ? '\0' : file.contents[first];
  if (c >= '0' && c <= '9') {
    file.name = world_file;
    std::string identity = identity_of(world_kind, file.contents);
    return world_tokenizer(std::move(file), std::move(identity), path.string());
  }
  check(c == '{', Exit::bad_data, "{}: a tokenizer.json or RWKV's vocabulary (lines of `id literal length`) is wanted; this is neither",
        path.string());
  file.name = json_file;
  std::string identity = identity_of(json_kind, file.contents);
  return json_tokenizer(std::move(file), std::move(identity), path.string());
}

// The name under which the file of an identity's tokenizer is kept; empty: it needs none.
std::string_view file_of(std::string_view identity) {
  return identity.starts_with(json_kind) ? json_file : identity.starts_with(world_kind) ? world_file : std::string_view();
}

bool is_there(const Path& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

}  // namespace

const Frame& Tokenizer::frame() const {
  static const Frame none;
  return none;
}

const TokenizerFile& Tokenizer::file() const {
  static const TokenizerFile none;
  return none;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids) const {
  std::string text;
  for (const int32_t id : ids) text += bytes_of(id);
  return text;
}

std::unique_ptr<Tokenizer> open_tokenizer(std::string_view name) {
  if (name == "bytes" || name == "bytes:v1") return std::make_unique<Bytes>();
  if (name.starts_with(ids_kind)) return std::make_unique<OnlyIds>(name);
  Path path(name);
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    const bool json = is_there(path / json_file);
    check(json || is_there(path / world_file), Exit::no_input, "{}: a directory with {} or {} is wanted; it has neither", path.string(), json_file,
          world_file);
    path /= json ? json_file : world_file;
  }
  if (is_there(path)) return open_file(path);
  check(!path.has_parent_path() && !path.has_extension(), Exit::no_input, "{}: no such tokenizer file", path.string());
  check(!name.starts_with(json_kind) && !name.starts_with(world_kind), Exit::bad_config,
        "tokenizer: {} was made from a file, and where that lies is not known; give its path", name);
  fail(Exit::bad_config, "tokenizer: no '{}'; supported: bytes, or the path of a tokenizer file", name);
}

bool has_tokenizer_of(const Path& directory, std::string_view identity) {
  const std::string_view name = file_of(identity);
  return name.empty() || is_there(directory / name);
}

std::unique_ptr<Tokenizer> open_tokenizer_of(const Path& directory, std::string_view identity) {
  const std::string_view name = file_of(identity);
  if (name.empty()) return open_tokenizer(identity);
  const Path path = directory / name;
  check(is_there(path), Exit::no_input, "{}: missing; it is the tokenizer of what lies in {} ({}): copy it there", path.string(), directory.string(),
        identity);
  auto tokenizer = open_file(path);
  check(tokenizer->identity() == identity, Exit::bad_data,
        "{}: the tokenizer {} is wanted, which made what lies in {}; this is {}: put the original file back", path.string(), identity,
        directory.string(), tokenizer->identity());
  return tokenizer;
}

void store_tokenizer(const Tokenizer& tokenizer, const Path& directory) {
  const TokenizerFile& file = tokenizer.file();
  if (!file.name.empty()) write_file(directory / file.name, file.contents);
}

}  // namespace taper
