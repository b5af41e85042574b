// Hash routing: a fixed map from tokens to experts, without parameters, gradient or loss.
//
//   by: token_id   expert = random table[id], i.i.d. uniform            (Roller et al. 2021, "Hash
//                  Layers For Large Sparse Models", arXiv 2106.04426 [R])
//   by: balanced   ids by falling frequency, each to the least loaded expert so far; an id past the
//                  given frequencies goes by the random table
//   by: position   ((layer 2654435761 + position 2246822519 + seed 1103515245) mod 2^32) mod E, the
//                  position being that in the document (UniPool 2026, arXiv 2605.06665)
//
// The weight is 1 with one expert per token. With k, as many independent hashes (seed, seed + 1,
// ...; `balanced` takes the following experts) share it: an expert hit twice counts twice and
// leaves a slot empty. Tables follow from `seed`, not from the run's seed, so that evaluation and a
// resumed run see the same map. Nothing shifts or teaches the map: recipes with a balancer are
// refused.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/ops/top_k.h"
#include "autograd/support/parallel.h"
#include "layers/router.h"
#include "layers/routers/choose.h"

namespace sluice {
namespace {

constexpr int64_t kTokenBlock = 1024;

enum class HashOf : uint8_t { token_id, balanced, position };

struct HashConfig final : RouterConfig {
  HashOf by = HashOf::token_id;
  int64_t seed = 0;
  std::vector<double> frequencies;

  void fields(FieldVisitor& v) override {
    v.enumeration({"by",
                   "token_id: a random table; balanced: a table from `frequencies`; position: a "
                   "multiplicative hash of the position"},
                  by,
                  {{"token_id", HashOf::token_id},
                   {"balanced", HashOf::balanced},
                   {"position", HashOf::position}});
    v.integer({"seed", "number of the table"}, seed, {.min = 0});
    v.numbers({"frequencies", "balanced: how often each token id occurs, from id 0"}, frequencies,
              {.min = 0.0});
  }
  [[nodiscard]] std::string check() const override {
    if ((by == HashOf::balanced) == frequencies.empty()) {
      return by == HashOf::balanced
                 ? "frequencies: found none, allowed one number per token id for by: balanced"
                 : "frequencies: found some, allowed for by: balanced only";
    }
    return {};
  }
  /// k experts drawn at random are E (1 - (1 - 1/E)^k) different ones on average.
  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query) const override {
    const auto k = static_cast<double>(query.top_k);
    if (by != HashOf::token_id) return ActiveExperts::within_bounds(1.0, k);
    const auto experts = static_cast<double>(query.num_experts);
    return ActiveExperts::at_initial_values(experts * (1.0 - std::pow(1.0 - 1.0 / experts, k)), 1.0,
                                            k);
  }
  [[nodiscard]] std::string check_against(int64_t /*num_experts*/,
                                          int64_t /*top_k*/) const override {
    return {};
  }
  [[nodiscard]] bool is_fixed() const override { return true; }
};

/// Expert of every id: the most frequent first (ties: lower id), each to the least loaded expert
/// (ties: lower expert).
std::vector<int32_t> balanced_table(std::span<const double> frequencies, int64_t experts) {
  std::vector<size_t> ids(frequencies.size());
  std::iota(ids.begin(), ids.end(), size_t{0});
  std::stable_sort(ids.begin(), ids.end(),
                   [&](size_t a, size_t b) { return frequencies[a] > frequencies[b]; });
  std::vector<double> load(static_cast<size_t>(experts), 0.0);
  std::vector<int32_t> table(frequencies.size());
  for (const size_t id : ids) {
    const auto least = std::min_element(load.begin(), load.end());
    table[id] = static_cast<int32_t>(least - load.begin());
    *least += frequencies[id];
  }
  return table;
}

class HashRouter final : public Router {
 public:
  HashRouter(const Builder& /*b*/, const RouterSetup& setup, const HashConfig& config)
      : by_(config.by),
        seed_(static_cast<uint64_t>(config.seed)),
        layer_(setup.layer),
        experts_(setup.num_experts),
        hashes_(setup.top_k),
        table_(balanced_table(config.frequencies, setup.num_experts)) {}

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    const int64_t tokens = x.dim(0);
    Tensor scores = context.tape.zeros({tokens, experts_}, x.dtype());
    if (!scores.has_memory()) return {scores, scores, scores};
    const std::span<const int32_t> ids = context.token_ids;
    SLUICE_INTERNAL_CHECK(by_ == HashOf::position || static_cast<int64_t>(ids.size()) == tokens,
                          "hash router: {} token ids for {} tokens", ids.size(), tokens);
    const auto positions = context.layout.positions.span<int32_t>();
    dispatch_float(x.dtype(), [&]<class T>() {
      T* values = scores.data<T>();
      parallel_for_ranges(tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const auto i = static_cast<size_t>(t);
          const int64_t key = by_ == HashOf::position ? positions[i] : ids[i];
          for (int64_t hash = 0; hash < hashes_; ++hash) {
            values[t * experts_ + expert_of(key, hash)] += T{1} / static_cast<T>(hashes_);
          }
        }
      });
    });
    return {scores, scores, scores};
  }

  void choose(const ForwardContext& /*context*/, const RouterScores& scores,
              std::span<const double> /*shift*/, int64_t top_k,
              Selection& selection) const override {
    choose_top_k(scores.scores, {}, top_k, selection);
    if (!scores.scores.has_memory()) return;
    dispatch_float(scores.scores.dtype(), [&]<class T>() {
      const T* values = scores.scores.data<T>();
      keep_first(selection, [&](int64_t token, std::span<const int32_t> chosen) {
        return std::count_if(chosen.begin(), chosen.end(), [&](int32_t expert) {
          return values[token * selection.experts + expert] > T{0};
        });
      });
    });
  }

  Tensor combine_weights(const ForwardContext& context, const RouterScores& scores,
                         const Selection& selection) const override {
    return gather_last(context.tape, scores.scores, expert_index(context.tape.pool(), selection));
  }

 private:
  /// Of a token id or position, by the hash-th of the hashes.
  [[nodiscard]] int64_t expert_of(int64_t key, int64_t hash) const {
    const uint64_t seed = seed_ + static_cast<uint64_t>(hash);
    const auto experts = static_cast<uint64_t>(experts_);
    if (by_ == HashOf::position) {
      const uint64_t mixed = static_cast<uint64_t>(layer_) * 2654435761U +
                             static_cast<uint64_t>(key) * 2246822519U + seed * 1103515245U;
      return static_cast<int64_t>((mixed & 0xFFFFFFFFU) % experts);
    }
    if (by_ == HashOf::balanced && key < static_cast<int64_t>(table_.size())) {
      return (table_[static_cast<size_t>(key)] + hash) % experts_;
    }
    const RandomKey table{seed, RandomPurpose::router_choice, static_cast<uint32_t>(layer_), 0};
    return static_cast<int64_t>(uniform_below(table, static_cast<uint64_t>(key), 0, experts));
  }

  HashOf by_;
  uint64_t seed_;
  int64_t layer_;
  int64_t experts_;
  int64_t hashes_;
  std::vector<int32_t> table_;  // [V] of `balanced`
};

}  // namespace

const RouterEntry hash_router = {
    .name = "hash",
    .doc =
        "a fixed map from token ids or positions to experts (Roller et al. 2021, arXiv "
        "2106.04426)",
    .make_config = make_router_config<HashConfig>,
    .make = make_router<HashRouter, HashConfig>,
};

}  // namespace sluice
