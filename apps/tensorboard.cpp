// EventFile: crc32c, the few protobuf fields that scalars need, and the name of a file.
#include "apps/tensorboard.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <chrono>

#include "tensor/error.h"

namespace taper {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view prefix = "events.out.tfevents.";

constexpr std::array<uint32_t, 256> crc_table = [] {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; ++bit) c = c & 1 ? c >> 1 ^ 0x82f63b78 : c >> 1;  // the polynomial's bits, lowest last
    table[i] = c;
  }
  return table;
}();

template <class T>
std::string little_endian(T x) {
  std::string bytes(sizeof x, '\0');
  for (size_t i = 0; i < sizeof x; ++i) bytes[i] = char(uint8_t(x >> (8 * i)));
  return bytes;
}

// Protobuf: a field is its key (number << 3 | wire type) and its value.
std::string varint(uint64_t x) {
  std::string bytes;
  for (; x >= 0x80; x >>= 7) bytes += char(uint8_t(x | 0x80));
  return bytes + char(uint8_t(x));
}
std::string key(int field, int wire) { return varint(uint64_t(field << 3 | wire)); }
std::string field_int(int field, int64_t x) { return key(field, 0) + varint(uint64_t(x)); }
std::string field_double(int field, double x) { return key(field, 1) + little_endian(std::bit_cast<uint64_t>(x)); }
std::string field_float(int field, float x) { return key(field, 5) + little_endian(std::bit_cast<uint32_t>(x)); }
std::string field_bytes(int field, std::string_view x) { return key(field, 2) + varint(x.size()) + std::string(x); }

double now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string record(const std::string& bytes) {
  const std::string length = little_endian(uint64_t(bytes.size()));
  return length + little_endian(masked_crc32c(length)) + bytes + little_endian(masked_crc32c(bytes));
}

std::string event(double wall_time, int64_t step, const std::string& what) {
  return record(field_double(1, wall_time) + (step ? field_int(2, step) : "") + what);
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t c = 0xffffffff;
  for (const char b : bytes) c = crc_table[(c ^ uint8_t(b)) & 0xff] ^ c >> 8;
  return ~c;
}

uint32_t masked_crc32c(std::string_view bytes) { return std::rotr(crc32c(bytes), 15) + 0xa282ead8; }

void EventFile::begin() {
  int64_t second = int64_t(now());
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory_, error)) {
    const std::string name = entry.path().filename().string();
    int64_t earlier = 0;
    if (name.starts_with(prefix)) std::from_chars(name.data() + prefix.size(), name.data() + name.size(), earlier);
    second = std::max(second, earlier + 1);
  }
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0 || !host[0]) host = {'h', 'o', 's', 't'};
  path_ = directory_ / fmt::format("{}{:010}.{}.{}.0", prefix, second, host.data(), ::getpid());
  append_bytes(path_, event(now(), 0, field_bytes(3, "brain.Event:2")) + event(now(), first_step_, field_bytes(7, field_int(1, 1))));
}

void EventFile::add(int64_t step, const Scalars& scalars) {
  if (path_.empty()) begin();
  std::string values;
  for (const auto& [tag, value] : scalars) values += field_bytes(1, field_bytes(1, tag) + field_float(2, float(value)));
  append_bytes(path_, event(now(), step, field_bytes(5, values)));
}

}  // namespace taper
