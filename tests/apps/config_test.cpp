// The configuration: what it accepts, what it refuses and in which words, and that writing loses nothing.
#include "apps/config.h"

#include <doctest/doctest.h>

#include "apps/sweep_config.h"
#include "tensor/error.h"

using namespace taper;

namespace {

const std::string base = "[model]\nd_model = 64\nlayers = 2\nheads = 2\nvocab = 257\n";

void refuses(const std::string& text, const std::string& message, const std::vector<std::string>& set = {}, Exit code = Exit::bad_config) {
  try {
    parse_config(text, "a.toml", set);
    FAIL("accepted: " << text);
  } catch (const Error& e) {
    CHECK(std::string(e.what()) == message);
    CHECK(e.code == code);
  }
}

}  // namespace

TEST_CASE("config: an unknown key names its place and the nearest key") {
  refuses(base + "[schedule]\nwarmup_step = 3\n",
          "config a.toml:7:1: no key 'warmup_step' in [schedule]; did you mean 'warmup'?");
  refuses(base + "[optimizer]\n  weight_decy = 3\n",
          "config a.toml:7:3: no key 'weight_decy' in [optimizer]; did you mean 'weight_decay'?");
  refuses(base + "[optimiser]\nlr = 3\n", "config a.toml:6:2: no section [optimiser]; did you mean [optimizer]?");
  refuses(base, "config --set train.step: no key 'step' in [train]; did you mean 'steps'?", {"train.step=3"});
  refuses(base, "config --set trian: no section [trian]; did you mean [train]?", {"trian.steps=3"});
}

TEST_CASE("config: a wrong type or an impossible value names its place") {
  refuses(base + "[train]\nsteps = \"many\"\n", "config a.toml:7:9: [train] steps must be an integer; got the string 'many'");
  refuses(base + "[train]\nsteps = 1.5\n", "config a.toml:7:9: [train] steps must be an integer; got 1.5");
  refuses(base + "[train]\nsteps = 0\n", "config a.toml:7:9: [train] steps must be at least 1; got 0");
  refuses(base + "[train]\nclip = inf\n", "config a.toml:7:8: [train] clip must be at least 0; got inf");
  refuses(base + "[schedule]\nwarmup = 2\n", "config a.toml:7:10: [schedule] warmup must be at least 0 and at most 1; got 2");
  refuses(base + "[optimizer]\neps = 0\n", "config a.toml:7:7: [optimizer] eps must be greater than 0; got 0");
  refuses(base + "[optimizer]\nbetas = 0.9\n", "config a.toml:7:9: [optimizer] betas must be an array of numbers; got 0.9");
  refuses(base + "[optimizer]\nbetas = [0.9]\n", "config a.toml:7:9: [optimizer] betas must have 2 elements; got 1");
  refuses(base + "[data]\ndocuments = \"keep\"\n", "config a.toml:7:13: [data] documents must be reset or carry; got 'keep'");
  refuses("run = 3\n" + base, "config a.toml:1:7: 'run' must be a section [run]; got 3");
  refuses(base, "config --set train.steps: [train] steps must be an integer; got the string 'many'", {"train.steps=many"});
  refuses(base, "config --set: must be section.key=value; got 'steps=3'", {"steps=3"}, Exit::usage);
  refuses(base, "config --set: must be UTF-8; byte 10 of 'run.dir=a\xe9' is none", {"run.dir=a\xe9"}, Exit::usage);
}

TEST_CASE("config: bad TOML names line and column, a missing file is missing") {
  try {
    parse_config("[run]\nseed = = 3\n", "a.toml");
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(std::string(e.what()).starts_with("config a.toml:2:8: "));
    CHECK(e.code == Exit::bad_config);
  }
  try {
    load_config("no/such.toml");
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(std::string(e.what()) == "no/such.toml: no such file");
    CHECK(e.code == Exit::no_input);
  }
}

