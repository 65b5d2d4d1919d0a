// Config keys: one list serves reading, checking, writing and comparing a configuration.
#pragma once
#include <cstddef>
#include <limits>
#include <vector>

#include "apps/config.h"

namespace taper::config_keys {

struct Rule {  // what a value may be
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  bool above = false;  // strictly greater than low
  std::vector<const char*> choices = {};
  size_t length = 0;   // of an array; 0: any
};
inline const Rule any{}, size{.low = 1}, count{.low = 0};

// Every section and key, in the order they are written. v.section() says whether the keys apply.
template <class C, class V>
void each_key(C& c, V&& v) {
  if (v.section("run")) {
    v("dir", c.run.dir, any);
    v("seed", c.run.seed, count);
    v("device", c.run.device, any);
  }
  if (v.section("model")) {
    auto& m = c.model;
    v("arch", m.arch, any);
    v("wiring", m.wiring, Rule{.choices = {"lm", "mixer", "mqar"}});
    v("post", m.post, any);
    v("d_model", m.d_model, size);
    v("layers", m.layers, size);
    v("heads", m.heads, size);
    v("vocab", m.vocab, count);
    v("head_dim", m.head_dim, count);
    v("d_state", m.d_state, count);
    v("expand_v", m.expand_v, count);
    v("conv_width", m.conv_width, Rule{.low = -1});
    v("ffn_width", m.ffn_width, count);
    v("decay_rank", m.decay_rank, count);
    v("rate_rank", m.rate_rank, count);
    v("value_rank", m.value_rank, count);
    v("gate_rank", m.gate_rank, count);
    v("output_gate", m.output_gate, any);
    v("tied_head", m.tied_head, any);
    v("vocab_multiple", m.vocab_multiple, size);
    v("train_length", m.train_length, Rule{.low = 2});
    v("norm_eps", m.norm_eps, count);
    v("dropout", m.dropout, Rule{.low = 0, .high = 1});
    v("fusion", c.fusion, Rule{.choices = {"none", "full"}});
  }
  if (v.section("post", c.model.post)) {
    auto& p = c.model.post_options;
    v("spectrum", p.spectrum, any);
    v("taper", p.taper, any);
    v("position_reference", p.position_reference, Rule{.low = 0, .above = true});
    v("slowest_rate", p.slowest_rate, count);
    v("fastest_rate", p.fastest_rate, count);
    v("data_dependent", p.data_dependent, any);
  }
  if (v.section("data")) {
    v("task", c.data.task, Rule{.choices = {"text", "mqar"}});
    v("train", c.data.train, any);
    v("validation", c.data.validation, any);
    v("tokenizer", c.data.tokenizer, any);
    v("documents", c.data.documents, Rule{.choices = {"reset", "carry"}});
    v("sequence", c.data.sequence, size);
  }
  if (v.section("mqar", c.data.task == "mqar")) {
    auto& m = c.mqar;
    v("vocab", m.vocab, Rule{.low = 4});
    v("pairs", m.pairs, size);
    v("examples", m.examples, size);
    v("seed", m.seed, count);
    v("fresh", m.fresh, any);
    v("eval_sequence", m.eval_sequence, size);
    v("eval_pairs", m.eval_pairs, size);
    v("eval_examples", m.eval_examples, size);
    v("stop_accuracy", m.stop_accuracy, Rule{.low = 0, .high = 1});
  }
  if (v.section("train")) {
    v("steps", c.train.steps, size);
    v("batch", c.train.batch, size);
    v("accumulate", c.train.accumulate, size);
    v("precision", c.train.precision, Rule{.choices = {"f32", "bf16"}});
    v("residual", c.train.residual, Rule{.choices = {"f32", "bf16"}});
    v("loss_average", c.train.loss_average, Rule{.choices = {"token", "micro"}});
    v("clip", c.train.clip, count);
    v("bptt_segments", c.train.bptt_segments, size);
    v("bptt_truncate", c.train.bptt_truncate, any);
    v("recompute", c.train.recompute, any);
    v("graph", c.train.graph, any);
  }
  if (v.section("optimizer")) {
    v("lr", c.optimizer.lr, count);
    v("betas", c.optimizer.betas, Rule{.low = 0, .high = 1, .length = 2});
    v("eps", c.optimizer.eps, Rule{.low = 0, .above = true});
    v("weight_decay", c.optimizer.weight_decay, count);
  }
  if (v.section("schedule")) {
    v("warmup", c.schedule.warmup, Rule{.low = 0, .high = 1});
    v("final_lr", c.schedule.final_lr, count);
    v("stairs", c.schedule.stairs, count);
  }
  if (v.section("eval")) {
    v("every", c.eval.every, count);
    v("tokens", c.eval.tokens, size);
  }
  if (v.section("checkpoint")) {
    v("every", c.checkpoint.every, count);
    v("keep", c.checkpoint.keep, size);
  }
  if (v.section("guard")) v("max_bad_steps", c.guard.max_bad_steps, size);
  if (v.section("log")) {
    v("every", c.log.every, size);
    v("tensorboard", c.log.tensorboard, any);
  }
}

}  // namespace taper::config_keys
