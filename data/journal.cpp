// Journal: written in one piece, read with suspicion.
#include "data/journal.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "data/utf8.h"
#include "tensor/error.h"

namespace taper {
namespace {

using Json = nlohmann::json;
constexpr std::string_view magic = "TAPERJNL";

template <class T>
void put(std::string& to, const std::vector<T>& values) {
  to.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}
void put(std::string& to, uint64_t value) { to.append(reinterpret_cast<const char*>(&value), sizeof value); }

// JSON holds UTF-8 alone, the name of a file any bytes. Two names that become one are told apart by their files' sizes and sums.
std::string shown(const std::string& name) {
  std::string text;
  replace_invalid_utf8(name, text);
  return text;
}

struct Reader {
  std::string_view rest;
  uint64_t word() {
    uint64_t value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view take(uint64_t bytes) {
    if (bytes > rest.size()) throw std::out_of_range("short");
    const std::string_view front = rest.substr(0, bytes);
    rest.remove_prefix(bytes);
    return front;
  }
  template <class T>
  void get(std::vector<T>& values, uint64_t count) {
    const std::string_view bytes = take(count * sizeof(T));
    values.resize(count);
    if (count > 0) std::memcpy(values.data(), bytes.data(), bytes.size());  // of no bytes memcpy wants addresses too
  }
};

}  // namespace

void write_journal(const Path& directory, const Journal& j) {
  const Place& p = j.place;
  Json json{{"options", j.options},
            {"by_hash", j.by_hash},
            {"place", {p.file, p.at, p.line, p.sum, p.files, p.skipped_files, p.empty, p.left_out, p.replaced, p.forced, p.begin}},
            {"lines", {j.empty, j.left_out, j.replaced, j.forced}},
            {"files_bytes", j.files_bytes},
            {"splits", Json::array()}};
  for (const SplitState& s : j.splits)
    json["splits"].push_back({{"report", {s.report.documents, s.report.bytes, s.report.tokens, s.report.shards}},
                              {"counts", s.counts},
                              {"tokens", s.tokens},
                              {"sizes", {s.open.size(), s.blocks.size(), s.documents.size()}}});
  const std::string text = json.dump();
  std::string body;
  put(body, text.size());
  body += text;
  for (const SplitState& s : j.splits) put(body, s.open), put(body, s.blocks), put(body, s.documents);
  std::string file(magic);
  put(file, body.size());
  put(file, checksum(body.data(), body.size()));
  write_file(directory / journal_name, file += body);
}

Journal read_journal(const Path& directory) {
  const Path path = directory / journal_name;
  const std::string file = read_file(path);
  Journal j;
  try {
    Reader r{file};
    if (r.take(magic.size()) != magic || r.word() != file.size() - 24) throw std::out_of_range("head");
    const uint64_t sum = r.word();
    if (checksum(r.rest.data(), r.rest.size()) != sum) throw std::out_of_range("sum");
    const Json json = Json::parse(r.take(r.word()));
    json.at("options").get_to(j.options);
    json.at("by_hash").get_to(j.by_hash);
    const Json& p = json.at("place");
    j.place = {.file = p.at(0), .at = p.at(1), .line = p.at(2), .sum = p.at(3), .begin = p.at(10), .files = p.at(4), .skipped_files = p.at(5),
               .empty = p.at(6), .left_out = p.at(7), .replaced = p.at(8), .forced = p.at(9)};
    const Json& l = json.at("lines");
    j.empty = l.at(0), j.left_out = l.at(1), j.replaced = l.at(2), j.forced = l.at(3);
    json.at("files_bytes").get_to(j.files_bytes);
    for (size_t i = 0; i < 2; ++i) {
      const Json& s = json.at("splits").at(i);
      SplitState& split = j.splits[i];
      split.report = {s.at("report").at(0), s.at("report").at(1), s.at("report").at(2), s.at("report").at(3)};
      s.at("counts").get_to(split.counts);
      s.at("tokens").get_to(split.tokens);
      r.get(split.open, s.at("sizes").at(0));
      r.get(split.blocks, s.at("sizes").at(1));
      r.get(split.documents, s.at("sizes").at(2));
    }
  } catch (const std::exception&) {
    fail(Exit::bad_data, "{}: damaged, so that the unfinished work cannot go on; start over with --restart", path.string());
  }
  return j;
}

std::string file_record(const InputFile& f) { return Json{shown(f.path.string()), f.size, f.modified, f.sum, f.held_out}.dump() + "\n"; }

void check_files(const Path& directory, const Journal& journal, std::vector<InputFile>& files) {
  const Path path = directory / journal_files_name;
  const std::string text = read_file(path);
  check(text.size() >= journal.files_bytes, Exit::bad_data, "{}: truncated: {} bytes wanted, the file has {}; start over with --restart",
        path.string(), journal.files_bytes, text.size());
  std::string_view rest = std::string_view(text).substr(0, journal.files_bytes);
  for (size_t i = 0; !rest.empty(); ++i) {
    const size_t end = rest.find('\n');
    const Json was = Json::parse(rest.substr(0, end), nullptr, false);
    rest.remove_prefix(end == rest.npos ? rest.size() : end + 1);
    check(was.is_array() && was.size() == 5 && was[0].is_string() && was[3].is_number_unsigned() && was[4].is_boolean(), Exit::bad_data,
          "{}: damaged, so that the unfinished work cannot go on; start over with --restart", path.string());
    const std::string name = was[0];
    check(i < files.size() && shown(files[i].path.string()) == name && files[i].held_out == was[4], Exit::bad_data,
          "{}: file {} of the inputs was this one when the work stopped; now it is {}; give the same inputs, or start over with --restart", name,
          i + 1, i < files.size() ? files[i].path.string() : "missing");
    InputFile& now = files[i];
    now.sum = was[3];
    // A copy has another time; then its bytes decide.
    const bool same = now.size == was[1] && (now.modified == was[2] || (now.sum != 0 && checksum_file(now.path) == now.sum));
    check(same, Exit::bad_data, "{}: is not what it was when it was packed; bring it back, or start over with --restart", now.path.string());
  }
}

}  // namespace taper
