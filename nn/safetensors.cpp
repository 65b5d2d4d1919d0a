// safetensors: the header's rules one by one, and tensors through a small buffer.
#include "nn/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/error.h"
#include "tensor/json.h"

namespace taper {
namespace {

using nlohmann::json;
constexpr uint64_t longest_header = 100'000'000;
constexpr uint64_t piece_bytes = uint64_t(4) << 20;

// The reference's dtypes and their bits. Known is not yet readable: see read().
const std::map<std::string, uint64_t, std::less<>> dtype_bits = {
    {"BOOL", 8},        {"U8", 8},           {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},  {"I16", 16}, {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},         {"F32", 32}, {"C64", 64},    {"F64", 64},    {"I64", 64},
    {"U64", 64},        {"F4", 4},           {"F6_E2M3", 6}, {"F6_E3M2", 6}};

struct OurDtype {
  Dtype dtype;
  const char* word;
};
constexpr OurDtype our_dtypes[] = {
    {Dtype::i64, "I64"}, {Dtype::f64, "F64"}, {Dtype::f32, "F32"}, {Dtype::i32, "I32"}, {Dtype::bf16, "BF16"}};

const char* word_of(Dtype t) {
  return std::find_if(std::begin(our_dtypes), std::end(our_dtypes), [&](const OurDtype& d) { return d.dtype == t; })->word;
}

// Where a dtype stands in the file: as the reference writer sorts them.
size_t rank_of(const std::string& word) {
  constexpr const char* order[] = {"U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16"};
  return size_t(std::find(std::begin(order), std::end(order), word) - std::begin(order));
}

// A piece of JSON for a message: one line, plain characters, short, whatever was in the file.
std::string shown(const json& j) {
  const std::string text = j.dump(-1, ' ', true);
  return text.size() <= 80 ? text : text.substr(0, 77) + "...";
}

}  // namespace

SafetensorsFile::SafetensorsFile(const Path& path) : file_(path) {
  const std::string who = path.string();
  uint64_t length = 0;
  check(file_.size() >= 8, Exit::bad_data, "{}: a safetensors header is wanted; the file has {} bytes", who,
        file_.size());
  file_.read(0, &length, 8);
  check(length <= longest_header, Exit::bad_data, "{}: the header must have at most {} bytes; it claims {}", who,
        longest_header, length);
  check(length <= file_.size() - 8, Exit::bad_data, "{}: the header claims {} bytes; {} follow", who, length,
        file_.size() - 8);
  std::string text(length, '\0');
  file_.read(8, text.data(), length);
  data_ = 8 + length;
  check_json_object(text, who + ": header");

  const json header = json::parse(text);
  for (const auto& [name, entry] : header.items()) {
    if (name != "__metadata__") {
      add(name, &entry);
    } else if (!entry.is_null()) {
      check(entry.is_object(), Exit::bad_data, "{}: __metadata__ must be an object of strings", who);
      for (const auto& [key, value] : entry.items()) {
        check(value.is_string(), Exit::bad_data, "{}: __metadata__ {} must be a string; got {}", who,
              shown(key), value.type_name());
        metadata_[key] = value.get<std::string>();
      }
    }
  }

  std::vector<std::pair<std::pair<uint64_t, uint64_t>, const std::string*>> order;
  for (const auto& [name, info] : infos_) order.push_back({{info.begin, info.end}, &name});
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  uint64_t end = 0;
  for (const auto& [range, name] : order) {
    check(range.first == end, Exit::bad_data,
          "{}: tensor {}: data must begin at byte {}, where the last one ends; got {}", who, shown(*name), end,
          range.first);
    end = range.second;
  }
  check(end == file_.size() - data_, Exit::bad_data, "{}: the tensors describe {} bytes of data; the file holds {}",
        who, end, file_.size() - data_);
}

// `entry` is a nlohmann::json, which headers do not know.
void SafetensorsFile::add(const std::string& name, const void* entry) {
  const json& e = *static_cast<const json*>(entry);
  const std::string who = fmt::format("{}: tensor {}", path().string(), shown(name));
  const auto field = [&](const char* key) -> const json& {
    const bool found = e.is_object() && e.contains(key);
    check(found, Exit::bad_data, "{}: dtype, shape and data_offsets are wanted; {} is missing", who, key);
    return e[key];
  };
  const json &dtype = field("dtype"), &shape = field("shape"), &offsets = field("data_offsets");
  SafetensorsInfo info;

  check(dtype.is_string() && dtype_bits.contains(dtype.get_ref<const std::string&>()), Exit::bad_data,
        "{}: unknown dtype {}", who, shown(dtype));
  info.dtype = dtype.get<std::string>();

  check(shape.is_array() && shape.size() <= Shape::max_rank, Exit::bad_data,
        "{}: shape must be an array of at most {} sizes; got {}", who, int(Shape::max_rank), shown(shape));
  uint64_t bits = 1;
  bool fits = true;
  for (const json& size : shape) {
    check(size.is_number_unsigned() && size.get<uint64_t>() <= uint64_t(INT64_MAX), Exit::bad_data,
          "{}: sizes must be integers from 0 to 2^63-1; got {}", who, shown(size));
    info.shape.push_back(size.get<int64_t>());
    fits = fits && !__builtin_mul_overflow(bits, size.get<uint64_t>(), &bits);
  }
  fits = fits && !__builtin_mul_overflow(bits, dtype_bits.find(info.dtype)->second, &bits);
  check(fits, Exit::bad_data, "{}: the size of {} {} overflows 64 bits", who, info.dtype, info.shape.text());
  check(bits % 8 == 0, Exit::bad_data, "{}: {} {} does not fill whole bytes", who, info.dtype, info.shape.text());

  check(offsets.is_array() && offsets.size() == 2 && offsets[0].is_number_unsigned() && offsets[1].is_number_unsigned(),
        Exit::bad_data, "{}: data_offsets must be two integers >= 0; got {}", who, shown(offsets));
  info.begin = offsets[0].get<uint64_t>();
  info.end = offsets[1].get<uint64_t>();
  check(info.begin <= info.end && info.end - info.begin == bits / 8, Exit::bad_data,
        "{}: {} {} takes {} bytes; data_offsets are [{},{}]", who, info.dtype, info.shape.text(), bits / 8, info.begin,
        info.end);
  infos_.emplace(name, std::move(info));
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, info] : infos_) names.push_back(name);
  return names;
}

