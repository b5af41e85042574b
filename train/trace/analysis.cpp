#include "train/trace/analysis.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "autograd/support/error.h"
#include "train/trace/trace_file.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

/// Whole sequences, the tokens [begin, end) of a trace.
struct Slab {
  int64_t begin = 0;
  int64_t end = 0;
  std::vector<std::pair<int64_t, int64_t>> sequences;  // [first, last) from `begin`
  std::vector<int32_t> ids;
  std::vector<uint8_t> counted;
  std::vector<int32_t> domains;
};

void for_each_slab(const TraceFile& trace, int64_t tokens_at_a_time,
                   const std::function<void(const Slab&)>& body) {
  const auto& sequences = trace.sequences();
  for (size_t next = 0; next < sequences.size();) {
    Slab slab{.begin = sequences[next].begin, .end = sequences[next].begin};
    do {
      slab.end = sequences[next].end;
      slab.sequences.emplace_back(sequences[next].begin - slab.begin, slab.end - slab.begin);
      ++next;
    } while (next < sequences.size() && sequences[next].end - slab.begin <= tokens_at_a_time);
    slab.ids = trace.token_ids(slab.begin, slab.end);
    slab.counted = trace.counted(slab.begin, slab.end);
    slab.domains = trace.domains(slab.begin, slab.end);
    body(slab);
  }
}

/// The tokens [begin, end) of `choices`, all counting.
Choices slice(const Choices& choices, int64_t begin, int64_t end) {
  const int64_t k = choices.top_k;
  return {choices.expert.subspan(static_cast<size_t>(begin * k),
                                 static_cast<size_t>((end - begin) * k)),
          k};
}

/// Segments and caches over the sequences of one layer, or of all layers as one.
class LocalityCounter {
 public:
  LocalityCounter(int64_t experts, int64_t top_k, const TraceAnalysisOptions& options)
      : experts_(experts), segment_lengths_(options.segments_of_caches()) {
    for (const int64_t segment : options.segments) segments_.emplace_back(segment);
    for (const double rho : options.cache) {
      const auto capacity = static_cast<int64_t>(std::llround(rho * static_cast<double>(top_k)));
      caches_.push_back({.rho = rho,
                         .capacity = std::max<int64_t>(capacity, 1),
                         .segment = std::vector<CacheHits>(segment_lengths_.size())});
    }
  }

  void add(const Choices& choices, const Slab& slab) {
    for (const auto& [begin, end] : slab.sequences) {
      const Choices sequence = slice(choices, begin, end);
      for (SegmentRoutingCounter& counter : segments_) counter.add(experts_, sequence);
    }
    add_to_caches(choices, slab);
  }
  void add_to_caches(const Choices& choices, const Slab& slab) {
    for (const auto& [begin, end] : slab.sequences) {
      const Choices sequence = slice(choices, begin, end);
      for (CacheReport& cache : caches_) add(sequence, cache);
    }
  }

  [[nodiscard]] const std::vector<SegmentRoutingCounter>& segments() const { return segments_; }
  [[nodiscard]] const std::vector<CacheReport>& caches() const { return caches_; }

 private:
  void add(const Choices& sequence, CacheReport& cache) const {
    const auto hits = [&](CachePolicy policy, int64_t segment) {
      return cache_hits(experts_, sequence,
                        {.policy = policy, .capacity = cache.capacity, .segment = segment});
    };
    for (size_t i = 0; i < segment_lengths_.size(); ++i) {
      cache.segment[i].add(hits(CachePolicy::segment, segment_lengths_[i]));
    }
    cache.clairvoyant.add(hits(CachePolicy::clairvoyant, 1));
    cache.lru.add(hits(CachePolicy::lru, 1));
    cache.lfu.add(hits(CachePolicy::lfu, 1));
  }

  int64_t experts_;
  std::vector<int64_t> segment_lengths_;
  std::vector<SegmentRoutingCounter> segments_;
  std::vector<CacheReport> caches_;
};

