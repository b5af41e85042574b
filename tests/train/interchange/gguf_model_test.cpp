#include "train/interchange/gguf_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "data/tokenizers/sentencepiece_model.h"
#include "tests/support/error_of.h"
#include "tests/support/made_up_checkpoint.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"
#include "train/interchange/export.h"
#include "train/interchange/import.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using testing::differing_arrays;
using testing::error_of;
using testing::fill_with_bits;
using testing::give_pieces;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::logits_of;
using testing::made_up_checkpoint;
using testing::model_state;
using testing::ScratchFolder;

constexpr const char* kLlama = R"(
model: {pattern: "(AF)x2", hidden_size: 32, vocab_size: 300, tie_embeddings: false,
        attention: {num_heads: 2, num_kv_heads: 1, bias: all, rope_theta: 500000},
        norm: {eps: 1.0e-6},
        feed_forward: {intermediate_size: 64}}
)";
constexpr const char* kTiedLlama = R"(
model: {pattern: "(AF)x1", hidden_size: 32, vocab_size: 300, tie_embeddings: true,
        attention: {num_heads: 4, rope_scaling: {type: linear, factor: 4}},
        feed_forward: {intermediate_size: 64, bias: true}}
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
  give_pieces(checkpoint);
  return checkpoint;
}

struct GgufCase {
  const char* name;
  const char* model;
};

class GgufModels : public ::testing::TestWithParam<GgufCase> {
 protected:
  Checkpoint there_and_back(const Checkpoint& checkpoint, StoredType type) {
    fs::remove(file_);
    const fs::path back = folder_ / "back.h5";
    fs::remove(back);
    export_model(checkpoint, "made-up.h5",
                 {.output = file_, .format = ExportFormat::gguf, .type = type});
    (void)import_model({.source = file_, .output = back});
    return read_checkpoint(back);
  }
  [[nodiscard]] std::string file() const { return read_file(file_, raise_as<DataError>); }

  ScratchFolder folder_;
  fs::path file_ = folder_ / "model.gguf";  // a recipe names it
};

TEST_P(GgufModels, MakeTheRoundTripWithoutChangingABit) {
  for (const StoredType type : {StoredType::f32, StoredType::f16, StoredType::bf16}) {
    SCOPED_TRACE(name_of(type));
    Checkpoint before = with_pieces(GetParam().model);
    fill_with_bits(before, type);
    const Checkpoint after = there_and_back(before, type);
    EXPECT_THAT(differing_arrays(model_state(after), model_state(before)), IsEmpty());
    const std::string once = file();
    const Checkpoint again = there_and_back(after, type);
    EXPECT_TRUE(file() == once);
    EXPECT_EQ(again.meta.recipe, after.meta.recipe);
    EXPECT_TRUE(again.meta.tokenizer == after.meta.tokenizer);
  }
}

TEST_P(GgufModels, KeepTheirVocabulary) {
  const Checkpoint before = with_pieces(GetParam().model);
  const Checkpoint after = there_and_back(before, StoredType::f32);
  EXPECT_EQ(after.meta.tokenizer_kind, "sentencepiece");
  const auto ours = parse_sentencepiece(before.meta.tokenizer);
  const auto theirs = parse_sentencepiece(after.meta.tokenizer);
  ASSERT_TRUE(ours.has_value() && theirs.has_value());
  ASSERT_GE(theirs->pieces.size(), ours->pieces.size());  // rows of the embedding may be padding
  for (size_t id = 0; id < ours->pieces.size(); ++id) {
    EXPECT_EQ(theirs->pieces[id].text, ours->pieces[id].text) << id;
    EXPECT_EQ(theirs->pieces[id].score, ours->pieces[id].score) << id;
    EXPECT_EQ(theirs->pieces[id].kind, ours->pieces[id].kind) << id;
  }
  EXPECT_EQ(theirs->bos, ours->bos);
  EXPECT_EQ(theirs->eos, ours->eos);
  EXPECT_EQ(theirs->is_bpe, ours->is_bpe);
  EXPECT_EQ(theirs->adds_space_before, ours->adds_space_before);
}

TEST_P(GgufModels, ChangeNoLogitAndNoToken) {
  const Checkpoint checkpoint = with_pieces(GetParam().model);
  TrainedModel before = build_trained_model(checkpoint, "before");
  TrainedModel after = build_trained_model(there_and_back(checkpoint, StoredType::f32), "after");
  const std::vector<int32_t> tokens = before.tokenizer->encode("to be the question\n");
  EXPECT_EQ(after.tokenizer->encode("to be the question\n"), tokens);
  EXPECT_EQ(logits_of(before, tokens), logits_of(after, tokens));
}

TEST_P(GgufModels, ComeBackTheSameFromBlocksOfEightBits) {
  const Checkpoint once = there_and_back(with_pieces(GetParam().model), StoredType::q8_0);
  const std::string first = file();
  const Checkpoint twice = there_and_back(once, StoredType::q8_0);
  EXPECT_THAT(differing_arrays(model_state(twice), model_state(once)), IsEmpty());
  EXPECT_TRUE(file() == first);
}

INSTANTIATE_TEST_SUITE_P(Of, GgufModels,
                         ::testing::Values(GgufCase{"Llama", kLlama},
                                           GgufCase{"TiedLlama", kTiedLlama},
                                           GgufCase{"Mixtral", kMixtral}),
                         [](const auto& test) { return test.param.name; });

TEST(GgufModel, OfEightBitsHoldsFiniteNumbersAlone) {
  const ScratchFolder folder;
  for (const float value : {std::nanf("1"), std::numeric_limits<float>::infinity(), -9e6f}) {
    Checkpoint checkpoint = with_pieces(kLlama);
    auto& bytes = checkpoint.state.at("model/embedding.weight").bytes;
    std::memcpy(bytes.data() + 40 * sizeof(value), &value, sizeof(value));
    EXPECT_EQ(error_of<CheckpointError>([&] {
                export_model(checkpoint, "a.h5",
                             {.output = folder / "a.gguf",
                              .format = ExportFormat::gguf,
                              .type = StoredType::q8_0});
              }),
              fmt::format("token_embd.weight holds {}, which q8_0 cannot (finite numbers below "
                          "8321040); export as bf16 or f32",
                          value));
    EXPECT_TRUE(fs::is_empty(folder.path()));
  }
}

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
