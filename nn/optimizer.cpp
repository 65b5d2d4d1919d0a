// AdamW: gradients summed by name, then one guarded update of every trainable parameter.
#include "nn/optimizer.h"

#include "tensor/error.h"
#include "tensor/ops/accumulate.h"
#include "tensor/ops/adamw.h"
#include "tensor/ops/global_norm.h"

namespace taper {

Gradients::Gradients(const std::vector<Parameter*>& parameters) {
  for (const Parameter* p : parameters) {
    if (!p->trainable) continue;
    check(index_.emplace(p->name, parameters_.size()).second, "gradients: parameter names must differ; '{}' is taken",
          p->name);
    parameters_.push_back(p);
  }
  sums_.resize(parameters_.size());
}

void Gradients::add(const std::string& name, const Tensor& d) {
  const auto found = index_.find(name);
  check(found != index_.end(), "gradients: '{}' is not a trainable parameter", name);
  const Tensor& value = parameters_[found->second]->value;
  check(d.shape() == value.shape() && d.dtype() == value.dtype(), "gradients: '{}' is {} {}; its gradient is {} {}",
        name, taper::name(value.dtype()), value.shape().text(), taper::name(d.dtype()), d.shape().text());
  Tensor& sum = sums_[found->second];
  if (!sum) {
    sum = d;
    return;
  }
  if (!sum.unique()) sum = clone(sum);  // somebody else reads it
  kernels::accumulate({.sum = sum, .d = d});
}

void Gradients::clear() {
  for (Tensor& sum : sums_) sum = {};
}

const std::vector<Tensor>& Gradients::complete() const {
  for (size_t i = 0; i < sums_.size(); ++i)
    check(bool(sums_[i]),
          "gradients: parameter '{}' has no gradient: the loss does not depend on it; freeze it or use it",
          parameters_[i]->name);
  return sums_;
}

std::function<void(const Node&, const Tensor&)> Gradients::into() {
  return [this](const Node& leaf, const Tensor& d) { add(leaf.scope, d); };
}

AdamW::AdamW(const AdamWConfig& config, const std::vector<Parameter*>& parameters) : config(config) {
  for (Parameter* p : parameters)
    if (p->trainable) slots_.push_back({p, zeros_like(p->value), zeros_like(p->value)});
  check(!slots_.empty(), "adamw: at least one trainable parameter is wanted; got none of {}", parameters.size());
  Device& device = slots_[0].parameter->value.device();
  steps_ = zeros(device, {}, Dtype::i64);
  bad_steps_ = zeros(device, {}, Dtype::i64);
  scale_ = zeros(device, {}, Dtype::f64);
  result_ = {.norm = zeros(device, {}, Dtype::f64), .finite = zeros(device, {}, Dtype::i32)};
}

StepResult AdamW::step(const Gradients& gradients, double lr, const Tensor& loss) {
  return step(gradients, full(steps_.device(), {}, Dtype::f64, lr), loss);
}

StepResult AdamW::step(const Gradients& gradients, const Tensor& lr, const Tensor& loss) {
  const std::vector<Tensor>& g = gradients.complete();
  check(g.size() == slots_.size(), "adamw: gradients of the {} parameters it was made with are wanted; got {}",
        slots_.size(), g.size());
  kernels::global_norm({.tensors = g, .norm = result_.norm});
  kernels::step_guard({.norm = result_.norm,
                       .loss = loss,
                       .scale = scale_,
                       .finite = result_.finite,
                       .steps = steps_,
                       .bad_steps = bad_steps_,
                       .clip = config.clip,
                       .max_bad_steps = config.max_bad_steps});
  std::vector<kernels::AdamWTensor> tensors;
  for (size_t i = 0; i < g.size(); ++i) {
    const Parameter& p = *slots_[i].parameter;
    tensors.push_back({.value = p.value,
                       .gradient = g[i],
                       .moment1 = slots_[i].moment1,
                       .moment2 = slots_[i].moment2,
                       .lr_scale = p.lr_scale,
                       .weight_decay = p.decays() ? config.weight_decay : 0});
  }
  kernels::adamw({.tensors = tensors,
                  .rate = lr,
                  .scale = scale_,
                  .finite = result_.finite,
                  .steps = steps_,
                  .beta1 = config.beta1,
                  .beta2 = config.beta2,
                  .eps = config.eps});
  return result_;
}

int64_t AdamW::steps() const { return int64_t(item(steps_)); }
int64_t AdamW::bad_steps() const { return int64_t(item(bad_steps_)); }

void AdamW::each_state(const std::function<void(const std::string&, Tensor&)>& visit) {
  for (Slot& slot : slots_) visit("moment1." + slot.parameter->name, slot.moment1);
  for (Slot& slot : slots_) visit("moment2." + slot.parameter->name, slot.moment2);
  visit("steps", steps_);
  visit("bad_steps", bad_steps_);
}

}  // namespace taper
