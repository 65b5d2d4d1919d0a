// Decoder: token by token from a prefilled state, recorded or not, against the model's own pass. On a GPU where
// TAPER_TEST_DEVICE names one.
#include "nn/decoder.h"

#include <cstdlib>

#include "tests/nn/small_models.h"

namespace taper::test {
namespace {

Device& device() {
  const char* name = std::getenv("TAPER_TEST_DEVICE");
  return open_device(name ? name : "cpu");
}

TEST_CASE("decoder: each step's logits are those of one pass, and a recorded step gives the same bits") {
  for (const Kind& kind : kinds(true)) {
    CAPTURE(kind.name);
    LanguageModel model(kind.config, 3, device(), Dtype::f64);
    nudge(model);
    const int64_t T = 12, prompt = 5, V = model.embedding.value.size(0);
    const Tensor drawn = tokens(2, T);
    const std::vector<int32_t> ids = to_host<int32_t>(drawn);
    const Tensor all = from_host(device(), {2, T}, ids);
    Tape tape = Tape::constants();
    const std::vector<double> whole = to_doubles(model.logits(tape, all, {}).value);
    std::vector<int32_t> head;
    for (int64_t b = 0; b < 2; ++b) head.insert(head.end(), ids.begin() + b * T, ids.begin() + b * T + prompt);
    ModelState state;
    model.logits(tape, from_host(device(), {2, prompt}, head), {}, &state);
    Decoder plain(model, state, false), recorded(model, state, true);
    for (int64_t t = prompt; t < T; ++t) {
      const std::vector<int32_t> next = {ids[size_t(t)], ids[size_t(T + t)]};
      const std::vector<double> got = to_doubles(plain.step(next));
      CHECK(to_doubles(recorded.step(next)) == got);
      for (int64_t b = 0; b < 2; ++b) {
        const auto want = whole.begin() + (b * T + t) * V;
        CHECK(difference({got.begin() + b * V, got.begin() + (b + 1) * V}, {want, want + V}) <= 1e-11);
      }
    }
  }
  LanguageModel model(small_model("gla"), 3, device());
  CHECK_THROWS_WITH_AS(Decoder(model, {}, false), "decoder: wants the state after at least one token; got one at the beginning", Error);
}

}  // namespace
}  // namespace taper::test
