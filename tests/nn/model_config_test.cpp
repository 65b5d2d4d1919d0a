// The presets and what follows from them: parameter counts, initial values, and messages.
#include "nn/config.h"

#include <doctest/doctest.h>

#include "nn/orthogonal.h"
#include "tensor/error.h"
#include "tests/nn/small_models.h"

using namespace taper;
using namespace taper::test;

namespace {

int64_t count(ModelConfig c, int64_t vocab) {
  c.vocab = vocab;
  return LanguageModel(c, 0, open_device("plan")).parameter_count();
}

}  // namespace

TEST_CASE("model: parameter counts of the presets are the specification's") {  // 3.2 and 3.3
  struct Row {
    const char *arch, *size;
    int64_t base, post;  // at 128256, which no rounding touches
  };
  for (const Row& r : {Row{"mamba2", "180m", 188869056, 188869056}, {"mamba2", "440m", 448185856, 448185856},
                       {"mamba2", "880m", 899920128, 899920128}, {"mamba2", "1.5b", 1503435776, 1503435776},
                       {"gdn", "180m", 212288544, 212288544}, {"gdn", "440m", 535623424, 535623424},
                       {"gdn", "880m", 1106008704, 1106008704}, {"gdn", "1.5b", 1878113792, 1878113792},
                       {"rwkv7", "180m", 188871936, 188881152}, {"rwkv7", "440m", 450964480, 450989056},
                       {"rwkv7", "880m", 910017024, 910053888}, {"rwkv7", "1.5b", 1524783104, 1524832256},
                       {"gla", "180m", 183682560, 187000368}, {"gla", "440m", 440273920, 452267104},
                       {"gla", "880m", 877466112, 904893024}, {"gla", "1.5b", 1497110528, 1546262624},
                       {"retnet", "180m", 183460608, 183460608 + 3 * 12}, {"retnet", "440m", 445969408, 445969408 + 4 * 24},
                       {"retnet", "880m", 876566016, 876566016 + 6 * 24}, {"retnet", "1.5b", 1483323392, 1483323392 + 8 * 24}}) {
    const std::string arch = r.arch;
    const ModelConfig base = model_preset(arch + "_" + r.size), post = model_preset(arch + "_post_" + r.size);
    const int64_t rows = arch == "mamba2" ? 50280 : 50288;  // all but mamba2 round up to a multiple of 16
    CHECK_MESSAGE(count(base, 128256) == r.base, arch << " " << r.size);
    CHECK_MESSAGE(count(post, 128256) == r.post, arch << "_post " << r.size);
    CHECK_MESSAGE(count(base, 50280) == r.base - (128256 - rows) * base.d_model, arch << " " << r.size);
    CHECK_MESSAGE(count(post, 50280) == r.post - (128256 - rows) * base.d_model, arch << "_post " << r.size);
  }
  struct Gated {  // retnet + PoST as the reference has it, with gla's gate
    const char* size;
    int64_t parameters;
  };
  for (const Gated& g : {Gated{"180m", 190547748}, {"440m", 471159904}, {"880m", 933226128}, {"1.5b", 1584036032}}) {
    ModelConfig c = model_preset(std::string("retnet_post_") + g.size);
    c.post_options.data_dependent = true;
    CHECK_MESSAGE(count(c, 128256) == g.parameters, g.size);
  }
}

TEST_CASE("model: parameter counts without feed-forward layers are the specification's") {  // 3.3, wiring B
  struct Row {
    const char* size;
    int64_t gla, gla_post, retnet;
  };
  for (const Row& r : {Row{"180m", 212675328, 226241424, 212067072}, {"440m", 536458240, 585217408, 534836224},
                       {"880m", 1106671104, 1217558592, 1104238080}, {"1.5b", 1878210560, 2076392192, 1874966528}}) {
    const ModelConfig gdn = model_preset(std::string("gdn_") + r.size);
    for (const auto& [arch, post, want] : {std::tuple{"gla", false, r.gla}, {"gla", true, r.gla_post}, {"retnet", false, r.retnet}}) {
      ModelConfig c;
      c.arch = arch;
      c.post = post;
      c.wiring = "mixer";
      c.d_model = gdn.d_model, c.layers = gdn.layers, c.heads = gdn.heads;
      CHECK_MESSAGE(count(c, 128256) == want, arch << (post ? "_post " : " ") << r.size);
    }
  }
}

