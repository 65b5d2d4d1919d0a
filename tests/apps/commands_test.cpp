// The commands, the real binary: what they print, and what they say of bad input, with which exit code.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "nn/checkpoint.h"
#include "tests/apps/tiny.h"

using namespace taper;
using namespace taper::test;

TEST_CASE("program: help and version are 0, wrong usage is 2") {
  const Scratch s;
  const Ended help = run(s, {"--help"}), version = run(s, {"--version"});
  CHECK(help.code == 0);
  for (const char* command : {"prepare", "tokenize", "train", "eval", "generate", "audit", "info", "convert", "bench"}) {
    CHECK(help.out.find(command) != std::string::npos);
    CHECK(run(s, {command, "--help"}).code == 0);
  }
  CHECK(version.code == 0);
  CHECK(version.out.starts_with("taper "));
  refuses(s, {}, 2, "A subcommand is required; see taper --help");
  refuses(s, {"train"}, 2, "CONFIG is required; see taper train --help");
  refuses(s, {"train", "a.toml", "--bogus"}, 2, "see taper train --help");
  refuses(s, {"info", "--threads", "0"}, 2, "--threads");
}

TEST_CASE("bench: an op's times and most memory, a model by either spelling, options of one refused for the other") {
  const Scratch s;
  const Ended op = run(s, {"--json", "bench", "--op", "spectral_cumsum", "--seconds", "0"});
  CHECK_MESSAGE(op.code == 0, op.err);
  const auto line = nlohmann::json::parse(op.out.substr(0, op.out.find('\n')));
  CHECK(line["passes"].size() >= 3);
  // 2048 numbers in f32: what goes in and what comes out, at least; at most as much again on the way back, and some ends.
  CHECK(line["shape"] == "N=2048");
  const int64_t least = 2 * 4 * 2048;
  CHECK(line["peak_bytes"].get<int64_t>() >= least);
  CHECK(line["peak_bytes"].get<int64_t>() <= 3 * least);

  const std::vector<std::string> small = {"--vocab", "16", "--batch", "1", "--seq", "16", "--layers", "1", "--seconds", "0"};
  std::vector<std::string> model{"--json", "bench", "--model", "gla_post/180m"};
  model.insert(model.end(), small.begin(), small.end());
  const Ended step = run(s, model);
  CHECK_MESSAGE(step.code == 0, step.err);
  CHECK(step.out.find("\"model\":\"gla_post/180m\"") != std::string::npos);
  model[3] = "gla_past/180m";
  refuses(s, model, 78, "model: no preset is called 'gla_past/180m'; there are ");
  refuses(s, {"bench"}, 2, "bench: wants one of --op and --model");
  refuses(s, {"bench", "--op", "spectral_cumsum", "--batch", "3"}, 2, "--batch requires --model; see taper bench --help");
  refuses(s, {"bench", "--op", "spectral_cumsum", "--graph"}, 2, "--graph requires --model; see taper bench --help");
  refuses(s, {"bench", "--op", "spectral_cumsum", "--dtype", "bf16"}, 2, "bench: spectral_cumsum does not run in bf16 on cpu; use f32");
}

TEST_CASE("info: parameter counts are the specification's") {
  const Scratch s;
  const auto counts = [&](const std::string& preset, const std::string& vocab, const std::string& count) {
    const Ended e = run(s, {"info", "--preset", preset, "--vocab", vocab, "--json"});
    CHECK(e.code == 0);
    CHECK(e.out.find("\"parameters\": " + count) != std::string::npos);
  };
  counts("mamba2_180m", "128256", "188869056");
  counts("mamba2_180m", "50280", "128983488");
  counts("mamba2_post_180m", "128256", "188869056");
  counts("mamba2_440m", "128256", "448185856");
  counts("mamba2_post_440m", "50280", "368338432");
  counts("mamba2_880m", "128256", "899920128");
  counts("mamba2_post_880m", "50280", "780148992");
  counts("mamba2_1.5b", "128256", "1503435776");
  counts("mamba2_post_1.5b", "50280", "1343740928");
  counts("rwkv7_post_180m", "128256", "188881152");
  counts("retnet_440m", "50280", "366130176");
  refuses(s, {"info", "--preset", "mamba3"}, 78, "model: no preset is called 'mamba3'; there are ARCH_SIZE and ARCH_post_SIZE with ARCH of mamba2, rwkv7, ");
  refuses(s, {"info", "--preset", "mamba2_180m"}, 2, "info: a vocabulary is wanted to count parameters; give --vocab N");
  const Ended build = run(s, {"info", "--json"});
  CHECK(build.out.find("\"ssd_scan.forward\"") != std::string::npos);
  CHECK(build.out.find("\"gemm\"") != std::string::npos);
  for (const char* key : {"\"driver\": \"", "\"cublaslt\": ", "\"gpus\": ["}) CHECK(build.out.find(key) != std::string::npos);
}

