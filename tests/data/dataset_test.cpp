#include "data/dataset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "autograd/support/error.h"
#include "autograd/support/parallel.h"
#include "data/tokenizers/sentencepiece.h"
#include "tests/data/support.h"
#include "tests/data/toy_data.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using testing::bytes_config;
using ::testing::ElementsAre;
using testing::message_of;
using testing::source;

class DatasetTest : public ::testing::Test {
 protected:
  std::string write(const std::string& name, std::string_view content) {
    return testing::write_file(folder_ / name, content);
  }
  std::string two_documents(const std::string& name = "a.txt") {
    return write(name, "to be\n<|endoftext|>\nor not\n");
  }
  static std::vector<int32_t> tokens(const Corpus& corpus) {
    std::vector<int32_t> ids;
    corpus.tokens.copy_to(0, corpus.num_tokens(), ids);
    return ids;
  }
  testing::ScratchFolder folder_;
};

TEST_F(DatasetTest, EndsEveryDocumentWithItsToken) {
  DataConfig config =
      bytes_config({source({{"path", write("a.txt", "ab<|endoftext|>\n<|endoftext|>\nc")},
                            {"separator", "<|endoftext|>"}})});
  config.held_out.fraction = 0.0;
  const Dataset data = load_dataset(config, 1);
  ASSERT_EQ(data.train.size(), 1);
  EXPECT_EQ(data.tokenizer->decode(tokens(data.train[0])), "ab<|endoftext|>\nc");
  EXPECT_EQ(data.train[0].num_documents(), 2);
  EXPECT_EQ(data.train[0].tokens[data.train[0].num_tokens() - 1], 256);
}

TEST_F(DatasetTest, CountsDocumentsTokensAndBytesPerDomain) {
  DataConfig config = bytes_config(
      {source({{"path", two_documents()}, {"domain", "plays"}}),
       source(
           {{"path", write("b.txt", "\xC3\xA9t\xC3\xA9")}, {"domain", "words"}, {"weight", 2.0}}),
       source({{"path", two_documents("c.txt")}, {"domain", "plays"}})});
  config.held_out.fraction = 0.0;
  const Dataset data = load_dataset(config, 1);
  EXPECT_THAT(data.domains, ElementsAre("plays", "words"));
  EXPECT_THAT(data.train_sizes(),
              ElementsAre(DomainSize{"plays", 4, 30, 26}, DomainSize{"words", 1, 6, 5}));
  EXPECT_THAT(data.held_out_sizes(), ElementsAre());
  EXPECT_EQ(data.num_train_tokens(), 36);
  EXPECT_EQ(data.train[1].weight, 2.0);
  EXPECT_EQ(data.token_bytes.size(), 257);
}

TEST_F(DatasetTest, HoldsAFractionOfEachSourceOut) {
  DataConfig config = bytes_config({source({{"path", two_documents()}})});
  const Dataset data = load_dataset(config, 1);
  EXPECT_EQ(data.train_sizes()[0].documents, 1);
  EXPECT_EQ(data.held_out_sizes()[0].documents, 1);
}

TEST_F(DatasetTest, HoldsSeparateSourcesOutInstead) {
  DataConfig config = bytes_config({source({{"path", two_documents()}})});
  config.held_out.sources = {source({{"path", write("b.txt", "that is")}, {"domain", "other"}}),
                             source({{"path", write("c.txt", "the question")}, {"domain", "a"}})};
  const Dataset data = load_dataset(config, 1);
  EXPECT_THAT(data.domains, ElementsAre("a", "other"));
  EXPECT_EQ(data.train_sizes()[0].documents, 2);
  EXPECT_THAT(data.held_out_sizes(),
              ElementsAre(DomainSize{"a", 1, 13, 12}, DomainSize{"other", 1, 8, 7}));
}

TEST_F(DatasetTest, LearnsOnlyTheResponseToAPrompt) {
  DataConfig config =
      bytes_config({source({{"path", write("a.jsonl", "{\"q\": \"1+1?\", \"a\": \"2\"}\n")},
                            {"prompt_key", "q"},
                            {"response_key", "a"}})});
  config.held_out.fraction = 0.0;
  const Corpus corpus = load_dataset(config, 1).train[0];
  EXPECT_THAT(tokens(corpus), ElementsAre('1', '+', '1', '?', '2', 256));
  EXPECT_THAT(corpus.loss_begin, ElementsAre(4));
  EXPECT_THAT(corpus.document_bytes, ElementsAre(5));
}

TEST_F(DatasetTest, CountsTheBytesOfReadyTokens) {
  DataConfig config = bytes_config({source({{"path", write("a.bin", std::string("a\0b\0", 4))}})});
  config.held_out.fraction = 0.0;
  EXPECT_THAT(load_dataset(config, 1).train_sizes(), ElementsAre(DomainSize{"a", 1, 3, 2}));
}

TEST_F(DatasetTest, RefusesACorpusWithoutText) {
  const std::string path = write("a.txt", "<|endoftext|>\n");
  EXPECT_EQ(message_of<DataError>([&] {
              (void)load_dataset(bytes_config({source({{"path", path}})}), 1);
            }),
            path + ": there is no text in it");
}

