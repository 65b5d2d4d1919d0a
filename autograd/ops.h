// Ops: every differentiable op, as modules call it. The contracts stand in tensor/ops/<room>.h.
// An absent Var ({}) is an optional input left out. Mixed dtypes are an error: cast says it aloud.
#pragma once
#include "autograd/tape.h"
#include "tensor/packing.h"

namespace taper {

// unary: y[i] = f(x[i])
Var silu(const Var& x);
Var sigmoid(const Var& x);
Var tanh(const Var& x);
Var relu(const Var& x);
Var exp(const Var& x);
Var log(const Var& x);
Var softplus(const Var& x);
Var negate(const Var& x);
Var square(const Var& x);
Var scale(const Var& x, double factor);

// binary: b has a's shape, or a's trailing dimensions, or is a scalar []
Var add(const Var& a, const Var& b);
Var subtract(const Var& a, const Var& b);
Var multiply(const Var& a, const Var& b);
Var divide(const Var& a, const Var& b);

// reduce: to a scalar []
Var sum(const Var& x);
Var mean(const Var& x);

Var cast(const Var& x, Dtype dtype);

// copy: split and concat work on the last dimension; transpose swaps the last two
std::vector<Var> split(const Var& x, const std::vector<int64_t>& sizes);
Var concat(const std::vector<Var>& parts);
Var transpose(const Var& x);
Var reshape(const Var& x, const std::vector<int64_t>& sizes);  // a view; one size may be -1

// matmul: op(a) op(b). Without transpose_a, a is [..., K]: its leading dimensions are rows.
struct Transposes {
  bool a = false, b = false;
};
Var matmul(const Var& a, const Var& b, Transposes transposes = {});

Var embedding(const Var& table, const Tensor& ids);  // table [V,D], ids [...] i32 -> [...,D]

Var rms_norm(const Var& x, const Var& weight, double eps);  // over the last dimension

enum class GateOrder { gate_then_norm, norm_then_gate };
Var gated_rms_norm(const Var& x, const Var& gate, const Var& weight, double eps, GateOrder order);

// causal_conv1d: depthwise over time, then silu if asked. Also gives the inputs the next segment needs.
struct ConvResult {
  Var y, tail;  // [B,T,D], [B,W-1,D]
};
ConvResult causal_conv1d(const Var& x, const Var& weight, const Var& bias, const Var& history,
                         const Packing& packing, bool with_silu);

Var cross_entropy(const Var& logits, const Tensor& labels);  // -> nll [...], 0 where label = -100

// ssd_scan: S_t = exp(log_a_t) S_{t-1} + dt_t b_t x_t^T,  y_t = S_t^T c_t + d x_t
struct SsdInputs {
  Var x;        // [B,T,H,P]
  Var log_a;    // [B,T,H], <= 0
  Var b, c;     // [B,T,G,N], G divides H
  Var dt;       // [B,T,H]; absent: 1
  Var d;        // [H]; absent: 0
  Var initial;  // [B,H,N,P]; absent: 0
};
struct SsdResult {
  Var y, final;  // [B,T,H,P], [B,H,N,P]
};
constexpr int64_t ssd_chunk = 64;
SsdResult ssd_scan(const SsdInputs& in, const Packing& packing, int64_t chunk = ssd_chunk);  // 0: token by token

// The PoST ops
Var spectral_cumsum(const Var& theta, const Var& delta);                 // [] [N-1] -> p [N]
Var taper_exponent(const Var& delta, double train_length);               // [N-1] -> alpha [N]
Var position_taper(const Var& alpha, int64_t B, int64_t T, const Packing& packing,
                   double position_reference = 1);                       // [H] -> s [B,T,H]
Var log_decay(const Var& p, const Var& dt, const Var& s);                // -exp(p) dt s; dt or s may be absent

}  // namespace taper
