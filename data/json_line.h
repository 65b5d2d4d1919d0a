// JSON line: the string in one field of an object, without building the rest of it.
//
// The whole line is checked to be JSON (RFC 8259; nested no deeper than 512); where a key comes twice the
// last counts. The line must be valid UTF-8.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace taper {

struct JsonField {
  enum class Kind { text, missing, not_json } kind = Kind::missing;  // missing: no object, no such key, or no string in it
  size_t at = 0;              // not_json: the byte that is wrong, from 1
  size_t lone_surrogate = 0;  // the byte of the first \ud800 to \udfff in `value` that stands alone, from 1; 0: none.
                              // U+FFFD stands for it
};

JsonField json_field(std::string_view line, std::string_view field, std::string& value);

}  // namespace taper
