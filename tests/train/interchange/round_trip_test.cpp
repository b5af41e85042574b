// Every family, out and in again: nothing of the model may change on the way.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <regex>
#include <set>

#include "tests/support/family_cases.h"
#include "tests/support/made_up_checkpoint.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"
#include "tests/train/interchange/tensors_in.h"
#include "train/interchange/export.h"
#include "train/interchange/family.h"
#include "train/interchange/import.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using testing::differing_arrays;
using testing::elements_of;
using testing::family_cases;
using testing::FamilyCase;
using testing::fill_with_bits;
using ::testing::IsEmpty;
using testing::logits_of;
using testing::made_up_checkpoint;
using testing::model_state;
using testing::ScratchFolder;
using testing::tensors_in;

/// What the families' own cases leave out.
std::vector<FamilyCase> all_cases() {
  std::vector<FamilyCase> cases = family_cases();
  const std::vector<FamilyCase> more = {
      {"LlamaStretchedLinearly", "llama", R"(
model: {pattern: "(AF)x2", hidden_size: 16,
        attention: {num_heads: 4, rope_scaling: {type: linear, factor: 4}},
        feed_forward: {intermediate_size: 24}}
)"},
      {"MixtralWithJitter", "mixtral", R"(
model: {pattern: "(AE)x2", hidden_size: 16, attention: {num_heads: 4},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12, shared: none,
                  router: {type: top_k, jitter: 0.01}}}
balance: {type: none}
)"},
      {"Qwen2MoeWithTwoSharedExperts", "qwen2_moe", R"(
model: {pattern: "(AE)x2", hidden_size: 16, attention: {num_heads: 4, bias: qkv},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12,
                  shared: {num_experts: 2, intermediate_size: 20, combine: gated},
                  router: {type: top_k, weights: as_is}}}
balance: {type: none}
)"},
      {"DeepseekV3WithoutGroups", "deepseek_v3", R"(
model: {pattern: "(CF)x1(CE)x1", hidden_size: 16,
        latent_attention: {num_heads: 2, kv_lora_rank: 8, qk_nope_head_dim: 4, qk_rope_head_dim: 4,
                           v_head_dim: 6},
        feed_forward: {intermediate_size: 24},
        experts: {num_experts: 8, top_k: 2, intermediate_size: 12,
                  shared: {num_experts: 1, intermediate_size: 12},
                  router: {type: top_k, scores: sigmoid, scale: 2.5}}}
balance: {type: loss_free_bias}
)"},
      {"Gpt2Untied", "gpt2", R"(
model: {pattern: "(AF)x2", hidden_size: 16, tie_embeddings: false, learned_positions: 40,
        norm: {type: layer_norm}, attention: {num_heads: 4, rope_theta: none, bias: all},
        feed_forward: {intermediate_size: 40, activation: gelu_tanh, bias: true}}
)"},
  };
  cases.insert(cases.end(), more.begin(), more.end());
  return cases;
}

std::vector<FamilyCase> routed_cases() {
  std::vector<FamilyCase> cases = all_cases();
  std::erase_if(cases, [](const FamilyCase& one) {
    return one.model.find("num_experts") == std::string::npos;
  });
  return cases;
}

std::string read_all(const fs::path& path) { return read_file(path, raise_as<DataError>); }

/// How a model may go out.
struct Way {
  const char* name;
  StoredType type;
  int64_t max_file_bytes;
};
constexpr int64_t kOneFile = int64_t{1} << 30;
constexpr Way kWays[] = {
    {"f32", StoredType::f32, kOneFile},      {"f16", StoredType::f16, kOneFile},
    {"bf16", StoredType::bf16, kOneFile},    {"f32 in parts", StoredType::f32, 4096},
    {"f16 in parts", StoredType::f16, 4096}, {"bf16 in parts", StoredType::bf16, 4096}};