TEST_CASE("config: keys override a preset, --set overrides the file") {
  const Config c = parse_config("[model]\npreset = \"mamba2_post_180m\"\nlayers = 2\n", "a.toml", {"model.layers=3", "run.dir=runs/x y"});
  CHECK(c.model.post);
  CHECK(c.model.layers == 3);
  CHECK(c.model.d_model == 768);
  CHECK(c.run.dir == "runs/x y");
  CHECK(parse_config(base, "a.toml", {"run.dir=2024"}).run.dir == "2024");
  CHECK(parse_config(base, "a.toml", {"run.dir=\"q\""}).run.dir == "q");
  CHECK(parse_config(base, "a.toml", {"optimizer.betas=[0.5, 0.6]"}).optimizer.betas == std::vector<double>{0.5, 0.6});
  CHECK(parse_config(base, "a.toml", {"optimizer.lr=1"}).optimizer.lr == 1.0);
  CHECK_THROWS_WITH(parse_config("[model]\npreset = \"mamba9\"\n", "a.toml"), doctest::Contains("config a.toml:2:10: "));
  CHECK_THROWS_WITH(parse_config(base, "a.toml", {"model.heads=3"}), doctest::Contains("config a.toml: "));
}

TEST_CASE("config: the ways to say +PoST agree") {
  CHECK(!parse_config(base, "a").model.post);
  CHECK(parse_config(base + "post = true\n", "a").model.post);
  const Config c = parse_config(base + "[post]\ntaper = false\n", "a");
  CHECK(c.model.post);
  CHECK(!c.model.post_options.taper);
  CHECK(!parse_config("[model]\npreset = \"mamba2_post_180m\"\npost = false\n", "a").model.post);
  CHECK(parse_config(base, "a", {"post.position_reference=4"}).model.post_options.position_reference == 4);
  refuses(base + "post = false\n[post]\n", "config a.toml: model.post = false contradicts the section [post]; leave one of them out");
}

TEST_CASE("config: what is left out follows from what is there") {
  const Config c = parse_config(base + "[data]\nsequence = 96\ntrain = \"t\"\n", "a");
  CHECK(c.model.train_length == 96);
  CHECK(c.data.validation == "t");
  const Config m = parse_config("[model]\nd_model = 64\nlayers = 2\nheads = 2\n[data]\ntask = \"mqar\"\n", "a");
  CHECK(m.model.vocab == 8192);
  refuses(base + "[mqar]\nvocab = 64\n", "config a.toml: [mqar] wants data.task = \"mqar\"; got \"text\"");
}

TEST_CASE("config: parse(write(c)) == c") {
  Config c = parse_config(base + "[run]\ndir = \"a \\\"b\\\" \\\\ \\u0001\"\n[optimizer]\nlr = 3e-300\neps=1e-8\nbetas=[0.1, 1]\n[post]\nspectrum=false\n"
                          "[train]\nclip = 0\nloss_average = \"micro\"\n", "a");
  CHECK(parse_config(write_config(c), "b") == c);
  c = parse_config("[model]\nd_model = 64\nlayers = 2\nheads = 2\n[data]\ntask = \"mqar\"\n[mqar]\npairs = [4, 8]\n", "a");
  CHECK(parse_config(write_config(c), "b") == c);
  c = parse_config(base, "a");
  CHECK(parse_config(write_config(c), "b") == c);
}

TEST_CASE("config: no size of any preset is lost in writing") {
  for (const std::string& preset : model_presets()) {
    const Config c = parse_config("[model]\npreset = \"" + preset + "\"\nvocab = 300\n", "a");
    CHECK_MESSAGE(parse_config(write_config(c), "b") == c, preset);
  }
}

TEST_CASE("config: differences are named by key") {
  const Config a = parse_config(base, "a"), b = parse_config(base, "a", {"train.steps=7", "optimizer.lr=2.5"});
  const auto d = differences(a, b);
  REQUIRE(d.size() == 2);
  CHECK(d[0].key == "train.steps");
  CHECK(d[0].before == "400");
  CHECK(d[0].after == "7");
  CHECK(d[1].key == "optimizer.lr");
  CHECK(differences(a, a).empty());
}

TEST_CASE("config: every shipped configuration is accepted, with a model that can be built") {
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(std::string(TAPER_SOURCE_DIR) + "/configs")) {
    if (entry.path().extension() != ".toml") continue;
    if (entry.path().parent_path().filename() == "sweeps") {
      CHECK(load_sweep(entry.path()).runs.size() >= 4);
      continue;
    }
    ModelConfig c = load_config(entry.path()).model;
    if (!c.vocab) c.vocab = 257;
    CHECK_MESSAGE(LanguageModel(c, 0, open_device("plan")).parameter_count() > 0, entry.path().string());
    ++files;
  }
  CHECK(files >= 61);
}
