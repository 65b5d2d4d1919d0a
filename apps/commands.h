// Commands: what each subcommand of `taper` adds to the program, and what all of them share.
//
// A command is one function in the file of its name. It declares its options on a CLI11 subcommand
// and sets `common.chosen` in the subcommand's callback:
//
//   void info_command(CLI::App& program, Common& common) {
//     auto options = std::make_shared<Options>();
//     CLI::App& app = *program.add_subcommand("info", "What a model or a run is");
//     app.add_option("--preset", options->preset, "...");
//     app.callback([=, &common] { common.chosen = [=, &common] { return info(*options, common); }; });
//   }
//
// The chosen function runs after parsing; it returns the exit code or throws Error.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "apps/config.h"

namespace CLI {
class App;
}

namespace taper {

struct Common {
  bool json = false;                 // --json: machine-readable output on stdout
  std::vector<std::string> command;  // argv, for the run's record
  std::function<int()> chosen;       // set by the subcommand that was named
};

// CONFIG and --set section.key=value, for a command that takes a configuration.
struct ConfigSource {
  std::string path;
  std::vector<std::string> set;
  Config load() const { return load_config(path, set); }
};
void config_options(CLI::App& app, ConfigSource& source, bool required = true);

void prepare_command(CLI::App& program, Common& common);
void tokenize_command(CLI::App& program, Common& common);
void train_command(CLI::App& program, Common& common);
void eval_command(CLI::App& program, Common& common);
void generate_command(CLI::App& program, Common& common);
void audit_command(CLI::App& program, Common& common);
void info_command(CLI::App& program, Common& common);
void report_command(CLI::App& program, Common& common);
void bench_command(CLI::App& program, Common& common);
void convert_command(CLI::App& program, Common& common);
void sweep_command(CLI::App& program, Common& common);

}  // namespace taper
