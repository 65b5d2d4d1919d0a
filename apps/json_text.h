// JSON text: what --json prints and what evaluations leave. A path that is no UTF-8 has U+FFFD in it, instead of ending the program.
#pragma once
#include <nlohmann/json.hpp>
#include <string>

namespace taper {

template <class Json>
std::string json_text(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace taper
