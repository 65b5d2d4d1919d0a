// What the program says where there is no GPU, none that it can use, too little memory, a kernel that fails: on a fake
// driver (the real binary) and on a fake runtime (taper_fake_gpu). No GPU is needed.
#include <map>

#include "tests/apps/tiny.h"

using namespace taper;
using namespace taper::test;

namespace {

class Environment {  // of the programs run while it lives
 public:
  Environment(std::initializer_list<std::pair<const char*, std::string>> variables) {
    for (const auto& [name, value] : variables) setenv(name, value.c_str(), 1), names_.push_back(name);
  }
  ~Environment() {
    for (const char* name : names_) unsetenv(name);
    binary = TAPER_BINARY;
  }

 private:
  std::vector<const char*> names_;
};

bool has_driver() {  // then the loader may find the real one first, and a GPU may answer
  return fs::exists("/dev/nvidiactl");
}

std::vector<std::string> on_gpu(const Tiny& t, std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"--set", "run.device=cuda:0", "--set", "checkpoint.every=1", "--set", "eval.every=0"});
  return t.train("r", more);
}

}  // namespace

TEST_CASE("driver: none, too old, no GPU, one that does not start; auto uses the CPU") {
  if (has_driver()) {
    MESSAGE("skipped: this machine has a driver of its own");
    return;
  }
  const Tiny t;
  const auto says = [&](const std::string& message) {
    refuses(t, on_gpu(t), 69, message);
    CHECK(!fs::exists(t.dir("r")));
    const Ended info = run(t, {"info"});
    CHECK(info.code == 0);
    CHECK(info.out.find("device: cpu\n") != std::string::npos);
    CHECK(info.out.find("gpus: none\n") != std::string::npos);
    CHECK(info.out.find("driver: " + message.substr(6, message.find(';') - 6)) != std::string::npos);
    const Ended e = run(t, t.train("auto", {"--set", "run.device=auto", "--set", "train.steps=1"}));
    CHECK(e.code == 0);
    CHECK(e.err.find(" on cpu (" + message.substr(6, message.find(';') - 6)) != std::string::npos);
    fs::remove_all(t.dir("auto"));
  };
  says("cuda: no NVIDIA driver is installed; install one, or use device cpu");
  {
    const Environment e{{"LD_LIBRARY_PATH", TAPER_FAKE_DRIVER}, {"FAKE_DRIVER_VERSION", "12020"}};
    says("cuda: the NVIDIA driver is too old: it speaks CUDA 12.2, this build needs CUDA 13.");
  }
  {
    const Environment e{{"LD_LIBRARY_PATH", TAPER_FAKE_DRIVER}};
    says("cuda: the NVIDIA driver finds no GPU; unset CUDA_VISIBLE_DEVICES if that hides it, or use device cpu");
  }
  const Environment e{{"LD_LIBRARY_PATH", TAPER_FAKE_DRIVER}, {"FAKE_DRIVER_INIT", "999"}};
  says("cuda: the NVIDIA driver does not start: unknown error; see what nvidia-smi says, or use device cpu");
}

