// `taper sweep`: the runs a file asks for, going on after a stop, what is reported.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "apps/sweep_results.h"
#include "tensor/error.h"
#include "tests/apps/program.h"

using namespace taper;
using namespace taper::test;

namespace {

const char* model =
    "[run]\ndevice = \"cpu\"\n[model]\nwiring = \"mqar\"\nd_model = 16\nheads = 2\nlayers = 1\n[data]\ntask = \"mqar\"\nsequence = 32\n"
    "[mqar]\nvocab = 32\npairs = [2]\nexamples = 800\neval_sequence = [32, 64]\neval_pairs = [2, 4]\neval_examples = 20\n"
    "[train]\nsteps = 40\nbatch = 4\n[eval]\nevery = 10\n[checkpoint]\nevery = 10\n[log]\nevery = 10\n";

struct Swept : Scratch {
  Swept() {
    write_file(*this / "model.toml", model);
    write_file(*this / "other.toml", model);
  }
  std::string file(const std::string& groups, const std::string& head = "") const {
    const Path path = *this / "sweep.toml";
    write_file(path, "[sweep]\ndir = \"" + (*this / "out").string() + "\"\n" + head + groups);
    return path.string();
  }
  void refused(const std::string& text, Exit code, const std::string& message) const {
    write_file(*this / "sweep.toml", text);
    try {
      load_sweep(*this / "sweep.toml");
      FAIL("was taken: ", text);
    } catch (const Error& e) {
      CAPTURE(std::string(e.what()));
      CHECK(e.code == code);
      CHECK(std::string(e.what()).find(message) != std::string::npos);
    }
  }
};

const char* two_by_two =
    "[sweep.axes]\n\"run.seed\" = [1, 2]\n[[group]]\nconfigs = [\"model.toml\", \"other.toml\"]\n[group.axes]\n\"optimizer.lr\" = [1e-2, 1e-3]\n";

}  // namespace

TEST_CASE("sweep: the runs of a file, in order, with their settings") {
  const Swept s;
  const Sweep sweep = load_sweep(s.file(std::string(two_by_two) + "[[group]]\nname = \"wide\"\nconfigs = [\"model.toml\"]\nset = [\"model.d_model=32\"]\n",
                                        "set = [\"train.steps=7\", \"model.d_model=24\"]\n"), {"train.batch=3"});
  std::vector<std::string> names;
  for (const SweepRun& r : sweep.runs) names.push_back(r.name);
  CHECK(names == std::vector<std::string>{"model-lr=0.01-seed=1", "other-lr=0.01-seed=1", "wide-model-seed=1", "model-lr=0.001-seed=1", "other-lr=0.001-seed=1",
                                          "wide-model-seed=2", "model-lr=0.01-seed=2", "other-lr=0.01-seed=2", "model-lr=0.001-seed=2",
                                          "other-lr=0.001-seed=2"});
  const SweepRun& r = sweep.runs[3];
  CHECK(r.model == "model");
  CHECK(r.values == std::vector<std::pair<std::string, std::string>>{{"optimizer.lr", "0.001"}, {"run.seed", "1"}});
  CHECK(r.set == std::vector<std::string>{"train.steps=7", "model.d_model=24", "optimizer.lr=0.001", "run.seed=1", "train.batch=3"});
  CHECK(r.config.optimizer.lr == 1e-3);
  CHECK(r.config.train.steps == 7);
  CHECK(r.config.model.d_model == 24);
  CHECK(r.config.run.dir == (s / "out/model-lr=0.001-seed=1").string());
  CHECK(sweep.runs[2].config.model.d_model == 32);  // the group's setting beats the sweep's
  CHECK(sweep.runs[2].config.train.batch == 3);
}

TEST_CASE("sweep: mistakes in the file are named with their places") {
  const Swept s;
  s.refused("[[group]]\nconfigs = [\"model.toml\"]\n", Exit::bad_config, "a section [sweep] is wanted; it is missing");
  s.refused("[sweep]\n[[group]]\nconfigs = [\"model.toml\"]\n", Exit::bad_config, "sweep.toml:1:1: 'dir' is missing; a string is wanted");
  s.refused("[sweep]\ndir = \"x\"\n", Exit::bad_config, "one or more [[group]] are wanted");
  s.refused("[sweep]\ndir = \"x\"\n[[group]]\nconfig = [\"model.toml\"]\n", Exit::bad_config,
            "sweep.toml:4:10: no key 'config' here; known: configs, name, set, axes");
  s.refused("[sweep]\ndir = \"x\"\n[[group]]\nconfigs = []\n", Exit::bad_config, "'configs' must be an array of strings, one or more");
  s.refused("[sweep]\ndir = \"x\"\n[[group]]\nconfigs = [\"model.toml\"]\n[group.axes]\noptimizer.lr = [1]\n", Exit::bad_config,
            "axis 'optimizer' must be an array of one or more values, its name in quotes");
  s.refused("[sweep]\ndir = \"x\"\n[[group]]\nconfigs = [\"model.toml\"]\n[group.axes]\n\"run.seed\" = [1, 1]\n", Exit::bad_config,
            "axis 'run.seed' has 1 twice");
  s.refused("[sweep]\ndir = \"x\"\n[[group]]\nconfigs = [\"model.toml\", \"model.toml\"]\n", Exit::bad_config,
            "two runs are called model; give their groups a name");
  s.refused("[sweep]\ndir = \"x\"\n[[group]]\nconfigs = [\"model.toml\"]\n[group.axes]\n\"optimizer.lrr\" = [1]\n", Exit::bad_config,
            "config --set optimizer.lrr: no key 'lrr' in [optimizer]; did you mean 'lr'?");
  s.refused("[sweep]\ndir = \"x\"\n[[group]]\nconfigs = [\"none.toml\"]\n", Exit::no_input, "none.toml");
  refuses(s, {"sweep", s.file(two_by_two), "--set", "run.seed=3"}, 2, "sweep --set run.seed=3: run.seed is an axis of");
}

