// `taper train`, the real binary: the run directory, resuming after every kind of end, signals, divergence.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "apps/config.h"
#include "apps/trained.h"
#include "nn/checkpoint.h"
#include "tests/apps/tiny.h"

using namespace taper;
using namespace taper::test;

namespace {

std::string weights(const Tiny& t, const std::string& run) {
  return read_file(Path(t.dir(run)) / "checkpoints/step-000040/model.safetensors");
}
std::string metrics(const Tiny& t, const std::string& run) { return read_file(Path(t.dir(run)) / "metrics.jsonl"); }
std::string spectra(const Tiny& t, const std::string& run) { return read_file(Path(t.dir(run)) / "spectra.jsonl"); }
int lines(const std::string& text) { return int(std::ranges::count(text, '\n')); }

}  // namespace

TEST_CASE("train: a run leaves its configuration, reproducible metrics, timings and the newest checkpoints") {
  const Tiny t;
  const Ended e = run(t, t.train("a", {"--json"}));
  REQUIRE_MESSAGE(e.code == 0, e.err);
  CHECK(e.out.starts_with("{\"run\":"));
  CHECK(e.err.find("40/40 | loss ") != std::string::npos);
  CHECK(e.err.find("parameters | 128 tokens per step | 40 steps") != std::string::npos);
  CHECK(e.err.find('\r') == std::string::npos);  // not a terminal
  const Config c = load_config(Path(t.dir("a")) / "config.toml");
  CHECK(c.model.vocab == 257);
  CHECK(c.data.tokenizer == "bytes:v1");
  CHECK(parse_config(write_config(c), "again") == c);
  const std::string m = metrics(t, "a");
  CHECK(lines(m) == 1 + 13 + 1 + 3);  // step 1; every third; the last; evaluations at 15, 30, 40
  CHECK(m.find("\"step\":40,\"eval\":{\"tokens\":500,\"loss\":") != std::string::npos);
  const auto eval = nlohmann::json::parse(m.substr(m.rfind("{\"step\":40,\"eval\"")))["eval"];
  REQUIRE(eval["by_position"].size() == 6);  // 1, 2-3, 4-7, 8-15, 16-31, 32: the mean of their losses is the loss
  CHECK(eval["by_position"][5]["begin"] == 32);
  CHECK(eval["by_position"][5]["end"] == 33);
  double nll = 0, tokens = 0;
  for (const auto& b : eval["by_position"]) nll += b["tokens"].get<double>() * b["loss"].get<double>(), tokens += b["tokens"].get<double>();
  CHECK(tokens == 500);
  CHECK(nll / tokens == doctest::Approx(eval["loss"].get<double>()).epsilon(1e-9));
  CHECK(lines(read_file(Path(t.dir("a")) / "timings.jsonl")) == 15);
  const auto kept = list_checkpoints(Path(t.dir("a")) / "checkpoints");
  REQUIRE(kept.size() == 2);
  CHECK(kept[0].filename() == "step-000035");
  CHECK(kept[1].filename() == "step-000040");

  // The same again, on another number of threads, somewhere else: the same bytes.
  REQUIRE(run(t, t.train("b", {"--threads", "3"})).code == 0);
  CHECK(metrics(t, "b") == m);
  CHECK(spectra(t, "b") == spectra(t, "a"));
  CHECK(weights(t, "b") == weights(t, "a"));

  SUBCASE("a finished run resumes to nothing") {
    CHECK(run(t, t.train("a", {"--resume"})).code == 0);
    CHECK(metrics(t, "a") == m);
  }
  SUBCASE("an existing directory is refused, and untouched") {
    const Ended again = run(t, t.train("a"));
    CHECK(again.code == 73);
    CHECK(again.err.find("a: exists already; give --resume to continue it, or another run.dir") != std::string::npos);
    CHECK(metrics(t, "a") == m);
  }
  SUBCASE("resuming with another configuration is refused and names the key") {
    const Ended again = run(t, t.train("a", {"--resume", "--set", "optimizer.lr=0.5"}));
    CHECK(again.code == 78);
    CHECK(again.err.find("optimizer.lr was 0.01 and is now 0.5; a resumed run keeps its configuration") != std::string::npos);
    CHECK(run(t, t.train("a", {"--resume", "--set", "train.steps=50"})).code == 78);
    CHECK(run(t, t.train("a", {"--resume", "--set", "checkpoint.keep=1", "--set", "log.every=1"})).code == 0);
  }
  SUBCASE("a flipped bit in a checkpoint is found") {
    flip_bit(Path(t.dir("a")) / "checkpoints/step-000040/optimizer.safetensors", 0.7);
    const Ended again = run(t, t.train("a", {"--resume"}));
    CHECK(again.code == 65);
    CHECK(again.err.find("step-000040/optimizer.safetensors: checksum ") != std::string::npos);
    CHECK(again.err.find("step-000035 is intact: to go on from it, remove ") != std::string::npos);
    fs::remove_all(Path(t.dir("a")) / "checkpoints/step-000040");
    CHECK(run(t, t.train("a", {"--resume"})).code == 0);
    CHECK(metrics(t, "a") == m);
    CHECK(weights(t, "a") == weights(t, "b"));
  }
  SUBCASE("a NaN in a checkpoint is refused, whatever the checksums say") {
    Device& cpu = open_device("cpu");
    const Path newest = Path(t.dir("a")) / "checkpoints/step-000040";
    Trained trained = load_trained(newest, cpu);
    AdamW optimizer({}, trained.model->parameters());
    std::vector<double> values = to_doubles(trained.model->norm_f.weight.value);
    values[3] = std::nan("");
    copy_into(trained.model->norm_f.weight.value, from_doubles(cpu, {16}, Dtype::f32, values));
    save_checkpoint(newest.parent_path(), {.step = 41, .parameters = trained.model->parameters(), .optimizer = optimizer,
                                           .state = trained.checkpoint.state, .values = trained.checkpoint.values}, 5);
    const Ended again = run(t, t.train("a", {"--resume"}));
    CHECK(again.code == 65);
    CHECK(again.err.find("model.safetensors: tensor 'norm_f.weight': finite values are wanted; element 3 is nan") != std::string::npos);
    CHECK(run(t, {"generate", t.dir("a")}).code == 65);
  }
  SUBCASE("a checkpoint without its state, and logs cut short") {
    truncate_file(Path(t.dir("a")) / "metrics.jsonl", 100);
    const Ended again = run(t, t.train("a", {"--resume"}));
    CHECK(again.code == 65);
    CHECK(again.err.find("metrics.jsonl: truncated: ") != std::string::npos);
  }
}

