// Ops: every differentiable op, as modules call it. The contracts stand in tensor/ops/<room>.h.
// An absent Var ({}) is an optional input left out. Mixed dtypes are an error: cast says it aloud.
#pragma once
#include "autograd/tape.h"
#include "tensor/packing.h"
#include "tensor/random.h"

namespace taper {

// unary: y[i] = f(x[i])
Var silu(const Var& x);
Var sigmoid(const Var& x);
Var tanh(const Var& x);
Var relu(const Var& x);
Var relu_squared(const Var& x);  // max(x, 0)^2
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
Var swiglu(const Var& a, const Var& b);  // multiply(silu(a), b), in one pass; saves a and b alone

// reduce: to a scalar []
Var sum(const Var& x);
Var mean(const Var& x);

Var cast(const Var& x, Dtype dtype);

// copy: split and concat work on the last dimension; transpose swaps the last two
std::vector<Var> split(const Var& x, const std::vector<int64_t>& sizes);
std::vector<Var> split_rows(const Var& x, const std::vector<int64_t>& sizes);  // on the first dimension: views, nothing is copied
Var concat(const std::vector<Var>& parts);
Var transpose(const Var& x);
Var reshape(const Var& x, const std::vector<int64_t>& sizes);  // a view; one size may be -1

// matmul: op(a) op(b). Without transpose_a, a is [..., K]: its leading dimensions are rows.
struct Transposes {
  bool a = false, b = false;
};
Var matmul(const Var& a, const Var& b, Transposes transposes = {});
Var matmul_relu_squared(const Var& a, const Var& b, Transposes transposes = {});  // relu_squared(matmul(a, b)); keeps the square alone
Var matmul_add(const Var& a, const Var& b, const Var& added, Transposes transposes = {});  // add(matmul(a, b), added)
Var matmul_silu_gate(const Var& x, const Var& gate, const Var& up);  // swiglu(x gate^T, x up^T), which are kept for a gradient alone
// x weight_i^T for one to six weights [N_i,K]; the gradient of x [...,K] is summed inside the products.
std::vector<Var> project(const Var& x, const std::vector<Var>& weights);

Var embedding(const Var& table, const Tensor& ids);  // table [V,D], ids [...] i32 -> [...,D]

// Norms over the last dimension. With add_: of sum = x + added, as at the head of a layer, where x is the residual stream and
// added what the layer before made; sum goes on and y, of added's dtype, into the layer. Absent added: sum is x itself.
struct NormResult {
  Var y, sum;
};
Var rms_norm(const Var& x, const Var& weight, double eps);
NormResult add_rms_norm(const Var& x, const Var& added, const Var& weight, double eps);
Var l2_norm(const Var& x, double eps);                      // x / sqrt(sum x^2 + eps) over the last dimension
// Mean 0 and variance 1 in each of `groups` equal parts of the last dimension D; weight, bias [D].
Var group_norm(const Var& x, const Var& weight, const Var& bias, int64_t groups, double eps);
NormResult add_group_norm(const Var& x, const Var& added, const Var& weight, const Var& bias, int64_t groups, double eps);
inline Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps) { return group_norm(x, weight, bias, 1, eps); }

// dropout: element i is x_i / (1 - p) where the uniform draw i of key's generator is >= p, else 0. p in [0,1)
Var dropout(const Var& x, double p, const Tensor& key);  // key [2] i64 (Random::key)

Var keep_rows(const Var& x, const Tensor& keep);  // x [B,...], keep [B] i32: rows with 0 become 0

enum class GateOrder { gate_then_norm, norm_then_gate };
Var gated_rms_norm(const Var& x, const Var& gate, const Var& weight, double eps, GateOrder order);

// causal_conv1d: depthwise over time, then silu if asked. Also gives the inputs the next segment needs.
struct ConvResult {
  Var y, tail;  // [B,T,D], [B,W-1,D]
};
ConvResult causal_conv1d(const Var& x, const Var& weight, const Var& bias, const Var& history,
                         const Packing& packing, bool with_silu);

Var cross_entropy(const Var& logits, const Tensor& labels);  // -> nll [...], 0 where label = -100

// linear_cross_entropy: factor * sum of the nll of x weight^T, without all logits at once; fused, walked once.
struct LossResult {
  Var loss;    // []
  Tensor nll;  // [...], for reports: it carries no gradient
};
// x [...,D], weight [V,D], factor [] f64 (absent: 1)
LossResult linear_cross_entropy(const Var& x, const Var& weight, const Tensor& labels, const Tensor& factor = {});

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

