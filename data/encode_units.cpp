// Encode units: texts, lines and ids.
#include "data/encode_units.h"

#include <span>

namespace taper {
namespace {

constexpr size_t chunk_bytes = size_t(1) << 20;

}  // namespace

void UnitEncoder::encode(Unit& unit, EncodedUnit& out) const {
  try {
    if (unit.kind == Unit::Kind::lines) return lines(unit, out);
    if (unit.kind == Unit::Kind::ids) return ids(unit, out);
    std::string_view text = unit.text;
    for (const Part& part : unit.parts) {
      add(text.substr(0, part.size), part.validation, part.begin, out);
      text.remove_prefix(part.size);
    }
  } catch (...) {
    out.error = std::current_exception();
  }
}

void UnitEncoder::lines(Unit& unit, EncodedUnit& out) const {
  const Path& path = files[size_t(unit.file)].path;
  int64_t number = unit.line;
  std::string text;
  const char* end = unit.text.data() + unit.text.size();
  for_each_line(unit.text, [&](std::string_view line) {
    const LineText found = line_text(line, options.text_field, options.invalid_utf8, path, number++, text);
    // A very long line is the last of its unit: it need not lie here twice.
    if (line.size() > chunk_bytes && end - (line.data() + line.size()) <= 1) unit.text = {};
    out.left_out += found.kind == LineText::Kind::left_out;
    if (found.kind != LineText::Kind::text) return;
    if (text.empty()) return void(++out.empty);
    out.replaced += found.replaced;
    uint64_t head = unit.held_out ? 0 : rule.head(checksum(text.data(), text.size()), text.size());
    if (head < text.size()) head = between_characters(text, head);
    const std::string_view all = text;
    if (head > 0) document(all.substr(0, head), false, out);
    if (head < text.size()) document(all.substr(head), true, out);
  });
}

void UnitEncoder::ids(const Unit& unit, EncodedUnit& out) const {
  const int32_t eod = tokenizer.eod();
  std::span<const int32_t> ids = unit.ids;
  if (out.chunks.empty()) out.chunks.emplace_back();
  for (const Part& part : unit.parts) {
    if (part.begin) format.append({&eod, 1}, out.chunks[0]);
    format.append(ids.first(part.size), out.chunks[0]);
    ids = ids.subspan(part.size);
    out.parts.push_back({part.validation, part.begin, 0, int64_t(part.size) + part.begin, 0});
  }
}

void UnitEncoder::document(std::string_view text, bool validation, EncodedUnit& out) const {
  for (bool begin = true; !text.empty(); begin = false) {
    const size_t n = piece_of(tokenizer, text, size_t(options.unit_bytes), out.forced);
    add(text.substr(0, n), validation, begin, out);
    text.remove_prefix(n);
  }
}

void UnitEncoder::add(std::string_view text, bool validation, bool begin, EncodedUnit& out) const {
  thread_local std::vector<int32_t> tokens;
  tokens.clear();
  if (begin) tokens.push_back(tokenizer.eod());
  tokenizer.encode(text, tokens, {.special = false});  // a document is text: no part of it may pass for EOD
  if (out.chunks.empty() || out.chunks.back().size() >= chunk_bytes) out.chunks.emplace_back();
  format.append(tokens, out.chunks.back());
  out.parts.push_back({validation, begin, out.chunks.size() - 1, int64_t(tokens.size()), int64_t(text.size())});
  ByteCounts& counts = out.counts[validation];
  for (const char c : text) ++counts[uint8_t(c)];
}

}  // namespace taper
