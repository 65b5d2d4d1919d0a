// eval --by-position: the real binary; numbers that agree with eval's own, and refusals.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "tests/apps/tiny.h"

using namespace taper;
using namespace taper::test;

TEST_CASE("eval --by-position: to 16 times the training length, the same losses as held-out evaluation, spectra") {
  const Tiny t;
  const Ended trained = run(t, t.train("r", {"--set", "data.documents=carry"}));
  REQUIRE_MESSAGE(trained.code == 0, trained.err);
  const std::vector<std::string> eval{"eval", t.dir("r"), "--device", "cpu", "--tokens", "3000"};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> a = eval;
    a.insert(a.end(), more.begin(), more.end());
    return a;
  };
  const Ended e = run(t, with({"--by-position", "--json", "--targets", "20"}));
  REQUIRE_MESSAGE(e.code == 0, e.err);
  const auto j = nlohmann::json::parse(e.out);
  CHECK(j["training_length"] == 32);
  CHECK(j["length"] == 512);
  CHECK(j["by_position"].back()["end"] == 513);
  const auto plain = nlohmann::json::parse(run(t, with({"--length", "512", "--json"})).out)["results"][0]["by_position"];
  REQUIRE(plain.size() == j["by_position"].size());
  for (size_t i = 0; i < plain.size(); ++i) {
    CHECK(plain[i]["tokens"] == j["by_position"][i]["tokens"]);
    CHECK(plain[i]["perplexity"].get<double>() == doctest::Approx(j["by_position"][i]["perplexity"].get<double>()).epsilon(1e-5));
  }
  REQUIRE(j["by_context"].size() == 6);
  CHECK(j["by_context"][0]["context"] == 16);
  CHECK(j["by_context"][5]["above_longest"] == 0.0);
  REQUIRE(j["by_distance"].size() == 4);  // 32, 64, 128, 256: two passages of 32 and 512 do not fit
  CHECK(j["by_distance"][3]["distance"] == 256);
  CHECK(j["by_distance"][3]["gain"].get<double>() ==
        doctest::Approx(j["by_distance"][3]["unseen_loss"].get<double>() - j["by_distance"][3]["loss"].get<double>()).epsilon(1e-9));
  CHECK(j["passages"] == 20);
  REQUIRE(j["layers"].size() == 2);
  CHECK(j["layers"][0]["time_constant"].size() == 4);
  CHECK(j["layers"][0]["least_gap"].get<double>() > 0);
  CHECK(j["layers"][0]["drift"].get<double>() > 0);
  CHECK(j["layers"][0]["drift"].get<double>() < 1);

  const auto only_file = [&](const Path& in) {
    std::vector<Path> files;
    for (const auto& f : fs::directory_iterator(in))
      if (f.path().filename().string().starts_with("by_position_20")) files.push_back(f.path());
    REQUIRE(files.size() == 1);
    return files[0];
  };
  CHECK(nlohmann::json::parse(read_file(only_file(t / "r" / "evaluations"))) == j);
  REQUIRE(run(t, {"report", t.dir("r")}).code == 0);
  const std::string page = read_file(t / "r" / "report.html");
  CHECK(page.find("windows of 512 tokens, one document behind another") != std::string::npos);
  CHECK(page.find("trained at 32</text>") != std::string::npos);
  const Ended elsewhere = run(t, with({"--by-position", "--length", "64", "--targets", "3", "--output", t.dir("out")}));
  REQUIRE_MESSAGE(elsewhere.code == 0, elsewhere.err);
  std::vector<Path> models;
  for (const auto& model : fs::directory_iterator(t / "out")) models.push_back(model.path());
  REQUIRE(models.size() == 1);
  CHECK(elsewhere.out.ends_with(only_file(models[0]).string() + "\n"));
  write_file(t / "file", "");
  refuses(t, with({"--by-position", "--output", t.dir("file")}), 73, "eval: cannot create " + t.dir("file") + "/");

  const Ended table = run(t, with({"--by-position", "--length", "128", "--contexts", "8", "128", "--targets", "5", "--documents", "reset"}));
  CHECK(table.code == 0);
  for (const char* text : {"windows of 128; documents: reset", "effective context: ", "recall: a passage of 32 tokens again", "time constants"})
    CHECK(table.out.find(text) != std::string::npos);
  refuses(t, with({"--by-position", "--length", "64", "128"}), 2, "eval: --by-position wants one --length; got 2");
  refuses(t, {"eval", t.dir("r"), "--by-position", "--tasks", "piqa"}, 2, "eval: --by-position and --tasks are two evaluations; give one");
  refuses(t, with({"--by-position", "--length", "3001"}), 65, "eval: a context of 3001 tokens wants a text that long in the held-out data");
  refuses(t, with({"--by-position", "--length", "64", "--contexts", "65"}), 2, "eval: --contexts must lie in [1,64], the window; got 65 to 65");
}
