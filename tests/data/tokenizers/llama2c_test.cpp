#include "data/tokenizers/llama2c.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "data/tokenizers/file.h"
#include "data/tokenizers/sentencepiece.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;

void append(std::string& file, float score, const std::string& piece) {
  const auto length = static_cast<int32_t>(piece.size());
  file.append(reinterpret_cast<const char*>(&score), 4);
  file.append(reinterpret_cast<const char*>(&length), 4);
  file += piece;
}

/// Bytes, the space, "a", "b", and the merges " a", "ab", " ab".
std::string vocabulary() {
  std::string file("\x09\0\0\0", 4);
  for (const char* control : {"<unk>", "\n<s>\n", "\n</s>\n"}) append(file, 0.0f, control);
  for (int byte = 0; byte < 256; ++byte) append(file, 0.0f, fmt::format("<0x{:02X}>", byte));
  append(file, -1.0f, " a");   // 259
  append(file, -2.0f, "ab");   // 260
  append(file, -3.0f, " ab");  // 261
  append(file, -4.0f, " ");    // 262
  append(file, -5.0f, "a");    // 263
  append(file, -6.0f, "b");    // 264
  return file;
}

TEST(Llama2c, VocabulariesMergeByScore) {
  const auto model = sentencepiece_of_llama2c(vocabulary());
  ASSERT_TRUE(model.has_value());
  const auto tokenizer = load_sentencepiece(*model);
  EXPECT_EQ(tokenizer->vocab_size(), 265);
  // A space goes before the text: " ab" by " a" + "b", since "ab" has the lower score.
  EXPECT_THAT(tokenizer->encode("ab"), ElementsAre(261));
  EXPECT_THAT(tokenizer->encode("b ab"), ElementsAre(262, 264, 261));
  // What no piece covers becomes bytes.
  EXPECT_THAT(tokenizer->encode("a\xC3\xA9"), ElementsAre(259, 3 + 0xC3, 3 + 0xA9));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("ab a\n")), "ab a\n");
}

TEST(Llama2c, DocumentsAreCutByTheTokenThatTheModelsWereTrainedWith) {
  const auto tokenizer = load_sentencepiece(*sentencepiece_of_llama2c(vocabulary()));
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_EQ(tokenizer->pad_id(), std::nullopt);
  EXPECT_EQ(tokenizer->token_bytes(1), "");
}

TEST(Llama2c, OtherBytesAreNoVocabulary) {
  const std::string right = vocabulary();
  EXPECT_FALSE(sentencepiece_of_llama2c("").has_value());
  EXPECT_FALSE(sentencepiece_of_llama2c(right.substr(0, right.size() - 1)).has_value());
  EXPECT_FALSE(sentencepiece_of_llama2c(right + "x").has_value());
  std::string huge = right;
  const int32_t length = 0x7FFFFFFF;
  std::memcpy(huge.data() + 8, &length, 4);
  EXPECT_FALSE(sentencepiece_of_llama2c(huge).has_value());
  std::string other = right;
  other[other.find("<0x07>") + 4] = '8';
  EXPECT_FALSE(sentencepiece_of_llama2c(other).has_value());
}

TEST(Llama2c, FilesAreRecognisedByTheirBytes) {
  const testing::ScratchFolder folder;
  std::ofstream(folder / "tok.bin", std::ios::binary) << vocabulary();
  EXPECT_EQ(load_tokenizer_file((folder / "tok.bin").string())->vocab_size(), 265);
}

}  // namespace
}  // namespace sluice