TEST_CASE("sweep: scores, the best of each model, seeds averaged") {
  const Swept s;
  const Sweep sweep = load_sweep(s.file(two_by_two));
  const auto wrote = [&](const std::string& name, const std::string& lines) {
    fs::create_directories(s / ("out/" + name));
    write_file(s / ("out/" + name + "/metrics.jsonl"), lines);
  };
  const auto eval = [](int step, double a, double b) {
    return fmt::format(
        "{{\"step\":{},\"eval\":[{{\"length\":32,\"pairs\":2,\"loss\":1,\"accuracy\":{}}},{{\"length\":64,\"pairs\":4,\"loss\":1,\"accuracy\":{}}}]}}\n", step,
        a, b);
  };
  wrote("model-lr=0.01-seed=1", "{\"step\":1,\"tokens\":4,\"loss\":2,\"norm\":1,\"lr\":1}\n" + eval(10, 0.5, 0.25) + eval(20, 0.75, 0.5) + eval(30, 0.5, 0.5));
  wrote("model-lr=0.01-seed=2", eval(10, 0.25, 0.0) + "{\"step\":20,\"ev");  // being written
  wrote("model-lr=0.001-seed=1", eval(10, 0.625, 0.125));                    // 37.5 %: as good as the mean of 62.5 and 12.5
  wrote("model-lr=0.001-seed=2", eval(10, 0.625, 0.375));                    // 50 %
  std::vector<SweepOutcome> outcomes;
  for (const SweepRun& r : sweep.runs) outcomes.push_back(read_outcome(sweep, r));
  CHECK(outcomes[0].state == SweepOutcome::State::begun);
  CHECK(outcomes[0].step == 30);
  CHECK(outcomes[0].best()->step == 20);
  CHECK(outcomes[0].best()->score == 0.625);
  CHECK(outcomes[1].state == SweepOutcome::State::waiting);
  CHECK(outcomes[1].best() == nullptr);
  CHECK(sweep_table(sweep, outcomes) ==
        "| model | values | seeds | step | mean, % | last, % | 32/2 | 64/4 |\n|---|---|---|---|---|---|---|---|\n"
        "| model | lr=0.001 | 2/2 | 10, 10 | 43.8 | 43.8 | 62.5 | 25.0 |\n"
        "| other | lr=0.01 | 0/2 | waiting, waiting | | | | |\n");
  const auto json = nlohmann::json::parse(sweep_json(sweep, outcomes));
  CHECK(json["models"][0]["score"] == 0.4375);
  CHECK(json["models"][0]["tests"]["32/2"] == 0.625);
  CHECK(json["runs"][0]["best"]["step"] == 20);
  CHECK(json["runs"][0]["last"]["step"] == 30);
  CHECK(json["runs"][1]["last"].is_null());

  record_end(sweep, sweep.runs[0], false, 123, 4.5);
  CHECK(read_outcome(sweep, sweep.runs[0]).state == SweepOutcome::State::done);
  CHECK(read_outcome(sweep, sweep.runs[0]).parameters == 123);
  Sweep changed = load_sweep(s.file(two_by_two, "set = [\"train.clip=2.0\"]\n"));
  CHECK_THROWS_WITH_AS(read_outcome(changed, changed.runs[0]), doctest::Contains("run model-lr=0.01-seed=1 ended with train.clip = 1.0, which is now 2.0"),
                       Error);
  wrote("model-lr=0.01-seed=2", "{\"step\":20,\"ev\n");
  CHECK_THROWS_WITH_AS(read_outcome(sweep, sweep.runs[4]), doctest::Contains("metrics.jsonl:1: must be a line of metrics"), Error);
}

