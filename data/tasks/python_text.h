// Python text: what Python's str methods and re do to text, which the rules of published tasks are written in.
//
// Texts are UTF-8; a byte that belongs to no code point counts as one and passes unchanged. "Whitespace" is
// str.isspace: 29 code points. Case mappings are Unicode's full ones (ß -> Ss), with the final sigma.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace taper::python {

struct CodePoint {
  int32_t value = -1;  // -1: a stray byte
  size_t bytes = 0;    // 0: the text's end
};
CodePoint next_code_point(std::string_view text, size_t at);
void append_code_point(int32_t value, std::string& to);

int64_t length(std::string_view text);  // code points
bool is_space(int32_t code_point);
std::string_view rstrip(std::string_view text);
std::string_view strip(std::string_view text);
std::string repr(std::string_view text);                        // str as Python shows it inside a list
std::string repr(const std::vector<std::string>& list);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);  // the first code point in title case, all others in lower case

// The pieces of re.split(r"\s+", text): whitespace at an end gives an empty piece there, and the empty text one.
int64_t count_split(std::string_view text);
std::vector<std::string_view> words(std::string_view text);  // str.split(): no empty pieces

// Every occurrence of `from`, left to right, without overlap. `from` is not empty.
std::string replace(std::string_view text, std::string_view from, std::string_view to);

}  // namespace taper::python
