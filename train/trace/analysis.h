#pragma once
// What a routing trace tells: loads, specialisation, co-activation, agreement with another trace,
// and how well experts could be cached. Pure counts are in balance/; here a trace runs past them,
// some ten thousand tokens at a time.
//
// Loads, specialisation, co-activation and agreement count tokens with a loss; segments and caches
// count all tokens, sequence by sequence.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "balance/expert_cache.h"
#include "balance/load.h"
#include "balance/metrics.h"
#include "balance/segment_routing.h"
#include "balance/vocabulary.h"
#include "train/trace/trace.h"

namespace sluice {

struct TraceAnalysisOptions {
  std::filesystem::path against;           // another trace of the same tokens; empty for none
  std::vector<int64_t> segments;           // m of segment routing, and of the caches' segment rule
  std::vector<double> cache;               // rho: caches of rho k experts per layer
  int64_t vocabulary = 0;                  // token ids listed per expert
  int64_t vocabulary_least = 10;           // ... of those seen this often
  int64_t slab_tokens = int64_t{1} << 16;  // tokens in memory at a time, whole sequences

  /// How far the caches' segment rule sees: `segments`, or 16 when none is asked for.
  [[nodiscard]] std::vector<int64_t> segments_of_caches() const {
    return segments.empty() ? std::vector<int64_t>{16} : segments;
  }
};

/// One cache: its size, and hits under each rule.
struct CacheReport {
  double rho = 0.0;
  int64_t capacity = 0;            // experts of this layer, or of all layers together
  std::vector<CacheHits> segment;  // one per segment length
  CacheHits clairvoyant;
  CacheHits lru;
  CacheHits lfu;
};

struct LayerAnalysis {
  int64_t layer = 0;
  int64_t experts = 0;
  int64_t top_k = 0;
  LoadStatistics load;
  std::vector<int64_t> counts;               // [E]
  std::vector<std::vector<int64_t>> chosen;  // [D][E]
  SpecialisationSummary specialisation;
  Coactivation together;
  std::optional<ChoiceOverlap> overlap;
  std::vector<SegmentRouting> segments;
  std::vector<CacheReport> caches;
  std::vector<std::vector<VocabularyCounts::Entry>> vocabulary;  // [E]
};

/// Segments with one threshold for all layers, and caches that all layers share.
struct ModelAnalysis {
  std::optional<ChoiceOverlap> overlap;
  std::vector<SegmentRouting> segments;
  std::vector<CacheReport> caches;
};

struct TraceAnalysis {
  std::filesystem::path path;
  int64_t bytes = 0;
  TraceMeta meta;
  int64_t tokens = 0;
  int64_t counted = 0;
  int64_t sequences = 0;
  int64_t documents = 0;
  std::vector<int64_t> domain_tokens;  // [D], counted
  std::vector<LayerAnalysis> layers;
  ModelAnalysis model;
  std::optional<TraceMeta> against;
};

/// Throws DataError for a file that is no whole trace, or when `against` holds other tokens, layers
/// or experts.
[[nodiscard]] TraceAnalysis analyse_trace(const std::filesystem::path& path,
                                          const TraceAnalysisOptions& options);

}  // namespace sluice
