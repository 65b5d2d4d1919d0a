// Documents: the walk over directories, lines, and plain texts.
#include "data/documents.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "data/json_line.h"
#include "data/utf8.h"
#include "tensor/error.h"

namespace taper {
namespace {

namespace fs = std::filesystem;

bool known_binary(const Path& path) {
  constexpr std::string_view extensions[] = {
      ".7z",  ".a",   ".avi", ".bin", ".bz2", ".exe", ".gif", ".idx", ".ico", ".jpeg",
      ".jpg", ".mkv", ".mov", ".mp3", ".mp4", ".o",   ".ogg", ".pdf", ".png", ".so",
      ".tar", ".tgz", ".wav", ".webm", ".webp", ".woff", ".safetensors", ".shard", ".xz",  ".zip"};
  return std::ranges::find(extensions, without_packing(path).extension().string()) != std::end(extensions);
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
    else if (fs::is_regular_file(path, error) && !known_binary(path)) files.push_back({.path = path});
    else ++skipped;  // a link to a directory too: it may lead in a circle
  }
}

}  // namespace

bool holds_lines(const Path& path) {
  const Path extension = without_packing(path).extension();
  return extension == ".jsonl" || extension == ".ndjson";
}

std::vector<InputFile> list_files(const std::vector<Path>& inputs, int64_t& skipped) {
  std::vector<InputFile> files;
  std::error_code error;
  for (const Path& input : inputs) {
    check(fs::exists(input, error), Exit::no_input, "{}: no such file or directory", input.string());
    if (fs::is_directory(input, error)) walk(input, files, skipped);
    else files.push_back({.path = input, .named = true});
  }
  for (InputFile& file : files) stat_file(file);
  return files;
}

void stat_file(InputFile& file) {
  std::error_code error;
  const auto size = fs::file_size(file.path, error);
  file.size = error ? 0 : size;  // what is wrong with it, its opening says
  const auto modified = fs::last_write_time(file.path, error);
  file.modified = error ? 0 : std::chrono::duration_cast<std::chrono::nanoseconds>(modified.time_since_epoch()).count();
}

void line_too_long(const Path& path, int64_t number) {
  fail(Exit::bad_data, "{}:{}: the line is longer than {} MiB; give such a document as a plain text file", path.string(), number, line_cap >> 20);
}

LineText line_text(std::string_view line, const std::string& field, InvalidUtf8 policy, const Path& path, int64_t number,
                   std::string& text) {
  if (number == 1 && line.starts_with("\xef\xbb\xbf")) line.remove_prefix(3);
  if (line.find_first_not_of(" \t\r") == line.npos) return {};
  if (line.size() > line_cap) line_too_long(path, number);
  LineText result{LineText::Kind::text, false};
  std::string repaired;
  constexpr std::string_view hint = "give --invalid-utf8 replace or skip to go on";
  if (const size_t valid = valid_utf8(line); valid < line.size()) {
    check(policy == InvalidUtf8::replace || policy == InvalidUtf8::skip, Exit::bad_data, "{}:{}: not UTF-8 at byte {} of the line; {}",
          path.string(), number, valid + 1, hint);
    if (policy == InvalidUtf8::skip) return {LineText::Kind::left_out, false};
    repaired.reserve(line.size() + 16);
    replace_invalid_utf8(line, repaired);
    line = repaired;
    result.replaced = true;
  }
  text.clear();
  const JsonField found = json_field(line, field, text);
  check(found.kind != JsonField::Kind::not_json, Exit::bad_data, "{}:{}: not JSON, at byte {} of the line", path.string(), number, found.at);
  check(found.kind == JsonField::Kind::text, Exit::bad_data, "{}:{}: wants an object with a string '{}'; see --field", path.string(), number, field);
  if (found.lone_surrogate > 0) {
    check(policy == InvalidUtf8::replace || policy == InvalidUtf8::skip, Exit::bad_data,
          "{}:{}: half a surrogate pair at byte {} of the line is no character; {}", path.string(), number, found.lone_surrogate, hint);
    if (policy == InvalidUtf8::skip) return {LineText::Kind::left_out, false};
    result.replaced = true;
  }
  return result;
}

bool CleanText::more(std::string& to, size_t bytes) {
  const size_t held = raw_.size();
  raw_.resize(held + bytes);
  const size_t n = source_.read(raw_.data() + held, bytes);
  raw_.resize(held + n);
  const bool end = n < bytes;
  if (const void* zero = nul_ < 0 ? std::memchr(raw_.data() + held, 0, n) : nullptr)
    nul_ = int64_t(at_ + size_t(static_cast<const char*>(zero) - raw_.data()));
  std::string_view rest = raw_;
  while (!rest.empty() && !keep_) {
    const size_t valid = valid_utf8(rest);
    to.append(rest.substr(0, valid));
    rest.remove_prefix(valid);
    if (rest.empty()) break;
    size_t bad = invalid_utf8(rest);
    if (bad == 0 && !end) break;  // cut short here; the next bytes may complete it
    if (bad == 0) bad = rest.size();
    if (invalid_ < 0) invalid_ = int64_t(at_ + (raw_.size() - rest.size()));
    to.append(replace_ ? "\xef\xbf\xbd" : rest.substr(0, bad));
    rest.remove_prefix(bad);
  }
  if (keep_) to.append(rest), rest = {};
  at_ += raw_.size() - rest.size();
  raw_.erase(0, raw_.size() - rest.size());
  return !end || n > 0 || held > 0;
}

}  // namespace taper
