#include "data/token_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "autograd/support/error.h"
#include "tests/data/read_source.h"
#include "tests/data/support.h"
#include "tests/data/toy_data.h"
#include "tests/support/scratch_folder.h"

namespace sluice {
namespace {

using testing::corpus_of;

Corpus narrow_corpus() {
  Corpus corpus = corpus_of({{1, 2, 3}, {4}});
  corpus.loss_begin[0] = 2;
  return corpus;
}

TEST(TokenShard, GivesACorpusBack) {
  testing::ScratchFolder folder;
  for (const Corpus& corpus : {narrow_corpus(), testing::counting_corpus(5, {3, 70000})}) {
    write_token_shard(folder / "x.h5", corpus);
    EXPECT_EQ(read_token_shard(folder / "x.h5"), corpus);
  }
}

TEST(TokenShard, IsASourceOfTokens) {
  testing::ScratchFolder folder;
  write_token_shard(folder / "x.h5", narrow_corpus());
  EXPECT_THAT(testing::tokens_of({{"path", (folder / "x.h5").string()}}),
              ::testing::ElementsAre(::testing::ElementsAre(1, 2, 3), ::testing::ElementsAre(4)));
}

TEST(TokenCache, FindsWhatWasStoredUnderItsKey) {
  testing::ScratchFolder folder;
  const TokenCache cache((folder / "new/cache").string());
  EXPECT_FALSE(cache.find_corpus("a"));
  cache.store_corpus("a", narrow_corpus());
  EXPECT_EQ(cache.find_corpus("a"), narrow_corpus());
  EXPECT_FALSE(cache.find_corpus("b"));
  EXPECT_EQ(cache.find_tokenizer("a"), nullptr);
  cache.store_tokenizer("a", *testing::bytes_tokenizer());
  EXPECT_EQ(cache.find_tokenizer("a")->kind(), "bytes");
}

TEST(TokenCache, ReplacesADamagedFile) {
  testing::ScratchFolder folder;
  const TokenCache cache(folder.path().string());
  for (const char* name : {"tokens-a.h5", "tokenizer-a"}) {
    testing::write_file(folder / name, "damaged\nfile");
  }
  EXPECT_FALSE(cache.find_corpus("a"));
  EXPECT_EQ(cache.find_tokenizer("a"), nullptr);
  cache.store_corpus("a", narrow_corpus());
  EXPECT_EQ(cache.find_corpus("a"), narrow_corpus());
  testing::write_file(folder / "tokenizer-a", "");
  EXPECT_EQ(cache.find_tokenizer("a"), nullptr);
}

TEST(TokenCache, KeepsNothingWithoutAFolder) {
  const TokenCache cache(std::nullopt);
  cache.store_corpus("a", narrow_corpus());
  cache.store_tokenizer("a", *testing::bytes_tokenizer());
  EXPECT_FALSE(cache.find_corpus("a"));
  EXPECT_EQ(cache.find_tokenizer("a"), nullptr);
}

}  // namespace
}  // namespace sluice
