// Foreign configurations: what other programs' config.json say of a model, and the same written for them.
//
//   post  the reference of PoST: model_type mamba2_post, post_gated_deltanet and rwkv7_post, each baseline or +PoST
//         (specification 7). gla_post and retnet_post, +PoST only, are ours: FLA's keys with train_length and use_post.
//   fla   flash-linear-attention: mamba2, rwkv7, gated_deltanet, gla and retnet; baselines only.
//
// Each key is in one table: it says a size, must have the one value we compute, or is of no effect here and is carried
// along. A key that is missing means what it means to the program that reads it there. Errors: 78, naming key and value.
#pragma once
#include <string>
#include <vector>

#include "nn/config.h"

namespace taper {

// What only the tensors tell.
struct TensorFacts {
  bool post = false;            // there is a spectrum
  bool data_dependent = false;  // retnet: a gate instead of rotary
};

struct ForeignConfig {
  std::string dialect, model_type;
  ModelConfig model;                 // completed
  int64_t idle_ffn = 0;              // fla gated_deltanet: width of its feed-forward layers, which ours has not; else 0
  std::vector<std::string> unknown;  // keys in no table, in order
};

// `who` names the file in messages. Infinity and NaN may stand in the text as Python writes them. Errors: 65, no JSON
// object, or use_post contradicts the tensors; 78.
ForeignConfig read_foreign_config(const std::string& text, const std::string& who, const TensorFacts& facts);

struct ForeignWish {
  std::string dialect;
  std::string dtype = "float32";
  std::string origin = "";  // another config.json of this model: its carried keys keep their values
  int64_t eod = -1;         // the tokenizer's end of a document, for ids that the origin does not give; -1: unknown
};
// What the dialect cannot say, or computes differently, is refused by name (78).
std::string write_foreign_config(const ModelConfig& model, const ForeignWish& wish);

// The text with another dtype, all else kept.
std::string with_dtype(const std::string& text, const std::string& dtype);

// Where two models compute differently: "gate_rank = 5 and 16" for the first; empty where they do not. What only training
// or the draw of new weights needs does not count, nor do sizes that the architecture has not.
std::string model_difference(const ModelConfig& a, const ModelConfig& b);

}  // namespace taper
