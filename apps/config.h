// Config: everything a run is told, from a TOML file and --set, checked key by key.
//
// Errors (exit 78) name the place: `config a.toml:14:1: no key 'warmup_step' in [schedule]; did you
// mean 'warmup_steps'?`, or `config --set schedule.warmup_step: ...`. A missing file is 66.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nn/model.h"

namespace taper {

struct RunConfig {
  std::string dir;              // created by train
  int64_t seed = 42;
  std::string device = "auto";
  bool operator==(const RunConfig&) const = default;
};

struct DataConfig {
  std::string task = "text";        // "text": shards made by `taper prepare`; "mqar": generated on the fly
  std::string train, validation;    // directories of shards; validation left out: the same as train
  std::string tokenizer;            // left out: the shards' own; given: shards must agree
  std::string documents = "reset";  // "carry": no reset at document starts, as the reference
  int64_t sequence = 512;           // T
  bool operator==(const DataConfig&) const = default;
};

struct MqarConfig {  // multi-query associative recall (specification 5.3)
  int64_t vocab = 8192;
  std::vector<int64_t> pairs{16, 32, 64, 128};  // key-value pairs: one segment each, in order, in every epoch
  int64_t examples = 262144;                    // in each segment
  int64_t seed = 123;
  bool fresh = false;                           // other examples in every epoch
  std::vector<int64_t> eval_sequence{512, 1024};  // lengths tested ...
  std::vector<int64_t> eval_pairs{128, 256};      // ... each with its number of pairs
  int64_t eval_examples = 3000;                   // of each
  double stop_accuracy = 0;                       // an evaluation whose mean accuracy is above it ends the run; 0: none does
  bool operator==(const MqarConfig&) const = default;
};

struct TrainConfig {
  int64_t steps = 400;
  int64_t batch = 16;                 // sequences in a micro-batch
  int64_t accumulate = 1;             // micro-batches in a step
  std::string precision = "f32";
  std::string residual = "bf16";      // with precision bf16: of the sum that the layers add to; "f32": more memory, fewer roundings
  std::string loss_average = "token"; // "micro": equal weight per micro-batch, as the reference
  double clip = 1.0;                  // of the global norm; 0: off
  int64_t bptt_segments = 1;          // a sequence in so many consecutive segments, the state handed on
  bool bptt_truncate = true;          // gradients end at a segment's beginning, and so does its memory; false: they flow on
  bool recompute = true;              // norms, convolutions and gates are made again in backward, not kept: less memory, same numbers
  bool graph = false;                 // the step as one recorded graph: less work for the host; for a GPU (tensor/graph.h)
  bool operator==(const TrainConfig&) const = default;
};

struct OptimizerConfig {  // AdamW; the groups follow the specification's rule
  double lr = 1e-3;
  std::vector<double> betas{0.9, 0.95};
  double eps = 1e-8, weight_decay = 0.1;
  bool operator==(const OptimizerConfig&) const = default;
};

struct ScheduleConfig {
  double warmup = 0.01;    // fraction of steps
  double final_lr = 1e-5;
  int64_t stairs = 0;      // n: n equal stairs down instead of the cosine (nn/schedule.h)
  bool operator==(const ScheduleConfig&) const = default;
};

struct EvalConfig {
  int64_t every = 100;     // steps; 0: never
  int64_t tokens = 65536;  // of the validation text
  bool operator==(const EvalConfig&) const = default;
};

struct CheckpointConfig {
  int64_t every = 100;     // steps; 0: only the last
  int64_t keep = 2;        // newest
  bool operator==(const CheckpointConfig&) const = default;
};

struct GuardConfig {
  int64_t max_bad_steps = 5;  // in a row
  bool operator==(const GuardConfig&) const = default;
};

struct LogConfig {
  int64_t every = 10;      // steps
  bool tensorboard = false;  // event files in the run's directory too
  bool operator==(const LogConfig&) const = default;
};

struct Config {
  RunConfig run;
  ModelConfig model;            // [model] and [post]; vocab 0: taken from the data
  std::string fusion = "full";  // "none": the plain graph
  DataConfig data;
  MqarConfig mqar;
  TrainConfig train;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  EvalConfig eval;
  CheckpointConfig checkpoint;
  GuardConfig guard;
  LogConfig log;
  bool operator==(const Config&) const = default;
};

// +PoST is on if a preset says so, if [post] is present, or if model.post = true; model.post = false
// turns a preset's off and contradicts [post]. train_length left out: data.sequence.
Config load_config(const std::filesystem::path& path, const std::vector<std::string>& set = {});
Config parse_config(const std::string& text, const std::string& name, const std::vector<std::string>& set = {});

// The complete configuration as TOML: parse_config(write_config(c)) == c.
std::string write_config(const Config& config);

// Every key that applies, "section.key" and its value as write_config() writes it, in file order.
struct Setting {
  std::string key, value;
};
std::vector<Setting> settings(const Config& config);

// The keys in which two configurations differ, in file order, as "section.key: was -> is".
struct Difference {
  std::string key, before, after;
};
std::vector<Difference> differences(const Config& before, const Config& after);

}  // namespace taper
