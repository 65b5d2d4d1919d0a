// checkpoint: round trips, every flipped bit, every failing call, and the rule of what is kept.
#include "nn/checkpoint.h"

#include <cerrno>
#include <cmath>

#include "nn/safetensors.h"
#include "tests/nn/support.h"

using namespace taper;
namespace fs = std::filesystem;

namespace {

Device& cpu() { return open_device("cpu"); }

const char* const files[] = {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"};

struct Training {  // three parameters, one frozen, and their optimizer
  Parameter embedding, scalar, frozen;
  std::vector<Parameter*> all{&embedding, &scalar, &frozen};
  AdamW optimizer;
  explicit Training(uint64_t seed = 1) : optimizer({}, make(seed)) {}
  const std::vector<Parameter*>& make(uint64_t seed) {
    embedding.name = "embedding.weight", embedding.value = drawn({5, 3}, Dtype::f32, seed);
    scalar.name = "layers.0.mixer.A_log_base", scalar.value = drawn({}, Dtype::f32, seed + 1);
    frozen.name = "layers.0.mixer.dt_bias", frozen.value = drawn({4}, Dtype::f32, seed + 2), frozen.trainable = false;
    return all;
  }
  void step(uint64_t seed) {
    Gradients g(all);
    g.add(embedding.name, drawn({5, 3}, Dtype::f32, seed));
    g.add(scalar.name, drawn({}, Dtype::f32, seed));
    optimizer.step(g, 0.01);
  }
  std::string bytes() {
    std::string s;
    for (const Parameter* p : all) s += bytes_of(p->value);
    optimizer.each_state([&](const std::string& name, Tensor& t) { s += name + bytes_of(t); });
    return s;
  }
  void save(const Path& directory, int64_t step, int keep = 2) {
    save_checkpoint(directory, {step, all, optimizer, "{\"cursor\": 17}", {{"metrics_bytes", 1000 + step}}}, keep);
  }
};

std::vector<std::string> listed(const Path& directory) {
  std::vector<std::string> names;
  for (const Path& p : list_checkpoints(directory)) names.push_back(p.filename().string());
  return names;
}

void change_manifest_sums(const Path& checkpoint) {  // as somebody would who edits a file and its manifest
  const std::string text = read_file(checkpoint / "manifest.json");
  const size_t at = text.find("\"xxh3\": \"") + 9;
  put(checkpoint / "manifest.json",
      text.substr(0, at) + checksum_text(checksum_file(checkpoint / files[0])) + text.substr(at + 16));
}

}  // namespace

TEST_CASE("what was saved is what is loaded, and training continues bit for bit") {
  const Scratch dir;
  Training a;
  for (uint64_t t = 0; t < 5; ++t) a.step(t);
  a.save(dir / "checkpoints", 5);
  const std::string saved = a.bytes();
  Training b(77);
  CHECK(b.bytes() != saved);
  const std::optional<Checkpoint> c = latest_checkpoint(dir / "checkpoints");
  REQUIRE(c);
  CHECK(c->path == dir / "checkpoints/step-000005");
  CHECK(c->step == 5);
  CHECK(c->state == "{\"cursor\": 17}");
  CHECK(c->values == std::map<std::string, int64_t>{{"metrics_bytes", 1005}});
  load_checkpoint(*c, b.all, b.optimizer);
  CHECK(b.bytes() == saved);
  for (uint64_t t = 5; t < 9; ++t) a.step(t), b.step(t);
  CHECK(a.bytes() == b.bytes());
}

TEST_CASE("equal contents give equal bytes") {
  const Scratch dir;
  Training a, b;
  a.save(dir / "a", 7);
  b.save(dir / "b", 7);
  for (const char* file : files)
    CHECK(read_file(dir / "a/step-000007" / file) == read_file(dir / "b/step-000007" / file));
}

TEST_CASE("the two newest are kept, one of the same step is replaced, strangers are left alone") {
  const Scratch dir;
  CHECK_FALSE(latest_checkpoint(dir / "none"));
  CHECK_FALSE(latest_checkpoint(dir.path));
  put(dir / "step-000001", "a file, not a checkpoint");
  fs::create_directory(dir / "step-best");
  fs::create_directory(dir / "step-000777.partial");  // what a killed run leaves
  Training a;
  for (int64_t step : {100, 200, 300, 999999, 1000000}) a.save(dir.path, step);
  CHECK(listed(dir.path) == std::vector<std::string>{"step-999999", "step-1000000"});  // by number, not by letter
  CHECK(fs::exists(dir / "step-000001"));
  CHECK(fs::exists(dir / "step-best"));
  CHECK_FALSE(fs::exists(dir / "step-000777.partial"));
  a.step(3);
  a.save(dir.path, 1000000);
  Training b;
  load_checkpoint(*latest_checkpoint(dir.path), b.all, b.optimizer);
  CHECK(b.bytes() == a.bytes());
  a.save(dir.path, 1000001, 1);
  CHECK(listed(dir.path) == std::vector<std::string>{"step-1000001"});
  expect_error(Exit::bad_config, "checkpoint: keep must be at least 1; got 0", [&] { a.save(dir.path, 1000002, 0); });
}

TEST_CASE("any flipped bit, cut or missing file is found and named") {
  const Scratch dir;
  Training a;
  a.step(1);
  a.save(dir.path, 100);
  a.save(dir.path, 200);
  const Path newest = dir / "step-000200";
  const std::string advice =
      "; " + (dir / "step-000100").string() + " is intact: to go on from it, remove " + newest.string();
  const Random random(3, "flips");
  for (const char* file : files) {
    const std::string name = (newest / file).string(), good = read_file(newest / file);
    for (uint64_t i = 0; i < 500; ++i) {
      std::string bad = good;
      const uint64_t bit = random.below(i, good.size() * 8);
      bad[bit / 8] = char(bad[bit / 8] ^ (1 << bit % 8));
      put(newest / file, bad);
      expect_error(Exit::bad_data, name + ": ", [&] { open_checkpoint(newest); });
      if (i % 100 == 0) expect_error(Exit::bad_data, advice, [&] { latest_checkpoint(dir.path); });
    }
    for (size_t length : {size_t(0), good.size() / 2, good.size() - 1}) {
      put(newest / file, good.substr(0, length));
      expect_error(Exit::bad_data, name + ": ", [&] { open_checkpoint(newest); });
    }
    put(newest / file, good + "\n");
    expect_error(Exit::bad_data, name + ": ", [&] { open_checkpoint(newest); });
    fs::remove(newest / file);
    expect_error(Exit::bad_data, name + ": the file is missing", [&] { open_checkpoint(newest); });
    put(newest / file, good);
  }
  CHECK(open_checkpoint(newest).step == 200);
  CHECK(open_checkpoint(newest).weights == checksum_text(checksum_file(newest / "model.safetensors")));
  put(dir / "step-000100/state.json", "{}");
  put(newest / "state.json", "{}");
  expect_error(
      Exit::bad_data,
      "state.json: 14 bytes are wanted; the file has 2; no older checkpoint is intact: to begin again, remove " +
          dir.path.string(),
      [&] { latest_checkpoint(dir.path); });
  expect_error(Exit::no_input, "step-000300: no such checkpoint", [&] { open_checkpoint(dir / "step-000300"); });
}

TEST_CASE("a manifest must be one") {
  const Scratch dir;
  Training a;
  a.save(dir.path, 1);
  const Path path = dir / "step-000001", manifest = path / "manifest.json";
  put(manifest, "{\"step\": 1, \"step\": 2}");
  expect_error(Exit::bad_data, manifest.string() + ": the JSON key \"step\" must appear once",
               [&] { open_checkpoint(path); });
  put(manifest, "[]");
  expect_error(Exit::bad_data, manifest.string() + ": a JSON object is wanted", [&] { open_checkpoint(path); });
  const std::string body = "{\n  \"format\": 2\n}";
  put(manifest,
      "{\n  \"checksum\": \"" + checksum_text(checksum(body.data(), body.size())) + "\",\n  \"format\": 2\n}\n");
  expect_error(Exit::bad_data, manifest.string() + ": a manifest of format 1 is wanted",
               [&] { open_checkpoint(path); });
  expect_error(Exit::bad_data, "checkpoint: state: a JSON object is wanted", [&] {
    save_checkpoint(dir.path, {2, a.all, a.optimizer, "17", {}}, 2);
  });
}

TEST_CASE("whatever call fails while saving, the older checkpoint loads and the message names a file") {
  const Scratch dir;
  Training a;
  a.save(dir.path, 100, 1);
  const std::string old = a.bytes();
  a.step(1);
  const std::string fresh = a.bytes();
  int failures = 0;
  for (const auto& [call, error] : {std::pair<std::string, int>{"open", EMFILE},
                                    {"write", ENOSPC},
                                    {"fsync", EIO},
                                    {"rename", EIO},
                                    {"read", EIO}}) {
    bool failed = true;
    for (int64_t nth = 1; failed; ++nth) {
      REQUIRE(nth < 200);
      inject_file_fault(call, nth, error);
      failed = false;
      try {
        a.save(dir.path, 200, 1);
      } catch (const Error& e) {
        failed = true;
        INFO(call << " " << nth << ": " << std::string(e.what()));
        CHECK((e.code == Exit::io || e.code == Exit::cannot_create));
        CHECK(std::string(e.what()).find(dir.path.string()) != std::string::npos);
      }
      inject_file_fault("", 0, 0);
      failures += failed;
      const std::optional<Checkpoint> c = latest_checkpoint(dir.path);
      REQUIRE(c);
      Training b(5);
      load_checkpoint(*c, b.all, b.optimizer);
      CHECK(b.bytes() == (c->step == 100 ? old : fresh));
      if (!failed) CHECK(c->step == 200);
      fs::remove_all(dir.path);  // begin again from the older one
      Training first;
      first.save(dir.path, 100, 1);
    }
  }
  CHECK(failures > 40);
}

TEST_CASE("short writes are completed") {
  const Scratch dir;
  Training a;
  for (int64_t nth = 1; nth <= 8; ++nth) {
    inject_file_fault("write", nth, 0);
    a.save(dir.path, nth);
    inject_file_fault("", 0, 0);
    CHECK(open_checkpoint(dir / fmt::format("step-{:06}", nth)).step == nth);
  }
}

TEST_CASE("tensors that are missing, surplus, misshapen or not finite are named") {
  const Scratch dir;
  Training a;
  const Path path = dir / "m.safetensors";
  const auto with = [&](std::vector<std::pair<std::string, Tensor>> tensors, const std::string& why) {
    write_safetensors(path, tensors);
    expect_error(Exit::bad_data, path.string() + ": " + why, [&] { load_model(path, a.all); });
  };
  const std::pair<std::string, Tensor> e{"embedding.weight", drawn({5, 3}, Dtype::f32, 1)},
      s{"layers.0.mixer.A_log_base", drawn({}, Dtype::f32, 2)}, f{"layers.0.mixer.dt_bias", drawn({4}, Dtype::f32, 3)};
  with({e, s}, "tensor \"layers.0.mixer.dt_bias\" is missing");
  with({e, s, f, {"x", drawn({2}, Dtype::f32, 1)}, {"y", drawn({2}, Dtype::f32, 1)}},
       "tensor 'x' is not part of this model (2 such tensors)");
  with({e, s, {f.first, drawn({2, 2}, Dtype::f32, 1)}},
       "tensor 'layers.0.mixer.dt_bias': shape must be [4]; got [2,2]");
  with({e, s, {f.first, drawn({1, 4}, Dtype::f32, 1)}},
       "tensor 'layers.0.mixer.dt_bias': shape must be [4]; got [1,4]");
  with({e, s, {f.first, from_host<int32_t>(cpu(), {4}, std::vector<int32_t>(4))}},
       "tensor 'layers.0.mixer.dt_bias': dtype must be a float; got I32");
  for (double bad : {double(NAN), double(INFINITY), -double(INFINITY)})
    for (Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16})
      with({e, s, {f.first, from_doubles(cpu(), {4}, dtype, std::vector<double>{1, 2, bad, 3})}},
           "tensor 'layers.0.mixer.dt_bias': finite values are wanted; element 2 is ");
  expect_error(Exit::no_input, "none: no such file", [&] { load_model(dir / "none", a.all); });
}