TEST_CASE("sweep: stopped and taken up again, it ends as without a stop; one run's failure is not the others'") {
  const Swept s;
  const std::string groups = "[[group]]\nconfigs = [\"model.toml\"]\n[group.axes]\n\"optimizer.lr\" = [1e-2, 1e-3]\n";
  const std::string file = s.file(groups);
  REQUIRE(run(s, {"train", (s / "model.toml").string(), "--set", "run.dir=" + (s / "alone").string(), "--set", "optimizer.lr=0.01"}).code == 0);

  {
    Process p(s, {"sweep", file, "--set", "checkpoint.every=1"});
    bool begun = false;  // until the first run has written something
    for (int i = 0; i < 2000 && !begun; ++i) {
      std::error_code error;
      begun = fs::exists(s / "out/model-lr=0.01/checkpoints", error);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    REQUIRE(begun);
    p.kill(SIGTERM);
    const Ended e = p.wait();
    CAPTURE(e.err);
    CHECK((e.code == 75 || e.code == 0));
    if (e.code == 75) CHECK(e.err.find("taper: sweep: stopped by signal 15; 2 runs are left; the same command goes on\n") != std::string::npos);
  }
  const Ended e = run(s, {"sweep", file, "--set", "checkpoint.every=1", "--jobs", "2"});
  CAPTURE(e.err);
  REQUIRE(e.code == 0);
  CHECK(read_file(s / "out/model-lr=0.01/metrics.jsonl") == read_file(s / "alone/metrics.jsonl"));
  CHECK(e.out == read_file(s / "out/results.md"));
  CHECK(e.out.starts_with("| model | values | seeds | step | mean, % | last, % | 32/2 | 64/4 |\n"));
  CHECK(e.err.find("/2 model-lr=0.001: mean accuracy ") != std::string::npos);
  const Ended listed = run(s, {"sweep", file, "--dry-run"});
  CHECK(listed.out.find("model-lr=0.01: done, mean accuracy ") == 0);
  CHECK(listed.out.find("0 of 2 runs to do\n") != std::string::npos);

  // A run that cannot go on: its checkpoint is damaged. The other is trained all the same.
  const std::string more = s.file("[[group]]\nconfigs = [\"model.toml\", \"other.toml\"]\n");
  fs::create_directories(s / "out/model/checkpoints/step-000010");
  const Ended failed = run(s, {"sweep", more});
  CAPTURE(failed.err);
  CHECK(failed.code == 65);
  CHECK(failed.err.find("model: FAILED with exit code 65: taper: ") != std::string::npos);
  CHECK(failed.err.find("taper: sweep: run model ended with exit code 65; see its log; the same command tries again\n") != std::string::npos);
  CHECK(fs::exists(s / "out/other.json"));
  CHECK_FALSE(fs::exists(s / "out/model.json"));
  const Ended only = run(s, {"sweep", more, "--only", "other"});
  CHECK(only.code == 0);
}

TEST_CASE("sweep: runs are dealt out among devices, whatever the configuration says") {
  const Swept s;
  const std::string file = s.file("[[group]]\nconfigs = [\"model.toml\", \"other.toml\"]\n", "set = [\"run.device=cuda:63\", \"train.steps=10\"]\n");
  const Ended missing = run(s, {"sweep", file, "--only", "model"});
  CAPTURE(missing.err);
  CHECK(missing.code == int(Exit::unavailable));
  CHECK(missing.err.find("2 runs, 0 done before, 1 to do, 1 at a time\n") != std::string::npos);
  const Ended e = run(s, {"sweep", file, "--devices", "cpu,cpu", "--only", "model", "--only", "other"});
  CAPTURE(e.err);
  CHECK(e.code == 0);
  CHECK(e.err.find("2 runs, 0 done before, 2 to do, 2 at a time\n") != std::string::npos);
  CHECK(nlohmann::json::parse(read_file(s / "out/results.json"))["runs"][1]["state"] == "done");
}

TEST_CASE("train: MQAR ends early above mqar.stop_accuracy, also when resumed") {
  const Swept s;
  const auto train = [&](const std::string& dir, const std::string& stop, bool resume) {
    std::vector<std::string> a{"--json", "train", (s / "model.toml").string(), "--set", "run.dir=" + (s / dir).string(), "--set", "mqar.stop_accuracy=" + stop};
    if (resume) a.push_back("--resume");
    return run(s, a);
  };
  const Ended e = train("a", "1e-9", false);  // the first evaluation is above it
  CAPTURE(e.err);
  REQUIRE(e.code == 0);
  const auto metrics = read_file(s / "a/metrics.jsonl");
  const auto summary = nlohmann::json::parse(e.out);
  const int64_t ended = summary["steps"];
  CHECK(ended < 40);
  CHECK(ended % 10 == 0);
  CHECK(e.err.find(fmt::format("stopped at step {}: the mean accuracy ", ended)) != std::string::npos);
  CHECK(fs::exists(s / fmt::format("a/checkpoints/step-{:06}", ended)));
  REQUIRE(train("a", "1e-9", true).code == 0);
  CHECK(read_file(s / "a/metrics.jsonl") == metrics);
  const Ended whole = train("b", "0", false);
  CHECK(nlohmann::json::parse(whole.out)["steps"] == 40);
}