TEST_CASE("train: killed at any moment and resumed, it ends in the same bytes") {
  const Tiny t;
  REQUIRE(run(t, t.train("whole")).code == 0);
  const auto begin = std::chrono::steady_clock::now();
  REQUIRE(run(t, t.train("time")).code == 0);
  const double length = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  int total = 0;
  std::mt19937 random(12);  // its numbers are the same everywhere
  for (int round = 0; round < 3; ++round) {
    const std::string name = "killed" + std::to_string(round);
    int kills = 0;
    for (int attempt = 0;; ++attempt) {
      REQUIRE(attempt < 50);
      Process p(t, t.train(name, {"--resume"}));
      if (kills < 3) {
        std::this_thread::sleep_for(std::chrono::duration<double>(length * double(random() % 1000) / 1000));
        p.kill(SIGKILL);
      }
      const Ended e = p.wait();
      if (e.code == 0) break;
      REQUIRE_MESSAGE(e.code == 137, e.err);
      ++kills, ++total;
    }
    CHECK(metrics(t, name) == metrics(t, "whole"));
    CHECK(spectra(t, name) == spectra(t, "whole"));
    CHECK(weights(t, name) == weights(t, "whole"));
  }
  CHECK(total >= 3);
}

TEST_CASE("train: spectra of every architecture at the start, at evaluations or else checkpoints, and at the end") {
  const Tiny t;
  for (const std::string arch : {"mamba2", "rwkv7", "gdn", "gla", "retnet"})
    for (const bool post : {false, true}) {
      const std::string name = arch + (post ? "_post" : "");
      CAPTURE(name);
      const Ended e =
          run(t, t.train(name, {"--set", "model.arch=" + arch, "--set", "model.post=" + std::string(post ? "true" : "false"), "--set", "model.head_dim=0",
                                "--set", "train.steps=9", "--set", post ? "eval.every=4" : "eval.every=0", "--set", "checkpoint.every=3"}));
      REQUIRE_MESSAGE(e.code == 0, e.err);
      std::vector<int64_t> steps;
      nlohmann::json last;
      std::istringstream all(spectra(t, name));
      for (std::string line; std::getline(all, line);) last = nlohmann::json::parse(line), steps.push_back(last["step"]);
      CHECK(steps == (post ? std::vector<int64_t>{0, 4, 8, 9} : std::vector<int64_t>{0, 3, 6, 9}));
      CHECK(last["tokens"] == 9 * 128);
      // The last line is what `taper info` says of the last checkpoint, to six digits.
      const auto info = nlohmann::json::parse(run(t, {"--json", "info", t.dir(name)}).out)["layers_learned"];
      REQUIRE(last["layers"].size() == 2);
      const size_t heads = arch == "rwkv7" ? 16 : 4;
      for (size_t layer = 0; layer < 2; ++layer)
        for (const char* what : {"rate", "time_constant", "alpha"}) {
          REQUIRE(last["layers"][layer][what].size() == heads);
          for (size_t h = 0; h < heads; ++h)
            CHECK(last["layers"][layer][what][h].get<double>() == doctest::Approx(info[layer][what][h].get<double>()).epsilon(1e-5));
        }
      const auto& alpha = last["layers"][1]["alpha"];
      CHECK(alpha[0] == (post ? 1 : 0));
      CHECK(alpha[heads - 1] == 0);
    }
}

