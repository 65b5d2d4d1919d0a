// UTF-8: making a text that is none into one. What is valid, data/unicode.h says.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "data/unicode.h"

namespace taper {

// The length of the ill-formed sequence that a text begins with (its "maximal subpart": what one U+FFFD
// replaces), >= 1; 0: it is only cut short, so that more bytes could complete it. Not of a valid start.
size_t invalid_utf8(std::string_view text);

// Appends the text to `to`, each ill-formed sequence as one U+FFFD, and returns how many there were. What
// is cut short at the end counts as one.
int64_t replace_invalid_utf8(std::string_view text, std::string& to);

}  // namespace taper
