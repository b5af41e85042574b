#include "train/dump_logits.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "autograd/support/error.h"
#include "autograd/support/hdf5.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"
#include "tests/support/tiny_trained.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::ScratchFolder;
using testing::tiny_trained;

class DumpLogits : public ::testing::Test {
 protected:
  void dump(const TokenFile& tokens) {
    dump_logits(trained_, tokens,
                {.output = scratch_ / "logits.h5",
                 .tokens_name = "tokens.bin",
                 .checkpoint_name = "tiny.h5"});
  }
  std::string error_of(const TokenFile& tokens) {
    return testing::error_of<Error>([&] { dump(tokens); });
  }
  [[nodiscard]] hdf5::File result() const {
    return hdf5::File::open(scratch_ / "logits.h5", raise_as<DataError>);
  }
  [[nodiscard]] std::vector<float> forward(const std::vector<int32_t>& tokens) {
    const std::vector<double> logits = testing::logits_of(trained_, tokens);
    return {logits.begin(), logits.end()};
  }

  ScratchFolder scratch_;
  TrainedModel trained_ = tiny_trained("model: {attention: {max_position_embeddings: 300}}");
};

TEST_F(DumpLogits, WritesTheLogitsOfAForwardPass) {
  const std::vector<int32_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6};
  dump({.tokens = tokens});
  const auto info = result().info("/logits");
  EXPECT_EQ(info.type, ElementType::f32);
  EXPECT_THAT(info.dims, ElementsAre(8, 257));
  EXPECT_EQ(result().read<float>("/logits"), forward(tokens));
  EXPECT_EQ(result().read<int32_t>("/tokens"), tokens);
  EXPECT_THAT(result().read<int64_t>("/document_offsets"), ElementsAre(0, 8));
  EXPECT_EQ(result().text_attribute("/", "checkpoint"), "tiny.h5");
  EXPECT_EQ(result().integer_attribute("/", "step"), 0);
}

TEST_F(DumpLogits, RunsEachDocumentByItself) {
  dump({.tokens = {3, 1, 4, 1, 5}, .document_offsets = {0, 2, 2, 5}});
  std::vector<float> expected = forward({3, 1});
  const std::vector<float> second = forward({4, 1, 5});
  expected.insert(expected.end(), second.begin(), second.end());
  EXPECT_EQ(result().read<float>("/logits"), expected);
}

TEST_F(DumpLogits, JoinsBlocksOfALongDocument) {
  std::vector<int32_t> tokens(300);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 7 % 257);
  dump({.tokens = tokens});
  EXPECT_EQ(result().read<float>("/logits"), forward(tokens));
}

TEST_F(DumpLogits, WritesAFileThatIsATokenFile) {
  const TokenFile tokens{.tokens = {3, 1, 4}, .document_offsets = {0, 1, 3}};
  dump(tokens);
  const TokenFile back = read_token_file((scratch_ / "logits.h5").string(), "u16");
  EXPECT_EQ(back.tokens, tokens.tokens);
  EXPECT_EQ(back.document_offsets, tokens.document_offsets);
}

TEST_F(DumpLogits, RefusesTokensThatTheModelCannotRead) {
  EXPECT_EQ(error_of({}), "tokens.bin: holds no token");
  EXPECT_EQ(error_of({.tokens = {1, 2, 257}}),
            "tokens.bin: token 2 is 257, the vocabulary has 257 (another --raw-type?)");
  EXPECT_EQ(error_of({.tokens = std::vector<int32_t>(301, 1)}),
            "tokens.bin: document 0 has 301 tokens, the model reads at most 300; cut the file");
}

TEST_F(DumpLogits, LeavesNothingBehindWhenItFails) {
  EXPECT_NE(error_of({.tokens = {300}}), "no error");
  EXPECT_TRUE(std::filesystem::is_empty(scratch_.path()));
}

TEST_F(DumpLogits, NeverWritesOverAFile) {
  std::ofstream(scratch_ / "logits.h5") << "older";
  EXPECT_THAT(error_of({.tokens = {1}}), HasSubstr("logits.h5 exists; remove it or name another"));
  EXPECT_EQ(std::filesystem::file_size(scratch_ / "logits.h5"), 5u);
}

TEST_F(DumpLogits, NamesAFolderThatIsNotThere) {
  try {
    dump_logits(trained_, {.tokens = {1}}, {.output = scratch_ / "none" / "logits.h5"});
    ADD_FAILURE();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("none: no such folder"));
  }
}

}  // namespace
}  // namespace sluice
