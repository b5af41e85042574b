#include "balance/expert_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "tests/balance/random_choices.h"

namespace sluice {
namespace {

using testing::random_choices;

/// Routing and balancing, section 9, item 12: k = 1.
const std::vector<int32_t> kPage = {0, 1, 0, 2, 0, 1, 2, 0};

int64_t hits_of(const std::vector<int32_t>& routes, int64_t top_k, int64_t experts,
                CachePolicy policy, int64_t capacity, int64_t segment) {
  return cache_hits(experts, {routes, top_k},
                    {.policy = policy, .capacity = capacity, .segment = segment})
      .hits;
}

TEST(ExpertCache, GivesTheWorkedNumbers) {
  for (const int64_t m : {2, 3, 4, 8, 100}) {
    EXPECT_EQ(hits_of(kPage, 1, 3, CachePolicy::segment, 1, m), 1) << "m " << m;
    EXPECT_EQ(hits_of(kPage, 1, 3, CachePolicy::segment, 2, m), 5) << "m " << m;
    EXPECT_EQ(hits_of(kPage, 1, 3, CachePolicy::segment, 3, m), 8) << "m " << m;
  }
  const CacheHits all =
      cache_hits(3, {kPage, 1}, {.policy = CachePolicy::segment, .capacity = 2, .segment = 4});
  EXPECT_EQ(all.requests, 8);
  EXPECT_DOUBLE_EQ(all.rate(), 5.0 / 8.0);
}

/// By the definition, with sets and looking through the routes again for every decision.
int64_t plain_hits(const Choices& choices, CachePolicy policy, int64_t capacity, int64_t m) {
  const auto has = [&](int64_t token, int32_t expert) {
    const auto slots = choices.of(token);
    return std::ranges::find(slots, expert) != slots.end();
  };
  std::set<int32_t> cached;
  int64_t hits = 0;
  for (int64_t now = 0; now < choices.tokens(); ++now) {
    std::vector<int32_t> missing;
    for (const int32_t expert : choices.of(now)) {
      if (expert == kNoExpert) continue;
      if (cached.contains(expert)) {
        ++hits;
      } else if (static_cast<int64_t>(cached.size()) < capacity) {
        ++hits;
        cached.insert(expert);
      } else {
        missing.push_back(expert);
      }
    }
    const auto last_use = [&](int32_t expert) {
      int64_t token = now;
      while (token >= 0 && !has(token, expert)) --token;
      return token;
    };
    const auto value = [&](int32_t expert) -> int64_t {
      int64_t count = 0;
      switch (policy) {
        case CachePolicy::segment:
          for (int64_t t = now + 1; t < std::min(now + m, choices.tokens()); ++t) {
            count += has(t, expert) ? 1 : 0;
          }
          return count;
        case CachePolicy::clairvoyant:
          for (int64_t t = now + 1; t < choices.tokens(); ++t) {
            if (has(t, expert)) return -t;
          }
          return -1'000'000;
        case CachePolicy::lfu:
          for (int64_t t = 0; t <= now; ++t) count += has(t, expert) ? 1 : 0;
          return count;
        case CachePolicy::lru:
          return 0;
      }
      return 0;
    };
    for (const int32_t expert : missing) {
      int32_t victim = kNoExpert;
      for (const int32_t candidate : cached) {
        if (has(now, candidate)) continue;
        if (victim == kNoExpert || std::pair(value(candidate), last_use(candidate)) <
                                       std::pair(value(victim), last_use(victim))) {
          victim = candidate;
        }
      }
      if (victim == kNoExpert) break;
      cached.erase(victim);
      cached.insert(expert);
    }
  }
  return hits;
}

TEST(ExpertCache, AgreesWithThePlainDefinitionOnRandomRoutes) {
  constexpr int64_t kExperts = 9;
  for (const int64_t tokens : {0, 1, 5, 60}) {
    for (const int64_t top_k : {1, 3}) {
      const auto routes = random_choices(tokens, kExperts, top_k, 7);
      for (const int64_t capacity : {1, 2, 4, 6, 9}) {
        for (const CachePolicy policy : kCachePolicies) {
          for (const int64_t m : {1, 2, 5, 30, 200}) {
            EXPECT_EQ(hits_of(routes, top_k, kExperts, policy, capacity, m),
                      plain_hits({routes, top_k}, policy, capacity, m))
                << tokens << " tokens, k " << top_k << ", C " << capacity << ", " << name_of(policy)
                << ", m " << m;
          }
        }
      }
    }
  }
}

TEST(ExpertCache, HasNoRuleBetterThanTheClairvoyantOneForOneExpertPerToken) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto routes = random_choices(100, 8, 1, seed);
    for (const int64_t capacity : {2, 3, 5}) {
      const int64_t best = hits_of(routes, 1, 8, CachePolicy::clairvoyant, capacity, 1);
      for (const CachePolicy policy : {CachePolicy::lru, CachePolicy::lfu, CachePolicy::segment}) {
        EXPECT_LE(hits_of(routes, 1, 8, policy, capacity, 8), best) << name_of(policy);
      }
    }
  }
}

TEST(ExpertCache, MissesNothingWhenAllExpertsFit) {
  const auto routes = random_choices(50, 6, 2, 3);
  for (const CachePolicy policy : kCachePolicies) {
    const CacheHits hits = cache_hits(6, {routes, 2}, {.policy = policy, .capacity = 6});
    EXPECT_EQ(hits.hits, hits.requests);
  }
}

TEST(ExpertCache, HasNoRateWithoutRequests) {
  const std::vector<int32_t> empty(4, kNoExpert);
  EXPECT_TRUE(std::isnan(cache_hits(3, {empty, 2}, {.capacity = 2}).rate()));
}

}  // namespace
}  // namespace sluice
