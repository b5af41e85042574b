#pragma once
// How often an expert that a token wants is in a cache of C experts, and what the eviction rule
// does to it.
//
// The segment rule gives the segment cache best hit rate SCH (Liang et al. 2025, "Not All Models
// Suit Expert Offloading: On Local Routing Consistency of Mixture-of-Expert Models"): a miss evicts
// the expert, not wanted now, with the fewest activations in the next m - 1 tokens (ties: least
// recently used). Clairvoyant (Belady 1966) evicts the one that is wanted again last, LRU the least
// recently used, LFU the least often used so far (ties of both: least recently used). A token asks
// for all its experts at once; one that is cached is a hit, and so is one that finds the cache not
// yet full: the first fill is free. Ties that remain go to the lowest number (ours).
//
// A sequence begins with an empty cache. All tokens count, with or without a loss. C = rho k; below
// 2k rules differ between implementations, for a token may want more than there is room to evict:
// what cannot be loaded is a miss and stays outside.

#include <cstdint>
#include <string_view>

#include "balance/metrics.h"

namespace sluice {

enum class CachePolicy : uint8_t { segment, clairvoyant, lru, lfu };
inline constexpr CachePolicy kCachePolicies[] = {CachePolicy::segment, CachePolicy::clairvoyant,
                                                 CachePolicy::lru, CachePolicy::lfu};
[[nodiscard]] std::string_view name_of(CachePolicy policy);

struct CacheHits {
  int64_t requests = 0;
  int64_t hits = 0;

  void add(const CacheHits& other) {
    requests += other.requests;
    hits += other.hits;
  }
  /// From 0 to 1; NaN without a request.
  [[nodiscard]] double rate() const;
  friend bool operator==(const CacheHits&, const CacheHits&) = default;
};

struct CacheOptions {
  CachePolicy policy = CachePolicy::segment;
  int64_t capacity = 1;  // C experts, at least 1
  int64_t segment = 1;   // m, at least 1; for the segment rule alone
};

/// One sequence through a layer of `experts` experts and an empty cache: O(N k C).
[[nodiscard]] CacheHits cache_hits(int64_t experts, const Choices& sequence,
                                   const CacheOptions& options);

}  // namespace sluice