/// Names of the files that differ, or stand in one of the folders only.
std::vector<std::string> differing_files(const fs::path& a, const fs::path& b) {
  std::map<std::string, std::set<std::string>> contents;
  std::map<std::string, int> copies;
  for (const fs::path& folder : {a, b}) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      const std::string name = entry.path().filename().string();
      contents[name].insert(read_all(entry.path()));
      ++copies[name];
    }
  }
  std::vector<std::string> result;
  for (const auto& [name, different] : contents) {
    if (different.size() != 1 || copies[name] != 2) result.push_back(name);
  }
  return result;
}

class RoundTrip : public ::testing::TestWithParam<FamilyCase> {
 protected:
  Checkpoint there_and_back(const Checkpoint& checkpoint, const ExportOptions& options) {
    ExportOptions out = options;
    out.output = folder_ / fmt::format("out{}", ++trips_);
    family_ = export_model(checkpoint, "made-up.h5", out).family;
    const fs::path file = folder_ / fmt::format("in{}.h5", trips_);
    (void)import_model({.source = out.output, .output = file});
    return read_checkpoint(file);
  }
  [[nodiscard]] fs::path exported(int trip) const { return folder_ / fmt::format("out{}", trip); }

  ScratchFolder folder_;
  std::string family_;
  int trips_ = 0;
};

TEST_P(RoundTrip, ChangesNoBitAndGivesTheSameFilesAgain) {
  for (const Way& way : kWays) {
    SCOPED_TRACE(way.name);
    Checkpoint before = made_up_checkpoint(GetParam().model);
    fill_with_bits(before, way.type);
    const ExportOptions options{.type = way.type, .max_file_bytes = way.max_file_bytes};
    const Checkpoint after = there_and_back(before, options);
    EXPECT_EQ(family_, GetParam().family);
    EXPECT_THAT(differing_arrays(model_state(after), model_state(before)), IsEmpty());
    EXPECT_EQ(after.meta.tokenizer_kind, before.meta.tokenizer_kind);
    EXPECT_EQ(after.meta.tokenizer, before.meta.tokenizer);
    EXPECT_EQ(fs::exists(exported(trips_) / "model.safetensors.index.json"),
              way.max_file_bytes != kOneFile);
    (void)there_and_back(after, options);
    EXPECT_THAT(differing_files(exported(trips_ - 1), exported(trips_)), IsEmpty());
  }
}

TEST_P(RoundTrip, ChangesNoLogit) {
  const Checkpoint before = made_up_checkpoint(GetParam().model);
  const Checkpoint after = there_and_back(before, {});
  TrainedModel a = build_trained_model(before, "before");
  TrainedModel b = build_trained_model(after, "after");
  const std::vector<int32_t> tokens = {5, 99, 250, 7, 7, 31, 128, 0, 64};
  EXPECT_EQ(logits_of(a, tokens), logits_of(b, tokens));
}

INSTANTIATE_TEST_SUITE_P(OfEachFamily, RoundTrip, ::testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name; });