TEST_CASE("prepare: what is not there or not text is refused, and nothing is left behind") {
  const Scratch s;
  const auto path = [&](const char* name) { return (s / name).string(); };
  fs::create_directories(s / "empty");
  write_file(s / "empty.txt", "");
  write_file(s / "binary.txt", std::string("a\0b", 3));
  write_file(s / "bad.jsonl", "{\"text\": \"a\"}\n{\"text\": }\n");
  refuses(s, {"prepare", path("nothing"), "--out", path("o")}, 66, "nothing: no such file or directory");
  refuses(s, {"prepare", path("empty"), "--out", path("o")}, 65, "prepare: the corpus is empty");
  refuses(s, {"prepare", path("empty.txt"), "--out", path("o")}, 65, "prepare: the corpus is empty");
  refuses(s, {"prepare", path("binary.txt"), "--out", path("o")}, 65, "binary.txt");
  refuses(s, {"prepare", path("bad.jsonl"), "--out", path("o")}, 65, "bad.jsonl:2");
  write_corpus(s / "text");
  refuses(s, {"prepare", path("text"), "--out", path("o")}, 74, "write failed: File too large", 1024);
  refuses(s, {"prepare", path("text"), "--out", path("o"), "--tokenizer", "words"}, 78, "words");
  CHECK(!fs::exists(s / "o"));
  CHECK(!fs::exists(s / "o.partial"));
  const Ended e = run(s, {"prepare", path("text"), "--out", path("o"), "--json"});
  CHECK(e.code == 0);
  CHECK(e.out.find("\"documents\":") != std::string::npos);
  refuses(s, {"prepare", path("text"), "--out", path("o")}, 73, "exists and is not empty");
  CHECK(run(s, {"prepare", path("text"), "--out", path("o"), "--overwrite"}).code == 0);
}

TEST_CASE("train: bad data and bad configurations") {
  const Tiny t;
  refuses(t, {"train", t.dir("no.toml")}, 66, "no.toml: no such file");
  refuses(t, t.train("r", {"--set", "data.train=" + t.dir("nowhere")}), 66, "nowhere: no such directory of shards");
  refuses(t, t.train("r", {"--set", "data.validation=" + t.dir("nowhere")}), 66, "nowhere: no such directory of shards");
  refuses(t, t.train("r", {"--set", "optimizer.warmup_step=3"}), 78, "config --set optimizer.warmup_step: no key 'warmup_step' in [optimizer]; did you mean '");
  refuses(t, t.train("r", {"--set", "train.steps=lots"}), 78, "[train] steps must be an integer; got the string 'lots'");
  refuses(t, t.train("r", {"--set", "model.vocab=200"}), 78, "config: model.vocab must be at least the data's 257; got 200");
  refuses(t, t.train("r", {"--set", "data.sequence=9000000"}), 65, "a sample of sequence 9000000 needs ");
  refuses(t, t.train("r", {"--set", "data.tokenizer=other:v1"}), 65, "made by tokenizer 'bytes:v1' with vocab 257; 'other:v1' is wanted");
  refuses(t, t.train("r", {"--set", "run.device=abacus"}), 78, "device: must be auto, cpu or cuda:INDEX; got 'abacus'");
  refuses(t, t.train("r", {"--set", "train.precision=bf16"}), 78, "wants a GPU; this run is on cpu");
  refuses(t, {"train", t.config()}, 78, "run: [run] dir must name the directory of the run; it is empty");
  write_file(t / "file", "");
  refuses(t, t.train("file/r"), 73, "cannot create");
  write_file(t / "bad.toml", "[run\n");
  refuses(t, {"train", t.dir("bad.toml")}, 78, "config " + t.dir("bad.toml") + ":1:5: ");
  CHECK(!fs::exists(t.dir("r")));

  fs::copy(t.data(), t.dir("flipped"));
  flip_bit(Path(t.dir("flipped")) / "train-00000.shard", 0.3);
  refuses(t, t.train("r1", {"--set", "data.train=" + t.dir("flipped"), "--set", "data.validation=" + t.data()}), 65,
          "flipped/train-00000.shard: checksum of block 0 ");
  fs::copy(t.data(), t.dir("short"));
  truncate_file(Path(t.dir("short")) / "train-00000.shard", 700);
  refuses(t, t.train("r2", {"--set", "data.train=" + t.dir("short")}), 65, "short/train-00000.shard");
  CHECK(!fs::exists(t.dir("r2")));
}