TEST_CASE("model: parameter counts of the recall task's models are the specification's") {  // 5.1
  struct Row {
    const char* arch;
    bool post;
    int64_t large, middle, small;  // 64K, 32K and 16K elements of state
  };
  // The reference's baseline gdn holds a further number a head that nothing reads (2 layers); ours does not.
  for (const Row& r : {Row{"mamba2", false, 7493920, 7431872, 2927776}, {"mamba2", true, 7493920, 7431872, 2927776},
                       {"rwkv7", false, 7160320, 6865408, 2777344}, {"rwkv7", true, 7161344, 6866432, 2777856},
                       {"gdn", false, 6317336 - 8, 6325424 - 16, 2634392 - 8}, {"gdn", true, 6317328, 6325408, 2634384},
                       {"gla", false, 6867200, 6867072, 2778240}, {"gla", true, 7358728, 7358608, 2892936},
                       {"retnet", false, 6833408, 6833280, 2761344}}) {
    for (const auto& [D, H, want] : {std::tuple{512, 4, r.large}, {512, 8, r.middle}, {256, 4, r.small}}) {
      ModelConfig c;
      c.arch = r.arch;
      c.post = r.post;
      c.wiring = "mqar";
      c.d_model = D, c.heads = H, c.layers = 2, c.train_length = 512;
      c.output_gate = c.arch != "gdn";
      CHECK_MESSAGE(count(c, 8192) == want, r.arch << (r.post ? "_post" : "") << " " << D << " " << H);
    }
  }
}

TEST_CASE("model: bad sizes and names are one line each") {
  CHECK_THROWS_WITH_AS(model_preset("mamba3_180m"),
                       "model: no preset is called 'mamba3_180m'; there are ARCH_SIZE and ARCH_post_SIZE with ARCH of mamba2, rwkv7, gdn, gla, "
                       "retnet and SIZE of 180m, 440m, 880m, 1.5b", Error);
  const auto refuses = [](const char* arch, const std::function<void(ModelConfig&)>& change, const char* message) {
    ModelConfig c = small_model(arch);
    change(c);
    CHECK_THROWS_WITH_AS(completed(c), message, Error);
  };
  refuses("mamba2", [](ModelConfig& c) { c.arch = "lstm"; }, "model: arch must be one of mamba2, rwkv7, gdn, gla, retnet; got 'lstm'");
  refuses("mamba2", [](ModelConfig& c) { c.wiring = "ring"; }, "model: wiring must be lm, mixer or mqar; got 'ring'");
  refuses("mamba2", [](ModelConfig& c) { c.heads = 5; }, "model: heads must divide 32, the width of mamba2's heads at d_model 16; got 5");
  refuses("gla", [](ModelConfig& c) { c.heads = 16; }, "model: heads must divide 8, the width of gla's heads at d_model 16; got 16");
  refuses("gdn", [](ModelConfig& c) { c.head_dim = 3; }, "model: heads * head_dim must be 16 for gdn at d_model 16; got 4 * 3 = 12");
  refuses("retnet", [](ModelConfig& c) { c.heads = 16; }, "model: retnet turns pairs of channels, head_dim must be even; got 1");
  refuses("mamba2", [](ModelConfig& c) { c.conv_width = 0; }, "model: conv_width must be >= 1; got 0");
  refuses("gdn", [](ModelConfig& c) { c.dropout = 1; }, "model: dropout must be in [0,1); got 1");
  refuses("gdn", [](ModelConfig& c) { c.post_options.data_dependent = true; }, "post: data_dependent is a choice of retnet; arch is gdn");
  refuses("rwkv7", [](ModelConfig& c) { c.layers = 0; }, "model: layers must be >= 1; got 0");

  ModelConfig c = small_model("mamba2", true);
  c.post_options.slowest_rate = 30;
  CHECK_THROWS_WITH_AS(LanguageModel(c, 0, cpu()), "post: the slowest rate must be < the fastest; got 30 and 20 at train_length 64; set slowest_rate "
                                                   "or fastest_rate", Error);
  c = small_model("rwkv7", true);
  c.post_options.fastest_rate = 0.7;
  CHECK_THROWS_WITH_AS(LanguageModel(c, 0, cpu()), "post: a rate of rwkv7 must be < 0.6065, where its sigmoid ends; got 0.7", Error);
  LanguageModel model(small_model("gdn"), 0, cpu());
  Tape tape;
  CHECK_THROWS_WITH_AS(model.logits(tape, tokens(2, 0), {}), "model: ids must be i32 [B,T], not empty; got i32 [2,0]", Error);
}

