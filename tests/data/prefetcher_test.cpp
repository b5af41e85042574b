#include "data/prefetcher.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>

#include "autograd/support/error.h"
#include "tests/data/support.h"

namespace sluice {
namespace {

class PrefetcherOfDepth : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Depths, PrefetcherOfDepth, ::testing::Values(0, 1, 2, 7));

TEST_P(PrefetcherOfDepth, KeepsTheOrder) {
  int made = 0;
  Prefetcher<int> prefetcher([&] { return made++; }, GetParam());
  for (int i = 0; i < 500; ++i) ASSERT_EQ(prefetcher.next(), i);
}

TEST_P(PrefetcherOfDepth, ThrowsInTheItemsPlaceAndAtEveryCallAfter) {
  int made = 0;
  Prefetcher<int> prefetcher(
      [&]() -> int {
        if (made == 3) throw DataError("item 3 is damaged");
        return made++;
      },
      GetParam());
  for (int i = 0; i < 3; ++i) ASSERT_EQ(prefetcher.next(), i);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(testing::message_of<DataError>([&] { prefetcher.next(); }), "item 3 is damaged");
  }
}

TEST_P(PrefetcherOfDepth, EndsWhileItsQueueIsFullOrEmpty) {
  for (int taken = 0; taken < 4; ++taken) {
    std::atomic<int> made = 0;
    Prefetcher<std::unique_ptr<int>> prefetcher([&] { return std::make_unique<int>(made++); },
                                                GetParam());
    for (int i = 0; i < taken; ++i) ASSERT_EQ(*prefetcher.next(), i);
  }
}

TEST(Prefetcher, MakesNoMoreThanItsDepthAhead) {
  std::atomic<int> made = 0;
  Prefetcher<int> prefetcher([&] { return made++; }, 3);
  (void)prefetcher.next();
  // Time enough to run on, would nothing stop it: one taken, three waiting, one in the producer's
  // hand.
  for (int i = 0; i < 20 && made < 6; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_LE(made, 5);
}

TEST(Prefetcher, WorksAheadOnAnotherThread) {
  std::atomic<std::thread::id> worker;
  Prefetcher<int> prefetcher(
      [&] {
        worker = std::this_thread::get_id();
        return 0;
      },
      1);
  (void)prefetcher.next();
  EXPECT_NE(worker.load(), std::this_thread::get_id());
}

}  // namespace
}  // namespace sluice
