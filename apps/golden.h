// Golden: holds a model, in f64, to the outputs and gradients that a reference implementation saved.
//
// A model's file holds ids [B,T] i32, logits [B,T,V], loss [1] (mean cross entropy over the T-1 shifted tokens),
// param.NAME and grad.NAME; a mixer's holds x [B,T,D], y, the cotangent dy and its pull-back dx, and the same. Metadata
// holds the sizes as strings. The architecture follows from the tensor names; a parameter without grad.NAME is frozen.
#pragma once
#include <string>

#include "tensor/file.h"

namespace taper {

struct GoldenRecord {
  std::string file, architecture;  // architecture: "mamba2_post"
  double forward_error = 0;        // relative L2, the worst of logits and loss, or of y
  double gradient_error = 0;       // relative L2, the worst parameter's
  std::string worst;               // that parameter
  bool pass = false;               // forward <= 5e-6 and gradient <= 2e-4
};

// Errors: 66 missing; 65 malformed, or its tensors fit no architecture of this build.
GoldenRecord check_golden(const Path& path);

}  // namespace taper