TEST_CASE("model: initial values of +PoST") {  // specification 4.1
  struct Row {
    const char* arch;
    const char *theta, *delta;
    double first, gap;  // theta, and delta before softplus
    double slowest, fastest;
  };
  for (const Row& r : {Row{"mamba2", "A_log_base", "A_log_deltas", -4.628887, -0.933782, 1 / (0.05 * 2048), 20},
                       {"gdn", "A_log_base", "A_log_delta", 0, 1.279487, 1, 2048},
                       {"rwkv7", "w0_base", "w0_delta", -7.123814, -4.606136, 0, 0},
                       {"retnet", "A_log_base", "A_log_delta", -7.624619, 3.789953, 1.0 / 2048, 1}}) {
    ModelConfig c = model_preset(std::string(r.arch) + "_post_180m");
    c.layers = 1;
    c.vocab = 32;
    c.ffn_width = 8;
    LanguageModel model(c, 1, cpu());
    CHECK(to_doubles(find(model, std::string("layers.0.mixer.") + r.theta)->value)[0] == doctest::Approx(r.first).epsilon(1e-6));
    CHECK(to_doubles(find(model, std::string("layers.0.mixer.") + r.delta)->value)[1] == doctest::Approx(r.gap).epsilon(1e-5));
    const auto heads = model.blocks[0].mixer->spectrum();
    const size_t N = heads.size();
    CHECK(N == size_t(c.arch == "rwkv7" ? 768 : c.heads));
    CHECK(heads.front().alpha == 1);
    CHECK(heads.back().alpha == doctest::Approx(0));
    if (c.arch == "rwkv7") {  // log sigmoid is concave: exponents above the line, by 0.0693 at most
      double above = 0;
      for (size_t k = 0; k < N; ++k) above = std::max(above, heads[k].alpha - (1 - double(k) / double(N - 1)));
      CHECK(above == doctest::Approx(0.0693).epsilon(0.002));
      continue;
    }
    for (size_t k = 0; k < N; ++k) CHECK(heads[k].alpha == doctest::Approx(1 - double(k) / double(N - 1)).epsilon(1e-5));
    CHECK(heads.front().rate == doctest::Approx(r.slowest).epsilon(1e-4));
    CHECK(heads.back().rate == doctest::Approx(r.fastest).epsilon(1e-4));
  }
  ModelConfig c = small_model("mamba2", true);
  c.post_options.slowest_rate = 0.5, c.post_options.fastest_rate = 8;
  const auto heads = LanguageModel(c, 1, cpu()).blocks[0].mixer->spectrum();
  CHECK(heads.front().rate == doctest::Approx(0.5).epsilon(1e-4));
  CHECK(heads.back().rate == doctest::Approx(8).epsilon(1e-4));
}

TEST_CASE("model: initial values of mamba2 lie in their ranges and depend on name and seed only") {
  ModelConfig c = small_model("mamba2");
  LanguageModel a(c, 1, cpu()), b(c, 1, cpu()), other(c, 2, cpu());
  for (double x : to_doubles(find(a, "layers.1.mixer.A_log")->value)) CHECK((std::exp(x) > 0 && std::exp(x) < 16));
  for (double x : to_doubles(find(a, "layers.1.mixer.dt_bias")->value)) {
    const double dt = std::log1p(std::exp(x));
    CHECK((dt >= 0.00099 && dt <= 0.1001));
  }
  const double bound = 1 / std::sqrt(32.0) / std::sqrt(2.0);
  double largest = 0;
  for (double x : to_doubles(find(a, "layers.0.mixer.out_proj.weight")->value)) largest = std::max(largest, std::abs(x));
  CHECK(largest <= bound);
  CHECK(largest > 0.95 * bound);
  CHECK(to_doubles(a.embedding.value) == to_doubles(b.embedding.value));
  CHECK(to_doubles(a.embedding.value) != to_doubles(other.embedding.value));
  c.layers = 1;  // another order of construction, the same values
  LanguageModel shallow(c, 1, cpu());
  CHECK(to_doubles(find(shallow, "layers.0.mixer.in_proj.weight")->value) == to_doubles(find(a, "layers.0.mixer.in_proj.weight")->value));
}

