// Documents: text files in pieces, JSON lines, zstd streams.
#include "data/documents.h"

#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "tensor/error.h"

namespace taper {
namespace {

namespace fs = std::filesystem;
constexpr size_t piece_bytes = size_t(1) << 20;
constexpr size_t line_cap = size_t(256) << 20;
constexpr int window_log_max = 31;  // what `zstd --long=31` writes; the memory is only used as far as it is filled

bool ends_with(const Path& path, std::string_view ending) { return path.filename().string().ends_with(ending); }

bool known_binary(const Path& path) {
  constexpr std::string_view extensions[] = {
      ".7z",  ".a",   ".avi", ".bin", ".bz2", ".exe", ".gif",         ".gz",    ".ico", ".jpeg",
      ".jpg", ".mkv", ".mov", ".mp3", ".mp4", ".o",   ".ogg",         ".pdf",   ".png", ".so",
      ".tar", ".tgz", ".wav", ".webm", ".webp", ".woff", ".safetensors", ".shard", ".xz",  ".zip"};
  if (ends_with(path, ".zst")) return !ends_with(path, ".jsonl.zst");
  return std::ranges::find(extensions, path.extension().string()) != std::end(extensions);
}

void walk(const Path& directory, std::vector<InputFile>& files, int64_t& skipped) {
  std::error_code error;
  std::vector<Path> entries;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error))
    if (!it->path().filename().string().starts_with('.')) entries.push_back(it->path());
  check(!error, Exit::no_input, "{}: cannot read the directory: {}", directory.string(), error.message());
  std::ranges::sort(entries, {}, [](const Path& p) { return p.filename().string(); });
  for (const Path& path : entries) {
    if (fs::is_directory(fs::symlink_status(path, error))) walk(path, files, skipped);
    else if (fs::is_regular_file(path, error) && !known_binary(path)) files.push_back({path, false});
    else ++skipped;  // a link to a directory too: it may lead in a circle
  }
}

// The bytes of a file, unpacked where its name ends in .zst.
class Bytes {
 public:
  explicit Bytes(const Path& path) : file_(path) {
    if (!ends_with(path, ".zst")) return;
    stream_.reset(ZSTD_createDStream());
    ZSTD_DCtx_setParameter(stream_.get(), ZSTD_d_windowLogMax, window_log_max);
    packed_.resize(piece_bytes);
  }

  // Up to `bytes` of them; 0 only at the end.
  size_t read(char* into, size_t bytes) {
    if (!stream_) return take(into, bytes);
    ZSTD_outBuffer out{into, bytes, 0};
    while (out.pos == 0) {
      if (in_.pos == in_.size) {
        in_ = {packed_.data(), take(packed_.data(), packed_.size()), 0};
        if (in_.size == 0) {
          check(!inside_frame_, Exit::bad_data, "{}: truncated: the compressed data stop at byte {}",
                file_.path().string(), at_);
          return 0;
        }
      }
      const size_t hint = ZSTD_decompressStream(stream_.get(), &out, &in_);
      check(!ZSTD_isError(hint), Exit::bad_data, "{}: damaged compression before byte {}: {}", file_.path().string(),
            at_, ZSTD_getErrorName(hint));
      inside_frame_ = hint != 0;  // after 0 another frame may follow
    }
    return out.pos;
  }

 private:
  size_t take(char* into, size_t bytes) {
    const size_t n = size_t(std::min<uint64_t>(bytes, file_.size() - at_));
    file_.read(at_, into, n);
    at_ += n;
    return n;
  }

  FileReader file_;
  uint64_t at_ = 0;
  std::unique_ptr<ZSTD_DStream, size_t (*)(ZSTD_DStream*)> stream_{nullptr, ZSTD_freeDStream};
  std::vector<char> packed_;
  ZSTD_inBuffer in_{nullptr, 0, 0};
  bool inside_frame_ = false;
};

// The text of one JSON line; nothing for a blank line.
std::optional<std::string> parse_line(const std::string& line, const std::string& field, const Path& path,
                                      int64_t number) {
  if (line.find_first_not_of(" \t\r") == line.npos) return {};
  nlohmann::json json;
  try {
    json = nlohmann::json::parse(line);
  } catch (const nlohmann::json::exception& e) {
    const auto* parse = dynamic_cast<const nlohmann::json::parse_error*>(&e);
    fail(Exit::bad_data, "{}:{}: not JSON, at byte {} of the line", path.string(), number, parse ? parse->byte : 0);
  }
  check(json.is_object() && json.contains(field) && json[field].is_string(), Exit::bad_data,
        "{}:{}: wants an object with a string '{}'", path.string(), number, field);
  return std::move(json[field].get_ref<std::string&>());
}

void read_lines(const Path& path, const std::string& field, const std::function<void(const Document&)>& f) {
  Bytes bytes(path);
  std::vector<char> piece(piece_bytes);
  std::string line;
  int64_t number = 1;
  auto finish_line = [&] {
    if (const auto text = parse_line(line, field, path, number++); text && !text->empty())
      f({text->size(), checksum(text->data(), text->size()),
         [&](uint64_t begin, uint64_t end, const auto& g) { g(std::string_view(*text).substr(begin, end - begin)); }});
    line.clear();
  };
  while (const size_t n = bytes.read(piece.data(), piece.size())) {
    for (const char *p = piece.data(), *end = p + n; p < end;) {
      const char* newline = static_cast<const char*>(std::memchr(p, '\n', size_t(end - p)));
      const char* stop = newline ? newline : end;
      check(line.size() + size_t(stop - p) <= line_cap, Exit::bad_data, "{}:{}: the line is longer than {} MiB",
            path.string(), number, line_cap >> 20);
      line.append(p, stop);
      if (newline) finish_line();
      p = stop + 1;
    }
  }
  finish_line();
}

bool read_text(const InputFile& input, const std::function<void(const Document&)>& f) {
  const FileReader file(input.path);
  Document document;
  document.bytes = file.size();
  document.hash = 0;
  document.read = [&](uint64_t begin, uint64_t end, const auto& g) {
    std::string piece;
    for (uint64_t at = begin; at < end; at += piece.size()) {
      piece.resize(size_t(std::min<uint64_t>(piece_bytes, end - at)));
      file.read(at, piece.data(), piece.size());
      g(piece);
    }
  };
  bool text = true;
  uint64_t at = 0;
  document.read(0, file.size(), [&](std::string_view piece) {
    const size_t nul = piece.find('\0');
    text = text && nul == piece.npos;
    check(text || !input.named, Exit::bad_data, "{}: not a text: byte {} is NUL", input.path.string(), at + nul);
    at += piece.size();
  });
  if (!text) return false;
  document.hash = checksum_file(input.path);
  if (document.bytes > 0) f(document);
  return true;
}

}  // namespace

std::vector<InputFile> list_files(const std::vector<Path>& inputs, int64_t& skipped) {
  std::vector<InputFile> files;
  for (const Path& input : inputs) {
    std::error_code error;
    check(fs::exists(input, error), Exit::no_input, "{}: no such file or directory", input.string());
    if (fs::is_directory(input, error)) walk(input, files, skipped);
    else files.push_back({input, true});
  }
  return files;
}

bool read_documents(const InputFile& file, const std::string& text_field,
                    const std::function<void(const Document&)>& f) {
  if (!ends_with(file.path, ".jsonl") && !ends_with(file.path, ".jsonl.zst")) return read_text(file, f);
  read_lines(file.path, text_field, f);
  return true;
}

}  // namespace taper