/// Everything that is counted of one layer.
class LayerCounter {
 public:
  LayerCounter(const TraceFile::Layer& layer, const TraceMeta& meta,
               const TraceAnalysisOptions& options)
      : number_(layer.number),
        top_k_(layer.top_k),
        width_(layer.width),
        together_(layer.experts),
        chosen_(meta.domains.size(), std::vector<int64_t>(static_cast<size_t>(layer.experts), 0)),
        vocabulary_(options.vocabulary > 0 ? meta.vocab_size : 0, layer.experts),
        locality_(layer.experts, layer.top_k, options),
        options_(options) {
    if (!options.against.empty()) overlap_.emplace();
  }

  [[nodiscard]] int64_t number() const { return number_; }
  [[nodiscard]] int64_t experts() const { return together_.experts(); }
  [[nodiscard]] const LocalityCounter& locality() const { return locality_; }

  /// The routes of a slab, [n, width]: kept until the next one.
  void add(const TraceFile& trace, const TraceFile* against, const Slab& slab) {
    expert_ = trace.experts(number_, slab.begin, slab.end);
    const Choices choices = this->choices(slab);
    together_.add(choices);
    for (int64_t token = 0; token < choices.tokens(); ++token) {
      if (!choices.counts(token)) continue;
      auto& of_domain = chosen_[static_cast<size_t>(slab.domains[static_cast<size_t>(token)])];
      choices.each(token, [&](size_t expert) { ++of_domain[expert]; });
    }
    if (options_.vocabulary > 0) vocabulary_.add(slab.ids, choices);
    locality_.add(choices, slab);
    add_dropped(trace, slab);
    if (against == nullptr) return;
    const std::vector<int32_t> other = against->experts(number_, slab.begin, slab.end);
    overlap_->add(choice_overlap({other, against->layer(number_).width, slab.counted}, choices));
  }
  [[nodiscard]] Choices choices(const Slab& slab) const { return {expert_, width_, slab.counted}; }

  [[nodiscard]] LayerAnalysis result(const std::vector<int64_t>& domain_tokens) const {
    LayerAnalysis result{.layer = number_,
                         .experts = experts(),
                         .top_k = top_k_,
                         .counts = std::vector<int64_t>(static_cast<size_t>(experts()), 0),
                         .chosen = chosen_,
                         .specialisation = summarise_specialisation(chosen_, domain_tokens),
                         .together = together_,
                         .overlap = overlap_,
                         .caches = locality_.caches()};
    for (const auto& of_domain : chosen_) {
      for (size_t e = 0; e < of_domain.size(); ++e) result.counts[e] += of_domain[e];
    }
    result.load = load_statistics({.counts = result.counts, .dropped = dropped_, .top_k = top_k_});
    for (const auto& counter : locality_.segments()) result.segments.push_back(counter.result());
    for (int64_t e = 0; options_.vocabulary > 0 && e < experts(); ++e) {
      result.vocabulary.push_back(
          vocabulary_.top(e, options_.vocabulary, options_.vocabulary_least));
    }
    return result;
  }

 private:
  void add_dropped(const TraceFile& trace, const Slab& slab) {
    const std::vector<uint8_t> dropped = trace.dropped(number_, slab.begin, slab.end);
    for (size_t slot = 0; slot < dropped.size(); ++slot) {
      if (slab.counted[slot / static_cast<size_t>(width_)] != 0) dropped_ += dropped[slot];
    }
  }

  int64_t number_;
  int64_t top_k_;
  int64_t width_;
  Coactivation together_;
  std::vector<std::vector<int64_t>> chosen_;
  VocabularyCounts vocabulary_;
  LocalityCounter locality_;
  const TraceAnalysisOptions& options_;
  std::optional<ChoiceOverlap> overlap_;
  std::vector<int32_t> expert_;
  int64_t dropped_ = 0;
};

/// All layers as one: expert e of the layer in place l is number (experts of the places before) + e.
class PooledRoutes {
 public:
  explicit PooledRoutes(const std::vector<LayerCounter>& layers) : layers_(layers) {
    for (const LayerCounter& layer : layers) experts_ += layer.experts();
  }
  [[nodiscard]] int64_t experts() const { return experts_; }

