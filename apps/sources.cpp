// Sources: token shards or MQAR, for training and for held-out data.
#include "apps/sources.h"

#include <algorithm>

#include "data/tasks/mqar.h"
#include "tensor/error.h"

namespace taper {

Config resolve_with_data(Config config) {
  int64_t vocab = config.mqar.vocab;
  if (config.data.task == "text") {
    check(!config.data.train.empty(), Exit::bad_config,
          "config: [data] train must name a directory of shards (`taper prepare` makes one); it is missing");
    const TokenStream stream(config.data.train, "train", config.data.tokenizer);
    config.data.tokenizer = stream.tokenizer();
    vocab = stream.vocab();
  }
  if (config.model.vocab == 0) config.model.vocab = vocab;
  check(config.model.vocab >= vocab, Exit::bad_config, "config: model.vocab must be at least the data's {}; got {}", vocab,
        config.model.vocab);
  return config;
}

std::unique_ptr<BatchSource> training_source(const Config& config, Device& trained_on) {
  Device& device = config.train.bptt_segments > 1 ? open_device("cpu") : trained_on;
  if (config.data.task == "mqar") {
    MqarOptions o;
    o.batch = config.train.batch;
    o.vocab = config.mqar.vocab;
    o.sequence = config.data.sequence;
    o.pairs = config.mqar.pairs;
    o.examples = config.mqar.examples;
    o.seed = uint64_t(config.mqar.seed);
    o.fresh = config.mqar.fresh;
    return std::make_unique<MqarSource>(o, device);
  }
  TokenOptions o;
  o.batch = config.train.batch;
  o.directory = config.data.train;
  o.tokenizer = config.data.tokenizer;
  o.sequence = config.data.sequence;
  o.reset = config.data.documents == "reset";
  o.seed = uint64_t(config.run.seed);
  return std::make_unique<TokenLoader>(o, device);
}

std::unique_ptr<BatchSource> held_out_source(const Config& config, const HeldOut& what, Device& device) {
  if (config.data.task == "mqar") {
    MqarOptions o;
    o.batch = what.batch;
    o.once = true;
    o.vocab = config.mqar.vocab;
    o.sequence = what.length;
    o.pairs = {what.pairs};
    o.examples = config.mqar.eval_examples;
    o.seed = uint64_t(config.mqar.seed);
    o.split = "test";
    return std::make_unique<MqarSource>(o, device);
  }
  TokenOptions o;
  o.batch = what.batch;
  o.directory = config.data.validation;
  o.split = "validation";
  o.tokenizer = config.data.tokenizer;
  o.sequence = what.length;
  o.reset = config.data.documents == "reset";
  o.shuffle = false;
  o.max_tokens = what.tokens;
  return std::make_unique<TokenLoader>(o, device);
}

int64_t batch_for_length(const Config& config, int64_t length) {
  return std::max<int64_t>(1, config.train.batch * config.data.sequence / length);
}

}  // namespace taper
