// SHA-256 (FIPS 180-4): what published files and prompts are named by.
#pragma once
#include <string>
#include <string_view>

namespace taper {

std::string sha256(std::string_view bytes);  // 64 hex digits

}  // namespace taper
