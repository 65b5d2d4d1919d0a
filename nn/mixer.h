// Mixer: what a block mixes tokens with, and what it remembers. One class per architecture (nn/mixers).
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "autograd/ops.h"
#include "nn/config.h"
#include "nn/parameter.h"

namespace taper {

// What one sequence (of each batch row) carries from one segment to the next. Absent Vars: the beginning.
struct MixerState {
  Var recurrent;             // [B,H,N,P] or [B,H,K,V]; f32 (f64 in an f64 model)
  std::vector<Var> history;  // convolutions: [B,W-1,C] each, the last inputs; rwkv7: [B,D], the last token
};

// One forward pass through all layers.
struct Pass {
  const Packing& packing;
  bool fused = true;  // fused rooms where there are some; false: the plain graph
  Var stream = {};   // [B,T,D]: the layer adds what it makes to it, inside its last product; absent: it adds to nothing
  Var v_first = {};  // rwkv7: the first layer's values [B,T,D], which later layers mix in
};

struct HeadSpectrum {
  double rate;           // decay at position 1; per unit of the step where there is one
  double time_constant;  // tokens until the state has decayed to 1/e at position 1, as the biases alone have it
  double alpha;          // taper exponent (0 without taper)
};

class Mixer {
 public:
  virtual ~Mixer() = default;
  // x [B,T,D] -> [B,T,D], added to pass.stream where there is one. state: read where its Vars are present, then replaced by the state after T.
  virtual Var forward(Tape& tape, const Var& x, Pass& pass, MixerState* state) const = 0;
  virtual void each(const std::function<void(Parameter&)>& visit) = 0;
  virtual std::vector<HeadSpectrum> spectrum() const = 0;  // for reports; slowest first where ordered
  virtual double recurrence_flops() const = 0;  // of one token's forward pass outside the projections, token by token
};

std::unique_ptr<Mixer> make_mixer(const ModelConfig& completed, const Init& init, int64_t layer);

}  // namespace taper