// delta_scan: S' = exp(log_a_t) S_{t-1},  S_t = S' + beta_t k_t (v_t - S'^T k_t)^T,  y_t = scale S_t^T q_t
struct DeltaInputs {
  Var q, k;          // [B,T,H,K]
  Var v;             // [B,T,H,V]
  Var log_a, beta;   // [B,T,H], log_a <= 0; with |k| <= 1 any beta in [0,2] is stable
  Var initial;       // [B,H,K,V]; absent: 0
  double scale = 1;  // usually K^-1/2
};
struct DeltaResult {
  Var y, final;  // [B,T,H,V], [B,H,K,V]
};
constexpr int64_t delta_chunk = 64;
DeltaResult delta_scan(const DeltaInputs& in, const Packing& packing, int64_t chunk = delta_chunk);  // 0: token by token

// dplr_scan: m_t = S_{t-1}^T a_t,  S_t = diag(exp(log_w_t)) S_{t-1} + b_t m_t^T + k_t v_t^T,  y_t = S_t^T r_t
struct DplrInputs {
  Var r, log_w, k;  // [B,T,H,K], log_w <= 0
  Var v;            // [B,T,H,V]
  Var a, b;         // [B,T,H,K]; RWKV-7: a = -kappa, b = kappa gate
  Var initial;      // [B,H,K,V]; absent: 0
};
struct DplrResult {
  Var y, final;  // [B,T,H,V], [B,H,K,V]
};
constexpr int64_t dplr_chunk = 16;  // at most
DplrResult dplr_scan(const DplrInputs& in, const Packing& packing, int64_t chunk = dplr_chunk);  // 0: token by token

// token_shift: y_t = x_{t-1} - x_t. Also gives the token the next segment needs.
struct ShiftResult {
  Var y, tail;  // [B,T,D], [B,D]
};
ShiftResult token_shift(const Var& x, const Var& last, const Packing& packing);  // last [B,D]; absent: 0

// token_mix: y_m = x + token_shift(x).y * weight_m for up to six weights at once.
struct MixResult {
  std::vector<Var> y;  // [B,T,D] each, one for each weight
  Var tail;            // [B,D]
};
MixResult token_mix(const Var& x, const Var& last, const std::vector<Var>& weights, const Packing& packing);  // weights [D]

// bonus: y + (sum_n r_n k_n weight_n) v per head: what RWKV's current token adds.  r k [B,T,H,K], y v [B,T,H,V], weight [H,K]
Var bonus(const Var& y, const Var& r, const Var& k, const Var& v, const Var& weight);

Var rotary(const Var& x, const Packing& packing, double base = 10000);  // x [B,T,H,K], turned by position

// The PoST ops
Var spectral_cumsum(const Var& theta, const Var& delta);                 // [] [N-1] -> p [N]
Var taper_exponent(const Var& delta, double train_length);               // [N-1] -> alpha [N]
Var rate_exponent(const Var& p, double train_length);                    // any log rates p [N] -> alpha [N]
Var position_taper(const Var& alpha, int64_t B, int64_t T, const Packing& packing,
                   double position_reference = 1);                       // [H] -> s [B,T,H]
// -exp(p) dt s: p [H], dt [B,T,H] or [B,T,H,K], s [B,T,H] -> dt's shape, or s's. dt or s may be absent.
Var log_decay(const Var& p, const Var& dt, const Var& s);
// The same with s = position_taper(alpha, ...), which is not kept: alpha [H]. dt absent: 1, -> [B,T,H].
Var tapered_log_decay(const Var& p, const Var& dt, const Var& alpha, int64_t B, int64_t T, const Packing& packing, double position_reference = 1);
// RWKV-7's log-decay: -e^(-1/2) sigmoid(u + w0 - alpha log(t / position_reference)), u [B,T,D], w0 alpha [D] or absent.
Var sigmoid_decay(const Var& u, const Var& w0, const Var& alpha, const Packing& packing, double position_reference = 1);

// gla_scan: S_t = diag(exp(log_a_t)) S_{t-1} + k_t v_t^T,  y_t = scale S_t^T q_t
struct GlaInputs {
  Var q, k;     // [B,T,H,K]
  Var v;        // [B,T,H,V]
  Var log_a;    // [B,T,H,K], <= 0
  Var initial;  // [B,H,K,V]; absent: 0
};
struct GlaResult {
  Var y, final;  // [B,T,H,V], [B,H,K,V]
};
constexpr int64_t gla_chunk = 64;
GlaResult gla_scan(const GlaInputs& in, double scale, const Packing& packing, int64_t chunk = gla_chunk);  // 0: token by token

}  // namespace taper
