// Decay: what mixers with a step size share: its initialisers, and what a head's decay amounts to.
#pragma once
#include "nn/model.h"

namespace taper {

double inverse_softplus(double y);  // y > 0

// softplus^-1 of a step drawn evenly in its logarithm from 0.001 to 0.1 (specification 1.1).
Draw fill_dt_bias();
// log of a rate drawn evenly from (0, 16).
Draw fill_a_log();

// p [H] log rates, dt_bias [H], alpha [H] or absent: each head at position 1 and its bias's step.
std::vector<HeadSpectrum> head_spectrum(const Var& p, const Tensor& dt_bias, const Var& alpha);

}  // namespace taper