TEST_CASE("train: a full disk ends with 74 and loses nothing") {
  const Tiny t;
  REQUIRE(run(t, t.train("whole")).code == 0);
  refuses(t, t.train("full"), 74, "step-000005.partial/model.safetensors: write failed: File too large", 8192);
  CHECK(list_checkpoints(Path(t.dir("full")) / "checkpoints").empty());
  REQUIRE(run(t, t.train("full", {"--resume"})).code == 0);
  for (const char* file : {"metrics.jsonl", "checkpoints/step-000040/model.safetensors"})
    CHECK(read_file(Path(t.dir("full")) / file) == read_file(Path(t.dir("whole")) / file));
}

TEST_CASE("eval, generate, info: of a trained run and of its checkpoint alone") {
  const Tiny t;
  REQUIRE(run(t, t.train("r")).code == 0);
  const std::string checkpoint = t.dir("r") + "/checkpoints/step-000040";

  const Ended eval = run(t, {"eval", t.dir("r"), "--length", "32", "128", "--device", "cpu", "--json"});
  REQUIRE_MESSAGE(eval.code == 0, eval.err);
  // The same numbers as the run's own last evaluation.
  const std::string metrics = read_file(Path(t.dir("r")) / "metrics.jsonl"), key = "\"bits_per_byte\":";
  const std::string last = metrics.substr(metrics.rfind(key), 15 + key.size());
  CHECK(eval.out.find(last) != std::string::npos);
  CHECK(eval.out.find("\"length\":128") != std::string::npos);
  CHECK(eval.out.find("{\"begin\":65,\"end\":129,") == std::string::npos);  // buckets end at powers of two
  CHECK(eval.out.find("{\"begin\":64,\"end\":128,") != std::string::npos);
  CHECK(run(t, {"eval", checkpoint, "--length", "32", "128", "--device", "cpu", "--json"}).out.find(last) != std::string::npos);
  CHECK(run(t, {"eval", t.dir("r")}).out.find("bits per byte, perplexity ") != std::string::npos);

  const std::vector<std::string> generate{"generate", t.dir("r"), "--prompt", "state \xff", "--tokens", "40", "--seed", "5"};
  const Ended a = run(t, generate), b = run(t, generate);
  CHECK(a.code == 0);
  CHECK(a.out.starts_with("state \xff"));
  CHECK(a.out.size() > 10);
  CHECK(a.out == b.out);
  auto greedy = generate;
  greedy.insert(greedy.end(), {"--temperature", "0", "--json"});
  CHECK(run(t, greedy).out.find("\"ids\":[") != std::string::npos);

  const Ended info = run(t, {"info", t.dir("r")});
  CHECK(info.out.find("layer 1 time_constant:") != std::string::npos);
  CHECK(info.out.find("layer 0 alpha: 1 ") != std::string::npos);
  CHECK(info.out.find("step: 40") != std::string::npos);

  refuses(t, {"eval", t.dir("nowhere")}, 66, "nowhere: no such run or checkpoint");
  refuses(t, {"eval", t.data()}, 66, "holds no checkpoint; a run directory or a checkpoint is wanted");
  refuses(t, {"eval", t.dir("r"), "--length", "0"}, 2, "--length");
  flip_bit(Path(checkpoint) / "model.safetensors", 0.5);
  refuses(t, {"generate", t.dir("r")}, 65, "step-000040/model.safetensors: checksum ");
  write_file(Path(checkpoint) / "manifest.json", "{\"format\": 1, \"format\": 1}");
  refuses(t, {"info", t.dir("r")}, 65, "manifest.json");
}

