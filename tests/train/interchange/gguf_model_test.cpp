#include "train/interchange/gguf_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/tokenizers/sentencepiece.h"
#include "tests/support/error_of.h"
#include "tests/support/made_up_checkpoint.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"
#include "train/interchange/export.h"
#include "train/interchange/import.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using ::testing::HasSubstr;
using testing::logits_of;
using testing::made_up_checkpoint;
using testing::ScratchFolder;

constexpr const char* kLlama = R"(
model: {pattern: "(AF)x2", hidden_size: 32, vocab_size: 300, tie_embeddings: false,
        attention: {num_heads: 2, num_kv_heads: 1, bias: all, rope_theta: 500000},
        norm: {eps: 1.0e-6},
        feed_forward: {intermediate_size: 64}}
)";
constexpr const char* kMixtral = R"(
model: {pattern: "(AE)x2", hidden_size: 32, vocab_size: 300,
        attention: {num_heads: 4, num_kv_heads: 2},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 32, shared: none}}
balance: {type: none}
)";

/// With a tokenizer that a GGUF file can hold.
Checkpoint with_pieces(const std::string& model) {
  Checkpoint checkpoint = made_up_checkpoint(model);
  const std::string text = "to be or not to be, that is the question\n";
  const auto corpus = [&](FunctionRef<void(std::string_view)> visit) { visit(text); };
  SentencePieceConfig config;
  config.vocab_size = 280;
  checkpoint.meta.tokenizer_kind = "sentencepiece";
  checkpoint.meta.tokenizer = train_sentencepiece(config, corpus);
  return checkpoint;
}

StateDict model_state(const Checkpoint& checkpoint) {
  StateDict state;
  for (const auto& [path, array] : checkpoint.state) {
    if (path.starts_with("model/")) state.emplace(path, array);
  }
  return state;
}

class GgufModels : public ::testing::TestWithParam<const char*> {
 protected:
  Checkpoint there_and_back(const Checkpoint& checkpoint, StoredType type) {
    const fs::path file = folder_ / fmt::format("{}.gguf", name_of(type));
    const fs::path back = folder_ / fmt::format("{}.h5", name_of(type));
    export_model(checkpoint, "made-up.h5",
                 {.output = file, .format = ExportFormat::gguf, .type = type});
    (void)import_model({.source = file, .output = back});
    return read_checkpoint(back);
  }
  ScratchFolder folder_;
};

TEST_P(GgufModels, MakeTheRoundTripWithoutChangingABit) {
  const Checkpoint before = with_pieces(GetParam());
  for (const StoredType type : {StoredType::f32, StoredType::f16, StoredType::bf16}) {
    const Checkpoint after = there_and_back(before, type);
    EXPECT_EQ(model_state(after), model_state(before)) << name_of(type);
    EXPECT_EQ(after.meta.tokenizer_kind, "sentencepiece");
  }
}

TEST_P(GgufModels, ChangeNoLogitAndNoToken) {
  const Checkpoint checkpoint = with_pieces(GetParam());
  TrainedModel before = build_trained_model(checkpoint, "before");
  TrainedModel after = build_trained_model(there_and_back(checkpoint, StoredType::f32), "after");
  const std::vector<int32_t> tokens = before.tokenizer->encode("to be the question\n");
  EXPECT_EQ(after.tokenizer->encode("to be the question\n"), tokens);
  EXPECT_EQ(logits_of(before, tokens), logits_of(after, tokens));
}

TEST_P(GgufModels, ComeBackTheSameFromBlocksOfEightBits) {
  const Checkpoint once = there_and_back(with_pieces(GetParam()), StoredType::q8_0);
  fs::remove(folder_ / "q8_0.gguf");
  fs::remove(folder_ / "q8_0.h5");
  EXPECT_EQ(model_state(there_and_back(once, StoredType::q8_0)), model_state(once));
}

INSTANTIATE_TEST_SUITE_P(Of, GgufModels, ::testing::Values(kLlama, kMixtral),
                         [](const auto& test) { return test.index == 0 ? "Llama" : "Mixtral"; });

TEST(GgufModel, PutsRotatingRowsInInterleavedOrder) {
  const ScratchFolder folder;
  const Checkpoint checkpoint = with_pieces(kLlama);
  export_model(checkpoint, "a.h5", {.output = folder / "a.gguf", .format = ExportFormat::gguf});
  const GgufFile file = open_gguf(folder / "a.gguf");
  const StoredTensor& k = *file.tensors.find("blk.0.attn_k.weight");
  ASSERT_EQ(k.dims, (std::vector<int64_t>{16, 32}));
  std::vector<float> row(32);
  file.tensors.read(k, 32, row);  // their row 1 is our row 8
  const auto ours = checkpoint.state.at("model/layers.0.attention.w_k").values<float>();
  EXPECT_TRUE(std::equal(row.begin(), row.end(), ours.begin() + 8 * 32));
}

TEST(GgufModel, HasATokenForEveryRowOfTheEmbedding) {
  const ScratchFolder folder;
  export_model(with_pieces(kLlama), "a.h5",
               {.output = folder / "a.gguf", .format = ExportFormat::gguf});
  const auto keys = open_gguf(folder / "a.gguf").keys;
  ASSERT_EQ(keys["tokenizer.ggml.tokens"].size(), 300u);
  EXPECT_EQ(keys["tokenizer.ggml.tokens"][280], "[PAD280]");
  EXPECT_EQ(keys["tokenizer.ggml.token_type"][280], 5);
  EXPECT_EQ(keys["general.file_type"], 0);
}

TEST(GgufModel, SaysWhatAFileCannotHold) {
  const ScratchFolder folder;
  const auto error = [&](const Checkpoint& checkpoint) {
    return error_of<ConfigError>([&] {
      export_model(checkpoint, "a.h5", {.output = folder / "a.gguf", .format = ExportFormat::gguf});
    });
  };
  EXPECT_THAT(error(made_up_checkpoint(kLlama)),
              HasSubstr("its tokenizer is of kind bytes, allowed a SentencePiece model"));
  EXPECT_THAT(error(with_pieces(R"(
model: {pattern: "(AF)x2", hidden_size: 32, vocab_size: 300,
        attention: {num_heads: 2, qk_norm: per_head}, feed_forward: {intermediate_size: 64}}
)")),
              HasSubstr("qwen3: no GGUF file is written of it"));
  EXPECT_FALSE(fs::exists(folder / "a.gguf"));
}

}  // namespace
}  // namespace sluice
