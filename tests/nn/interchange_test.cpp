// Interchange: every model through every dialect and back, the reference's own tensors, and each thing that is refused.
#include "nn/interchange.h"

#include <nlohmann/json.hpp>

#include "nn/checkpoint.h"
#include "tests/nn/small_models.h"
#include "tests/nn/support.h"

using namespace taper;
using namespace taper::test;
using Json = nlohmann::ordered_json;

namespace {

struct Small {
  std::string dialect;
  ModelConfig config;
  std::string name() const { return dialect + " " + config.arch + (config.post ? " + PoST" : ""); }
};

// The ten models in the dialects that have them.
std::vector<Small> small() {
  std::vector<Small> all;
  for (const std::string& arch : architectures())
    for (const bool post : {false, true}) {
      ModelConfig c = small_model(arch, post);
      if (arch == "gla") c.gate_rank = 16;
      if (post || (arch != "gla" && arch != "retnet")) all.push_back({"post", c});
      if (!post) all.push_back({"fla", c});
    }
  ModelConfig c = small_model("retnet", true);
  c.post_options.data_dependent = true;
  all.push_back({"post", c});
  return all;
}

std::unique_ptr<LanguageModel> made(const ModelConfig& c) {
  auto model = std::make_unique<LanguageModel>(c, 5, cpu());
  nudge(*model);
  return model;
}

std::vector<RawTensor> raw(LanguageModel& model) {
  std::vector<RawTensor> tensors;
  for (const Parameter* p : model.parameters())
    tensors.push_back({.name = p->name,
                       .dtype = "F32",
                       .shape = p->value.shape(),
                       .read = [t = p->value](uint64_t offset, void* into, size_t bytes) {
                         t.device().download(into, static_cast<char*>(t.data<void>()) + offset, bytes);
                       }});
  return tensors;
}

void write(const Path& dir, const ForeignFiles& files) {
  std::filesystem::create_directories(dir);
  write_safetensors(dir / "model.safetensors", files.tensors);
  put(dir / "config.json", files.config);
}
void write(const Path& dir, const Small& s) { write(dir, in_dialect(s.config, raw(*made(s.config)), {.dialect = s.dialect})); }

std::vector<float> logits(const LanguageModel& model) {
  Tape tape = Tape::constants();
  return to_host<float>(model.logits(tape, tokens(2, 40), {}).value);
}

std::unique_ptr<LanguageModel> loaded(const ForeignCheckpoint& c, Dtype dtype = Dtype::f32) {
  auto model = std::make_unique<LanguageModel>(c.config.model, 0, cpu(), dtype);
  const std::vector<Parameter*> parameters = model->parameters();
  REQUIRE(parameters.size() == c.tensors.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    REQUIRE(parameters[i]->name == c.tensors[i].name);
    parameters[i]->value = from_doubles(cpu(), parameters[i]->value.shape(), dtype, to_doubles(to_tensor(c.tensors[i], cpu())));
  }
  return model;
}

// config.json with one key set, or taken out.
void set(const Path& dir, const std::string& key, const Json& value, bool erase = false) {
  Json all = Json::parse(read_file(dir / "config.json"));
  if (erase) all.erase(key);
  else all[key] = value;
  put(dir / "config.json", all.dump());
}

}  // namespace

TEST_CASE("interchange: written and read again, every model is the same, byte for byte and bit for bit") {
  for (const Small& s : small()) {
    CAPTURE(s.name());
    const Scratch scratch;
    const auto model = made(s.config);
    const std::vector<RawTensor> tensors = raw(*model);
    write(scratch / "a", in_dialect(s.config, tensors, {.dialect = s.dialect}));
    const ForeignCheckpoint c = read_foreign(scratch / "a");
    CHECK(c.config.dialect == s.dialect);
    CHECK(c.config.unknown.empty());
    CHECK(model_difference(s.config, c.config.model) == "");
    REQUIRE(c.tensors.size() == tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      CHECK(c.tensors[i].name == tensors[i].name);
      CHECK(same_bytes(c.tensors[i], tensors[i]));
    }
    CHECK(logits(*loaded(c)) == logits(*model));

    // Once more: the same files.
    write(scratch / "b", in_dialect(c.config.model, c.tensors, {.dialect = s.dialect, .origin = c.text}));
    for (const char* file : {"config.json", "model.safetensors"})
      CHECK(read_file(scratch / "b" / file) == read_file(scratch / "a" / file));
  }
}

