// Version: what this build is.
#pragma once

namespace taper {

inline constexpr const char* version = "0.1.0";

}  // namespace taper