TEST_CASE("train: Ctrl-C and SIGTERM save and exit 75; resumed, nothing is lost") {
  const Tiny t;
  REQUIRE(run(t, t.train("whole")).code == 0);
  for (const int signal : {SIGINT, SIGTERM}) {
    const std::string name = "stopped" + std::to_string(signal);
    Process p(t, t.train(name, {"--set", "checkpoint.every=0"}));
    REQUIRE(p.says("step  3/40"));
    p.kill(signal);
    const Ended e = p.wait();
    CHECK(e.code == 75);
    CHECK(e.err.find("train: stopped by signal " + std::to_string(signal) + " after step ") != std::string::npos);
    CHECK(e.err.find("; --resume continues") != std::string::npos);
    REQUIRE(list_checkpoints(Path(t.dir(name)) / "checkpoints").size() == 1);
    REQUIRE(run(t, t.train(name, {"--resume"})).code == 0);
    CHECK(metrics(t, name) == metrics(t, "whole"));
    CHECK(spectra(t, name) == spectra(t, "whole"));
    CHECK(weights(t, name) == weights(t, "whole"));
  }
}

TEST_CASE("train: a second signal ends at once, and the last checkpoint is whole") {
  const Tiny t;
  // Steps long enough that the second signal comes within the one that the first interrupted.
  Process p(t, t.train("a", {"--set", "train.batch=200", "--set", "train.accumulate=8", "--set", "log.every=1", "--set", "checkpoint.every=1"}));
  REQUIRE(p.says("step  2/40"));
  p.kill(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  p.kill(SIGTERM);
  const Ended e = p.wait();
  // Both may come at once on a busy machine, and then in either order.
  CHECK((e.code == 143 || e.code == 130));
  const auto last = latest_checkpoint(Path(t.dir("a")) / "checkpoints");  // verifies every byte
  REQUIRE(last.has_value());
  CHECK(last->step >= 1);
}

TEST_CASE("train: a run that diverges stops with 86 and names the first bad tensor") {
  const Tiny t;
  const Ended e = run(t, t.train("a", {"--set", "optimizer.lr=1e30", "--set", "schedule.warmup=0"}));
  CHECK(e.code == 86);
  CHECK(e.err.find("train: 5 steps in a row were not finite (now at step 6); no weight has changed since; the first bad tensor: layers.0") !=
        std::string::npos);
  CHECK(e.err.find("(forward, step 4, micro-batch 1); lower optimizer.lr") != std::string::npos);
  CHECK(metrics(t, "a").find("\"loss\":null") != std::string::npos);
}

TEST_CASE("train: two processes do not share a run") {
  const Tiny t;
  Process p(t, t.train("a", {"--set", "train.batch=200"}));
  REQUIRE(p.says("step  1/40"));
  const Ended e = run(t, t.train("a", {"--resume", "--set", "train.batch=200"}));
  CHECK(e.code == 73);
  CHECK(e.err.find("a: another process is training it") != std::string::npos);
}

TEST_CASE("train: a dry run touches nothing and needs no data when the vocabulary is given") {
  const Tiny t;
  const Ended e = run(t, t.train("a", {"--dry-run"}));
  CHECK(e.code == 0);
  CHECK(!fs::exists(t.dir("a")));
  CHECK(e.out.find("layers.1.mixer.A_log_deltas") != std::string::npos);
  CHECK(e.out.find("[optimizer]\nlr = 0.01\n") != std::string::npos);
  CHECK(e.out.find("resident ") != std::string::npos);
  const Ended without = run(t, t.train("a", {"--dry-run", "--json", "--set", "data.train=nowhere", "--set", "model.vocab=300"}));
  CHECK(without.code == 0);
  CHECK(without.out.find("\"flops_per_token\":") != std::string::npos);
}

// The sanitizers' own memory is not the program's.
extern "C" {
[[gnu::weak]] void __asan_init();
[[gnu::weak]] void __tsan_init();
}

TEST_CASE("train: the dry run predicts the resident memory within 15%") {
  if (__asan_init != nullptr || __tsan_init != nullptr) return;
  const Tiny t;
  std::vector<std::string> set;
  for (const char* s : {"model.d_model=256", "model.heads=8", "model.head_dim=64", "model.d_state=32", "data.sequence=256", "train.batch=4",
                        "train.steps=3", "eval.tokens=4096"})
    set.insert(set.end(), {"--set", s});
  auto dry = set;
  dry.insert(dry.end(), {"--dry-run", "--json"});
  const Ended plan = run(t, t.train("a", dry)), real = run(t, t.train("a", set));
  REQUIRE_MESSAGE(real.code == 0, real.err);
  const size_t at = plan.out.find("\"resident_bytes\":");
  REQUIRE(at != std::string::npos);
  const double predicted = std::stod(plan.out.substr(at + 17)), measured = double(real.peak_bytes);
  MESSAGE("predicted " << predicted / 1e6 << " MB, measured " << measured / 1e6 << " MB");
  CHECK(predicted > 0.85 * measured);
  CHECK(predicted < 1.15 * measured);
}
