// convert, the real binary: all ten models out and back, what evaluates and generates afterwards, and what is refused.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "nn/checkpoint.h"
#include "nn/config.h"
#include "tests/apps/tiny.h"

using namespace taper;
using namespace taper::test;

namespace {

std::string done(const Scratch& s, const std::vector<std::string>& arguments) {
  const Ended e = run(s, arguments);
  REQUIRE_MESSAGE(e.code == 0, e.err);
  return e.out;
}

struct Converted : Tiny {
  // A run of two steps.
  std::string trained(const std::string& arch, bool post) const {
    const std::string name = arch + (post ? "_post" : "");
    std::vector<std::string> a =
        train(name, {"--set", "model.arch=" + arch, "--set", std::string("model.post=") + (post ? "true" : "false"), "--set",
                     "model.head_dim=0", "--set", "train.steps=2", "--set", "eval.every=0"});
    done(*this, a);
    return dir(name);
  }
  std::string convert(const std::string& from, const std::string& to, const std::string& out,
                      std::vector<std::string> more = {}) const {
    std::vector<std::string> a{"convert", from, "--to", to, "--out", dir(out)};
    a.insert(a.end(), more.begin(), more.end());
    done(*this, a);
    return dir(out);
  }
  std::string loss(const std::string& run_dir) const {
    return nlohmann::json::parse(done(
        *this, {"eval", run_dir, "--data", data(), "--length", "32", "--tokens", "500", "--batch", "4", "--json"}))["results"]
        .dump();
  }
};

std::string bytes(const std::string& dir, const std::string& file) { return read_file(Path(dir) / file); }

}  // namespace

TEST_CASE("convert: all ten models out and back: the same bytes, the same losses, the same config.json") {
  const Converted t;
  for (const std::string& arch : architectures())
    for (const bool post : {false, true}) {
      const std::string ours = t.trained(arch, post), name = Path(ours).filename().string(), losses = t.loss(ours);
      const std::string weights = bytes(ours, "checkpoints/step-000002/model.safetensors");
      for (const std::string to : {"post", "fla"}) {
        if (to == "fla" ? post : !post && (arch == "gla" || arch == "retnet")) continue;
        INFO(name << " to " << to);
        const std::string theirs = t.convert(ours, to, name + "." + to);
        const std::string back = t.convert(theirs, "taper", name + "." + to + ".back", {"--tokenizer", "bytes"});
        CHECK(bytes(back, "checkpoints/step-000000/model.safetensors") == weights);
        CHECK(t.loss(back) == losses);
        // Again from there, and from itself: no byte differs.
        const std::string again = t.convert(back, to, name + "." + to + ".again"),
                          same = t.convert(theirs, to, name + "." + to + ".same");
        for (const char* file : {"model.safetensors", "config.json"}) {
          CHECK(bytes(again, file) == bytes(theirs, file));
          CHECK(bytes(same, file) == bytes(theirs, file));
        }
      }
    }
}

TEST_CASE("convert: what it writes is a checkpoint like any other") {
  const Converted t;
  const std::string ours = t.trained("gdn", true), theirs = t.convert(ours, "post", "theirs"),
                    back = t.convert(theirs, "taper", "back");
  const std::string checkpoint = back + "/checkpoints/step-000000";
  CHECK(done(t, {"info", back}).find("step: 0") != std::string::npos);
  const std::vector<std::string> generate{"generate", "", "--prompt", "the ", "--tokens", "20", "--seed", "3"};
  auto a = generate, b = generate;
  a[1] = ours;
  b[1] = checkpoint;
  CHECK(done(t, a) == done(t, b));  // the tokenizer of bytes, because the vocabulary is its own
  CHECK(done(t, {"audit", back + "/config.toml", "--paths", "theta"}).starts_with("layers.0.mixer.A_log_base > "));
  refuses(t, t.train("back", {"--resume"}), 78, "a resumed run keeps its configuration");
  CHECK(nlohmann::json::parse(done(t, {"convert", back, "--to", "taper", "--out", t.dir("copy"), "--json"}))["arch"] == "gdn");
  CHECK(bytes(t.dir("copy"), "checkpoints/step-000000/model.safetensors") == bytes(checkpoint, "model.safetensors"));
}

TEST_CASE("convert: --dtype, and only then") {
  const Converted t;
  const std::string ours = t.trained("mamba2", true), half = t.convert(ours, "post", "half", {"--dtype", "bf16"});
  CHECK(bytes(half, "config.json").find("\"dtype\": \"bfloat16\"") != std::string::npos);
  const std::string header = bytes(half, "model.safetensors").substr(0, 2000);
  CHECK(header.find("\"embedding.weight\":{\"dtype\":\"BF16\"") != std::string::npos);
  CHECK(header.find("\"layers.0.mixer.A_log_deltas\":{\"dtype\":\"F32\"") !=
        std::string::npos);  // bf16 could not tell the decays apart
  CHECK(header.find("\"layers.0.mixer.dt_bias\":{\"dtype\":\"F32\"") != std::string::npos);
  const std::string back = t.convert(half, "taper", "back");
  t.loss(back);
  CHECK(bytes(t.convert(back, "post", "again"), "model.safetensors") == bytes(half, "model.safetensors"));
  CHECK(bytes(t.convert(half, "post", "whole", {"--dtype", "f32"}), "config.json").find("\"dtype\": \"float32\"") !=
        std::string::npos);
  const std::string whole = t.dir("whole");
  CHECK(bytes(whole, "model.safetensors").find("BF16") == std::string::npos);
  CHECK(bytes(t.convert(whole, "post", "half2", {"--dtype", "bf16"}), "model.safetensors") == bytes(half, "model.safetensors"));
}

