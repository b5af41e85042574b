#include "balance/expert_cache.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

/// For each use of an expert, token after token in the order of Choices::each, the next token that
/// wants it; kNever for none.
std::vector<int64_t> next_uses(int64_t experts, const Choices& choices) {
  std::vector<int64_t> next;
  std::vector<int64_t> last(static_cast<size_t>(experts), -1);  // place in `next`
  for (int64_t token = 0; token < choices.tokens(); ++token) {
    choices.each(token, [&](size_t expert) {
      if (last[expert] >= 0) next[static_cast<size_t>(last[expert])] = token;
      last[expert] = std::ssize(next);
      next.push_back(kNever);
    });
  }
  return next;
}

class Cache {
 public:
  Cache(int64_t experts, const Choices& choices, const CacheOptions& options)
      : choices_(choices),
        options_(options),
        cached_(static_cast<size_t>(experts), 0),
        last_use_(static_cast<size_t>(experts), -1),
        value_(static_cast<size_t>(experts), 0) {
    if (options.policy == CachePolicy::clairvoyant) next_ = next_uses(experts, choices);
  }

  CacheHits run() {
    CacheHits hits;
    const int64_t ahead = options_.segment - 1;  // tokens that the segment rule sees
    for (int64_t token = 1; token < std::min(ahead, choices_.tokens()); ++token) see(token, 1);
    for (int64_t token = 0; token < choices_.tokens(); ++token) {
      // The segment rule counts the tokens token + 1 .. token + ahead.
      if (ahead > 0 && token > 0) see(token, -1);
      if (ahead > 0 && token + ahead < choices_.tokens()) see(token + ahead, 1);
      serve(token, hits);
    }
    return hits;
  }

 private:
  void see(int64_t token, int64_t by) {
    if (options_.policy != CachePolicy::segment) return;
    choices_.each(token, [&](size_t expert) { value_[expert] += by; });
  }

  void serve(int64_t token, CacheHits& hits) {
    missing_.clear();
    choices_.each(token, [&](size_t expert) {
      ++hits.requests;
      last_use_[expert] = token;
      if (options_.policy == CachePolicy::lfu) ++value_[expert];
      if (options_.policy == CachePolicy::clairvoyant) value_[expert] = -next_[use_++];
      if (cached_[expert] != 0) {
        ++hits.hits;
      } else if (std::ssize(inside_) < options_.capacity) {
        ++hits.hits;
        cached_[expert] = 1;
        inside_.push_back(expert);
      } else {
        missing_.push_back(expert);
      }
    });
    for (const size_t expert : missing_) {
      const auto victim = find_victim(token);
      if (victim == inside_.end()) break;
      cached_[*victim] = 0;
      *victim = expert;
      cached_[expert] = 1;
    }
  }

  /// The cached expert, not wanted by `token`, of least value; the end when all are wanted.
  std::vector<size_t>::iterator find_victim(int64_t token) {
    auto victim = inside_.end();
    for (auto at = inside_.begin(); at != inside_.end(); ++at) {
      if (last_use_[*at] == token) continue;
      if (victim == inside_.end() || worth(*at) < worth(*victim)) victim = at;
    }
    return victim;
  }

  struct Worth {
    int64_t value;
    int64_t last_use;
    size_t expert;
    auto operator<=>(const Worth&) const = default;
  };
  [[nodiscard]] Worth worth(size_t expert) const {
    return {value_[expert], last_use_[expert], expert};
  }

  Choices choices_;
  CacheOptions options_;
  std::vector<int64_t> next_;
  std::vector<uint8_t> cached_;
  std::vector<int64_t> last_use_;
  /// What eviction spares: activations ahead (segment), uses so far (LFU), minus the next use
  /// (clairvoyant); 0 for LRU.
  std::vector<int64_t> value_;
  std::vector<size_t> inside_;
  std::vector<size_t> missing_;
  size_t use_ = 0;  // of next_
};

}  // namespace

std::string_view name_of(CachePolicy policy) {
  switch (policy) {
    case CachePolicy::segment:
      return "segment";
    case CachePolicy::clairvoyant:
      return "clairvoyant";
    case CachePolicy::lru:
      return "lru";
    case CachePolicy::lfu:
      return "lfu";
  }
  return "?";
}

double CacheHits::rate() const {
  return requests > 0 ? static_cast<double>(hits) / static_cast<double>(requests)
                      : std::numeric_limits<double>::quiet_NaN();
}

CacheHits cache_hits(int64_t experts, const Choices& sequence, const CacheOptions& options) {
  SLUICE_INTERNAL_CHECK(options.capacity >= 1 && options.segment >= 1,
                        "a cache of {} experts, segments of {} tokens", options.capacity,
                        options.segment);
  return Cache(experts, sequence, options).run();
}

}  // namespace sluice
