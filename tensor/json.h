// Strict JSON: what a parser would quietly accept and must not. Call before parsing what others wrote.
#pragma once
#include <string>
#include <string_view>

namespace taper {

// Raises (65), with `who` in front, unless the text is one JSON object in valid UTF-8, at most 64
// levels deep, with no key twice in one object, and nothing but whitespace around it.
void check_json_object(std::string_view text, const std::string& who);

}  // namespace taper