TEST_CASE("a NaN behind good checksums is still found") {
  const Scratch dir;
  Training a, b;
  a.save(dir.path, 1);
  const Path model = dir / "step-000001/model.safetensors";
  write_safetensors(model, {{"embedding.weight", full(cpu(), {5, 3}, Dtype::f32, NAN)},
                            {"layers.0.mixer.A_log_base", drawn({}, Dtype::f32, 2)},
                            {"layers.0.mixer.dt_bias", drawn({4}, Dtype::f32, 3)}});
  expect_error(Exit::bad_data,
               model.string() + ": tensor 'embedding.weight': finite values are wanted; element 0 is nan", [&] {
                 load_checkpoint({.path = dir / "step-000001", .step = 1, .weights = "", .state = "{}", .values = {}}, b.all, b.optimizer);
               });
  change_manifest_sums(dir / "step-000001");  // a hand-edited manifest fails by its own checksum
  expect_error(Exit::bad_data, "manifest.json: its checksum does not match",
               [&] { open_checkpoint(dir / "step-000001"); });
}

TEST_CASE("a model file: the specification's layout, dtypes converted, a tied head tolerated if it is tied") {
  const Scratch dir;
  Training a, b(9);
  save_model(dir / "m", a.all);
  const SafetensorsFile file(dir / "m");
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  CHECK(file.names() ==
        std::vector<std::string>{"embedding.weight", "layers.0.mixer.A_log_base", "layers.0.mixer.dt_bias"});
  for (const std::string& name : file.names()) CHECK(file.info(name).dtype == "F32");
  CHECK(file.info("layers.0.mixer.A_log_base").shape == Shape{});
  load_model(dir / "m", b.all);
  CHECK(bytes_of(b.embedding.value) == bytes_of(a.embedding.value));

  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const Parameter* p : a.all) tensors.emplace_back(p->name, p->value);
  for (const char* head : {"lm_head.weight", "head.weight"}) {
    auto tied = tensors;
    tied.emplace_back(head, a.embedding.value);
    write_safetensors(dir / "tied", tied);
    load_model(dir / "tied", b.all);
    tied.back().second = drawn({5, 3}, Dtype::f32, 50);
    write_safetensors(dir / "untied", tied);
    expect_error(Exit::bad_data,
                 std::string("tensor '") + head + "' must equal 'embedding.weight' (the head is tied); it differs",
                 [&] { load_model(dir / "untied", b.all); });
  }

  for (Dtype from : {Dtype::f64, Dtype::bf16})
    for (Dtype to : {Dtype::f32, Dtype::f64}) {
      Parameter p;
      p.name = "w", p.value = zeros(cpu(), {1000}, to);
      const Tensor stored = drawn({1000}, from, 4);
      write_safetensors(dir / "w", {{"w", stored}});
      load_model(dir / "w", {&p});
      CHECK(bytes_of(p.value) == bytes_of(from_doubles(cpu(), {1000}, to, to_doubles(stored))));
    }
}
