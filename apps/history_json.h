// What apps/history*.cpp share: JSON of a run's files into numbers. Each throws Json::exception where the JSON is not what it should be.
#pragma once
#include <limits>
#include <nlohmann/json.hpp>

#include "apps/history.h"

namespace taper::history {

using Json = nlohmann::json;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

inline double number_or_nan(const Json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_number() ? at->get<double>() : nan;
}
inline int64_t whole(const Json& object, const char* key) {
  const Json& n = object.at(key);
  if (!n.is_number_integer()) throw Json::type_error::create(302, "no integer", &object);
  return n.get<int64_t>();
}
std::vector<History::Bucket> buckets_of(const Json& list);

void read_evaluations(History& run);  // what `taper eval` left below run.dir; what is no such file is noted

}  // namespace taper::history
