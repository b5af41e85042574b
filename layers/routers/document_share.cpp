// Experts that choose their tokens within a document: each takes the k / E of them that it rates highest
// (Union of Experts, Yang et al. 2025, arXiv 2503.02495: data selection, with one half).
//
//   s = softmax(x W^T);   expert e takes token t iff s_te is among the ceil(k / E n) largest of column e over
//   the n tokens of t's document
//
// so a token has any number of experts, k on average (`top_k`), and every expert the same load. Weights are
// the scores. Over a whole document this looks at later tokens: `over: document`, in training only. `over:
// prefix` (ours) ranks a token among those up to it, n being their number, in training and evaluation alike:
// of tokens in random order each has the same chance, k / E, at every place. `over: document` evaluates so
// too. Of equal scores the earlier token ranks first.
//
// A shift that is the same for all tokens changes no rank. Methods that assign experts without asking the
// router are refused. Cost: T log T comparisons and, to keep scores sorted, up to T^2 / 2 moved numbers for
// each expert of a document of T tokens.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "autograd/support/parallel.h"
#include "layers/routers/choose.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

struct DocumentShareConfig final : TopKRouterConfig {
  enum class Over : uint8_t { prefix, document };
  Over over = Over::prefix;
  DocumentShareConfig() { weights = "as_is"; }

  void fields(FieldVisitor& v) override {
    TopKRouterConfig::fields(v);
    v.enumeration(
        {"over",
         "tokens that a token is ranked among: prefix, those so far; document, in training "
         "all (not causal)"},
        over, {{"prefix", Over::prefix}, {"document", Over::document}});
  }
  [[nodiscard]] std::string check() const override {
    if (weights == "as_is" || weights == "straight_through") return TopKRouterConfig::check();
    return fmt::format(
        "weights: found {}, allowed as_is or straight_through (a token may have no expert)",
        weights);
  }
  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query) const override {
    return ActiveExperts::at_initial_values(static_cast<double>(query.top_k), 0.0,
                                            static_cast<double>(query.num_experts));
  }
  [[nodiscard]] bool varies_k() const override { return true; }
  [[nodiscard]] bool restricts() const override { return true; }
  [[nodiscard]] bool looks_ahead() const override { return over == Over::document; }
};

/// The scores of a document's tokens so far, expert by expert.
struct ShareState final : FeedForwardState {
  explicit ShareState(int64_t experts) : sorted(static_cast<size_t>(experts)) {}
  std::vector<std::vector<double>> sorted;  // [E], each ascending
};

/// Scores of earlier tokens, ascending, in memory of the caller's.
class Ranking {
 public:
  Ranking(double* sorted, int64_t count) : begin_(sorted), end_(sorted + count) {}
  /// How many are at least `value`, which then joins them.
  int64_t rank_and_add(double value) {
    double* place = std::lower_bound(begin_, end_, value);
    const int64_t rank = end_ - place;
    std::move_backward(place, end_, end_ + 1);
    *place = value;
    ++end_;
    return rank;
  }
  [[nodiscard]] int64_t count() const { return end_ - begin_; }

 private:
  double* begin_;
  double* end_;
};

class DocumentShareRouter final : public TopKRouter {
 public:
  DocumentShareRouter(const Builder& b, const RouterSetup& setup, const DocumentShareConfig& config)
      : TopKRouter(b, setup, config), experts_(setup.num_experts), over_(config.over) {}