  /// The routes that the layers hold of this slab.
  Choices join(const Slab& slab) {
    int64_t width = 0;
    for (const LayerCounter& layer : layers_) width += layer.choices(slab).top_k;
    joined_.clear();
    for (int64_t token = 0; token < slab.end - slab.begin; ++token) {
      int64_t first = 0;
      for (const LayerCounter& layer : layers_) {
        for (const int32_t expert : layer.choices(slab).of(token)) {
          joined_.push_back(expert < 0 ? expert : static_cast<int32_t>(first + expert));
        }
        first += layer.experts();
      }
    }
    return {joined_, width};
  }

 private:
  const std::vector<LayerCounter>& layers_;
  int64_t experts_ = 0;
  std::vector<int32_t> joined_;
};

void check_comparable(const TraceFile& trace, const TraceFile& against) {
  SLUICE_CHECK(
      DataError,
      trace.meta().experts == against.meta().experts &&
          trace.meta().layers == against.meta().layers,
      "--against {}: holds expert layers [{}] of a model with [{}] experts, {} layers [{}] "
      "of [{}]",
      against.path().string(), fmt::join(against.meta().layers, ", "),
      fmt::join(against.meta().experts, ", "), trace.path().string(),
      fmt::join(trace.meta().layers, ", "), fmt::join(trace.meta().experts, ", "));
  SLUICE_CHECK(DataError, trace.tokens() == against.tokens(),
               "--against {}: {} tokens, {} has {}; compare traces of the same held-out text",
               against.path().string(), against.tokens(), trace.path().string(), trace.tokens());
}

void check_same_tokens(const Slab& slab, const TraceFile& against) {
  SLUICE_CHECK(DataError, against.token_ids(slab.begin, slab.end) == slab.ids,
               "--against {}: its tokens are others; compare traces of the same held-out text",
               against.path().string());
}

}  // namespace

TraceAnalysis analyse_trace(const fs::path& path, const TraceAnalysisOptions& options) {
  const TraceFile trace(path);
  std::optional<TraceFile> against;
  if (!options.against.empty()) against.emplace(options.against);
  if (against) check_comparable(trace, *against);
  TraceAnalysis result{.path = path,
                       .bytes = static_cast<int64_t>(fs::file_size(path)),
                       .meta = trace.meta(),
                       .tokens = trace.tokens(),
                       .sequences = std::ssize(trace.sequences()),
                       .documents = trace.documents(),
                       .domain_tokens = std::vector<int64_t>(trace.meta().domains.size(), 0)};
  if (against) result.against = against->meta();

  std::vector<LayerCounter> layers;
  int64_t top_k = 0;
  for (const int64_t number : trace.meta().layers) {
    layers.emplace_back(trace.layer(number), trace.meta(), options);
    top_k += trace.layer(number).top_k;
  }
  PooledRoutes pooled(layers);
  LocalityCounter together(pooled.experts(), top_k, options);
  for_each_slab(trace, options.slab_tokens, [&](const Slab& slab) {
    if (against) check_same_tokens(slab, *against);
    for (size_t i = 0; i < slab.counted.size(); ++i) {
      if (slab.counted[i] != 0) ++result.domain_tokens[static_cast<size_t>(slab.domains[i])];
    }
    for (LayerCounter& layer : layers) layer.add(trace, against ? &*against : nullptr, slab);
    // Segments of the whole model are the layers' counts added up.
    if (!options.cache.empty()) together.add_to_caches(pooled.join(slab), slab);
  });
  for (const int64_t tokens : result.domain_tokens) result.counted += tokens;
  for (const LayerCounter& layer : layers) {
    result.layers.push_back(layer.result(result.domain_tokens));
  }

  ModelAnalysis& model = result.model;
  if (against) model.overlap.emplace();
  for (const LayerAnalysis& layer : result.layers) {
    if (model.overlap) model.overlap->add(*layer.overlap);
  }
  for (size_t i = 0; i < options.segments.size(); ++i) {
    SegmentRoutingCounter sum(options.segments[i]);
    for (const LayerCounter& layer : layers) sum.add(layer.locality().segments()[i]);
    model.segments.push_back(sum.result());
  }
  if (!options.cache.empty()) model.caches = together.caches();
  return result;
}

}  // namespace sluice
