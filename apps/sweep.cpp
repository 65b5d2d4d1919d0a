// sweep: many trainings from one file, each a process of its own, resumable at any point.
#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>

#include "apps/commands.h"
#include "apps/progress.h"
#include "apps/run.h"
#include "apps/signals.h"
#include "apps/sweep_results.h"
#include "tensor/error.h"
#include "tensor/parallel.h"

namespace taper {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using State = SweepOutcome::State;

struct Options {
  std::string path;
  std::vector<std::string> set, only, devices;
  int64_t jobs = 0;  // 0: one on each device
  bool dry_run = false;
};

// A training as a child process: what it prints goes to dir/NAME.log, its summary to dir/NAME.out. It hears of a signal from us
// alone (a terminal's Ctrl-C would reach it twice, and the second ends it at once), and is asked to save when we die.
// `device` is run.device; an empty one leaves what the configuration says.
pid_t start(const Sweep& sweep, const SweepRun& run, int64_t jobs, const std::string& device) {
  std::vector<std::string> words{"taper", "--json", "train", run.path, "--resume", "--set", "run.dir=" + run.config.run.dir};
  for (const std::string& s : run.set) words.insert(words.end(), {"--set", s});
  if (!device.empty()) words.insert(words.end(), {"--set", "run.device=" + device});
  if (jobs > 1) words.insert(words.end(), {"--threads", std::to_string(std::max<int64_t>(1, thread_count() / jobs))});
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  const std::string log = (sweep.dir / (run.name + ".log")).string(), out = (sweep.dir / (run.name + ".out")).string();
  const int log_fd = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  const int out_fd = ::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  check(log_fd >= 0 && out_fd >= 0, Exit::cannot_create, "sweep: cannot write {} and {}: {}", log, out, std::strerror(errno));
  const pid_t parent = ::getpid(), child = ::fork();
  check(child >= 0, Exit::unavailable, "sweep: cannot start a process: {}", std::strerror(errno));
  if (child == 0) {  // only calls that a child of a threaded process may make
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (::getppid() != parent) ::_exit(int(Exit::checkpointed));
    ::dup2(out_fd, STDOUT_FILENO);
    ::dup2(log_fd, STDERR_FILENO);
    ::execv("/proc/self/exe", argv.data());
    ::_exit(int(Exit::internal));
  }
  ::close(log_fd);
  ::close(out_fd);
  return child;
}

std::string last_line(const Path& file) {
  std::error_code error;
  if (!fs::exists(file, error)) return "";
  std::string text = read_file(file);
  while (text.ends_with('\n')) text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

std::string told(const SweepOutcome& o) {
  const SweepEval* best = o.best();
  if (!best) return "no evaluation";
  return best->tests == std::vector<std::string>{"loss"} ? fmt::format("loss {:.4f}", best->values[0]) : fmt::format("mean accuracy {:.4f}", best->score);
}

class Sweeping {
 public:
  Sweeping(Sweep sweep, const Options& o) : sweep_(std::move(sweep)) {
    for (const std::string& name : o.devices.empty() ? std::vector<std::string>{""} : o.devices) devices_.push_back({name, 0});
    jobs_ = o.jobs ? o.jobs : int64_t(devices_.size());
    for (size_t i = 0; i < sweep_.runs.size(); ++i) {
      outcomes_.push_back(read_outcome(sweep_, sweep_.runs[i]));
      const auto named = [&](const std::string& part) { return sweep_.runs[i].name.find(part) != std::string::npos; };
      const bool wanted = o.only.empty() || std::ranges::any_of(o.only, named);
      if (ended(i)) ++ended_;
      else if (wanted) waiting_.push_back(i);
    }
    std::ranges::reverse(waiting_);  // taken from the back
    left_ = int64_t(waiting_.size());
  }

  void list() const {
    for (size_t i = 0; i < sweep_.runs.size(); ++i) {
      const SweepOutcome& o = outcomes_[i];
      const std::string state = o.state == State::done ? "done, " + told(o) : o.state == State::diverged ? fmt::format("diverged at step {}", o.step)
                              : o.state == State::begun ? fmt::format("begun, step {} of {}", o.step, sweep_.runs[i].config.train.steps) : "waiting";
      fmt::print("{}: {}\n", sweep_.runs[i].name, state);
    }
    fmt::print("{} of {} runs to do\n", left_, sweep_.runs.size());
  }

  int work() {
    std::error_code error;
    fs::create_directories(sweep_.dir, error);
    check(!error, Exit::cannot_create, "sweep {}: cannot create: {}", sweep_.dir.string(), error.message());
    const DirectoryLock lock(sweep_.dir);
    const StopSignal stop;
    begin_ = Clock::now();
    fmt::print(stderr, "{}: {} runs, {} done before, {} to do, {} at a time\n", sweep_.dir.string(), sweep_.runs.size(), ended_, left_, jobs_);
    bool told_them = false;
    while (!running_.empty() || (!waiting_.empty() && !stop.received())) {
      while (!waiting_.empty() && !stop.received() && int64_t(running_.size()) < jobs_) {
        const size_t i = waiting_.back();
        waiting_.pop_back();
        Worker& least = *std::ranges::min_element(devices_, {}, &Worker::busy);
        ++least.busy;
        running_.emplace(start(sweep_, sweep_.runs[i], jobs_, least.device), Running{i, &least});
      }
      if (stop.received() && !told_them) {
        told_them = true;
        fmt::print(stderr, "sweep: stopping; {} runs save their state\n", running_.size());
        for (const auto& [pid, run] : running_) ::kill(pid, SIGTERM);
      }
      int status = 0;
      const pid_t pid = ::waitpid(-1, &status, WNOHANG);
      if (const auto at = running_.find(pid); pid > 0 && at != running_.end()) {
        const size_t i = at->second.index;
        --at->second.on->busy;
        running_.erase(at);
        finished(i, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    }
    write_results();
    if (const int signal = stop.received())
      fail(Exit::checkpointed, "sweep: stopped by signal {}; {} runs are left; the same command goes on", signal, left_);
    return failures_.empty() ? 0 : failures_.begin()->second;
  }

  std::string json() const { return sweep_json(sweep_, outcomes_); }
  std::string table() const { return sweep_table(sweep_, outcomes_); }
  const std::map<std::string, int>& failures() const { return failures_; }

 private:
  struct Worker {
    std::string device;
    int64_t busy;  // trainings on it now
  };
  struct Running {
    size_t index;
    Worker* on;
  };

  bool ended(size_t i) const { return outcomes_[i].state == State::done || outcomes_[i].state == State::diverged; }

  void finished(size_t i, int code) {
    const SweepRun& run = sweep_.runs[i];
    const Path out = sweep_.dir / (run.name + ".out");
    if (code == 0) {
      const auto summary = nlohmann::json::parse(read_file(out));
      record_end(sweep_, run, false, summary.at("parameters"), summary.at("seconds"));
    } else if (code == int(Exit::diverged)) {
      record_end(sweep_, run, true, 0, 0);
    } else if (code != int(Exit::checkpointed)) {
      failures_.emplace(run.name, code);
    }
    std::error_code ignored;
    fs::remove(out, ignored);
    outcomes_[i] = read_outcome(sweep_, run);
    if (code == int(Exit::checkpointed)) return;
    --left_;
    ++here_;
    write_results();
    const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
    const std::string what = code == 0 ? told(outcomes_[i]) : code == int(Exit::diverged) ? "diverged" :
                             fmt::format("FAILED with exit code {}: {}", code, last_line(sweep_.dir / (run.name + ".log")));
    fmt::print(stderr, "{}/{} {}: {} | {} left, eta {}\n", ended_ + here_, sweep_.runs.size(), run.name, what, left_,
               duration_text(seconds / double(here_) * double(left_)));
  }

  void write_results() const {
    write_file(sweep_.dir / "results.json", json());
    write_file(sweep_.dir / "results.md", table());
  }

  Sweep sweep_;
  int64_t jobs_ = 1;
  std::vector<SweepOutcome> outcomes_;
  std::vector<size_t> waiting_;
  std::vector<Worker> devices_;
  std::map<pid_t, Running> running_;
  std::map<std::string, int> failures_;  // name, exit code
  int64_t left_ = 0, here_ = 0, ended_ = 0;  // runs to do; ended in this process, and before
  Clock::time_point begin_;
};

int sweep(const Options& o, const Common& common) {
  Sweep sweep = load_sweep(o.path, o.set);
  Sweeping all(std::move(sweep), o);
  if (o.dry_run) return all.list(), 0;
  const int code = all.work();
  if (common.json) fmt::print("{}", all.json());
  else fmt::print("{}", all.table());
  for (const auto& [name, exit] : all.failures())
    fmt::print(stderr, "taper: sweep: run {} ended with exit code {}; see its log; the same command tries again\n", name, exit);
  return code;
}

}  // namespace

void sweep_command(CLI::App& program, Common& common) {
  auto o = std::make_shared<Options>();
  CLI::App& app = *program.add_subcommand("sweep", "Trains every run of a sweep file, and makes a table; the same command goes on after a stop");
  app.add_option("CONFIG", o->path, "A sweep file (see configs/sweeps/mqar_16k.toml)")->required();
  app.add_option("--set", o->set, "section.key=value, for every run; may be repeated")->allow_extra_args(false);
  app.add_option("--only", o->only, "Only runs whose names contain this; may be repeated")->allow_extra_args(false);
  app.add_option("--devices", o->devices, "run.device of the trainings, dealt out among them: cuda:0,cuda:1")->delimiter(',')->allow_extra_args(false);
  app.add_option("--jobs", o->jobs, "Trainings at a time; they share the threads (one on each device)")->check(CLI::Range(int64_t(1), int64_t(1) << 10));
  app.add_flag("--dry-run", o->dry_run, "List the runs and how far each is; start none");
  app.callback([=, &common] { common.chosen = [=, &common] { return sweep(*o, common); }; });
}

}  // namespace taper
