#include "balance/segment_routing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/balance/random_choices.h"

namespace sluice {
namespace {

using testing::random_choices;

/// Routing and balancing, section 9, item 11: two experts, top-1.
const std::vector<int32_t> kPage = {0, 0, 0, 1, 1, 1, 0, 0};

TEST(SegmentRouting, GivesTheWorkedNumbers) {
  SegmentRoutingCounter counter(2);
  counter.add(2, {kPage, 1});
  EXPECT_NEAR(counter.f1(0), 0.6667, 5e-5);
  EXPECT_NEAR(counter.f1(1), 0.875, 1e-12);
  EXPECT_NEAR(counter.f1(2), 0.8333, 5e-5);
  const SegmentRouting best = counter.result();
  EXPECT_NEAR(best.best_f1, 0.875, 1e-12);
  EXPECT_NEAR(best.size_ratio, 1.286, 5e-4);
  EXPECT_EQ(best.threshold, 1);
}

/// f of every window and expert, by looking at every token of every window.
std::vector<int64_t> activations(const Choices& sequence, int64_t experts, int64_t m) {
  std::vector<int64_t> f;
  for (int64_t begin = 0; begin + m <= sequence.tokens(); ++begin) {
    for (int32_t expert = 0; expert < experts; ++expert) {
      int64_t count = 0;
      for (int64_t token = begin; token < begin + m; ++token) {
        const auto slots = sequence.of(token);
        count += std::ranges::find(slots, expert) != slots.end() ? 1 : 0;
      }
      f.push_back(count);
    }
  }
  return f;
}

double plain_f1(const std::vector<int64_t>& f, int64_t m, int64_t threshold) {
  double all = 0.0;
  double above = 0.0;
  double pairs = 0.0;
  for (const int64_t value : f) {
    all += static_cast<double>(value);
    if (value < threshold) continue;
    above += static_cast<double>(value);
    pairs += 1.0;
  }
  return 2.0 * above / (static_cast<double>(m) * pairs + all);
}

TEST(SegmentRouting, AgreesWithThePlainDefinitionOnRandomRoutes) {
  constexpr int64_t kExperts = 6;
  for (const int64_t m : {1, 2, 3, 7, 16}) {
    SegmentRoutingCounter counter(m);
    std::vector<int64_t> f;
    for (const int64_t tokens : {0, 1, 6, 16, 17, 40}) {
      const auto routes = random_choices(tokens, kExperts, 2, static_cast<uint64_t>(tokens + m));
      const Choices sequence{routes, 2};
      counter.add(kExperts, sequence);
      const auto more = activations(sequence, kExperts, m);
      f.insert(f.end(), more.begin(), more.end());
    }
    double best = 0.0;
    for (int64_t threshold = 0; threshold <= m; ++threshold) {
      const double expected = plain_f1(f, m, threshold);
      EXPECT_NEAR(counter.f1(threshold), expected, 1e-12) << "m " << m << " alpha " << threshold;
      best = std::max(best, expected);
    }
    EXPECT_NEAR(counter.result().best_f1, best, 1e-12) << "m " << m;
  }
}

TEST(SegmentRouting, IsPerfectWhereRoutesNeverChange) {
  SegmentRoutingCounter counter(4);
  const std::vector<int32_t> routes(20, 3);
  counter.add(8, {routes, 1});
  EXPECT_DOUBLE_EQ(counter.result().best_f1, 1.0);
  EXPECT_DOUBLE_EQ(counter.result().size_ratio, 1.0);
}

TEST(SegmentRouting, TakesOneThresholdForLayersTogether) {
  const auto one = random_choices(60, 5, 2, 1);
  const auto two = random_choices(60, 5, 1, 2);
  SegmentRoutingCounter a(4);
  SegmentRoutingCounter b(4);
  SegmentRoutingCounter both(4);
  a.add(5, {one, 2});
  b.add(5, {two, 1});
  both.add(5, {one, 2});
  both.add(5, {two, 1});
  a.add(b);
  EXPECT_EQ(a.result().best_f1, both.result().best_f1);
  EXPECT_LE(both.result().best_f1, 1.0);
}

TEST(SegmentRouting, HasNoFigureWithoutAWindow) {
  SegmentRoutingCounter counter(16);
  counter.add(2, {kPage, 1});
  EXPECT_TRUE(std::isnan(counter.result().best_f1));
}

}  // namespace
}  // namespace sluice
