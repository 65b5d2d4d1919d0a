// Event files: known checksums, and the records read back by a reader that shares nothing with the writer.
#include "apps/tensorboard.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/apps/tiny.h"

using namespace taper;
using namespace taper::test;

namespace {

// The sum bit by bit, without a table.
uint32_t plain_crc32c(const std::string& bytes) {
  uint32_t c = ~0u;
  for (const char b : bytes) {
    c ^= uint8_t(b);
    for (int i = 0; i < 8; ++i) c = (c >> 1) ^ (c & 1 ? 0x82f63b78u : 0);
  }
  return ~c;
}
uint32_t plain_mask(uint32_t c) { return ((c >> 15) | (c << 17)) + 0xa282ead8u; }

struct Field {
  int number = 0, wire = 0;
  uint64_t integer = 0;  // of wire types 0, 1 and 5
  std::string bytes;     // of wire type 2
};

std::vector<Field> fields(const std::string& message) {
  size_t at = 0;
  const auto byte = [&] {
    REQUIRE(at < message.size());
    return uint8_t(message[at++]);
  };
  const auto varint = [&] {
    uint64_t x = 0;
    for (int shift = 0;; shift += 7) {
      const uint8_t b = byte();
      x |= uint64_t(b & 0x7f) << shift;
      if (b < 0x80) return x;
    }
  };
  std::vector<Field> all;
  while (at < message.size()) {
    const uint64_t key = varint();
    Field f{.number = int(key >> 3), .wire = int(key & 7), .bytes = {}};
    if (f.wire == 0) f.integer = varint();
    else if (f.wire == 2) {
      const uint64_t n = varint();
      REQUIRE(n <= message.size() - at);
      f.bytes = message.substr(at, n), at += n;
    } else {
      REQUIRE((f.wire == 1 || f.wire == 5));
      for (int i = 0; i < (f.wire == 1 ? 8 : 4); ++i) f.integer |= uint64_t(byte()) << (8 * i);
    }
    all.push_back(f);
  }
  return all;
}

struct Event {
  double wall_time = 0;
  int64_t step = 0;
  std::string version;
  bool start = false;
  std::vector<std::pair<std::string, float>> scalars;
};

std::vector<Event> read_events(const Path& path) {
  const std::string all = read_file(path);
  std::vector<Event> events;
  for (size_t at = 0; at < all.size();) {
    const auto number = [&](size_t bytes) {
      REQUIRE(at + bytes <= all.size());
      uint64_t x = 0;
      for (size_t i = 0; i < bytes; ++i) x |= uint64_t(uint8_t(all[at + i])) << (8 * i);
      at += bytes;
      return x;
    };
    const std::string header = all.substr(at, 8);
    const uint64_t length = number(8);
    CHECK(number(4) == plain_mask(plain_crc32c(header)));
    REQUIRE(at + length <= all.size());
    const std::string body = all.substr(at, length);
    at += length;
    CHECK(number(4) == plain_mask(plain_crc32c(body)));
    Event e;
    for (const Field& f : fields(body)) {
      if (f.number == 1) std::memcpy(&e.wall_time, &f.integer, 8);
      else if (f.number == 2) e.step = int64_t(f.integer);
      else if (f.number == 3) e.version = f.bytes;
      else if (f.number == 5) {
        for (const Field& v : fields(f.bytes)) {
          REQUIRE(v.number == 1);
          std::pair<std::string, float> scalar;
          for (const Field& p : fields(v.bytes)) {
            if (p.number == 1) scalar.first = p.bytes;
            const uint32_t bits = uint32_t(p.integer);
            if (p.number == 2) std::memcpy(&scalar.second, &bits, 4);
          }
          e.scalars.push_back(scalar);
        }
      } else if (f.number == 7) {
        e.start = fields(f.bytes).at(0).number == 1 && fields(f.bytes).at(0).integer == 1;
      } else {
        FAIL("a field that TensorBoard does not know: ", f.number);
      }
    }
    events.push_back(e);
  }
  return events;
}

std::vector<Path> event_files(const Path& directory) {
  std::vector<Path> files;
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.path().filename().string().starts_with("events.out.tfevents.")) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

// What TensorBoard shows of a directory: its files in order; a START drops what is at its step and later.
std::map<std::pair<std::string, int64_t>, float> shown(const Path& directory) {
  std::map<std::pair<std::string, int64_t>, float> points;
  for (const Path& file : event_files(directory))
    for (const Event& e : read_events(file)) {
      if (e.start) std::erase_if(points, [&](const auto& p) { return p.first.second >= e.step; });
      for (const auto& [tag, value] : e.scalars) {
        CHECK_MESSAGE(points.emplace(std::pair{tag, e.step}, value).second, tag, " twice at step ", e.step);
      }
    }
  return points;
}

}  // namespace