const SafetensorsInfo& SafetensorsFile::info(std::string_view name) const {
  const auto found = infos_.find(name);
  check(found != infos_.end(), Exit::bad_data, "{}: tensor {} is missing", path().string(), shown(name));
  return found->second;
}

Tensor SafetensorsFile::read(std::string_view name, Device& device) const {
  const SafetensorsInfo& i = info(name);
  const bool half = i.dtype == "F16";
  const std::string_view as = half ? "F32" : std::string_view(i.dtype);
  const auto* ours = std::find_if(std::begin(our_dtypes), std::end(our_dtypes),
                                  [&](const OurDtype& d) { return as == d.word; });
  check(ours != std::end(our_dtypes), Exit::bad_data,
        "{}: tensor {}: dtype must be F32, F64, F16, BF16, I32 or I64; got {}", path().string(), shown(name), i.dtype);
  Tensor t(device, i.shape, ours->dtype);
  char* to = static_cast<char*>(t.data<void>());
  std::vector<char> piece(std::min(piece_bytes, i.end - i.begin));
  std::vector<float> widened(half ? piece.size() / 2 : 0);
  for (uint64_t at = i.begin; at < i.end; at += piece.size()) {
    const size_t bytes = size_t(std::min<uint64_t>(piece.size(), i.end - at));
    file_.read(data_ + at, piece.data(), bytes);
    for (size_t k = 0; half && k < bytes / 2; ++k) {
      uint16_t h;
      std::memcpy(&h, &piece[2 * k], 2);
      widened[k] = from_half(h);
    }
    if (half) device.upload(to + (at - i.begin) * 2, widened.data(), bytes * 2);
    else device.upload(to + (at - i.begin), piece.data(), bytes);
  }
  return t;
}

RawTensor SafetensorsFile::raw(std::string_view name) const {
  const SafetensorsInfo& i = info(name);
  const uint64_t begin = data_ + i.begin;
  const auto read = [this, begin](uint64_t offset, void* into, size_t bytes) { file_.read(begin + offset, into, bytes); };
  return {.name = std::string(name), .dtype = i.dtype, .shape = i.shape, .read = read};
}

void write_safetensors(const Path& path, const std::vector<std::pair<std::string, Tensor>>& tensors,
                       std::map<std::string, std::string> metadata) {
  std::vector<RawTensor> raw;
  for (const auto& [name, t] : tensors)
    raw.push_back({.name = name,
                   .dtype = word_of(t.dtype()),
                   .shape = t.shape(),
                   .read = [t = t](uint64_t offset, void* into, size_t bytes) {
                     t.device().download(into, static_cast<char*>(t.data<void>()) + offset, bytes);
                   }});
  write_safetensors(path, raw, std::move(metadata));
}

void write_safetensors(const Path& path, const std::vector<RawTensor>& tensors, std::map<std::string, std::string> metadata) {
  std::vector<const RawTensor*> order;
  for (const RawTensor& t : tensors) order.push_back(&t);
  std::sort(order.begin(), order.end(), [](const RawTensor* a, const RawTensor* b) {
    return std::pair(rank_of(a->dtype), a->name) < std::pair(rank_of(b->dtype), b->name);
  });

  metadata.emplace("format", "pt");
  std::string header = "{\"__metadata__\":" + json(metadata).dump();
  std::set<std::string_view> taken{"__metadata__"};
  uint64_t end = 0;
  for (const RawTensor* t : order) {
    check(taken.insert(t->name).second, "{}: tensor names must differ; '{}' is taken", path.string(), t->name);
    header += fmt::format(",{}:{{\"dtype\":\"{}\",\"shape\":{},\"data_offsets\":[{},{}]}}", json(t->name).dump(), t->dtype,
                          t->shape.text(), end, end + t->bytes());
    end += t->bytes();
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');  // the data begins on a multiple of 8

  FileWriter file(path);
  const uint64_t length = header.size();
  file.write(&length, 8);
  file.write(header);
  std::vector<char> piece;
  for (const RawTensor* t : order) {
    piece.resize(size_t(std::min<uint64_t>(piece_bytes, t->bytes())));
    for (uint64_t at = 0; at < t->bytes(); at += piece.size()) {
      const size_t bytes = size_t(std::min<uint64_t>(piece.size(), t->bytes() - at));
      t->read(at, piece.data(), bytes);
      file.write(piece.data(), bytes);
    }
  }
  file.commit();
}

}  // namespace taper
