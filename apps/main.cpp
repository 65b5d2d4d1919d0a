// taper: the program. Parses the command line, runs the command, turns errors into one line and an exit code.
#include <fmt/core.h>
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <new>

#include "apps/commands.h"
#include "apps/version.h"
#include "tensor/error.h"
#include "tensor/parallel.h"
#include "tensor/profile.h"

namespace {

// Large blocks come from the system and go back to it at once. Left alone, glibc moves them into its heap
// after the first is freed, where they lie scattered: a training step then held a third more than it used.
// (The CPU device keeps the blocks a step will want again.) Setting the threshold stops its moving.
void return_large_blocks() {
  mallopt(M_MMAP_THRESHOLD, 128 << 10);
  mallopt(M_TRIM_THRESHOLD, 16 << 20);
}

int run(int argc, char** argv) {
  using namespace taper;
  CLI::App program{"taper: trains, evaluates and audits linear-recurrent language models", "taper"};
  program.set_version_flag("--version", std::string("taper ") + version);
  program.require_subcommand(1);
  program.fallthrough();
  Common common;
  common.command.assign(argv, argv + argc);
  int threads = 0;
  bool wait = false;
  program.add_flag("--json", common.json, "Machine-readable output on stdout");
  program.add_option("--threads", threads, "Threads of the CPU device (default: the cores this process may use)")
      ->check(CLI::Range(1, 4096));
  program.add_flag("--sync-every-op", wait, "Wait for each kernel, so that a fault inside one is reported with its name; slow");
  for (auto* add : {prepare_command, tokenize_command, train_command, eval_command, generate_command, audit_command, info_command, report_command,
                    bench_command, convert_command, sweep_command})
    add(program, common);
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return program.exit(e);  // --help, --version
  } catch (const CLI::ParseError& e) {
    fmt::print(stderr, "taper: {}; see taper {}--help\n", e.what(),
               program.get_subcommands().empty() ? "" : program.get_subcommands()[0]->get_name() + " ");
    return int(Exit::usage);
  }
  if (threads) set_thread_count(threads);
  sync_every_op = wait;
  return common.chosen();
}

}  // namespace

int main(int argc, char** argv) {
  using taper::Exit;
  return_large_blocks();
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is an error of write(), not a death
  int code = int(Exit::internal);
  try {
    code = run(argc, argv);
    if (std::fflush(stdout) != 0) taper::fail(Exit::io, "standard output: write failed");
  } catch (const taper::Error& e) {
    code = int(e.code);
    fmt::print(stderr, "taper: {}\n", e.what());
    if (e.code == Exit::internal) fmt::print(stderr, "  at {}:{}\n", e.at.file_name(), e.at.line());
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "taper: memory is out; use a smaller batch or model\n");
    code = int(Exit::unavailable);
  } catch (const std::exception& e) {
    fmt::print(stderr, "taper: {}\n", e.what());
  }
  return code;
}
