#include "data/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <thread>

#include "autograd/support/error.h"
#include "tests/data/support.h"
#include "tests/data/toy_data.h"

namespace sluice {
namespace {

using testing::counting_corpus;
using testing::dataset_of;
using ::testing::ElementsAre;
using testing::message_of;

Dataset two_sources() {
  std::vector<Corpus> train = {counting_corpus(40, {1, 9, 4, 3}, 0),
                               counting_corpus(7, {20, 6}, 1)};
  train[1].weight = 2.0;
  return dataset_of(std::move(train));
}

LoaderOptions options(int64_t prefetch = 2) {
  return {
      .packing = {.sequence_length = 8, .seed = 5}, .sequences_per_batch = 3, .prefetch = prefetch};
}

std::vector<Batch> batches(Loader& loader, int64_t count) {
  std::vector<Batch> result;
  for (int64_t i = 0; i < count; ++i) {
    result.push_back(loader.next());
    result.back().check();
  }
  return result;
}

TEST(Loader, GivesBatchesOfWholeSequences) {
  const Dataset data = two_sources();
  Loader loader(data, options());
  for (const Batch& batch : batches(loader, 40)) {
    EXPECT_EQ(batch.num_sequences(), 3);
    EXPECT_EQ(batch.num_tokens(), 24);
  }
}

TEST(Loader, NumbersEverySequenceOfTheRun) {
  const Dataset data = two_sources();
  Loader loader(data, options());
  uint64_t sample = 0;
  for (const Batch& batch : batches(loader, 40)) {
    for (const uint64_t found : batch.global_sample) ASSERT_EQ(found, sample++);
  }
}

TEST(Loader, ResumesAtEveryStepAsIfItHadNeverStopped) {
  const Dataset data = two_sources();
  constexpr int64_t kSteps = 40;  // several epochs of both sources
  Loader whole(data, options());
  std::vector<LoaderState> states = {whole.state()};
  std::vector<Batch> expected;
  for (int64_t step = 0; step < kSteps; ++step) {
    expected.push_back(whole.next());
    states.push_back(whole.state());
  }
  for (int64_t step = 0; step < kSteps; ++step) {
    Loader resumed(data, options());
    resumed.restore(LoaderState::from_words(states[step].to_words()));
    for (int64_t next = step; next < kSteps; ++next) ASSERT_EQ(resumed.next(), expected[next]);
    ASSERT_EQ(resumed.state(), states.back());
  }
}

TEST(Loader, GoesBackInTheMiddleOfPrefetching) {
  const Dataset data = two_sources();
  Loader loader(data, options(5));
  const LoaderState start = loader.state();
  const std::vector<Batch> first = batches(loader, 7);
  loader.restore(start);
  EXPECT_EQ(batches(loader, 7), first);
}

TEST(Loader, GivesTheSameBatchesWithAndWithoutPrefetching) {
  const Dataset data = two_sources();
  Loader without(data, options(0));
  const std::vector<Batch> expected = batches(without, 30);
  for (const int64_t prefetch : {1, 2, 8}) {
    Loader loader(data, options(prefetch));
    EXPECT_EQ(batches(loader, 30), expected) << prefetch;
  }
}

TEST(Loader, GivesTheSameSequencesInBatchesOfAnySize) {
  const Dataset data = two_sources();
  LoaderOptions large = options();
  large.sequences_per_batch = 60;
  LoaderOptions small = options();
  small.sequences_per_batch = 1;
  Loader one_batch(data, large);
  Loader many(data, small);
  Batch joined;
  for (const Batch& batch : batches(many, 60)) joined.append(batch);
  EXPECT_EQ(one_batch.next(), joined);
}

TEST(Loader, DealsTheSequencesOfABatchOutToTheRanks) {
  const Dataset data = two_sources();
  Loader alone(data, options());
  std::vector<std::unique_ptr<Loader>> ranks;
  for (int64_t rank = 0; rank < 2; ++rank) {
    LoaderOptions mine = options();
    mine.rank = rank;
    mine.num_ranks = 2;
    ranks.push_back(std::make_unique<Loader>(data, mine));
  }
  for (int step = 0; step < 10; ++step) {
    const Batch whole = alone.next();
    Batch even = whole.slice_sequences(0, 1);
    even.append(whole.slice_sequences(2, 3));
    ASSERT_EQ(ranks[0]->next(), even);
    ASSERT_EQ(ranks[1]->next(), whole.slice_sequences(1, 2));
    ASSERT_EQ(ranks[0]->state(), alone.state());
    ASSERT_EQ(ranks[1]->state(), alone.state());
  }
}

TEST(Loader, GivesARankWithoutSequencesAnEmptyBatch) {
  const Dataset data = two_sources();
  LoaderOptions last = options();
  last.rank = 3;
  last.num_ranks = 4;
  Loader loader(data, last);
  EXPECT_EQ(loader.next(), Batch{});
}

TEST(Loader, MixesSourcesByWeightTimesTokens) {
  std::vector<Corpus> train = {counting_corpus(10, {30}, 0), counting_corpus(10, {10}, 1)};
  train[1].weight = 6.0;  // 300 against 600
  const Dataset data = dataset_of(std::move(train));
  Loader loader(data, options());
  (void)batches(loader, 100);
  EXPECT_THAT(loader.state().drawn, ElementsAre(100, 200));
}

TEST(Loader, SharesItsDataWithOtherLoadersOnOtherThreads) {
  const Dataset data = two_sources();
  Loader alone(data, options());
  const std::vector<Batch> expected = batches(alone, 30);
  std::array<std::vector<Batch>, 3> found;
  {
    std::vector<std::jthread> threads;
    for (auto& mine : found) {
      threads.emplace_back([&] {
        Loader loader(data, options());
        mine = batches(loader, 30);
      });
    }
  }
  EXPECT_THAT(found, ::testing::Each(expected));
}

TEST(Loader, KeepsTheExactOrderWithoutShuffling) {
  const Dataset data = dataset_of({counting_corpus(10, {7, 5})});
  LoaderOptions in_order = options();
  in_order.packing.shuffle = false;
  Loader loader(data, in_order);
  int32_t token = 0;
  for (const Batch& batch : batches(loader, 9)) {
    for (const int32_t found : batch.tokens) ASSERT_EQ(found, token++ % 60);
  }
}

TEST(Loader, CountsTokensAndEpochs) {
  const Dataset data = dataset_of({counting_corpus(10, {12})});
  Loader loader(data, options());
  EXPECT_EQ(loader.tokens_drawn(), 0);
  (void)batches(loader, 10);
  EXPECT_EQ(loader.tokens_drawn(), 240);
  EXPECT_DOUBLE_EQ(loader.epochs(), 2.0);
}

TEST(Loader, RefusesTheStateOfOtherData) {
  const Dataset data = two_sources();
  const Dataset other = dataset_of({counting_corpus(10, {12})});
  Loader loader(data, options());
  LoaderState foreign = Loader(other, options()).state();
  EXPECT_EQ(message_of<DataError>([&] { loader.restore(foreign); }),
            fmt::format("the training data has changed: its fingerprint is {:016x}, the "
                        "checkpoint's is {:016x}; give the run the data it began with",
                        data.fingerprint, other.fingerprint));
}

TEST(Loader, RefusesDataWithNothingToDrawFrom) {
  std::vector<Corpus> train = {counting_corpus(3, {4})};
  train[0].weight = 0.0;
  const Dataset data = dataset_of(std::move(train));
  EXPECT_EQ(message_of<DataError>([&] { Loader loader(data, options()); }),
            "data.sources: no source with a weight above 0 has a token");
}

TEST(LoaderState, RefusesWordsItDidNotMake) {
  EXPECT_EQ(message_of<DataError>([] { (void)LoaderState::from_words({}); }),
            "stored position in the data: found 0 numbers of version 0, expected version 1");
  EXPECT_EQ(message_of<DataError>([] {
              (void)LoaderState::from_words({9, 0, 1});
            }),
            "stored position in the data: found 3 numbers of version 9, expected version 1");
}

}  // namespace
}  // namespace sluice