TEST_CASE("convert: unknown keys stop it, or are carried there and back") {
  const Converted t;
  const std::string theirs = t.convert(t.trained("rwkv7", false), "fla", "theirs");
  const Path config = Path(theirs) / "config.json";
  nlohmann::json all = nlohmann::json::parse(read_file(config));
  all["my_note"] = {{"a", 1.5}};
  all["bos_token_id"] = 7;
  write_file(config, all.dump());
  refuses(t, {"convert", theirs, "--to", "taper", "--out", t.dir("x")}, 78,
          "config.json: \"my_note\" is no key of rwkv7 that taper knows; what it means for the model is not known; --lenient "
          "carries it along");
  CHECK(!fs::exists(t.dir("x")));
  const Ended e = run(t, {"convert", theirs, "--to", "taper", "--out", t.dir("x"), "--lenient", "--tokenizer", "bytes"});
  CHECK(e.code == 0);
  CHECK(e.err.find("taper: warning: ") == 0);
  CHECK(e.err.find("\"my_note\" is no key of rwkv7 that taper knows; carried along, where the dialect stays fla") !=
        std::string::npos);
  CHECK(bytes(t.convert(t.dir("x"), "fla", "y"), "config.json") == all.dump());
  const auto post = nlohmann::json::parse(bytes(t.convert(theirs, "post", "z", {"--lenient"}), "config.json"));
  CHECK(post["bos_token_id"] == 7);
  CHECK(!post.contains("my_note"));
}

TEST_CASE("convert: what cannot be, in one line") {
  const Converted t;
  const std::string ours = t.trained("mamba2", true), theirs = t.convert(ours, "post", "theirs");
  const auto convert = [&](const std::string& from, const std::string& to, const std::string& out) {
    return std::vector<std::string>{"convert", from, "--to", to, "--out", t.dir(out)};
  };
  refuses(t, {"convert", ours, "--to", "gguf", "--out", t.dir("x")}, 2, "--to");
  refuses(t, {"convert", ours, "--to", "post"}, 2, "--out is required");
  refuses(t, convert(t.dir("nowhere"), "post", "x"), 66, "nowhere: no such checkpoint");
  refuses(t, convert(t.config(), "post", "x"), 66,
          "tiny.toml: a directory with config.json and model.safetensors is wanted; this is a file");
  refuses(t, convert(t.data(), "post", "x"), 66,
          "data: holds no checkpoint; config.json with model.safetensors, or a run or checkpoint of taper, is wanted");
  refuses(t, convert(ours, "post", "theirs"), 73, "theirs: exists; name a directory that does not");
  refuses(t, convert(ours, "taper", "x\xe9"), 2, "x\xe9: a run's directory stands in its config.toml, so that its name must be UTF-8; give another");
  refuses(t, convert(ours, "fla", "x"), 78, "convert: fla has baselines only, this is mamba2 + PoST; use --to post");
  auto tokenizer = convert(theirs, "taper", "x");
  tokenizer.insert(tokenizer.end(), {"--tokenizer", "words"});
  refuses(t, tokenizer, 78, "words");
  CHECK(!fs::exists(t.dir("x")));

  write_file(Path(theirs) / "config.json", "{\"model_type\": ");
  refuses(t, convert(theirs, "taper", "x"), 65, "theirs/config.json: valid JSON is wanted");
  fs::remove(Path(theirs) / "model.safetensors");
  refuses(t, convert(theirs, "taper", "x"), 66, "theirs: model.safetensors is missing");
  flip_bit(Path(ours) / "checkpoints/step-000002/model.safetensors", 0.7);
  refuses(t, convert(ours, "post", "x"), 65, "model.safetensors: checksum ");
  CHECK(!fs::exists(t.dir("x")));

  const std::string small = t.convert(t.trained("gdn", false), "post", "small");
  nlohmann::json all = nlohmann::json::parse(bytes(small, "config.json"));
  all["vocab_size"] = 200;
  write_file(Path(small) / "config.json", all.dump());
  refuses(t, convert(small, "taper", "x"), 65,
          "small: 1 tensor does not fit gdn of 2 layers, d_model 16, 4 heads, vocabulary 200: \"embedding.weight\" must be "
          "floats [200,16]; it is F32 [257,16]");
}
