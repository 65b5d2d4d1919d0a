// The exception itself, free of fmt, so that headers and .cu files can use it.
#pragma once
#include <source_location>
#include <stdexcept>
#include <string>

namespace taper {

// Exit codes of the program (sysexits where one fits); an Error carries the one it should end with.
enum class Exit : int {
  ok = 0,
  failure = 1,        // the command ran and its answer is no (an audit that fails)
  usage = 2,
  bad_data = 65,      // corrupt or malformed input
  no_input = 66,      // input missing
  unavailable = 69,   // device unavailable
  internal = 70,      // a broken promise of our own code
  cannot_create = 73,
  io = 74,
  checkpointed = 75,  // stopped by a signal after saving: start again with --resume
  bad_config = 78,
  diverged = 86,
};

struct Error : std::runtime_error {
  Error(const std::string& message, std::source_location at, Exit code = Exit::internal)
      : std::runtime_error(message), at(at), code(code) {}
  std::source_location at;  // where it was raised: shown for internal errors only
  Exit code;
};

// A device's memory is out. The message says what was wanted and what there is; whoever knows what the user can change
// (a batch) says it instead of the last words.
struct OutOfMemory : Error {
  OutOfMemory(const std::string& facts, size_t capacity, std::source_location at)
      : Error(facts + "; use a smaller batch or model", at, Exit::unavailable), facts(facts), capacity(capacity) {}
  std::string facts;
  size_t capacity;  // bytes that this process had, and could have had
};

// Raises an internal error: a caller inside the program broke a contract.
[[noreturn]] void raise(std::string message,
                        std::source_location at = std::source_location::current());

}  // namespace taper