TEST_CASE("device: no such GPU, and one for which nothing was compiled; auto uses the CPU") {
  const Tiny t;
  const Environment e{{"FAKE_GPUS", "2"}};
  binary = TAPER_FAKE_GPU;
  refuses(t, t.train("r", {"--set", "run.device=cuda:2"}), 69, "cuda: no such GPU: this machine has cuda:0 to cuda:1; got cuda:2");
  const Ended found = run(t, {"info"});
  CHECK(found.out.find("device: cuda:0\n") != std::string::npos);
  CHECK(found.out.find("cuda:1: Fake GPU, compute capability 7.5, 1.0 GiB; runs kernels compiled for 7.5\n"
                       "  matmul bf16: the first that takes the product of cublaslt (not here), wgmma (not here), pipelined, tensor_cores\n"
                       "  matmul f32 f64: the first that takes the product of cublaslt (not here), register_tiles\n") != std::string::npos);
  setenv("FAKE_NO_IMAGE", "1", 1);
  refuses(t, on_gpu(t), 69, "cuda:0: this build's kernels do not run there: it has compute capability 7.5, for which none was compiled; "
                            "build for it with CMAKE_CUDA_ARCHITECTURES, or use device cpu");
  const Ended lost = run(t, {"info", "--json"});
  CHECK(lost.out.find("\"device\": \"cpu\"") != std::string::npos);
  const Ended on_cpu = run(t, t.train("auto", {"--set", "run.device=auto", "--set", "train.steps=1"}));
  CHECK(on_cpu.code == 0);
  CHECK(on_cpu.err.find(" on cpu (cuda:0: it has compute capability 7.5, for which none was compiled), ") != std::string::npos);
  CHECK(lost.out.find("\"fault\": \"it has compute capability 7.5, for which none was compiled\"") != std::string::npos);
  unsetenv("FAKE_NO_IMAGE");
  CHECK(!fs::exists(t.dir("r")));
}

TEST_CASE("a training step waits for nothing: ten more of them, not one wait more") {
  const Tiny t;
  binary = TAPER_FAKE_GPU;
  const auto waits = [&](const std::string& steps, std::vector<std::string> more) {
    fs::remove_all(t.dir("r"));
    fs::remove(t.dir("waits"));
    const Environment e{{"FAKE_WAITS", t.dir("waits")}};
    binary = TAPER_FAKE_GPU;
    for (const char* set : {"checkpoint.every=1000", "log.every=1000"}) more.insert(more.end(), {"--set", set});
    more.insert(more.end(), {"--set", "train.steps=" + steps});
    const Ended ended = run(t, on_gpu(t, more));
    CHECK_MESSAGE(ended.code == 0, ended.err);
    return std::stoll("0" + read_file(t.dir("waits")));
  };
  const std::vector<std::vector<std::string>> kinds = {{},
                                                       {"--set", "train.precision=bf16"},
                                                       {"--set", "train.graph=true"},
                                                       {"--set", "model.dropout=0.1"},
                                                       {"--set", "train.bptt_segments=4"}};
  for (const auto& kind : kinds) {
    CAPTURE(kind.empty() ? "as it is" : kind[1]);
    const int64_t few = waits("4", kind), more = waits("14", kind);
    CHECK(few > 0);  // the loss of the first and the last step, the checkpoint
    CHECK(more == few);
  }
}

TEST_CASE("memory: the message says what was wanted and what there is, and the batch it suggests fits") {
  const Tiny t;
  const Environment e{{"FAKE_MIB", "512"}};
  binary = TAPER_FAKE_GPU;
  std::vector<std::string> large;
  for (const char* set : {"model.d_model=64", "model.heads=2", "model.head_dim=64", "model.d_state=32", "data.sequence=128", "train.batch=1024",
                          "train.accumulate=1", "train.steps=2"})
    large.insert(large.end(), {"--set", set});
  const Ended full = run(t, on_gpu(t, large));
  CAPTURE(full.err);
  CHECK(full.code == 69);
  CHECK(full.err.find("taper: cuda:0: memory is out: ") != std::string::npos);
  for (const char* part : {" MiB more are wanted; ", " of 512 MiB are free, ", " in use here, the largest tensors ", " MiB; the largest tensors of a step: ",
                           "; a batch that fits: --set train.batch="})
    CHECK(full.err.find(part) != std::string::npos);
  const size_t at = full.err.find("--set train.batch="), end = full.err.find(" (", at);
  REQUIRE(end != std::string::npos);
  const std::string advice = full.err.substr(at, end - at);  // "--set train.batch=B --set train.accumulate=A"
  const size_t second = advice.find(" --set ");
  REQUIRE(second != std::string::npos);
  const std::string batch = advice.substr(6, second - 6), accumulate = advice.substr(second + 7);
  CHECK(std::stoi(batch.substr(12)) * std::stoi(accumulate.substr(17)) == 1024);
  auto smaller = on_gpu(t, large);
  smaller.insert(smaller.end(), {"--set", batch, "--set", accumulate, "--set", "run.dir=" + t.dir("smaller")});
  const Ended fits = run(t, smaller);
  CHECK_MESSAGE(fits.code == 0, fits.err);
  // Four times as much does not: the advice is no mere caution. (Twice as much may: batches are halved, and a margin is kept.)
  auto more = on_gpu(t, large);
  more.insert(more.end(), {"--set", "train.batch=" + std::to_string(4 * std::stoi(batch.substr(12))), "--set", "run.dir=" + t.dir("more")});
  CHECK(run(t, more).code == 69);

  setenv("FAKE_MIB", "1", 1);
  refuses(t, on_gpu(t, {"--set", "model.d_model=64", "--set", "model.heads=4", "--set", "model.head_dim=32", "--set", "run.dir=" + t.dir("none")}), 69,
          "; not even train.batch=1 fits (");
}

