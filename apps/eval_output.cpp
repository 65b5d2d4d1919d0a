// Eval's output: a directory, or none.
#include "apps/eval_output.h"

#include <chrono>
#include <cmath>
#include <ctime>

#include "tensor/error.h"

namespace taper {
namespace {

// The run that a checkpoint RUN/checkpoints/step-000200 belongs to; empty: it stands alone.
Path run_of(const Path& checkpoint) {
  std::error_code error;
  const Path at = std::filesystem::absolute(checkpoint, error).lexically_normal();
  const Path all = (at.has_filename() ? at : at.parent_path()).parent_path();
  if (all.filename() != "checkpoints" || !std::filesystem::exists(all.parent_path() / "config.toml", error)) return {};
  return all.parent_path();
}

}  // namespace

EvalOutput::EvalOutput(const Path& checkpoint, const std::string& model, const Path& output) : asked_(!output.empty()) {
  if (asked_) {
    std::string name = sanitized(model);
    while (name.starts_with('.')) name.erase(0, 1);
    directory_ = output / (name.empty() ? "model" : name);
  } else if (const Path run = run_of(checkpoint); !run.empty()) {
    directory_ = run / "evaluations";
  }
  if (directory_.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(directory_, error);
  check(!asked_ || !error, Exit::cannot_create, "eval: cannot create {}: {}", directory_.string(), error.message());
  if (error) give_up(fmt::format("cannot create {}: {}", directory_.string(), error.message()));
}

void EvalOutput::give_up(const std::string& why) {
  fmt::print(stderr, "eval: results are not kept: {}; --output DIR keeps them elsewhere\n", why);
  directory_.clear();
}

void EvalOutput::write(const std::string& name, std::string_view text) {
  if (!kept()) return;
  try {
    write_file(directory_ / name, text);
  } catch (const Error& e) {
    if (asked_) throw;
    give_up(e.what());
  }
}

void EvalOutput::say(const std::string& name) const {
  if (kept() && !asked_) fmt::print(stderr, "eval: kept in {}\n", (directory_ / name).lexically_proximate(std::filesystem::current_path()).string());
}

std::string sanitized(std::string_view model) {
  std::string name;
  bool gap = false;
  for (const char c : model) {
    const bool bad = std::string_view("\"<>:/|\\?*[]").find(c) != std::string_view::npos;
    if (bad && !gap) name += "__";
    if (!bad) name += c;
    gap = bad;
  }
  return name;
}

double seconds_now() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

std::string file_time(double seconds) {
  const std::time_t whole = std::time_t(seconds);
  std::tm parts{};
  gmtime_r(&whole, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}-{:02}-{:02}.{:06}", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min,
                     parts.tm_sec, int(std::floor((seconds - double(whole)) * 1e6)));
}

}  // namespace taper