  void choose(const ForwardContext& context, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override {
    if (!scores.scores.has_memory()) {
      choose_top_k(scores.scores, shift, top_k, selection);
      return;
    }
    const int64_t tokens = scores.scores.dim(0);
    selection.tokens = tokens;
    selection.experts = experts_;
    selection.top_k = experts_;
    selection.expert.assign(static_cast<size_t>(tokens * experts_), kNoExpert);
    ArenaScope scratch(thread_arena());
    const std::span<double> rated(scratch.allocate<double>(tokens * experts_),
                                  static_cast<size_t>(tokens * experts_));
    rate(scores.scores, shift, rated);
    const std::span<uint8_t> taken(scratch.allocate<uint8_t>(tokens * experts_), rated.size());
    std::ranges::fill(taken, uint8_t{0});
    const double share = static_cast<double>(top_k) / static_cast<double>(experts_);
    const int64_t documents = context.layout.documents();
    parallel_for(documents * experts_, [&](int64_t i) {
      take(context, share, {rated, taken, i / experts_, i % experts_});
    });
    parallel_for_ranges(tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) list_experts(rated, taken, t, selection);
    });
  }

  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& /*pool*/, DType /*dtype*/,
                                                             int64_t /*capacity*/) const override {
    return std::make_unique<ShareState>(experts_);
  }

 private:
  static constexpr int64_t kTokenBlock = 64;

  /// One expert's column over one document.
  struct Column {
    std::span<const double> rated;  // [N, E]
    std::span<uint8_t> taken;       // [N, E]
    int64_t document;
    int64_t expert;
  };

  /// Scores with their shift; not a number ranks last.
  void rate(const Tensor& scores, std::span<const double> shift, std::span<double> rated) const {
    dispatch_float(scores.dtype(), [&]<class T>() {
      const auto values = scores.span<T>();
      for (size_t i = 0; i < rated.size(); ++i) {
        const double more = shift.empty() ? 0.0 : shift[i % shift.size()];
        const double value = static_cast<double>(values[i]) + more;
        rated[i] = std::isnan(value) ? -std::numeric_limits<double>::infinity() : value;
      }
    });
  }

  void take(const ForwardContext& context, double share, const Column& column) const {
    const auto& offsets = context.layout.document_offsets;
    const int64_t begin = offsets[static_cast<size_t>(column.document)];
    const int64_t end = offsets[static_cast<size_t>(column.document) + 1];
    const auto at = [&](int64_t t) { return static_cast<size_t>(t * experts_ + column.expert); };
    ArenaScope scratch(thread_arena());
    if (context.training && over_ == DocumentShareConfig::Over::document) {
      int64_t* order = scratch.allocate<int64_t>(end - begin);
      std::iota(order, order + (end - begin), begin);
      std::sort(order, order + (end - begin), [&](int64_t a, int64_t b) {
        return column.rated[at(a)] != column.rated[at(b)]
                   ? column.rated[at(a)] > column.rated[at(b)]
                   : a < b;
      });
      for (int64_t i = 0; i < room(share, end - begin); ++i) column.taken[at(order[i])] = 1;
      return;
    }
    auto* state = dynamic_cast<ShareState*>(context.memory);
    const int64_t before =
        state == nullptr ? 0 : std::ssize(state->sorted[static_cast<size_t>(column.expert)]);
    double* sorted = scratch.allocate<double>(before + end - begin);
    if (state != nullptr) {
      std::ranges::copy(state->sorted[static_cast<size_t>(column.expert)], sorted);
    }
    Ranking ranking(sorted, before);
    for (int64_t t = begin; t < end; ++t) {
      const int64_t rank = ranking.rank_and_add(column.rated[at(t)]);
      column.taken[at(t)] = rank < room(share, ranking.count()) ? 1 : 0;
    }
    if (state != nullptr) {
      state->sorted[static_cast<size_t>(column.expert)].assign(sorted, sorted + ranking.count());
    }
  }

  /// How many of `tokens` an expert takes; a share that is whole up to rounding stays whole.
  [[nodiscard]] static int64_t room(double share, int64_t tokens) {
    return std::min<int64_t>(
        tokens, static_cast<int64_t>(std::ceil(share * static_cast<double>(tokens) - 1e-9)));
  }

  /// The experts that took token t, best first.
  void list_experts(std::span<const double> rated, std::span<const uint8_t> taken, int64_t t,
                    Selection& selection) const {
    const std::span<int32_t> slots =
        std::span(selection.expert)
            .subspan(static_cast<size_t>(t * experts_), static_cast<size_t>(experts_));
    size_t count = 0;
    for (int64_t e = 0; e < experts_; ++e) {
      if (taken[static_cast<size_t>(t * experts_ + e)] != 0) {
        slots[count++] = static_cast<int32_t>(e);
      }
    }
    std::sort(slots.begin(), slots.begin() + static_cast<std::ptrdiff_t>(count),
              [&](int32_t a, int32_t b) {
                const double of_a = rated[static_cast<size_t>(t * experts_ + a)];
                const double of_b = rated[static_cast<size_t>(t * experts_ + b)];
                return of_a != of_b ? of_a > of_b : a < b;
              });
  }

  int64_t experts_;
  DocumentShareConfig::Over over_;
};

}  // namespace

const RouterEntry document_share_router = {
    .name = "document_share",
    .doc =
        "experts take a share of the document's tokens (Union of Experts 2025, arXiv 2503.02495)",
    .make_config = make_router_config<DocumentShareConfig>,
    .make = make_router<DocumentShareRouter, DocumentShareConfig>,
};

}  // namespace sluice
