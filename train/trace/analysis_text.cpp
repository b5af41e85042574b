#include "train/trace/analysis_text.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>

#include "data/tokenizer.h"
#include "train/format.h"

namespace sluice {
namespace {

using nlohmann::ordered_json;

/// Experts listed per domain and layer.
constexpr int64_t kTopExperts = 3;

template <class... Args>
void put(std::string& out, fmt::format_string<Args...> text, Args&&... args) {
  fmt::format_to(std::back_inserter(out), text, std::forward<Args>(args)...);
}

/// The text of one token, where the trace brings its tokenizer.
class TokenNames {
 public:
  explicit TokenNames(const TraceMeta& meta) {
    if (meta.tokenizer_kind.empty()) return;
    tokenizer_ = deserialize_tokenizer(meta.tokenizer_kind, meta.tokenizer);
  }
  /// "text" in quotes as JSON writes it; nothing without a tokenizer.
  [[nodiscard]] std::string of(int32_t id) const {
    if (tokenizer_ == nullptr) return {};
    return ordered_json(tokenizer_->decode(std::span(&id, 1)))
        .dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
};

void add_head(std::string& out, const TraceAnalysis& a) {
  put(out, "{:<12}{}, {}: {}\n", "trace", a.path.string(), in_bytes(static_cast<double>(a.bytes)),
      what_is_traced(a.meta.kind, a.meta.step));
  put(out, "{:<12}{} in {} and {}, {} with a loss\n", "tokens", with_commas(a.tokens),
      counted(a.sequences, "sequence"), counted(a.documents, "document piece"),
      with_commas(a.counted));
  std::vector<std::string> domains;
  for (size_t d = 0; d < a.domain_tokens.size(); ++d) {
    domains.push_back(fmt::format("{} {}", a.meta.domains[d], with_commas(a.domain_tokens[d])));
  }
  put(out, "{:<12}{}\n", "domains", fmt::join(domains, ", "));
}

void add_loads(std::string& out, const TraceAnalysis& a) {
  put(out, "\n{:<8}{:>8}{:>6}{:>9}{:>19}{:>15}{:>6}{:>9}\n", "layer", "experts", "k", "maxvio",
      "effective experts", "largest share", "idle", "dropped");
  for (const LayerAnalysis& layer : a.layers) {
    put(out, "{:<8}{:>8}{:>6}{:>9.3f}{:>19.2f}{:>15.4f}{:>6g}{:>9.4f}\n", layer.layer,
        layer.experts, layer.top_k, layer.load.max_vio, layer.load.effective_experts,
        layer.load.largest_share, layer.load.idle_experts, layer.load.drop_rate);
  }
}

void add_overlap(std::string& out, const TraceAnalysis& a) {
  if (!a.against) return;
  put(out, "\nagainst {}\n{:<8}{:>12}{:>13}{:>16}\n",
      what_is_traced(a.against->kind, a.against->step), "layer", "saturation", "fluctuation",
      "changed tokens");
  const auto row = [&](const std::string& name, const ChoiceOverlap& overlap) {
    put(out, "{:<8}{:>12.4f}{:>13.4f}{:>16.4f}\n", name, overlap.saturation(),
        overlap.fluctuation(), overlap.changed_share());
  };
  for (const LayerAnalysis& layer : a.layers) row(fmt::format("{}", layer.layer), *layer.overlap);
  if (a.layers.size() > 1) row("all", *a.model.overlap);
}

/// Indices of the largest values, best first.
std::vector<size_t> largest(const std::vector<double>& values, int64_t most) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::greater<>(), [&](size_t i) { return values[i]; });
  order.resize(std::min(order.size(), static_cast<size_t>(most)));
  return order;
}

void add_specialisation(std::string& out, const TraceAnalysis& a) {
  put(out, "\ndomain specialisation: share of a domain's tokens that an expert gets\n");
  put(out, "{:<8}{:<14}{:>10}  {}\n", "layer", "domain", "baseline", "experts with the most");
  for (const LayerAnalysis& layer : a.layers) {
    const double baseline = static_cast<double>(layer.top_k) / static_cast<double>(layer.experts);
    for (size_t d = 0; d < a.domain_tokens.size(); ++d) {
      if (a.domain_tokens[d] == 0) continue;
      const std::vector<double> shares = specialisation(layer.chosen[d], a.domain_tokens[d]);
      std::vector<std::string> top;
      for (const size_t e : largest(shares, kTopExperts)) {
        top.push_back(fmt::format("{} {:.4f}", e, shares[e]));
      }
      put(out, "{:<8}{:<14}{:>10.4f}  {}\n", layer.layer, a.meta.domains[d], baseline,
          fmt::join(top, ", "));
    }
    put(out, "{:<8}{:<14}{:>10}  {} experts at {:g} times the baseline or more, {:.4f} nats\n",
        layer.layer, "all", "", layer.specialisation.specialised_experts,
        SpecialisationSummary::kSpecialised, layer.specialisation.information);
  }
}

void add_coactivation(std::string& out, const TraceAnalysis& a) {
  put(out, "\nco-activation: share of an expert's tokens that the other one gets too\n");
  put(out, "{:<8}{}\n", "layer", "strongest pairs");
  for (const LayerAnalysis& layer : a.layers) {
    const std::vector<double> shares = layer.together.shares();
    std::vector<std::string> top;
    for (const size_t at : largest(shares, kTopExperts)) {
      if (shares[at] == 0.0) break;
      const auto experts = static_cast<size_t>(layer.experts);
      top.push_back(fmt::format("{} with {} {:.4f}", at / experts, at % experts, shares[at]));
    }
    put(out, "{:<8}{}\n", layer.layer,
        top.empty() ? "none" : fmt::format("{}", fmt::join(top, ", ")));
  }
}

void add_segments(std::string& out, const TraceAnalysis& a, const TraceAnalysisOptions& options) {
  if (options.segments.empty()) return;
  put(out, "\nsegment routing: how well one choice per m tokens does\n{:<8}{:>6}{:>10}{:>12}\n",
      "layer", "m", "SRP", "size ratio");
  const auto rows = [&](const std::string& name, const std::vector<SegmentRouting>& segments) {
    for (size_t i = 0; i < segments.size(); ++i) {
      if (std::isnan(segments[i].best_f1)) {
        put(out, "{:<8}{:>6}   no sequence is that long\n", name, options.segments[i]);
      } else {
        put(out, "{:<8}{:>6}{:>10.4f}{:>12.3f}\n", name, options.segments[i], segments[i].best_f1,
            segments[i].size_ratio);
      }
    }
  };
  for (const LayerAnalysis& layer : a.layers) rows(fmt::format("{}", layer.layer), layer.segments);
  if (a.layers.size() > 1) rows("all", a.model.segments);
}

void add_caches(std::string& out, const TraceAnalysis& a, const TraceAnalysisOptions& options) {
  if (options.cache.empty()) return;
  const std::vector<int64_t> segments = options.segments_of_caches();
  put(out, "\nexpert caches: share of requests that find their expert\n{:<8}{:>6}{:>9}", "layer",
      "rho", "experts");
  for (const int64_t segment : segments) put(out, "{:>10}", fmt::format("SCH m={}", segment));
  put(out, "{:>13}{:>9}{:>9}\n", "clairvoyant", "LRU", "LFU");
  const auto rows = [&](const std::string& name, const std::vector<CacheReport>& caches) {
    for (const CacheReport& cache : caches) {
      put(out, "{:<8}{:>6g}{:>9}", name, cache.rho, cache.capacity);
      for (const CacheHits& hits : cache.segment) put(out, "{:>10.4f}", hits.rate());
      put(out, "{:>13.4f}{:>9.4f}{:>9.4f}\n", cache.clairvoyant.rate(), cache.lru.rate(),
          cache.lfu.rate());
    }
  };
  for (const LayerAnalysis& layer : a.layers) rows(fmt::format("{}", layer.layer), layer.caches);
  if (a.layers.size() > 1) rows("shared", a.model.caches);
}

void add_vocabulary(std::string& out, const TraceAnalysis& a, const TraceAnalysisOptions& options) {
  if (options.vocabulary == 0) return;
  const TokenNames names(a.meta);
  put(out,
      "\nvocabulary specialisation: share of a token's occurrences that an expert gets, of tokens "
      "seen {} times or more\n{:<8}{:<8}{}\n",
      options.vocabulary_least, "layer", "expert", "tokens");
  for (const LayerAnalysis& layer : a.layers) {
    for (size_t e = 0; e < layer.vocabulary.size(); ++e) {
      std::vector<std::string> top;
      for (const VocabularyCounts::Entry& entry : layer.vocabulary[e]) {
        const std::string name = names.of(entry.token);
        top.push_back(fmt::format("{} {:.4f}", name.empty() ? fmt::format("{}", entry.token) : name,
                                  entry.share));
      }
      put(out, "{:<8}{:<8}{}\n", layer.layer, e, fmt::join(top, ", "));
    }
  }
}

ordered_json number_or_null(double value) {
  return std::isfinite(value) ? ordered_json(value) : ordered_json();
}

ordered_json json_of(const ChoiceOverlap& overlap) {
  return {{"tokens", overlap.tokens},
          {"saturation", overlap.saturation()},
          {"fluctuation", overlap.fluctuation()},
          {"changed", overlap.changed_share()}};
}

ordered_json json_of(const std::vector<SegmentRouting>& segments,
                     const TraceAnalysisOptions& options) {
  ordered_json result = ordered_json::array();
  for (size_t i = 0; i < segments.size(); ++i) {
    result.push_back({{"segment", options.segments[i]},
                      {"srp", number_or_null(segments[i].best_f1)},
                      {"size_ratio", number_or_null(segments[i].size_ratio)},
                      {"threshold", segments[i].threshold}});
  }
  return result;
}

ordered_json json_of(const std::vector<CacheReport>& caches, const TraceAnalysisOptions& options) {
  ordered_json result = ordered_json::array();
  for (const CacheReport& cache : caches) {
    ordered_json entry = {{"rho", cache.rho},
                          {"capacity", cache.capacity},
                          {"requests", cache.lru.requests},
                          {"clairvoyant", number_or_null(cache.clairvoyant.rate())},
                          {"lru", number_or_null(cache.lru.rate())},
                          {"lfu", number_or_null(cache.lfu.rate())},
                          {"sch", ordered_json::array()}};
    for (size_t i = 0; i < cache.segment.size(); ++i) {
      entry["sch"].push_back({{"segment", options.segments_of_caches()[i]},
                              {"rate", number_or_null(cache.segment[i].rate())}});
    }
    result.push_back(std::move(entry));
  }
  return result;
}

ordered_json json_of(const LayerAnalysis& layer, const TraceAnalysis& a,
                     const TraceAnalysisOptions& options, const TokenNames& names) {
  ordered_json result = {{"layer", layer.layer},
                         {"experts", layer.experts},
                         {"top_k", layer.top_k},
                         {"counts", layer.counts},
                         {"max_violation", layer.load.max_vio},
                         {"effective_experts", layer.load.effective_experts},
                         {"largest_share", layer.load.largest_share},
                         {"idle_experts", layer.load.idle_experts},
                         {"dropped_fraction", layer.load.drop_rate}};
  ordered_json domains = ordered_json::object();
  for (size_t d = 0; d < a.domain_tokens.size(); ++d) {
    domains[a.meta.domains[d]] = specialisation(layer.chosen[d], a.domain_tokens[d]);
  }
  result["domain_specialisation"] = {
      {"shares", std::move(domains)},
      {"specialised_experts", layer.specialisation.specialised_experts},
      {"information", layer.specialisation.information}};
  result["coactivation_counts"] = ordered_json::array();
  const auto counts = layer.together.counts();
  for (int64_t e = 0; e < layer.experts; ++e) {
    const auto row =
        counts.subspan(static_cast<size_t>(e * layer.experts), static_cast<size_t>(layer.experts));
    result["coactivation_counts"].push_back(std::vector<int64_t>(row.begin(), row.end()));
  }
  if (layer.overlap) result["against"] = json_of(*layer.overlap);
  if (!layer.segments.empty()) result["segments"] = json_of(layer.segments, options);
  if (!layer.caches.empty()) result["caches"] = json_of(layer.caches, options);
  for (const auto& entries : layer.vocabulary) {
    ordered_json list = ordered_json::array();
    for (const VocabularyCounts::Entry& entry : entries) {
      ordered_json item = {
          {"token", entry.token}, {"tokens", entry.tokens}, {"share", entry.share}};
      const std::string name = names.of(entry.token);
      if (!name.empty()) item["text"] = ordered_json::parse(name);
      list.push_back(std::move(item));
    }
    result["vocabulary"].push_back(std::move(list));
  }
  return result;
}

}  // namespace

