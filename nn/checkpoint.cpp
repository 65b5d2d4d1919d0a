// Checkpoints: the manifest, tensors in and out by name, and which directory is the newest.
#include "nn/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "nn/safetensors.h"
#include "tensor/error.h"
#include "tensor/json.h"

namespace taper {
namespace {

using nlohmann::json;
using Named = std::vector<std::pair<std::string, Tensor>>;
namespace fs = std::filesystem;

constexpr const char* model_file = "model.safetensors";
constexpr const char* optimizer_file = "optimizer.safetensors";
constexpr const char* state_file = "state.json";
constexpr const char* manifest_file = "manifest.json";
constexpr const char* listed_files[] = {model_file, optimizer_file, state_file};

Named named(const std::vector<Parameter*>& parameters) {
  Named tensors;
  for (const Parameter* p : parameters) tensors.emplace_back(p->name, p->value);
  return tensors;
}

Named named(AdamW& optimizer) {
  Named tensors;
  optimizer.each_state([&](const std::string& name, Tensor& t) { tensors.emplace_back(name, t); });
  return tensors;
}

// f(values, count) over the elements in pieces, as T.
template <class T, class F>
void each_piece(const Tensor& t, F&& f) {
  const int64_t n = t.numel(), most = 1 << 20;
  std::vector<T> piece(size_t(std::min(n, most)));
  for (int64_t at = 0; at < n; at += most) {
    const int64_t count = std::min(most, n - at);
    t.device().download(piece.data(), t.data<T>() + at, size_t(count) * sizeof(T));
    f(piece.data(), at, count);
  }
}

void check_finite(const Tensor& t, const std::string& who) {
  if (t.dtype() == Dtype::i32 || t.dtype() == Dtype::i64) return;
  visit<float, double, bf16>("load", t.dtype(), [&]<class T>() {
    each_piece<T>(t, [&](const T* x, int64_t at, int64_t count) {
      for (int64_t i = 0; i < count; ++i)
        check(std::isfinite(Acc<T>(x[i])), Exit::bad_data, "{}: finite values are wanted; element {} is {}", who,
              at + i, double(Acc<T>(x[i])));
    });
  });
}

// Into a tensor of the same shape, across float dtypes where they differ.
void copy_converted(const Tensor& to, const Tensor& from) {
  if (to.dtype() == from.dtype()) return copy_into(to, from);
  visit<float, double, bf16>("load", from.dtype(), [&]<class S>() {
    visit<float, double, bf16>("load", to.dtype(), [&]<class T>() {
      std::vector<T> converted;
      each_piece<S>(from, [&](const S* x, int64_t at, int64_t count) {
        converted.resize(size_t(count));
        for (int64_t i = 0; i < count; ++i) converted[size_t(i)] = T(Acc<T>(Acc<S>(x[i])));
        to.device().upload(to.data<T>() + at, converted.data(), size_t(count) * sizeof(T));
      });
    });
  });
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype() || !(a.shape() == b.shape())) return false;
  std::vector<char> x(a.bytes()), y(b.bytes());
  a.device().download(x.data(), a.data<void>(), x.size());
  b.device().download(y.data(), b.data<void>(), y.size());
  return x == y;
}

bool is_tied_head(const std::string& name) { return name == "lm_head.weight" || name == "head.weight"; }

void load_tensors(const Path& path, const Named& wanted) {
  const SafetensorsFile file(path);
  std::vector<std::string> surplus = file.names();
  for (const auto& [name, to] : wanted) {
    const std::string who = fmt::format("{}: tensor '{}'", path.string(), name);
    const SafetensorsInfo& info = file.info(name);
    check(info.shape == to.shape(), Exit::bad_data, "{}: shape must be {}; got {}", who, to.shape().text(),
          info.shape.text());
    const bool integer = to.dtype() == Dtype::i32 || to.dtype() == Dtype::i64;
    const Tensor t = file.read(name, to.device());
    check(integer ? t.dtype() == to.dtype() : t.dtype() != Dtype::i32 && t.dtype() != Dtype::i64, Exit::bad_data,
          "{}: dtype must be {}; got {}", who, integer ? taper::name(to.dtype()) : "a float", info.dtype);
    check_finite(t, who);
    copy_converted(to, t);
    std::erase(surplus, name);
  }
  std::erase_if(surplus, [&](const std::string& name) {
    if (!is_tied_head(name) || !file.contains("embedding.weight")) return false;
    Device& cpu = open_device("cpu");
    check(same_bytes(file.read(name, cpu), file.read("embedding.weight", cpu)), Exit::bad_data,
          "{}: tensor '{}' must equal 'embedding.weight' (the head is tied); it differs", path.string(), name);
    return true;
  });
  check(surplus.empty(), Exit::bad_data, "{}: tensor '{}' is not part of this model ({} such tensor{})", path.string(),
        surplus.empty() ? "" : surplus[0], surplus.size(), surplus.size() == 1 ? "" : "s");
}

// The manifest's text: the object with the checksum of its own text without it. Comparing the whole
// text on reading leaves no bit that could change unseen.
std::string manifest_text(json manifest) {
  manifest.erase("checksum");
  const std::string body = manifest.dump(2);
  manifest["checksum"] = checksum_text(checksum(body.data(), body.size()));
  return manifest.dump(2) + "\n";
}

bool present(const Path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

json read_manifest(const Path& path) {
  check(present(path), Exit::bad_data, "{}: the file is missing", path.string());
  const std::string text = read_file(path), who = path.string();
  check_json_object(text, who);
  const json m = json::parse(text);
  check(manifest_text(m) == text, Exit::bad_data, "{}: its checksum does not match its text; the file is damaged", who);
  bool complete = m.value("format", json()) == 1 && m.contains("step") && m["step"].is_number_integer() &&
                  m.contains("values") && m["values"].is_object() && m.contains("files");
  for (const char* name : listed_files)
    complete = complete && m["files"].is_object() && m["files"].contains(name) &&
               m["files"][name].is_object() && m["files"][name].value("bytes", json()).is_number_unsigned() &&
               m["files"][name].value("xxh3", json()).is_string();
  check(complete, Exit::bad_data, "{}: a manifest of format 1 is wanted; this is none", who);
  for (const auto& [key, value] : m["values"].items())
    check(value.is_number_integer(), Exit::bad_data, "{}: value '{}' must be an integer", who, key);
  return m;
}

// The number in "step-000200", or -1.
int64_t step_of(const Path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with("step-") || name.size() < 11 || name.size() > 22) return -1;
  const std::string digits = name.substr(5);
  if (digits.find_first_not_of("0123456789") != digits.npos) return -1;
  return std::stoll(digits);
}

}  // namespace

