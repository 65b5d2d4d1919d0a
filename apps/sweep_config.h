// Sweep configuration: many runs from one TOML file.
//
//   [sweep]
//   dir = "runs/lr"                          # each run is a directory in it
//   set = ["train.steps=512"]                # of every run, as --set
//   [sweep.axes]                             # of every run: one for each combination of values
//   "run.seed" = [1, 2]
//   [[group]]                                # one or more
//   configs = ["mamba2.toml", "rwkv7.toml"]  # as of `taper train`; paths from this file's directory
//   name = "32k"                             # optional: goes before the names of the group's runs
//   set = ["model.d_model=512"]              # optional
//   [group.axes]                             # optional
//   "optimizer.lr" = [1e-3, 1e-2]
//
// A run is called [name-]STEM[-lr=0.001][-seed=1]: an axis shows if it has several values. Later settings win: sweep.set,
// group.set, the axes, the caller's. Every configuration is checked here, before the first run begins.
//
// Errors (78) name the file and the place; a missing file is 66.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "apps/config.h"

namespace taper {

struct SweepRun {
  std::string name;
  std::string model;                                       // the run without its axes: [name-]STEM
  std::vector<std::pair<std::string, std::string>> values; // of the axes: {"optimizer.lr", "0.001"}
  std::string path;                                        // of the configuration
  std::vector<std::string> set;                            // all settings but run.dir
  Config config;                                           // what they make, run.dir included
};

struct Sweep {
  std::filesystem::path dir;
  std::vector<SweepRun> runs;  // the first combination of all models, then the second ...
};

Sweep load_sweep(const std::filesystem::path& file, const std::vector<std::string>& set = {});

}  // namespace taper