std::string analysis_text(const TraceAnalysis& analysis, const TraceAnalysisOptions& options) {
  std::string out;
  add_head(out, analysis);
  add_loads(out, analysis);
  add_overlap(out, analysis);
  add_specialisation(out, analysis);
  add_coactivation(out, analysis);
  add_segments(out, analysis, options);
  add_caches(out, analysis, options);
  add_vocabulary(out, analysis, options);
  return out;
}

ordered_json analysis_json(const TraceAnalysis& analysis, const TraceAnalysisOptions& options) {
  const TokenNames names(analysis.meta);
  ordered_json result = {
      {"trace", analysis.path.string()},     {"bytes", analysis.bytes},
      {"kind", name_of(analysis.meta.kind)}, {"step", analysis.meta.step},
      {"tokens", analysis.tokens},           {"counted_tokens", analysis.counted},
      {"sequences", analysis.sequences},     {"documents", analysis.documents}};
  result["domains"] = ordered_json::object();
  for (size_t d = 0; d < analysis.domain_tokens.size(); ++d) {
    result["domains"][analysis.meta.domains[d]] = analysis.domain_tokens[d];
  }
  result["layers"] = ordered_json::array();
  for (const LayerAnalysis& layer : analysis.layers) {
    result["layers"].push_back(json_of(layer, analysis, options, names));
  }
  ordered_json all = ordered_json::object();
  if (analysis.against) {
    result["against"] = {{"kind", name_of(analysis.against->kind)},
                         {"step", analysis.against->step}};
    all["against"] = json_of(*analysis.model.overlap);
  }
  if (!options.segments.empty()) all["segments"] = json_of(analysis.model.segments, options);
  if (!options.cache.empty()) all["caches"] = json_of(analysis.model.caches, options);
  if (!all.empty()) result["all_layers"] = std::move(all);
  return result;
}

}  // namespace sluice