TEST_CASE("tensorboard: crc32c of the published vectors, and its mask") {
  CHECK(crc32c("") == 0);
  CHECK(crc32c("123456789") == 0xe3069283);
  CHECK(crc32c(std::string(32, '\0')) == 0x8a9136aa);  // RFC 3720, B.4
  CHECK(crc32c(std::string(32, '\xff')) == 0x62a8ab43);
  std::string up, down;
  for (int i = 0; i < 32; ++i) up += char(i), down += char(31 - i);
  CHECK(crc32c(up) == 0x46dd794e);
  CHECK(crc32c(down) == 0x113fdb5c);
  CHECK(masked_crc32c("123456789") == plain_mask(0xe3069283));
  CHECK(plain_mask(0xe3069283) == 0xc78ab0e5);
}

TEST_CASE("tensorboard: a file's events byte by byte but for the clock, and a second file that sorts after it") {
  const Scratch s;
  fs::create_directory(s / "run");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EventFile first(s / "run", 1);
  CHECK(first.path().empty());
  first.add(1, {{"train/loss", 2.5}, {"train/lr", 1e-3}});
  first.add(300, {{"train/loss", nan}});
  const std::vector<Event> events = read_events(first.path());
  REQUIRE(events.size() == 4);
  CHECK(events[0].version == "brain.Event:2");
  CHECK(events[0].step == 0);
  CHECK(!events[0].start);
  CHECK(events[1].start);
  CHECK(events[1].step == 1);
  CHECK(events[2].step == 1);
  CHECK(events[2].scalars == std::vector<std::pair<std::string, float>>{{"train/loss", 2.5f}, {"train/lr", 1e-3f}});
  CHECK(events[3].step == 300);
  CHECK(std::isnan(events[3].scalars.at(0).second));
  for (const Event& e : events) CHECK(e.wall_time > 1.6e9);

  // length 24: 9 bytes of wall_time, 15 of the version.
  const std::string bytes = read_file(first.path());
  CHECK(bytes.substr(0, 8) == std::string("\x18\0\0\0\0\0\0\0", 8));
  CHECK(bytes.substr(12, 1) == "\x09");
  CHECK(bytes.substr(21, 15) == "\x1a\x0d" "brain.Event:2");

  EventFile second(s / "run", 2);  // in the same second
  second.add(2, {{"train/loss", 2.0}});
  CHECK(event_files(s / "run") == std::vector{first.path(), second.path()});
  const std::string name = first.path().filename().string();
  CHECK(std::ranges::count(name, '.') >= 6);
  CHECK(name.ends_with(".0"));
  CHECK(name.find("." + std::to_string(getpid()) + ".") != std::string::npos);
}

TEST_CASE("tensorboard: a run that is killed and resumed shows each step once, with the values of metrics.jsonl") {
  const Tiny t;
  const std::vector<std::string> on{"--set", "log.tensorboard=true", "--set", "log.every=1", "--resume"};
  {
    Process p(t, t.train("a", on));
    REQUIRE(p.says("step 18/40"));
    p.kill(SIGKILL);
    p.wait();
  }
  const Ended e = run(t, t.train("a", on));
  REQUIRE_MESSAGE(e.code == 0, e.err);
  const Path dir = t.dir("a");
  REQUIRE(event_files(dir).size() == 2);
  const auto points = shown(dir);
  int steps = 0, evaluations = 0;
  std::string text = read_file(dir / "metrics.jsonl");
  for (size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
    const auto line = nlohmann::json::parse(text.substr(at, text.find('\n', at) - at));
    const int64_t step = line["step"];
    if (line.contains("eval")) {
      ++evaluations;
      CHECK(points.at({"eval/loss", step}) == float(line["eval"]["loss"].get<double>()));
      CHECK(points.at({"eval/bits_per_byte", step}) == float(line["eval"]["bits_per_byte"].get<double>()));
    } else {
      ++steps;
      CHECK(points.at({"train/loss", step}) == float(line["loss"].get<double>()));
      CHECK(points.at({"train/norm", step}) == float(line["norm"].get<double>()));
      CHECK(points.at({"train/lr", step}) == float(line["lr"].get<double>()));
    }
  }
  CHECK(steps == 40);
  CHECK(evaluations == 3);
  CHECK(std::ranges::count_if(points, [](const auto& p) { return p.first.first == "train/loss"; }) == 40);

  REQUIRE(run(t, t.train("a", on)).code == 0);  // nothing left to train: no third file
  CHECK(event_files(dir).size() == 2);
  REQUIRE(run(t, t.train("off")).code == 0);
  CHECK(event_files(t.dir("off")).empty());
}