TEST_CASE("--json: a run in a directory whose name is not UTF-8 is shown with U+FFFD, and evaluated, and reported") {
  const Tiny t;
  REQUIRE(run(t, t.train("r", {"--set", "train.steps=2"})).code == 0);
  const std::string moved = t.dir("r\xe9");
  fs::rename(t.dir("r"), moved);
  const std::string text = "{\"text\": \"state decays\"}\n";
  write_file(t / "text.jsonl", text);
  for (const std::vector<std::string>& a : {std::vector<std::string>{"info", moved, "--json"}, {"report", moved, "--json"},
                                            {"eval", moved, "--device", "cpu", "--tokens", "200", "--json"},
                                            {"eval", moved, "--device", "cpu", "--tokens", "200", "--length", "64", "--by-position", "--json"},
                                            {"eval", moved, "--device", "cpu", "--tasks", "text", "--data", t.dir("."), "--json"},
                                            {"generate", moved, "--device", "cpu", "--tokens", "2", "--json"},
                                            {"convert", moved, "--to", "post", "--out", t.dir("p\xe9"), "--json"},
                                            {"prepare", t.dir("text"), "--out", t.dir("d\xe9"), "--json"}}) {
    CAPTURE(a[0]);
    const Ended e = run(t, a);
    CHECK_MESSAGE(e.code == 0, e.err);
    CHECK(e.out.find("\xef\xbf\xbd") != std::string::npos);
  }
}

TEST_CASE("generate: the recurrent state carries everything: greedy text does not depend on how it was split") {
  const Tiny t;
  REQUIRE(run(t, t.train("r", {"--set", "train.steps=60"})).code == 0);
  const auto greedy = [&](const std::string& prompt, int tokens) {
    const Ended e = run(t, {"generate", t.dir("r"), "--temperature", "0", "--prompt", prompt, "--tokens", std::to_string(tokens)});
    REQUIRE(e.code == 0);
    return e.out.substr(0, e.out.size() - 1);  // without the last newline
  };
  const std::string whole = greedy("the slow ", 60);
  REQUIRE(whole.size() == 69);
  for (const size_t cut : {10, 33, 68}) CHECK(greedy(whole.substr(0, cut), 69 - int(cut)) == whole);
}

TEST_CASE("mqar: trains, evaluates by length and pairs, is reproducible") {
  const Scratch s;
  write_file(s / "m.toml", "[run]\ndevice = \"cpu\"\n[model]\nd_model = 16\nlayers = 1\nheads = 4\nhead_dim = 8\nd_state = 8\n"
             "[data]\ntask = \"mqar\"\nsequence = 16\n[mqar]\nvocab = 16\npairs = [1, 2]\nexamples = 64\neval_sequence = [16, 32]\n"
             "eval_pairs = [2, 4]\neval_examples = 20\n[train]\nsteps = 6\nbatch = 8\n[eval]\nevery = 3\n");
  const auto train = [&](const std::string& name, const std::vector<std::string>& more = {}) {
    std::vector<std::string> a{"train", (s / "m.toml").string(), "--set", "run.dir=" + (s / name).string()};
    a.insert(a.end(), more.begin(), more.end());
    return a;
  };
  const Ended e = run(s, train("a"));
  REQUIRE_MESSAGE(e.code == 0, e.err);
  const std::string metrics = read_file(s / "a" / "metrics.jsonl");
  CHECK(metrics.find("\"eval\":[{\"length\":16,\"pairs\":2,\"loss\":") != std::string::npos);
  REQUIRE(run(s, train("b")).code == 0);
  CHECK(read_file(s / "b" / "metrics.jsonl") == metrics);
  const Ended eval = run(s, {"eval", (s / "a").string(), "--length", "64"});
  CHECK(eval.out.find("length 64, 16 pairs") == std::string::npos);  // 16 pairs want more keys than 16/2 - 1
  CHECK(eval.code == 78);
  CHECK(run(s, {"eval", (s / "a").string(), "--length", "64", "--pairs", "3"}).out.find("length 64, 3 pairs: accuracy ") != std::string::npos);
  refuses(s, {"generate", (s / "a").string()}, 78, "generate: a model of text is wanted");
  refuses(s, train("c", {"--set", "mqar.eval_pairs=[2, 9]"}), 78, "mqar: wants 1 <= pairs and 4 pairs <= sequence; got 9 pairs, sequence 32");
  CHECK(!fs::exists(s / "c"));
}
