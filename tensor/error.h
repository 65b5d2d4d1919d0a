// Errors with formatted text. A message says: who: what is wanted; what was given[; what to do].
// For .cpp files only: fmt 9's consteval format strings do not pass nvcc, so a .cu sees raise.h.
#pragma once
#include <fmt/core.h>

#include <concepts>
#include <source_location>
#include <string_view>
#include <type_traits>
#include <utility>

#include "tensor/raise.h"

namespace taper {

// A format string checked at compile time that remembers where it was written.
template <class... A>
struct Message {
  fmt::format_string<A...> text;
  std::source_location at;
  template <std::convertible_to<std::string_view> S>  // an Exit in front picks the other overload
  consteval Message(const S& s, std::source_location at = std::source_location::current())
      : text(s), at(at) {}
};

// fail: the fault is ours (a contract between parts of the program) or in a call's arguments.
template <class... A>
[[noreturn]] void fail(Message<std::type_identity_t<const A&>...> m, const A&... a) {
  throw Error(fmt::vformat(m.text, fmt::make_format_args(a...)), m.at);
}

// fail(Exit::bad_data, ...): the fault is in what the user gave; the program ends with that code.
template <class... A>
[[noreturn]] void fail(Exit code, Message<std::type_identity_t<const A&>...> m, const A&... a) {
  throw Error(fmt::vformat(m.text, fmt::make_format_args(a...)), m.at, code);
}

template <class... A>
void check(bool ok, Message<std::type_identity_t<const A&>...> m, const A&... a) {
  if (!ok) [[unlikely]] throw Error(fmt::vformat(m.text, fmt::make_format_args(a...)), m.at);
}

template <class... A>
void check(bool ok, Exit code, Message<std::type_identity_t<const A&>...> m, const A&... a) {
  if (!ok) [[unlikely]] throw Error(fmt::vformat(m.text, fmt::make_format_args(a...)), m.at, code);
}

}  // namespace taper