TEST_CASE("model: initial values of rwkv7 follow depth and channel") {  // specification 1.2
  ModelConfig c;
  c.arch = "rwkv7";
  c.d_model = 128, c.heads = 2, c.layers = 4, c.vocab = 7;
  LanguageModel model(c, 1, cpu());
  const auto value = [&](const char* name, size_t i) { return to_doubles(find(model, name)->value)[i]; };
  CHECK(value("layers.1.mixer.x_w", 32) == doctest::Approx(1 - std::pow(0.25, 0.9 * 0.75)).epsilon(1e-6));
  CHECK(value("layers.3.mixer.x_r", 0) == doctest::Approx(1));
  CHECK(value("layers.0.mixer.k_k", 127) == doctest::Approx(0.66));
  CHECK(value("layers.0.mixer.w_lora.lora.2.bias", 0) == doctest::Approx(-6 + 0.5 - 2.5));
  CHECK(value("layers.3.mixer.w_lora.lora.2.bias", 127) == doctest::Approx(0 + 0.5 + 2.5));
  CHECK(value("layers.2.mixer.a_lora.lora.2.bias", 127) == doctest::Approx(-0.19 + 0.3 + 0.2));
  CHECK(value("layers.2.mixer.v_lora.lora.2.bias", 0) == doctest::Approx(0.73 + 0.2));
  CHECK(value("layers.0.mixer.g_norm.weight", 5) == doctest::Approx(std::pow(0.25, 0.7)).epsilon(1e-6));
  CHECK(value("layers.2.ffn.x_k", 64) == doctest::Approx(1 - std::pow(0.5, 0.0625)).epsilon(1e-5));
  CHECK(to_doubles(find(model, "layers.0.mixer.o_proj.weight")->value) == std::vector<double>(128 * 128, 0.0));
  for (Parameter* p : model.parameters()) CHECK(p->name != "layers.0.mixer.v_lora.lora.2.bias");  // the first layer gives v_first
}

TEST_CASE("orthogonal: columns or rows become orthonormal, in the span they had") {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {5, 3}, {3, 5}, {200, 130}, {130, 200}, {129, 129}}) {
    std::vector<double> a(size_t(rows * columns));
    for (size_t i = 0; i < a.size(); ++i) a[i] = Random(3, "orthogonal").normal(i);
    std::vector<double> q = a;
    orthogonalize(q, rows, columns);
    const int64_t n = std::min(rows, columns), m = std::max(rows, columns);
    const auto at = [&](const std::vector<double>& x, int64_t vector, int64_t i) {  // element i of the n-th of the vectors
      return rows > columns ? x[size_t(i * columns + vector)] : x[size_t(vector * columns + i)];
    };
    double worst = 0, leftover = 0;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double dot = 0;
        for (int64_t k = 0; k < m; ++k) dot += at(q, i, k) * at(q, j, k);
        worst = std::max(worst, std::abs(dot - (i == j)));
      }
      // Gram-Schmidt keeps order: vector i lies in the span of the first i + 1, with a positive share of itself.
      double norm = 0;
      std::vector<double> rest(static_cast<size_t>(m));
      for (int64_t k = 0; k < m; ++k) rest[size_t(k)] = at(a, i, k);
      for (int64_t j = 0; j <= i; ++j) {
        double dot = 0;
        for (int64_t k = 0; k < m; ++k) dot += at(a, i, k) * at(q, j, k);
        for (int64_t k = 0; k < m; ++k) rest[size_t(k)] -= dot * at(q, j, k);
        if (j == i) CHECK(dot > 0);
      }
      for (double x : rest) norm += x * x;
      leftover = std::max(leftover, std::sqrt(norm));
    }
    CHECK(worst < 1e-13);
    CHECK(leftover < 1e-9);
  }
}
