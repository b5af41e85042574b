#include "autograd/kernels/key_chunks.h"

#include <gtest/gtest.h>

#include <vector>

#include "autograd/kernels/reference/key_chunks.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;

constexpr int64_t kTokens = 130;

std::vector<ChunkChoice> choices() {
  return {{4, 2, 6, 8, 1, 5, 3},    {2, 2, 4, 16, 0, 1, 2},  {3, 1, 5, 7, 2, 30, 4},
          {2, 1, 4, 64, 0, 100, 2}, {2, 1, 4, 200, 0, 3, 2},  // no chunk is ever complete
          {2, 1, 4, 1, 0, 1, 5},    {2, 1, 4, 8, 100, 5, 2},  // all are seen anyway
          {2, 1, 4, 8, 0, 500, 2},  {2, 1, 4, 8, 0, 5, 0}};
}

template <class T>
struct Problem {
  explicit Problem(const ChunkChoice& choice)
      : q(Array<T>::uniform(kTokens * choice.H * choice.P, 1)),
        k(Array<T>::uniform(kTokens * choice.K * choice.P, 2)),
        sums(kTokens / choice.chunk * choice.K * choice.P) {
    sum_key_chunks<T>(choice, 0, kTokens / choice.chunk, k.data(), sums.data());
  }
  Array<T> q, k, sums;
};

template <class T>
std::vector<int32_t> chosen_at_once(const ChunkChoice& choice, Problem<T>& p) {
  std::vector<int32_t> chosen(static_cast<size_t>(kTokens * choice.K * choice.per_query) + 1, -7);
  choose_key_chunks<T>(choice, {.queries = kTokens,
                                .position = 0,
                                .q = p.q.data(),
                                .sums = p.sums.data(),
                                .chosen = chosen.data()});
  return chosen;
}

TEST(KeyChunks, AreThoseOfTheReference) {
  for (const ChunkChoice& choice : choices()) {
    Problem<double> p(choice);
    const auto chosen = chosen_at_once(choice, p);
    std::vector<int32_t> expected(chosen.size(), -7);
    reference::choose_key_chunks<double>(choice, kTokens, p.q.data(), p.k.data(), expected.data());
    EXPECT_EQ(chosen, expected) << "chunks of " << choice.chunk;
  }
}

TEST(KeyChunks, AreTheSameHoweverTheQueriesComeInPieces) {
  for (const ChunkChoice& choice : choices()) {
    Problem<float> p(choice);
    const auto at_once = chosen_at_once(choice, p);
    std::vector<int32_t> chosen(at_once.size(), -7);
    Array<float> carry(choice.K * choice.P, 99.0F);  // read only inside a chunk
    const int64_t each = choice.K * choice.per_query;
    int64_t position = 0;
    for (const int64_t piece : {1, 1, 5, 1, 20, 3, 70, 1, 28}) {
      choose_key_chunks<float>(choice, {.queries = piece,
                                        .position = position,
                                        .q = p.q.data() + position * choice.H * choice.P,
                                        .sums = p.sums.data(),
                                        .chosen = chosen.data() + position * each,
                                        .carry = carry.data()});
      position += piece;
    }
    ASSERT_EQ(position, kTokens);
    EXPECT_EQ(chosen, at_once) << "chunks of " << choice.chunk;
  }
}

TEST(KeyChunks, OfEqualWorthAreTheEarliest) {
  const ChunkChoice choice{1, 1, 1, 2, 1, 1, 2};
  const Array<double> q(20, 1.0);
  const Array<double> k(20, 3.0);
  Array<double> sums(10);
  sum_key_chunks<double>(choice, 0, 10, k.data(), sums.data());
  std::vector<int32_t> chosen(40);
  choose_key_chunks<double>(
      choice,
      {.queries = 20, .position = 0, .q = q.data(), .sums = sums.data(), .chosen = chosen.data()});
  // Chunk 0 is seen by all. Position 4 is in chunk 2: chunk 1 is complete and before its window.
  EXPECT_EQ(std::vector<int32_t>(chosen.begin() + 4, chosen.begin() + 14),
            (std::vector<int32_t>{-1, -1, -1, -1, 1, -1, 1, -1, 1, 2}));
  EXPECT_EQ(chosen[38], 1);
  EXPECT_EQ(chosen[39], 2);
}

TEST(KeyChunks, AreTheSameOnAnyThreads) {
  const ChunkChoice choice{4, 2, 6, 8, 1, 5, 3};
  Problem<float> p(choice);
  testing::expect_same_bits_on_any_threads([&] {
    const auto chosen = chosen_at_once(choice, p);
    Array<float> result(static_cast<int64_t>(chosen.size()));
    for (size_t i = 0; i < chosen.size(); ++i) {
      result[static_cast<int64_t>(i)] = static_cast<float>(chosen[i]);
    }
    return result;
  });
}

}  // namespace
}  // namespace sluice::kernels