TEST_F(DatasetTest, RefusesTokensOutsideTheVocabulary) {
  const std::string path = write("a.bin", std::string("a\0\0\0\1\2", 6));
  EXPECT_EQ(message_of<DataError>([&] {
              (void)load_dataset(
                  bytes_config({source({{"path", path}, {"separator_id", int64_t{0}}})}), 1);
            }),
            path + ": token id 513 in document 1 is outside the tokenizer's vocabulary of 257");
}

TEST_F(DatasetTest, LooksForEveryFileBeforeReadingAny) {
  const std::string damaged = write("a.txt", "\xFF");
  DataConfig config = bytes_config({source({{"path", damaged}})});
  config.held_out.sources = {source({{"path", "/nowhere/b.txt"}})};
  EXPECT_EQ(message_of<ConfigError>([&] { (void)load_dataset(config, 1); }),
            "data.held_out.sources.0: /nowhere/b.txt: file or folder not found");
}

TEST_F(DatasetTest, ChangesItsFingerprintWithTextAndSplit) {
  const auto fingerprint = [&](std::string_view text, uint64_t seed) {
    DataConfig config = bytes_config({source({{"path", write("a.txt", text)}})});
    config.held_out.fraction = 0.5;
    return load_dataset(config, seed).fingerprint;
  };
  const std::string_view text = "a\n<|endoftext|>\nb\n<|endoftext|>\nc\n<|endoftext|>\nd\n";
  const uint64_t first = fingerprint(text, 1);
  EXPECT_EQ(fingerprint(text, 1), first);
  EXPECT_NE(fingerprint("a\n<|endoftext|>\nb\n<|endoftext|>\nc\n<|endoftext|>\nD\n", 1), first);
  EXPECT_NE(fingerprint(text, 2), first);
}

TEST_F(DatasetTest, IsTheSameOnAnyNumberOfThreads) {
  std::string text;
  for (uint64_t i = 0; i < 50; ++i) text += testing::random_utf8(i, 100) + "\n<|endoftext|>\n";
  const DataConfig config = bytes_config({source({{"path", write("a.txt", text)}})});
  const int threads = num_threads();
  set_num_threads(1);
  const uint64_t alone = load_dataset(config, 1).fingerprint;
  set_num_threads(4);
  EXPECT_EQ(load_dataset(config, 1).fingerprint, alone);
  set_num_threads(threads);
}

DataConfig sentencepiece_config(const std::string& path, const std::string& cache) {
  DataConfig config;
  auto tokenizer = std::make_shared<SentencePieceConfig>();
  tokenizer->vocab_size = 262;
  config.tokenizer = {"sentencepiece", tokenizer};
  config.sources = {source({{"path", path}})};
  config.cache = cache;
  return config;
}

TEST_F(DatasetTest, ReadsTokenizerAndTokensFromTheCacheTheSecondTime) {
  const std::string cache = folder_ / "cache";
  const DataConfig config = sentencepiece_config(write("a.txt", "abababab\nbaba\n"), cache);
  const Dataset first = load_dataset(config, 1);
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(cache))
    files.push_back(entry.path());
  ASSERT_EQ(files.size(), 2);
  const auto written = std::filesystem::last_write_time(files[0]);
  const Dataset second = load_dataset(config, 1);
  EXPECT_EQ(second.fingerprint, first.fingerprint);
  EXPECT_EQ(second.train, first.train);
  EXPECT_EQ(second.tokenizer->serialize(), first.tokenizer->serialize());
  EXPECT_EQ(std::filesystem::last_write_time(files[0]), written);
}

TEST_F(DatasetTest, DoesNotMeetTheCacheOfOtherText) {
  const std::string cache = folder_ / "cache";
  (void)load_dataset(sentencepiece_config(write("a.txt", "abababab\nbaba\n"), cache), 1);
  const Dataset data =
      load_dataset(sentencepiece_config(write("a.txt", "cdcdcd\ncdcc\n"), cache), 1);
  EXPECT_EQ(data.tokenizer->decode(tokens(data.train[0])).substr(0, 4), "cdcd");
}

TEST_F(DatasetTest, UsesTheTokenizerItIsGiven) {
  const DataConfig config = sentencepiece_config(two_documents(), folder_ / "cache");
  const auto tokenizer = testing::bytes_tokenizer();
  EXPECT_EQ(load_dataset(config, 1, tokenizer).tokenizer, tokenizer);
}

TEST(DataConfig, ChecksItsSources) {
  EXPECT_EQ(bytes_config({}).check(), "sources: found none, at least one is needed");
  EXPECT_EQ(bytes_config({source({{"path", "a.txt"}, {"weight", 0.0}})}).check(),
            "sources: every weight is 0, at least one must be above");
  EXPECT_EQ(bytes_config({source({{"path", "a.txt"}})}).check(), "");
}

TEST(DataConfig, HasTheKeysOfARecipe) {
  testing::KeyCollector collector;
  DataConfig config;
  config.fields(collector);
  EXPECT_THAT(collector.keys, ElementsAre("tokenizer", "sequence_length", "sources", "held_out",
                                          "sequences_per_draw", "shuffle", "cross_document_loss",
                                          "prefetch", "cache"));
  EXPECT_EQ(config.tokenizer.type, "sentencepiece");
}

}  // namespace
}  // namespace sluice
