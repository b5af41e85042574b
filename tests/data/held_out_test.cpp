#include "data/held_out.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/data/toy_data.h"

namespace sluice {
namespace {

using testing::corpus_of;
using testing::counting_corpus;

HeldOutSplit split(const Corpus& corpus, double fraction, uint64_t seed = 1, uint32_t source = 0) {
  return split_held_out(corpus, {.fraction = fraction, .seed = seed, .source_index = source},
                        *testing::bytes_tokenizer());
}

TEST(HeldOut, SplitsByDocumentNearTheFraction) {
  const Corpus corpus = counting_corpus(2000, {5, 3});
  const HeldOutSplit parts = split(corpus, 0.1);
  EXPECT_EQ(parts.train.num_documents() + parts.held_out.num_documents(), 2000);
  EXPECT_EQ(parts.train.num_tokens() + parts.held_out.num_tokens(), corpus.num_tokens());
  // Five standard deviations of a binomial with 2000 draws of 0.1.
  EXPECT_NEAR(static_cast<double>(parts.held_out.num_documents()), 200.0, 67.0);
}

TEST(HeldOut, DependsOnSeedAndSourceOnly) {
  const Corpus corpus = counting_corpus(200, {5, 3});
  EXPECT_EQ(split(corpus, 0.1).held_out, split(corpus, 0.1).held_out);
  EXPECT_NE(split(corpus, 0.1, 2).held_out, split(corpus, 0.1).held_out);
  EXPECT_NE(split(corpus, 0.1, 1, 1).held_out, split(corpus, 0.1).held_out);
}

TEST(HeldOut, TakesAtLeastOneDocumentAndNeverAll) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const Corpus corpus = corpus_of({{1, 2}, {3}});
    for (const double fraction : {1e-9, 0.9}) {
      const HeldOutSplit parts = split(corpus, fraction, seed);
      ASSERT_EQ(parts.train.num_documents(), 1);
      ASSERT_EQ(parts.held_out.num_documents(), 1);
    }
  }
}

TEST(HeldOut, HoldsNothingOutWithFractionZero) {
  const Corpus corpus = corpus_of({{1, 2}, {3}});
  EXPECT_EQ(split(corpus, 0.0).train, corpus);
  EXPECT_EQ(split(corpus, 0.0).held_out.num_documents(), 0);
}

TEST(HeldOut, CutsTheEndOffASingleDocument) {
  const Corpus corpus = counting_corpus(1, {100});
  const HeldOutSplit parts = split(corpus, 0.1);
  EXPECT_EQ(parts.train.num_tokens(), 90);
  EXPECT_EQ(parts.held_out.num_tokens(), 10);
  EXPECT_EQ(parts.held_out.tokens[0], 90);
  EXPECT_EQ(parts.train.document_bytes[0] + parts.held_out.document_bytes[0], 100);
}

TEST(HeldOut, KeepsASingleTokenForTraining) {
  const HeldOutSplit parts = split(corpus_of({{7}}), 0.5);
  EXPECT_EQ(parts.train.num_tokens(), 1);
  EXPECT_EQ(parts.held_out.num_documents(), 0);
}

TEST(HeldOut, KeepsDomainWeightAndPrompts) {
  Corpus corpus(1000);
  corpus.domain = 3;
  corpus.weight = 0.25;
  for (int i = 0; i < 6; ++i) corpus.add_document(std::vector<int32_t>{1, 2, 3}, 3, 2);
  const HeldOutSplit parts = split(corpus, 0.4);
  for (const Corpus* part : {&parts.train, &parts.held_out}) {
    EXPECT_EQ(part->domain, 3);
    EXPECT_EQ(part->weight, 0.25);
    EXPECT_THAT(part->loss_begin, ::testing::Each(2));
    EXPECT_THAT(part->document_bytes, ::testing::Each(3));
  }
}

}  // namespace
}  // namespace sluice
