#include "autograd/support/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "autograd/support/error.h"

namespace sluice {
namespace {

class ParallelLoop : public testing::TestWithParam<int> {
 protected:
  ParallelLoop() { set_num_threads(GetParam()); }
  ~ParallelLoop() override { set_num_threads(num_processors()); }
};

TEST_P(ParallelLoop, RunsEveryBlockOnce) {
  for (const int64_t blocks : {0, 1, 2, 3, 100}) {
    std::vector<std::atomic<int>> runs(static_cast<size_t>(blocks));
    parallel_for(blocks, [&](int64_t block) { ++runs[static_cast<size_t>(block)]; });
    for (const auto& count : runs) EXPECT_EQ(count, 1);
  }
}

TEST_P(ParallelLoop, CutsRangesByTheProblem) {
  std::vector<std::atomic<int>> seen(1000);
  parallel_for_ranges(1000, 64, [&](int64_t begin, int64_t end) {
    EXPECT_EQ(begin % 64, 0);
    EXPECT_TRUE(end - begin == 64 || end == 1000);
    for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
  });
  for (const auto& count : seen) EXPECT_EQ(count, 1);
}

TEST_P(ParallelLoop, SumsInAnOrderThatThreadsDoNotChange) {
  // 1e8 and 1 in f32: the order of additions shows.
  std::vector<float> values(100000);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = i % 7 == 0 ? 1e8F : i % 7 == 3 ? -1e8F : 1.0F;
  const auto total = [&] {
    return parallel_sum<float>(static_cast<int64_t>(values.size()), 1000,
                               [&](int64_t begin, int64_t end) {
                                 float sum = 0;
                                 for (int64_t i = begin; i < end; ++i)
                                   sum += values[static_cast<size_t>(i)];
                                 return sum;
                               });
  };
  const float here = total();
  set_num_threads(1);
  EXPECT_EQ(here, total());
}

TEST_P(ParallelLoop, RethrowsTheExceptionOfTheLowestBlock) {
  try {
    parallel_for(50, [](int64_t block) {
      if (block % 10 == 7) throw std::runtime_error(std::to_string(block));
    });
    FAIL() << "nothing was thrown";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "7");
  }
}

TEST_P(ParallelLoop, NestsSerially) {
  std::atomic<int> runs{0};
  parallel_for(4, [&](int64_t) { parallel_for(5, [&](int64_t) { ++runs; }); });
  EXPECT_EQ(runs, 20);
}

INSTANTIATE_TEST_SUITE_P(Threads, ParallelLoop, testing::Values(1, 2, 3, 8));

TEST(Threads, MustBeAtLeastOne) { EXPECT_THROW(set_num_threads(0), ConfigError); }

TEST(Arena, RewindsAndKeepsItsMemory) {
  Arena arena;
  void* first = nullptr;
  {
    ArenaScope scope(arena);
    first = scope.allocate<double>(10);
    (void)scope.allocate<double>(1 << 20);
  }
  ArenaScope scope(arena);
  double* again = scope.allocate<double>(10);
  EXPECT_EQ(again, first);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(again) % Arena::kAlignment, 0U);
}

}  // namespace
}  // namespace sluice