void save_model(const Path& path, const std::vector<Parameter*>& parameters) {
  write_safetensors(path, named(parameters));
}

void load_model(const Path& path, const std::vector<Parameter*>& parameters) { load_tensors(path, named(parameters)); }

void save_checkpoint(const Path& directory, const CheckpointContents& contents, int keep) {
  check(keep >= 1, Exit::bad_config, "checkpoint: keep must be at least 1; got {}", keep);
  check_json_object(contents.state, "checkpoint: state");
  remove_temporaries(directory);
  DirectoryWriter writer(directory / fmt::format("step-{:06}", contents.step));
  const Path& into = writer.temporary();
  write_safetensors(into / model_file, named(contents.parameters));
  write_safetensors(into / optimizer_file, named(contents.optimizer));
  write_file(into / state_file, contents.state);

  json manifest = {{"format", 1}, {"step", contents.step}, {"values", contents.values}};
  for (const char* name : listed_files)
    manifest["files"][name] = {{"bytes", FileReader(into / name).size()},
                               {"xxh3", checksum_text(checksum_file(into / name))}};
  write_file(into / manifest_file, manifest_text(manifest));
  writer.commit();

  // Only now: the new one is on the disk.
  const std::vector<Path> all = list_checkpoints(directory);
  for (size_t i = 0; i + size_t(keep) < all.size(); ++i) remove_durably(all[i]);
}

std::vector<Path> list_checkpoints(const Path& directory) {
  std::vector<Path> found;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end; it.increment(error))
    if (step_of(it->path()) >= 0 && it->is_directory()) found.push_back(it->path());
  check(!error || error == std::errc::no_such_file_or_directory, Exit::io, "{}: read failed: {}", directory.string(),
        error.message());
  std::sort(found.begin(), found.end(), [](const Path& a, const Path& b) { return step_of(a) < step_of(b); });
  return found;
}

Checkpoint open_checkpoint(const Path& path) {
  std::error_code error;
  check(fs::is_directory(path, error), Exit::no_input, "{}: no such checkpoint", path.string());
  const json manifest = read_manifest(path / manifest_file);
  for (const char* name : listed_files) {
    const Path file = path / name;
    const json& entry = manifest["files"][name];
    check(present(file), Exit::bad_data, "{}: the file is missing; the manifest lists it", file.string());
    const uint64_t bytes = FileReader(file).size();
    check(bytes == entry["bytes"].get<uint64_t>(), Exit::bad_data, "{}: {} bytes are wanted; the file has {}",
          file.string(), entry["bytes"].get<uint64_t>(), bytes);
    const std::string sum = checksum_text(checksum_file(file));
    check(sum == entry["xxh3"].get<std::string>(), Exit::bad_data,
          "{}: checksum {} is wanted; got {}; the file is damaged", file.string(), entry["xxh3"].get<std::string>(),
          sum);
  }
  Checkpoint c;
  c.path = path;
  c.step = manifest["step"].get<int64_t>();
  c.weights = manifest["files"][model_file]["xxh3"].get<std::string>();
  c.state = read_file(path / state_file);  // not in braces: GCC 12 destroys the other members twice when it throws
  for (const auto& [key, value] : manifest["values"].items()) c.values[key] = value.get<int64_t>();
  return c;
}

std::optional<Checkpoint> latest_checkpoint(const Path& directory) {
  const std::vector<Path> all = list_checkpoints(directory);
  if (all.empty()) return std::nullopt;
  try {
    return open_checkpoint(all.back());
  } catch (const Error& damage) {
    if (damage.code != Exit::bad_data) throw;
    for (size_t i = all.size() - 1; i-- > 0;) {
      try {
        open_checkpoint(all[i]);
      } catch (const Error&) {
        continue;
      }
      fail(Exit::bad_data, "{}; {} is intact: to go on from it, remove {}", damage.what(), all[i].string(),
           all.back().string());
    }
    fail(Exit::bad_data, "{}; no older checkpoint is intact: to begin again, remove {}", damage.what(),
         directory.string());
  }
}

void load_checkpoint(const Checkpoint& checkpoint, const std::vector<Parameter*>& parameters, AdamW& optimizer) {
  load_tensors(checkpoint.path / model_file, named(parameters));
  load_tensors(checkpoint.path / optimizer_file, named(optimizer));
}

}  // namespace taper
