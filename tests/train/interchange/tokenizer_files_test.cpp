#include "train/interchange/tokenizer_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "data/tokenizers/sentencepiece_model.h"
#include "data/tokenizers/tokenizer_json.h"
#include "tests/data/tokenizers/byte_level_file.h"
#include "tests/support/error_of.h"
#include "tests/support/made_up_checkpoint.h"
#include "tests/support/scratch_folder.h"
#include "train/interchange/export.h"
#include "train/interchange/import.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using testing::byte_level_file;
using testing::error_of;
using testing::json;
using testing::ScratchFolder;

constexpr const char* kModel = R"(
model: {pattern: "(AF)x2", hidden_size: 16, vocab_size: 300,
        attention: {num_heads: 4, num_kv_heads: 2}, feed_forward: {intermediate_size: 24}}
)";

std::string read_all(const fs::path& path) { return read_file(path, raise_as<DataError>); }

class TokenizerFiles : public ::testing::Test {
 protected:
  void put(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  std::string error() {
    return error_of<DataError>([&] { (void)find_tokenizer(folder_.path(), ""); });
  }
  ScratchFolder folder_;
};

TEST_F(TokenizerFiles, OfBytePairsGoOutAsTheyCameIn) {
  // The blanks of the file show that it is not written anew.
  const std::string file = byte_level_file({{"t", "o"}, {"b", "e"}}).dump(3);
  put("tokenizer.json", file);
  put("tokenizer_config.json", R"({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})");
  const FoundTokenizer found = find_tokenizer(folder_.path(), "");
  Checkpoint before = testing::made_up_checkpoint(kModel);
  before.meta.tokenizer_kind = found.tokenizer->kind();
  before.meta.tokenizer = found.tokenizer->serialize();
  (void)export_model(before, "made-up.h5", {.output = folder_ / "out"});
  EXPECT_EQ(read_all(folder_ / "out" / "tokenizer.json"), file);
  const json config = json::parse(read_all(folder_ / "out" / "tokenizer_config.json"));
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(config["eos_token"], "<|endoftext|>");
  EXPECT_EQ(config["bos_token"], "<|endoftext|>");
  EXPECT_FALSE(config.contains("pad_token"));
  const json model = json::parse(read_all(folder_ / "out" / "config.json"));
  EXPECT_EQ(model["eos_token_id"], 258);
  const json generation = json::parse(read_all(folder_ / "out" / "generation_config.json"));
  EXPECT_EQ(generation,
            (json{{"_from_model_config", true}, {"bos_token_id", 258}, {"eos_token_id", 258}}));

  (void)import_model({.source = folder_ / "out", .output = folder_ / "back.h5"});
  const Checkpoint after = read_checkpoint(folder_ / "back.h5");
  EXPECT_EQ(after.meta.tokenizer_kind, "tokenizer_json");
  EXPECT_EQ(after.meta.tokenizer, before.meta.tokenizer);
  const auto tokenizer = deserialize_tokenizer(after.meta.tokenizer_kind, after.meta.tokenizer);
  EXPECT_EQ(tokenizer->encode("to be"), (std::vector<int32_t>{256, ' ', 257}));
}

TEST_F(TokenizerFiles, OfSentencePieceGoOutAsTheyCameIn) {
  Checkpoint before = testing::made_up_checkpoint(kModel);
  testing::give_pieces(before);
  // One that the library made, and one of other settings that we put together.
  SentencePieceVocabulary vocabulary = *parse_sentencepiece(before.meta.tokenizer);
  vocabulary.adds_space_before = true;
  for (const std::string& model : {before.meta.tokenizer, serialize_sentencepiece(vocabulary)}) {
    put("tokenizer.model", model);
    const FoundTokenizer found = find_tokenizer(folder_.path(), "");
    EXPECT_EQ(found.tokenizer->kind(), "sentencepiece");
    before.meta.tokenizer = found.tokenizer->serialize();
    EXPECT_TRUE(before.meta.tokenizer == model);
    fs::remove_all(folder_ / "out");
    (void)export_model(before, "made-up.h5", {.output = folder_ / "out"});
    EXPECT_TRUE(read_all(folder_ / "out" / "tokenizer.model") == model);
    fs::remove(folder_ / "back.h5");
    (void)import_model({.source = folder_ / "out", .output = folder_ / "back.h5"});
    const Checkpoint after = read_checkpoint(folder_ / "back.h5");
    EXPECT_EQ(after.meta.tokenizer_kind, "sentencepiece");
    EXPECT_TRUE(after.meta.tokenizer == model);
  }
}

TEST_F(TokenizerFiles, OfSingleBytesGoOutTheSameAgain) {
  const Checkpoint before = testing::made_up_checkpoint(kModel);
  (void)export_model(before, "made-up.h5", {.output = folder_ / "out"});
  (void)import_model({.source = folder_ / "out", .output = folder_ / "back.h5"});
  const Checkpoint after = read_checkpoint(folder_ / "back.h5");
  EXPECT_EQ(after.meta.tokenizer_kind, "bytes");
  EXPECT_EQ(after.meta.tokenizer, before.meta.tokenizer);
  (void)export_model(after, "back.h5", {.output = folder_ / "again"});
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
    EXPECT_EQ(read_all(folder_ / "again" / name), read_all(folder_ / "out" / name)) << name;
  }
}

TEST_F(TokenizerFiles, MayBeNamedInPlaceOfTheFoldersOwn) {
  put("tokenizer.json", byte_level_file({{"t", "o"}}).dump());
  put("other.json", byte_level_file({{"t", "o"}, {"b", "e"}}).dump());
  EXPECT_EQ(find_tokenizer(folder_.path(), "").tokenizer->vocab_size(), 258);
  const std::string other = (folder_ / "other.json").string();
  const FoundTokenizer found = find_tokenizer(folder_.path(), other);
  EXPECT_EQ(found.tokenizer->vocab_size(), 259);
  EXPECT_EQ(json::parse(found.choice), (json{{"type", "file"}, {"path", other}}));
}

TEST_F(TokenizerFiles, ThatAreNotReadSayWhatToDo) {
  json file = byte_level_file({});
  file["model"]["type"] = "Unigram";
  put("tokenizer.json", file.dump());
  EXPECT_THAT(error(), HasSubstr("tokenizer.json: model: found Unigram, allowed BPE"));
  EXPECT_THAT(error(), EndsWith("; --tokenizer FILE names another tokenizer"));
  put("tokenizer.json", "{");
  EXPECT_THAT(error(), HasSubstr("tokenizer.json: is no valid JSON at byte 2"));
}

}  // namespace
}  // namespace sluice
