// audit, the real binary: what it proves of each architecture, what it prints, and what it says of bad input.
#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "nn/config.h"
#include "tests/apps/tiny.h"

using namespace taper;
using namespace taper::test;

namespace {

const std::string smoke = std::string(TAPER_SOURCE_DIR) + "/configs/smoke.toml";

nlohmann::json audited(const Scratch& s, const std::vector<std::string>& options, int code = 0) {
  std::vector<std::string> arguments{"--json", "audit", smoke};
  arguments.insert(arguments.end(), options.begin(), options.end());
  const Ended e = run(s, arguments);
  CAPTURE(e.err);
  REQUIRE(e.code == code);
  return nlohmann::json::parse(e.out);
}

}  // namespace

TEST_CASE("audit: the whole proof of every architecture, baseline and +PoST") {
  const Scratch s;
  for (const std::string& arch : architectures())
    for (const char* post : {"false", "true"}) {
      CAPTURE(arch + " post=" + post);
      const char* layers = arch == "rwkv7" ? "model.layers=2" : "model.layers=1";  // rwkv7's second mixes in values of the first
      const auto out = audited(s, {"--set", layers, "--set", "model.arch=" + arch, "--set", std::string("model.post=") + post,
                                   "--set", "model.vocab=11", "--batch", "1", "--length", "9", "--directions", "1", "--splits", "4"});
      CHECK(out["pass"] == true);
      CHECK(out["gradcheck"]["worst"] <= 1e-6);
      CHECK(out["gradcheck"]["checks"] >= 10);
      CHECK(out["decode"]["worst"] <= 1e-10);
      if (std::string(post) == "false") {
        CHECK_FALSE(out.contains("paths"));
        continue;
      }
      // Each path is cut where it is alone: without and through add up to the whole, and where a leaf has two paths both count.
      CHECK(out["paths"].size() == (arch == "rwkv7" ? 4 : 3));
      CHECK(out["cut"].size() == out["paths"].size());
      for (const auto& part : out["cut"]) {
        CHECK(part["error"] <= 1e-12);
        CHECK(part["through"] > 0);
        const bool alone = arch != "rwkv7" && part["parameter"].get<std::string>().ends_with("base");
        CHECK((part["without"] > 0) == !alone);
      }
      const auto reaches_alpha = [&](const std::string& leaf) {
        return std::ranges::any_of(out["paths"], [&](const std::string& path) { return path.find(leaf) != path.npos && path.find("alpha") != path.npos; });
      };
      CHECK(reaches_alpha("base") == (arch == "rwkv7"));  // theta moves alpha in RWKV-7 alone
      CHECK(reaches_alpha("delta"));
    }
}

TEST_CASE("audit: every golden file of the reference passes") {
  const Scratch s;
  std::vector<std::string> arguments{"audit", "--golden"};
  for (const auto& entry : std::filesystem::directory_iterator(std::string(TAPER_SOURCE_DIR) + "/tests/golden"))
    if (entry.path().extension() == ".safetensors") arguments.push_back(entry.path().string());
  const Ended e = run(s, arguments);
  CHECK(e.code == 0);
  CHECK(std::ranges::count(e.out, '\n') == 9);
  for (const char* name : {"mamba2", "mamba2_post", "gdn", "gdn_post", "rwkv7", "rwkv7_post", "gla", "gla_post", "retnet"})
    CHECK(e.out.find("\"case\":\"" + std::string(name) + "\"") != std::string::npos);
}

TEST_CASE("audit: what no model has is refused") {
  const Scratch s;
  const auto refuses = [&](const std::vector<std::string>& options, int code, const std::string& message) {
    std::vector<std::string> arguments{"audit", smoke};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const Ended e = run(s, arguments);
    CHECK(e.code == code);
    CHECK_MESSAGE(e.err.find(message) != std::string::npos, e.err);
  };
  refuses({"--set", "model.post=false", "--paths", "theta"}, 2, "audit: no parameter 'theta' has a gradient in layer 0's mixer of mamba2");
  refuses({"--set", "model.arch=gla", "--set", "model.heads=3"}, 78, "model: heads must divide 8, the width of gla's heads at d_model 16; got 3");
  refuses({"--cut", "layers.0.mixer/nothing.x"}, 2, "layers.0.mixer/nothing.x");
}