/// Puts the experts of each layer into one tensor [E, rows, columns], their up rows behind their gate
/// rows, as transformers 5 has them in memory.
void fuse_experts(std::vector<TensorToWrite>& tensors) {
  static const std::regex kExpert(
      R"((model\.layers\.\d+)\.\w+\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight)");
  constexpr auto kRank = [](const std::string& matrix) {
    return matrix == "gate_proj" || matrix == "w1" ? 0
           : matrix == "up_proj" || matrix == "w3" ? 1
                                                   : 2;
  };
  struct Matrix {
    std::vector<int64_t> dims;
    std::vector<float> elements;
  };
  std::map<std::string, std::map<int, std::array<Matrix, 3>>> experts_of_layer;
  std::erase_if(tensors, [&](const TensorToWrite& tensor) {
    std::smatch parts;
    if (!std::regex_match(tensor.name, parts, kExpert)) return false;
    experts_of_layer[parts[1].str()][std::stoi(parts[2].str())][static_cast<size_t>(
        kRank(parts[3].str()))] = {tensor.dims, elements_of(tensor)};
    return true;
  });
  for (const auto& [layer, experts] : experts_of_layer) {
    std::vector<float> gate_up;
    std::vector<float> down;
    for (const auto& [number, matrices] : experts) {
      const auto& [gate, up, out] = matrices;
      gate_up.insert(gate_up.end(), gate.elements.begin(), gate.elements.end());
      gate_up.insert(gate_up.end(), up.elements.begin(), up.elements.end());
      down.insert(down.end(), out.elements.begin(), out.elements.end());
    }
    const auto count = std::ssize(experts);
    const std::vector<int64_t> out = experts.begin()->second[2].dims;  // [D, F]
    const auto add = [&](const char* name, std::vector<int64_t> dims, std::vector<float> elements) {
      tensors.push_back({layer + ".mlp.experts." + name, StoredType::f32, std::move(dims),
                         [elements = std::move(elements)](std::span<float> values) {
                           std::ranges::copy(elements, values.begin());
                         }});
    };
    add("gate_up_proj", {count, 2 * out[1], out[0]}, std::move(gate_up));
    add("down_proj", {count, out[0], out[1]}, std::move(down));
  }
}

class ExpertsInOneTensor : public RoundTrip {};

TEST_P(ExpertsInOneTensor, AreRead) {
  Checkpoint before = made_up_checkpoint(GetParam().model);
  fill_with_bits(before, StoredType::f32);
  const fs::path out = folder_ / "out";
  (void)export_model(before, "made-up.h5", {.output = out});
  std::vector<TensorToWrite> tensors = tensors_in(out);
  const size_t single = tensors.size();
  fuse_experts(tensors);
  EXPECT_LT(tensors.size(), single);
  fs::remove(out / "model.safetensors");
  write_safetensors(real_file_system(), out, tensors);
  (void)import_model({.source = out, .output = folder_ / "in.h5"});
  EXPECT_THAT(
      differing_arrays(model_state(read_checkpoint(folder_ / "in.h5")), model_state(before)),
      IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(OfEachFamily, ExpertsInOneTensor, ::testing::ValuesIn(routed_cases()),
                         [](const auto& test) { return test.param.name; });

/// Other programs keep them in f32; ours are f64.
TEST(SelectionBiases, AreRoundedOnce) {
  const ScratchFolder folder;
  const auto cases = family_cases();
  const auto v3 = std::ranges::find(cases, "deepseek_v3", &FamilyCase::family);
  Checkpoint checkpoint = made_up_checkpoint(v3->model);
  StateDict expected = model_state(checkpoint);
  int64_t biases = 0;
  for (auto& [path, array] : expected) {
    if (!path.starts_with("balance/")) continue;
    auto* exact = reinterpret_cast<double*>(checkpoint.state.at(path).bytes.data());
    auto* rounded = reinterpret_cast<double*>(array.bytes.data());
    for (int64_t i = 0; i < array.numel(); ++i, ++biases) {
      exact[i] = 1.0 / (3.0 + static_cast<double>(i));
      rounded[i] = static_cast<float>(exact[i]);
    }
  }
  EXPECT_EQ(biases, 16);
  for (const char* trip : {"first", "second"}) {
    (void)export_model(checkpoint, "made-up.h5", {.output = folder / trip});
    const fs::path file = folder / (std::string(trip) + ".h5");
    (void)import_model({.source = folder / trip, .output = file});
    checkpoint = read_checkpoint(file);
    EXPECT_THAT(differing_arrays(model_state(checkpoint), expected), IsEmpty()) << trip;
  }
}

TEST(Families, AllMakeTheRoundTrip) {
  std::set<std::string> tested;
  for (const FamilyCase& one : family_cases()) tested.insert(one.family);
  for (const std::string_view name : family_registry().names()) {
    EXPECT_TRUE(tested.contains(std::string(name))) << name;
  }
}

}  // namespace
}  // namespace sluice