TEST_CASE("memory that is out when a run goes on: the last checkpoint is intact, and the run goes on where there is more") {
  const Tiny t;
  {
    const Environment e{{"FAKE_FAULT", "causal_conv1d:40"}};  // ends the run after some checkpoints
    binary = TAPER_FAKE_GPU;
    REQUIRE(run(t, on_gpu(t)).code == 70);
  }
  const auto saved = [&] {
    std::map<std::string, std::string> files;
    for (const auto& f : fs::recursive_directory_iterator(t.dir("r") + "/checkpoints"))
      if (f.is_regular_file()) files[f.path().string()] = read_file(f.path());
    return files;
  };
  const auto before = saved();
  REQUIRE(!before.empty());
  {
    const Environment e{{"FAKE_MIB", "0"}};  // taken by others meanwhile
    binary = TAPER_FAKE_GPU;
    const Ended full = run(t, on_gpu(t, {"--resume"}));
    CHECK(full.code == 69);
    CHECK_MESSAGE(full.err.find("taper: cuda:0: memory is out: ") != std::string::npos, full.err);
  }
  CHECK(saved() == before);
  binary = TAPER_FAKE_GPU;
  const Ended resumed = run(t, on_gpu(t, {"--resume"}));
  CHECK_MESSAGE(resumed.code == 0, resumed.err);
  CHECK(resumed.err.find("resumed after step ") != std::string::npos);
}

TEST_CASE("a fault inside a kernel: the message, the kernel's name on request, the last checkpoint intact") {
  const Tiny t;
  binary = TAPER_FAKE_GPU;
  const Environment e{{"FAKE_FAULT", "causal_conv1d:40"}};
  const std::string error = "cuda: cudaErrorIllegalAddress: an illegal memory access was encountered";
  const auto last_line = [](const Ended& ended) { return ended.err.substr(ended.err.rfind("taper: ")); };
  const Ended plain = run(t, on_gpu(t));
  CAPTURE(plain.err);
  CHECK(plain.code == 70);
  REQUIRE(plain.err.find("taper: ") != std::string::npos);
  CHECK(last_line(plain).starts_with("taper: " + error + "; --sync-every-op names the kernel that failed\n"));
  const Ended named = run(t, on_gpu(t, {"--set", "run.dir=" + t.dir("named"), "--sync-every-op"}));
  CAPTURE(named.err);
  CHECK(named.code == 70);
  REQUIRE(named.err.find("taper: ") != std::string::npos);
  CHECK(last_line(named).starts_with("taper: causal_conv1d."));
  CHECK(last_line(named).find(": " + error + "\n") != std::string::npos);
  // What was saved before is whole: the run goes on from it where the fault does not come again.
  unsetenv("FAKE_FAULT");
  REQUIRE(fs::exists(t.dir("r") + "/checkpoints"));
  const Ended resumed = run(t, on_gpu(t, {"--resume"}));
  CAPTURE(resumed.err);
  CHECK(resumed.code == 0);
  CHECK(resumed.err.find("resumed after step ") != std::string::npos);
}
