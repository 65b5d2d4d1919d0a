// Plan: one step and one evaluation batch on the plan device, and what the process takes besides.
#include "apps/plan.h"

#include <fmt/core.h>
#include <sys/resource.h>

#include <algorithm>

#include "apps/sources.h"
#include "apps/trainer.h"
#include "tensor/parallel.h"

namespace taper {
namespace {

// Batches of the right shape that hold nothing.
class EmptySource final : public BatchSource {
 public:
  EmptySource(const Config& c, int64_t batch, int64_t length, Device& device) : config_(c), shape_{batch, length}, device_(device) {}
  Batch next() override {
    Batch b{Tensor(device_, shape_, Dtype::i32), Tensor(device_, shape_, Dtype::i32), {}, shape_.numel()};
    if (config_.data.task == "text" && config_.data.documents == "reset") b.packing.start = Tensor(device_, shape_, Dtype::i32);
    return b;
  }
  Cursor cursor() const override { return {}; }
  void seek(const Cursor&) override {}
  int64_t samples_per_epoch() const override { return 1; }
  int64_t remaining() const override { return -1; }
  int64_t vocab() const override { return config_.model.vocab; }
  std::string identity() const override { return "none"; }

 private:
  const Config& config_;
  Shape shape_;
  Device& device_;
};

// Multiply-adds count as 2; backward is twice the forward pass.
double flops_per_token(const LanguageModel& model, int64_t matrix_elements) {
  double forward = 2.0 * double(matrix_elements);
  for (const Block& block : model.blocks) forward += block.mixer->recurrence_flops();
  return 3 * forward;
}

}  // namespace

int64_t peak_resident_bytes() {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return int64_t(usage.ru_maxrss) * 1024;
}

int64_t Plan::resident() const { return host + std::max(step_peak, eval_peak); }

Plan plan_run(const Config& config) {
  Device& device = open_device("plan");
  Plan plan;
  device.reset_peak();
  const size_t before = device.bytes_live();
  const auto peak = [&] { return int64_t(device.bytes_peak() - before); };
  Trainer trainer(config, device, std::make_unique<EmptySource>(config, config.train.batch, config.data.sequence, device));
  int64_t matrices = 0;
  for (const Parameter* p : trainer.model.parameters()) {
    plan.parameters += p->value.numel();
    if (p->trainable) plan.trainable += p->value.numel();
    plan.weights += int64_t(p->value.bytes());
    const bool looked_up = p->name == "embedding.weight" && !trainer.model.config.tied_head;  // and not multiplied by
    if (p->value.rank() == 2 && !looked_up) matrices += p->value.numel();
    plan.table += fmt::format("{:<40} {:<18} {:>12}{}{}\n", p->name, p->value.shape().text(), p->value.numel(),
                              p->trainable ? "" : "  frozen", p->decays() ? "  decays" : "");
  }
  plan.moments = int64_t(device.bytes_live() - before) - plan.weights;
  plan.flops_per_token = flops_per_token(trainer.model, matrices);
  trainer.step();
  trainer.step();  // the second finds what the first leaves behind
  plan.step_peak = peak();

  const int64_t length = config.data.sequence;
  EmptySource batches(config, batch_for_length(config, length), length, device);
  device.reset_peak();
  {
    const Batch batch = batches.next();
    Tape tape = Tape::constants();
    trainer.model.loss(tape, batch.ids, batch.labels, batch.packing, {});
    plan.eval_peak = peak();
  }
  // This process has done all but the work. To come: a few decoded blocks and batches of the loader,
  // and the workspace of the matrix products on each thread.
  const int64_t batch_bytes = 3 * 4 * config.train.batch * length;
  plan.host = peak_resident_bytes() + (3 + config.train.accumulate) * batch_bytes + int64_t(thread_count()) * (4 << 20);
  return plan;
}

}  // namespace taper
