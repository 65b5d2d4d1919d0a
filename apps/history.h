// History: what a run's directory says of it, for the report. Reads while the run is being written, or after it broke off.
//
// What cannot be used is left out and named in `notes`: a broken line of a log ("metrics.jsonl:17: ..."), a last line that is not
// whole, a configuration of another version. Where a log says a step twice (timings.jsonl of a resumed run), the later counts.
// Errors (66): there is no such directory, or it is no run: it has neither config.toml nor metrics.jsonl.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "apps/config.h"
#include "tensor/file.h"

namespace taper {

struct History {
  struct Step {
    int64_t step = 0, tokens = 0;
    double loss = 0, norm = 0, lr = 0;  // NaN: was not finite
  };
  struct Bucket {  // positions [begin, end)
    int64_t begin = 0, end = 0;
    double loss = 0;
  };
  struct Recall {  // MQAR
    int64_t length = 0, pairs = 0;
    double loss = 0, accuracy = 0;
  };
  struct Evaluation {
    int64_t step = 0;
    double loss = 0, bits_per_byte = 0;  // NaN where the line has none
    std::vector<Bucket> buckets;
    std::vector<Recall> recalls;
  };
  struct Context {  // the same tokens behind so many others
    int64_t tokens = 0;
    double loss = 0, error = 0;  // error: of the mean
  };
  struct Again {  // a passage read a second time, so many tokens later
    int64_t distance = 0;
    double gain = 0, error = 0, right = 0;  // gain: by how much its loss is lower; right: the share of its tokens that were the likeliest
  };
  struct LengthBehaviour {  // of `taper eval --by-position`
    int64_t step = 0, training_length = 0, length = 0, targets = 0, effective_context = 0;
    std::string documents;  // "carry", "reset"
    std::vector<Bucket> buckets;
    std::vector<Context> contexts;
    int64_t passage = 0, passages = 0;  // tokens of a passage, and how many there were
    std::vector<Again> again;
  };
  struct HeldOut {  // of `taper eval`, at one length; MQAR: pairs > 0
    int64_t length = 0, pairs = 0, examples = 0;  // examples: tokens of text
    double loss = 0, bits_per_byte = 0, accuracy = 0;
    std::string data = {};  // where it is not the run's own
  };
  struct Layer {  // a number for each head, or channel
    std::vector<double> rate, time_constant, alpha;
  };
  struct Spectrum {
    int64_t step = 0;
    std::vector<Layer> layers;
  };
  struct Speed {
    int64_t step = 0;
    double seconds = 0;            // of training until then, in the steps that count
    double tokens_per_second = 0;  // since the line before; NaN in the first of a process
  };
  struct Score {  // of one metric of one task of an evaluation (the form of lm-evaluation-harness)
    std::string task, metric, filter;  // "acc", "none"
    double value = 0, error = 0;       // error: of the mean; NaN where there is none
    int shots = -1;                    // -1: not said
    int64_t samples = -1;
    std::optional<bool> higher_is_better;
    bool ruler_like = false;  // asked in this project's words
  };

  Path dir;
  std::string name;               // see name_runs()
  std::optional<Config> config;
  int64_t parameters = 0;         // of the configuration's model; 0: not known
  std::vector<Step> steps;
  std::vector<Evaluation> evaluations;
  std::vector<Spectrum> spectra;
  std::vector<Speed> speeds;
  std::vector<Score> scores;      // of all results*.json below the directory; of a task evaluated twice the newest file's
  std::optional<LengthBehaviour> length_behaviour;  // of the newest by_position*.json below the directory
  std::vector<HeldOut> held_out;  // of all held_out*.json below the directory; of a length (of the same pairs, or text) evaluated twice the newest file's
  std::vector<std::string> notes;
};

History read_history(const Path& dir);

// Names a reader can tell apart: the last parts of the directories' paths, as few as do.
void name_runs(std::vector<History>& runs);

}  // namespace taper