TEST_CASE("interchange: the names are those of the other programs") {
  const auto has = [](const std::string& dialect, ModelConfig c, const std::vector<std::string>& names) {
    if (c.arch == "gla") c.gate_rank = 16;
    c.tied_head = false;
    const auto model = made(c);
    const ForeignFiles files = in_dialect(c, raw(*model), {.dialect = dialect});
    for (const std::string& n : names)
      CHECK_MESSAGE(std::ranges::count(files.tensors, n, &RawTensor::name) == 1, dialect << " " << c.arch << " " << n);
  };
  has("post", small_model("mamba2", true),
      {"embedding.weight", "norm_f.weight", "layers.1.norm.weight", "layers.1.mixer.A_log_deltas", "lm_head.weight"});
  has("post", small_model("gdn", true), {"layers.0.mixer.q_conv1d.weight", "layers.0.mixer.A_log_delta", "head.weight"});
  has("post", small_model("rwkv7", true),
      {"pre_norm.bias", "layers.1.mixer.v_lora.lora.0.weight", "layers.1.ffn.key.weight", "layers.0.mixer.w0_delta"});
  has("post", small_model("gla", true),
      {"model.layers.0.attn.A_log_base", "model.layers.0.attn.a_proj.weight", "model.layers.0.attn.dt_bias"});
  has("post", small_model("retnet", true),
      {"model.layers.1.attn.A_log_delta", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"});
  has("fla", small_model("mamba2"),
      {"backbone.embeddings.weight", "backbone.layers.1.norm.weight", "backbone.layers.0.mixer.in_proj.weight",
       "backbone.layers.0.mixer.A_log", "backbone.norm_f.weight", "lm_head.weight"});
  has("fla", small_model("rwkv7"),
      {"model.embeddings.weight", "model.layers.0.pre_norm.weight", "model.layers.1.attn_norm.bias",
       "model.layers.1.attn.w_lora.lora.2.bias", "model.layers.1.attn.x_r", "model.layers.1.attn.g_norm.bias",
       "model.layers.0.ffn_norm.weight", "model.layers.0.ffn.x_k", "model.norm.bias", "lm_head.weight"});
  has("fla", small_model("gdn"),
      {"model.layers.0.attn_norm.weight", "model.layers.0.attn.b_proj.weight", "model.layers.0.attn.o_norm.weight",
       "model.layers.1.attn.v_conv1d.weight", "model.layers.1.mlp_norm.weight", "model.layers.1.mlp.down_proj.weight"});
  has("fla", small_model("gla"),
      {"model.layers.0.attn.gk_proj.1.bias", "model.layers.0.attn.g_norm_swish_gate.weight", "model.layers.0.mlp_norm.weight",
       "model.layers.1.mlp.gate_proj.weight", "model.norm.weight"});
  has("fla", small_model("retnet"),
      {"model.layers.0.attn.q_proj.weight", "model.layers.0.attn.g_norm_swish_gate.weight", "lm_head.weight"});
}

TEST_CASE("interchange: the reference's tensors with a config.json as it writes it give the reference's logits") {
  struct Golden {
    std::string file, config;
  };
  const std::string tail =
      ",\"dtype\":\"float32\",\"transformers_version\":\"5.0.0\",\"train_length\":512,\"vocab_size\":61,\"norm_eps\":1e-05}";
  const std::string mamba =
      "{\"architectures\":[\"Mamba2PoSTForCausalLM\"],\"bos_token_id\":1,\"chunk_size\":256,\"conv_kernel\":4,\"eos_token_id\":2,"
      "\"expand\":2,\"fuse_cross_entropy\":true,\"fuse_linear_cross_entropy\":false,\"fuse_norm\":true,\"head_dim\":16,\"hidden_"
      "act\":\"silu\","
      "\"hidden_size\":48,\"initializer_range\":0.02,\"model_type\":\"mamba2_post\",\"n_groups\":1,\"num_heads\":6,\"num_hidden_"
      "layers\":2,"
      "\"pad_token_id\":0,\"rescale_prenorm_residual\":true,\"residual_in_fp32\":true,\"rms_norm\":true,\"state_size\":16,"
      "\"tie_word_embeddings\":true,\"time_step_floor\":0.0001,\"time_step_limit\":[0.0,{\"__float__\":\"Infinity\"}],\"time_"
      "step_max\":0.1,"
      "\"time_step_min\":0.001,\"time_step_rank\":3,\"use_bias\":false,\"use_cache\":true,\"use_conv_bias\":true,\"use_l2warp\":"
      "false";
  const std::string gdn =
      "{\"architectures\":[\"GDNPoSTForCausalLM\"],\"conv_size\":4,\"d_model\":48,\"expand_v\":2,\"head_dim\":8,"
      "\"model_type\":\"post_gated_deltanet\",\"n_layer\":2,\"num_heads\":6,\"pad_vocab_size_multiple\":1,\"tie_embeddings\":"
      "true,"
      "\"tie_word_embeddings\":true,\"use_gate\":true,\"use_short_conv\":true";
  const std::string rwkv =
      "{\"architectures\":[\"RWKV7PoSTForCausalLM\"],\"a_low_rank_dim\":null,\"d_model\":48,\"decay_low_rank_dim\":null,"
      "\"dim_ffn\":192,\"gate_low_rank_dim\":null,\"head_dim\":8,\"hidden_ratio\":4.0,\"model_type\":\"rwkv7_post\",\"n_layer\":"
      "2,\"num_heads\":6,"
      "\"pad_vocab_size_multiple\":1,\"tie_embeddings\":true,\"tie_word_embeddings\":true,\"v_low_rank_dim\":null";
  for (const auto& [file, config] : {Golden{"lm_mamba2", mamba}, {"lm_gdn", gdn}, {"lm_rwkv7", rwkv}})
    for (const bool post : {false, true}) {
      INFO(file << (post ? " + PoST" : ""));
      const Scratch scratch;
      const SafetensorsFile golden(Path(TAPER_SOURCE_DIR) / ("tests/golden/" + file + (post ? "_post" : "") + ".safetensors"));
      std::vector<RawTensor> tensors;
      for (const std::string& name : golden.names())
        if (name.starts_with("param.")) tensors.push_back(golden.raw(name)), tensors.back().name = name.substr(6);
      write(scratch / "m", {.config = config + (post ? ",\"use_post\":true" : ",\"use_post\":false") + tail, .tensors = tensors});
      const ForeignCheckpoint c = read_foreign(scratch / "m");
      CHECK(c.config.unknown.empty());
      CHECK(c.config.model.post == post);
      Tape tape = Tape::constants();
      const Var out = loaded(c, Dtype::f64)->logits(tape, golden.read("ids", cpu()), {});
      CHECK(difference(to_doubles(out.value), to_doubles(golden.read("logits", cpu()))) <= 5e-6);

      // Read as FLA's, written again, they are the reference's once more; the baselines, which FLA has.
      if (post) continue;
      write(scratch / "fla", in_dialect(c.config.model, c.tensors, {.dialect = "fla", .origin = c.text}));
      const ForeignCheckpoint fla = read_foreign(scratch / "fla");
      write(scratch / "back", in_dialect(fla.config.model, fla.tensors, {.dialect = "post", .origin = fla.text}));
      CHECK(read_file(scratch / "back" / "model.safetensors") == read_file(scratch / "m" / "model.safetensors"));
    }
}

TEST_CASE("interchange: dtypes stay, and change where asked") {
  const Scratch scratch;
  const Small s{"post", small_model("gdn", true)};
  const auto model = made(s.config);
  std::vector<RawTensor> tensors = raw(*model);
  tensors[0] = converted(tensors[0], "BF16");
  // F16: 1, -2, the smallest number above 0, 65504
  const std::string half("\x00\x3c\x00\xc0\x01\x00\xff\x7b", 8);
  RawTensor& dt = *std::ranges::find(tensors, "layers.0.mixer.dt_bias", &RawTensor::name);
  dt.dtype = "F16";
  dt.read = [&](uint64_t offset, void* into, size_t bytes) { std::memcpy(into, half.data() + offset, bytes); };
  write(scratch / "a", in_dialect(s.config, tensors, {.dialect = "post"}));
  const ForeignCheckpoint c = read_foreign(scratch / "a");
  CHECK(c.tensors[0].dtype == "BF16");
  for (size_t i = 0; i < tensors.size(); ++i) CHECK(same_bytes(c.tensors[i], tensors[i]));
  const RawTensor& read = *std::ranges::find(c.tensors, "layers.0.mixer.dt_bias", &RawTensor::name);
  const std::vector<double> values{1, -2, 0x1p-24, 65504};
  CHECK(to_doubles(to_tensor(read, cpu())) == values);
  CHECK(to_doubles(to_tensor(converted(read, "BF16"), cpu())) == std::vector<double>{1, -2, 0x1p-24, 65536});
  CHECK(to_doubles(to_tensor(converted(converted(tensors[0], "F32"), "BF16"), cpu())) ==
        to_doubles(to_tensor(tensors[0], cpu())));
  CHECK(with_dtype("{\"a\": [0.0, Infinity, \"Infinity\"], \"torch_dtype\": \"x\"}", "bfloat16") ==
        "{\n  \"a\": [\n    0.0,\n    Infinity,\n    \"Infinity\"\n  ],\n  \"torch_dtype\": \"bfloat16\"\n}\n");
}

TEST_CASE("interchange: Infinity bare, as Python writes it; keys that are missing have their defaults") {
  const Scratch scratch;
  const Small s{"post", small_model("mamba2")};
  write(scratch / "m", s);
  const auto ok = [&] { return read_foreign(scratch / "m").config; };
  const std::string written = read_file(scratch / "m" / "config.json");
  set(scratch / "m", "time_step_limit", {0.0, "BARE"});
  std::string text = read_file(scratch / "m" / "config.json");
  text.replace(text.find("\"BARE\""), 6, "Infinity");
  put(scratch / "m" / "config.json", text);
  CHECK(model_difference(ok().model, s.config) == "");
  put(scratch / "m" / "config.json", written);
  for (const char* key : {"expand", "n_groups", "norm_eps", "num_heads", "use_post", "tie_word_embeddings", "time_step_limit",
                          "conv_kernel", "dtype"}) {
    set(scratch / "m", key, nullptr, true);
    CHECK(model_difference(ok().model, s.config) == "");
  }
  set(scratch / "m", "hidden_size", nullptr, true);
  expect_error(Exit::bad_config, "m/config.json: hidden_size is missing; a mamba2_post has it", ok);
}

TEST_CASE("interchange: what we cannot compute is refused by key and value") {
  const auto refused = [](const std::string& dialect, const std::string& arch, bool post, const std::string& key,
                          const Json& value, const std::string& message, Exit code = Exit::bad_config) {
    const Scratch scratch;
    ModelConfig c = small_model(arch, post);
    if (arch == "gla") c.gate_rank = 16;
    write(scratch / "m", Small{dialect, c});
    set(scratch / "m", key, value);
    expect_error(code, "m/config.json: " + message, [&] { read_foreign(scratch / "m"); });
  };
  refused("post", "mamba2", false, "use_bias", true, "use_bias must be false (taper has nothing else); got true");
  refused("post", "mamba2", false, "hidden_act", "gelu", "hidden_act must be \"silu\" (taper has nothing else); got \"gelu\"");
  refused("post", "mamba2", false, "expand", 3, "expand must be 2 (taper has nothing else); got 3");
  refused("post", "mamba2", false, "time_step_limit", {0.1, 1.0},
          "time_step_limit must be [0.0,{\"__float__\":\"Infinity\"}] (taper has nothing else); got [0.1,1.0]");
  refused("post", "mamba2", false, "hidden_size", "16", "hidden_size must be a whole number from 1 to 1048576; got \"16\"");
  refused("post", "mamba2", false, "norm_eps", 0, "norm_eps must be a number > 0; got 0");
  refused("post", "mamba2", true, "use_post", false,
          "use_post = false contradicts the tensors, which are those of PoST (a spectrum)", Exit::bad_data);
  refused("post", "mamba2", false, "use_post", true,
          "use_post = true contradicts the tensors, which are those of the baseline (no spectrum)", Exit::bad_data);
  refused("post", "mamba2", false, "use_post", "yes", "use_post must be true or false; got \"yes\"");
  refused("post", "gdn", false, "tie_embeddings", false, "tie_embeddings must be as tie_word_embeddings; got false");
  refused("post", "gdn", false, "use_gate", 1, "use_gate must be true or false; got 1");
  refused("post", "mamba2", false, "model_type", "llama",
          "model_type must be one of mamba2_post, rwkv7_post, post_gated_deltanet, gla_post, retnet_post, mamba2, rwkv7, ");
  refused("post", "mamba2", false, "num_heads", 3, "model: heads * head_dim must be 32 for mamba2 at d_model 16; got 3 * 8 = 24");
  refused("fla", "gdn", false, "num_v_heads", 8, "num_v_heads must be null or num_heads = 4; got 8");
  refused("fla", "gdn", false, "allow_neg_eigval", true, "allow_neg_eigval must be false");
  refused("fla", "gdn", false, "attn", {{"layers", {0}}}, "attn must be null (taper has nothing else); got {\"layers\":[0]}");
  refused("fla", "gla", false, "expand_k", 1.0, "expand_k must be 0.5");
  refused("fla", "gla", false, "expand_v", 0.75, "expand_v must be a whole multiple of expand_k; got 0.75");
  refused("fla", "gla", false, "clamp_min", -5, "clamp_min must be null");
  refused("fla", "gla", false, "hidden_ratio", "x", "hidden_ratio must be a number > 0; got \"x\"");
  refused("fla", "gla", false, "fuse_norm", false, "fuse_norm must be true");
  refused("fla", "gla", false, "use_short_conv", 3, "use_short_conv must be true or false; got 3");
  refused("fla", "retnet", false, "use_short_conv", true, "use_short_conv must be false");
  refused("fla", "rwkv7", false, "norm_first", false, "norm_first must be true");
  refused("fla", "rwkv7", false, "value_dim", {16, 32}, "value_dim must be hidden_size in every layer; got [16,32]");
}

TEST_CASE("interchange: what a dialect cannot say is refused, not left out") {
  const auto refused = [](const std::string& dialect, const ModelConfig& c, const std::string& message) {
    expect_error(Exit::bad_config, message, [&] { write_foreign_config(c, {.dialect = dialect}); });
  };
  ModelConfig c = small_model("gla");
  refused("fla", c, "convert: gla has no way to say all of this gla: gate_rank = 5 and 16 there");
  refused("post", c, "convert: the reference of PoST has no baseline gla; use --to fla");
  refused("fla", small_model("gla", true), "convert: fla has baselines only, this is gla + PoST; use --to post");
  c = small_model("mamba2", true);
  c.post_options.taper = false;
  refused("post", c, "post.taper = false and true there");
  c.post_options = {.position_reference = 64};
  refused("post", c, "post.position_reference = 64 and 1 there");
  c = small_model("rwkv7");
  c.wiring = "mixer";
  refused("post", c, "convert: rwkv7_post has no way to say all of this rwkv7: wiring = mixer and lm there");
  c.wiring = "mqar";
  refused("fla", c, "convert: rwkv7 models of the recall task (model.wiring = \"mqar\") have no form in other programs");
  c = small_model("retnet");
  c.conv_width = 4;
  refused("fla", c, "conv_width = 4 and 0 there");
}

TEST_CASE("interchange: tensors that are wrong, missing or surplus are named, all at once") {
  const Scratch scratch;
  const Path dir = scratch / "m";
  write(dir, Small{"post", small_model("mamba2")});
  const auto read = [&] { read_foreign(dir); };
  std::unique_ptr<WeightFiles> files;
  const auto tensors = [&] {
    files = std::make_unique<WeightFiles>(dir);
    return files->tensors();
  };
  const std::vector<RawTensor> all = tensors();
  const auto keep = std::move(files);
  const auto rewrite = [&](const std::vector<RawTensor>& t) { write_safetensors(dir / "model.safetensors", t); };

  std::vector<RawTensor> some = all;
  std::erase_if(some, [](const RawTensor& t) { return t.name == "layers.0.mixer.D"; });
  std::ranges::find(some, "norm_f.weight", &RawTensor::name)->name = "norm_g.weight";
  std::ranges::find(some, "layers.1.norm.weight", &RawTensor::name)->shape = {2, 8};
  rewrite(some);
  expect_error(
      Exit::bad_data,
      "m: 4 tensors do not fit mamba2 of 2 layers, d_model 16, 4 heads, vocabulary 13: \"layers.0.mixer.D\" is missing; "
      "\"layers.1.norm.weight\" must be floats [16]; it is F32 [2,8]; \"norm_f.weight\" is missing; \"norm_g.weight\" is surplus",
      read);
  set(dir, "num_hidden_layers", 3);
  expect_error(Exit::bad_data, "; and ", read);
  set(dir, "num_hidden_layers", 1000000);
  expect_error(Exit::bad_data, "m: config.json says 1000000 layers; there are 19 tensors", read);
  set(dir, "num_hidden_layers", 2);

  some = all;
  RawTensor head = *std::ranges::find(all, "embedding.weight", &RawTensor::name);
  head.name = "lm_head.weight";
  some.push_back(head);
  rewrite(some);
  CHECK(read_foreign(dir).tensors.size() == all.size());
  some.back() = filled("lm_head.weight", "F32", head.shape, true);
  rewrite(some);
  expect_error(Exit::bad_data, "m: \"lm_head.weight\" must equal \"embedding.weight\" (the head is tied); it differs", read);

  rewrite(all);
  put(dir / "config.json", write_foreign_config(small_model("gdn"), {.dialect = "post"}));
  expect_error(Exit::bad_data, "m: config.json says post_gated_deltanet (gdn); the tensors are those of mamba2", read);
  std::filesystem::remove(dir / "model.safetensors");
  expect_error(Exit::no_input, "m: model.safetensors is missing", read);
  put(dir / "pytorch_model.bin", "");
  expect_error(Exit::no_input, "pytorch_model.bin is a pickle, which can run code and is not read: save it as safetensors first",
               read);
  std::filesystem::remove(dir / "config.json");
  expect_error(Exit::no_input, "config.json", read);

  write(scratch / "g", Small{"post", small_model("gla", true)});
  WeightFiles g(scratch / "g");
  std::vector<RawTensor> gla = g.tensors();
  std::erase_if(gla, [](const RawTensor& t) { return t.name.find("A_log") != t.name.npos; });
  write_safetensors(scratch / "g" / "other", gla);
  std::filesystem::rename(scratch / "g" / "other", scratch / "g" / "model.safetensors");
  set(scratch / "g", "use_post", nullptr);
  expect_error(Exit::bad_data,
               "g: config.json says gla_post; the tensors have no spectrum (A_log_base): a baseline has model_type gla",
               [&] { read_foreign(scratch / "g"); });
}

TEST_CASE("interchange: shards by their index, whose names are not trusted") {
  const Scratch scratch;
  const Path dir = scratch / "m";
  write(dir, Small{"fla", small_model("rwkv7")});
  const std::string whole = read_file(dir / "model.safetensors");
  Json map = Json::object();
  {
    const WeightFiles files(dir);
    std::vector<RawTensor> parts[2];
    for (size_t i = 0; i < files.tensors().size(); ++i) {
      parts[i % 2].push_back(files.tensors()[i]);
      map[files.tensors()[i].name] = i % 2 ? "model-00002-of-00002.safetensors" : "model-00001-of-00002.safetensors";
    }
    write_safetensors(dir / "model-00001-of-00002.safetensors", parts[0]);
    write_safetensors(dir / "model-00002-of-00002.safetensors", parts[1]);
  }
  std::filesystem::remove(dir / "model.safetensors");
  const auto index = [&](const Json& m) {
    put(dir / "model.safetensors.index.json", Json{{"metadata", {{"total_size", 1}}}, {"weight_map", m}}.dump());
  };
  index(map);
  {
    const WeightFiles files(dir);
    write_safetensors(scratch / "whole", files.tensors());
    CHECK(read_file(scratch / "whole") == whole);
  }
  const auto read = [&] { WeightFiles files(dir); };
  for (const char* name : {"../model.safetensors", "/etc/passwd", "sub/x.safetensors", "model.bin"}) {
    Json bad = map;
    bad["model.norm.weight"] = name;
    index(bad);
    expect_error(Exit::bad_data,
                 "index.json: \"model.norm.weight\" must be in a file of this directory, NAME.safetensors; got \"", read);
  }
  Json less = map, more = map;
  less.erase("model.norm.weight");
  index(less);
  expect_error(Exit::bad_data, "\"model.norm.weight\" is in model-0000", read);
  more["x"] = "model-00001-of-00002.safetensors";
  index(more);
  expect_error(Exit::bad_data, "model-00001-of-00002.safetensors: tensor \"x\" is missing", read);
  more["x"] = "model-00003-of-00003.safetensors";
  index(more);
  expect_error(Exit::no_input, "model-00003-of-00003.safetensors", read);
  index(Json::array());
  expect_error(Exit::bad_data, "weight_map must be an object of tensors and files", read);
}

TEST_CASE("interchange: FLA's first RWKV-7, whose mixes are the rows of one tensor; its Gated DeltaNet, with idle layers") {
  const Scratch scratch;
  const Small s{"fla", small_model("rwkv7")};
  const auto model = made(s.config);
  ForeignFiles files = in_dialect(s.config, raw(*model), {.dialect = "fla"});
  for (const int layer : {0, 1}) {
    const std::string attn = fmt::format("model.layers.{}.attn.", layer);
    std::string bytes;
    for (const char c : std::string("rwkvag")) {
      const auto t = std::ranges::find(files.tensors, attn + "x_" + c, &RawTensor::name);
      std::string row(t->bytes(), '\0');
      t->read(0, row.data(), row.size());
      bytes += row;
      files.tensors.erase(t);
    }
    files.tensors.push_back(
        {.name = attn + "x_x", .dtype = "F32", .shape = {6, 16}, .read = [bytes](uint64_t offset, void* into, size_t n) {
           std::memcpy(into, bytes.data() + offset, n);
         }});
  }
  write(scratch / "x", files);
  CHECK(logits(*loaded(read_foreign(scratch / "x"))) == logits(*model));

  const Small g{"fla", small_model("gdn")};
  files = in_dialect(g.config, raw(*made(g.config)), {.dialect = "fla"});
  for (RawTensor& t : files.tensors)
    if (t.name == "model.layers.1.mlp.down_proj.weight") t = filled(t.name, "F32", t.shape, true);
  write(scratch / "g", files);
  expect_error(Exit::bad_config,
               "g: \"model.layers.1.mlp.down_proj.weight\" must be zero: gdn has no feed-forward layer in taper",
               [&] { read_foreign(scratch / "g"); });
}

TEST_CASE("interchange: unknown keys are reported, with all their values kept where the dialect stays") {
  const Scratch scratch;
  const Small s{"fla", small_model("retnet")};
  write(scratch / "m", s);
  set(scratch / "m", "rope_scaling", {{"factor", 2.5}});
  const ForeignCheckpoint c = read_foreign(scratch / "m");
  CHECK(c.config.unknown == std::vector<std::string>{"rope_scaling"});
  CHECK(in_dialect(c.config.model, c.tensors, {.dialect = "fla", .origin = c.text}).config == c.text);
  ModelConfig other = c.config.model;
  other.norm_eps = 1e-4;  // the origin no longer describes the model: written anew
  CHECK(in_dialect(other, c.tensors, {.dialect = "fla", .origin = c.text}).config != c.text);
  expect_error(Exit::bad_data, "must appear once", [&] {
    put(scratch / "m" / "config.json", "{\"model_type\": \"gla\", \"model_type\": \"gla\"}");
    read_foreign(scratch / "m");
  });
}
