// safetensors: thousands of damaged files. Headers are judged by an oracle, bytes must never do worse than an error.
#include <cstring>

#include "nn/safetensors.h"
#include "tests/nn/support.h"

using namespace taper;

namespace {

Device& cpu() { return open_device("cpu"); }

}  // namespace

TEST_CASE("damaged headers: accepted exactly when the rules say so") {
  const Scratch dir;
  const Path path = dir / "w.safetensors";
  const Random random(11, "headers");
  uint64_t at = 0;
  const auto roll = [&](uint64_t n) { return random.below(at++, n); };
  struct Word {
    const char* name;
    uint64_t bits;  // 0: no such dtype
  };
  const Word words[] = {{"F32", 32}, {"F64", 64}, {"BF16", 16}, {"I32", 32}, {"I64", 64}, {"F16", 16},
                        {"U8", 8},   {"F4", 4},   {"F128", 0},  {"", 0}};
  int accepted = 0;
  for (int round = 0; round < 3000; ++round) {
    struct Row {
      std::string name;
      Word word;
      std::vector<uint64_t> shape;
      uint64_t begin, end;
    };
    std::vector<Row> rows;
    uint64_t end = 0;
    for (uint64_t k = roll(4) + 1; k-- > 0;) {  // a valid file
      Row r{std::string(1, char('a' + rows.size())), words[roll(7)], {}, end, 0};
      uint64_t bytes = r.word.bits / 8;
      for (uint64_t d = roll(4); d-- > 0;) r.shape.push_back(roll(4)), bytes *= r.shape.back();
      r.end = end += bytes;
      rows.push_back(r);
    }
    uint64_t data = end;
    for (uint64_t k = roll(3); k-- > 0;) {  // with up to two faults
      Row& r = rows[roll(rows.size())];
      const uint64_t odd[] = {
          0, 1, 3, 5, uint64_t(1) << 31, uint64_t(1) << 32, uint64_t(1) << 62, uint64_t(1) << 63, ~uint64_t(0)};
      switch (roll(9)) {
        case 0: r.word = words[roll(10)]; break;
        case 1: r.begin += roll(3) - 1; break;
        case 2: r.end += roll(3) - 1; break;
        case 3: if (!r.shape.empty()) r.shape[roll(r.shape.size())] = odd[roll(9)]; break;
        case 4: r.shape.push_back(odd[roll(9)]); break;
        case 5: r.begin = odd[roll(9)]; break;
        case 6: r.name = rows[0].name; break;
        case 7: data += roll(3) - 1; break;
        case 8: std::swap(r.begin, rows[0].begin), std::swap(r.end, rows[0].end); break;
      }
    }
    if (data > 1 << 20) data = 0;
    // The rules, written again and differently: wide integers, and a walk that follows the chain of ends.
    bool valid = true;
    unsigned __int128 total = 0;
    for (const Row& r : rows) {
      unsigned __int128 bits = 1;
      for (uint64_t size : r.shape) {
        valid = valid && size <= uint64_t(INT64_MAX);
        bits *= size;
        valid = valid && bits <= ~uint64_t(0);
        if (!valid) break;
      }
      bits *= r.word.bits;
      valid = valid && r.word.bits && r.shape.size() <= 6 && bits <= ~uint64_t(0) && bits % 8 == 0 &&
              r.end >= r.begin && r.end - r.begin == bits / 8;
      total += r.end - r.begin;
      for (const Row& other : rows) {
        valid = valid && (&other == &r || other.name != r.name);
        valid = valid && !(r.begin < other.end && other.begin < r.end && &other != &r && r.begin != r.end &&
                           other.begin != other.end);
        // an empty tensor lies on a seam
        valid = valid && !(r.begin == r.end && other.begin < r.begin && r.begin < other.end);
      }
      valid = valid && r.end <= data;
    }
    valid = valid && total == data;  // no overlap, inside, and nothing left over: no hole

    std::string header = "{";
    for (const Row& r : rows) {
      header += fmt::format(R"({}"{}":{{"dtype":"{}","shape":[)", header.size() > 1 ? "," : "", r.name, r.word.name);
      for (size_t d = 0; d < r.shape.size(); ++d) header += (d ? "," : "") + std::to_string(r.shape[d]);
      header += fmt::format(R"(],"data_offsets":[{},{}]}})", r.begin, r.end);
    }
    header += "}" + std::string(roll(9), ' ');
    bool opened = false;
    try {
      put(path, file_of(header, std::string(data, 'x')));
      const SafetensorsFile f(path);
      opened = true;
      for (const Row& r : rows) {
        if (r.word.bits < 16) continue;
        const Tensor t = f.read(r.name, cpu());
        CHECK(t.bytes() == (r.end - r.begin) * (std::string(r.word.name) == "F16" ? 2 : 1));
      }
    } catch (const Error& e) {
      CHECK(e.code == Exit::bad_data);
    }
    INFO(header);
    INFO(data);
    CHECK(opened == valid);
    accepted += opened;
  }
  CHECK(accepted > 600);  // both answers were tried
  CHECK(accepted < 2400);
}

TEST_CASE("flipped, cut and spliced bytes never do worse than an error") {
  const Scratch dir;
  const Path path = dir / "w.safetensors";
  const std::string good = file_of(
      R"({"__metadata__":{"format":"pt"},"a.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},)"
              R"("c":{"dtype":"I64","shape":[],"data_offsets":[32,40]}} )",
      std::string(40, 'x'));
  const Random random(12, "bytes");
  uint64_t at = 0;
  const auto roll = [&](uint64_t n) { return size_t(random.below(at++, n)); };
  const std::string pieces[] = {"\"",
                                "{",
                                "}",
                                "[",
                                "]",
                                ",",
                                ":",
                                "0",
                                "-1",
                                "1e9",
                                "18446744073709551616",
                                "null",
                                "\\u0000",
                                "\\ud800",
                                std::string(1, '\0'),
                                "\xff",
                                " ",
                                "\"a.weight\"",
                                "\"shape\"",
                                "\n",
                                "\"__metadata__\":"};
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = good;
    for (size_t k = 1 + roll(3); k-- > 0;) {
      const size_t i = roll(bytes.size()), n = std::min(roll(12), bytes.size() - i);
      switch (roll(5)) {
        case 0: bytes[i] = char(bytes[i] ^ 1 << roll(8)); break;
        case 1: bytes.erase(i, n); break;
        case 2: bytes.insert(i, pieces[roll(std::size(pieces))]); break;
        case 3: bytes.insert(i, bytes.substr(roll(bytes.size()), n)); break;
        case 4: bytes.resize(std::max<size_t>(1, i)); break;
      }
      if (bytes.size() > 8 && roll(2)) {  // keep the length right, so that the fault lies deeper
        const uint64_t length = bytes.size() - 8 - std::min<size_t>(40, bytes.size() - 8);
        std::memcpy(bytes.data(), &length, 8);
      }
    }
    put(path, bytes);
    try {
      const SafetensorsFile f(path);
      uint64_t total = 0;
      for (const std::string& name : f.names()) {
        total += f.info(name).end - f.info(name).begin;
        f.read(name, cpu());
      }
      uint64_t length;
      std::memcpy(&length, bytes.data(), 8);
      CHECK(total + 8 + length == bytes.size());
    } catch (const Error& e) {
      INFO(std::string(e.what()));
      CHECK(e.code == Exit::bad_data);
    }
  }
}
