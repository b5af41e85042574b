// Document-level expert pools: tokens of one document share a few experts (EMO 2026, arXiv
// 2605.06663).
//
//   a = sum over the document's tokens of softmax(z_t);   pool = the m experts with the largest a
//   z'_t = z_t inside the pool, -inf outside;   s = softmax(z');   top-k of s;   w = s
//
// In training m is drawn for every document, layer and step, uniform over min_size .. max_size, by
// the sequence's number and the document's place in it: cutting a batch otherwise changes nothing.
// The pool is a constant; gradients go through the masked softmax, losses see masked scores and
// logits. Documents are the pieces that packing made. All their tokens count for a, those without a
// loss (a prompt) too: a is no statistic of the load but part of the choice.
//
// A pool of the whole document looks at later tokens, which training may and a model that writes
// text cannot. Evaluation therefore uses, by default, the causal form: the pool of a token is that
// of the tokens up to it, and after the first `prefix` tokens it stays as it is ("a pool fixed from
// the prompt"). `document` is EMO's own evaluation, not causal; `experts` a chosen subset; `all` no
// pool. When decoding, `document` means the tokens so far.
//
// EMO counts its shared experts in E and k: its "128 experts, 8 per token, 1 shared" is
// num_experts: 127, top_k: 7, shared: {num_experts: 1} here. Excluded logits are 1e9 lower instead
// of -inf, which gives the same zeros and keeps 0 log 0 finite in losses. Methods that
// assign experts without asking the router (base, sinkhorn, ...) would leave the pool: refused.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/softmax.h"
#include "autograd/support/error.h"
#include "autograd/support/parallel.h"
#include "layers/routers/choose.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

constexpr double kOutside = -1e9;

enum class PoolOf : uint8_t { prefix, document, experts, all };

struct DocumentPoolConfig final : TopKRouterConfig {
  std::optional<int64_t> min_size;
  std::optional<int64_t> max_size;
  std::optional<int64_t> evaluation_size;
  PoolOf evaluation = PoolOf::prefix;
  std::optional<int64_t> prefix;
  std::vector<int64_t> experts;

  DocumentPoolConfig() { weights = "as_is"; }

  void fields(FieldVisitor& v) override {
    TopKRouterConfig::fields(v);
    v.optional_integer({"min_size", "fewest experts of a pool in training (auto: top_k)"}, min_size,
                       {.min = 1}, "auto");
    v.optional_integer({"max_size", "most experts of a pool in training (auto: num_experts)"},
                       max_size, {.min = 1}, "auto");
    v.optional_integer({"evaluation_size",
                        "experts of a pool in evaluation (auto: a quarter of num_experts, at least "
                        "top_k)"},
                       evaluation_size, {.min = 1}, "auto");
    v.enumeration(
        {"evaluation",
         "pool in evaluation: prefix, of the tokens so far (causal); document, of all its "
         "tokens; experts, those listed; all, no pool"},
        evaluation,
        {{"prefix", PoolOf::prefix},
         {"document", PoolOf::document},
         {"experts", PoolOf::experts},
         {"all", PoolOf::all}});
    v.optional_integer({"prefix",
                        "evaluation: prefix: tokens after which the pool stays as it is (none: "
                        "every token may change it)"},
                       prefix, {.min = 1}, "none");
    v.integers({"experts", "evaluation: experts: numbers of the experts that may be used"}, experts,
               {.min = 0});
  }

  [[nodiscard]] std::string check() const override {
    if (evaluation == PoolOf::experts && experts.empty()) {
      return "experts: found none, allowed a list of expert numbers with evaluation: experts";
    }
    if (evaluation != PoolOf::experts && !experts.empty()) {
      return "experts: found a list, allowed only with evaluation: experts";
    }
    if (evaluation != PoolOf::prefix && prefix) {
      return fmt::format("prefix: found {}, allowed only with evaluation: prefix", *prefix);
    }
    std::vector<int64_t> sorted = experts;
    std::ranges::sort(sorted);
    if (const auto twice = std::ranges::adjacent_find(sorted); twice != sorted.end()) {
      return fmt::format("experts: found {} twice, allowed each expert once", *twice);
    }
    return TopKRouterConfig::check();
  }

  [[nodiscard]] std::string check_against(int64_t num_experts, int64_t top_k) const override {
    const auto problem_of = [&](std::string_view key, int64_t size) -> std::string {
      if (size >= top_k && size <= num_experts) return {};
      return fmt::format("router.{}: found {}, allowed {} (top_k) to {} (num_experts)", key, size,
                         top_k, num_experts);
    };
    const Sizes sizes = sizes_for(num_experts, top_k);
    for (const auto& [key, size] :
         {std::pair("min_size", sizes.least), std::pair("max_size", sizes.greatest),
          std::pair("evaluation_size", sizes.evaluation)}) {
      if (std::string problem = problem_of(key, size); !problem.empty()) return problem;
    }
    if (sizes.least > sizes.greatest) {
      return fmt::format("router.min_size: found {}, allowed {} to {} (max_size)", sizes.least,
                         top_k, sizes.greatest);
    }
    if (evaluation == PoolOf::experts) {
      if (std::ssize(experts) < top_k) {
        return fmt::format("router.experts: found {} experts, allowed {} (top_k) or more",
                           experts.size(), top_k);
      }
      const int64_t last = std::ranges::max(experts);
      if (last >= num_experts) {
        return fmt::format("router.experts: found {}, allowed 0 to {} (num_experts - 1)", last,
                           num_experts - 1);
      }
    }
    return TopKRouterConfig::check_against(num_experts, top_k);
  }

  [[nodiscard]] bool looks_ahead() const override { return true; }
  [[nodiscard]] bool restricts() const override { return true; }

  struct Sizes {
    int64_t least;
    int64_t greatest;
    int64_t evaluation;
  };
  [[nodiscard]] Sizes sizes_for(int64_t num_experts, int64_t top_k) const {
    return {min_size.value_or(top_k), max_size.value_or(num_experts),
            evaluation_size.value_or(std::max(top_k, num_experts / 4))};
  }
};

/// What a document's tokens so far say of its pool.
struct PoolState final : FeedForwardState {
  explicit PoolState(int64_t experts) : sums(static_cast<size_t>(experts), 0.0) {}
  std::vector<double> sums;  // a [E]
  int64_t tokens = 0;
};

/// offsets[e] = 0 for the `size` largest of sums [E] (ties: lower index; NaN last), else kOutside.
template <class T>
void mark_pool(std::span<const double> sums, int64_t size, std::span<T> offsets) {
  ArenaScope scratch(thread_arena());
  const std::span<int32_t> order(scratch.allocate<int32_t>(std::ssize(sums)), sums.size());
  std::iota(order.begin(), order.end(), 0);
  const auto key = [&](int32_t e) {
    const double sum = sums[static_cast<size_t>(e)];
    return std::isnan(sum) ? -std::numeric_limits<double>::infinity() : sum;
  };
  std::ranges::fill(offsets, static_cast<T>(kOutside));
  const auto kept = order.begin() + std::min(size, std::ssize(sums));
  std::nth_element(order.begin(), kept - 1, order.end(), [&](int32_t a, int32_t b) {
    return key(a) != key(b) ? key(a) > key(b) : a < b;
  });
  for (auto it = order.begin(); it != kept; ++it) offsets[static_cast<size_t>(*it)] = T{0};
}

class DocumentPoolRouter final : public TopKRouter {
 public:
  DocumentPoolRouter(const Builder& b, const RouterSetup& setup, const DocumentPoolConfig& config)
      : TopKRouter(b, setup, config),
        experts_(setup.num_experts),
        config_(config),
        sizes_(config.sizes_for(setup.num_experts, setup.top_k)) {}

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const Tensor z = linear(tape, router_input(context, x), tape.use(weight_));
    return from_logits(context, add(tape, z, pool_offsets(context, z)));
  }

  void choose(const ForwardContext& context, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override {
    choose_top_k(shift.empty() ? scores.scores : only_inside(context, scores), shift, top_k,
                 selection);
  }

  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& /*pool*/, DType /*dtype*/,
                                                             int64_t /*capacity*/) const override {
    return std::make_unique<PoolState>(experts_);
  }

 private:
  /// [N, E]: 0 inside the pool of the token's document, kOutside elsewhere. A constant.
  [[nodiscard]] Tensor pool_offsets(const ForwardContext& context, const Tensor& z) const {
    Tape& tape = context.tape;
    const NoGrad no_grad(tape);
    Tensor offsets = tape.zeros(z.shape(), z.dtype());
    const Tensor p = softmax(tape, z);
    if (!offsets.has_memory()) return offsets;
    const PoolOf pool_of = context.training ? PoolOf::document : config_.evaluation;
    if (pool_of == PoolOf::all) return offsets;
    const SequenceLayout& layout = context.layout;
    dispatch_float(z.dtype(), [&]<class T>() {
      parallel_for(layout.documents(), [&](int64_t document) {
        const auto d = static_cast<size_t>(document);
        const int64_t begin = layout.document_offsets[d];
        const int64_t count = layout.document_offsets[d + 1] - begin;
        if (count == 0) return;
        const Rows<T> rows{experts_, std::span(p.data<T>() + begin * experts_, count * experts_),
                           std::span(offsets.data<T>() + begin * experts_, count * experts_)};
        if (pool_of == PoolOf::experts) {
          mark_listed(rows);
        } else {
          PoolState fresh(experts_);
          auto* memory = dynamic_cast<PoolState*>(context.memory);
          PoolState& state = memory != nullptr ? *memory : fresh;
          if (pool_of == PoolOf::prefix) {
            mark_causally(rows, state);
          } else {
            mark_together(rows, context.training ? drawn_size(context, begin) : sizes_.evaluation,
                          state);
          }
        }
      });
    });
    return offsets;
  }

  /// The tokens of one document.
  template <class T>
  struct Rows {
    int64_t experts;
    std::span<const T> probabilities;  // [T, E]
    std::span<T> offsets;              // [T, E]
    [[nodiscard]] int64_t count() const { return std::ssize(probabilities) / experts; }
    [[nodiscard]] std::span<T> offsets_of(int64_t t) const {
      return offsets.subspan(static_cast<size_t>(t * experts), static_cast<size_t>(experts));
    }
    void add_to(std::span<double> sums, int64_t t) const {
      for (size_t e = 0; e < sums.size(); ++e) {
        sums[e] += static_cast<double>(probabilities[static_cast<size_t>(t * experts) + e]);
      }
    }
  };

  /// One pool for all tokens.
  template <class T>
  static void mark_together(const Rows<T>& rows, int64_t size, PoolState& state) {
    for (int64_t t = 0; t < rows.count(); ++t) rows.add_to(state.sums, t);
    state.tokens += rows.count();
    mark_pool<T>(state.sums, size, rows.offsets_of(0));
    for (int64_t t = 1; t < rows.count(); ++t)
      std::ranges::copy(rows.offsets_of(0), rows.offsets_of(t).begin());
  }

  /// The pool of the tokens so far, at most the first config_.prefix of the document.
  template <class T>
  void mark_causally(const Rows<T>& rows, PoolState& state) const {
    const int64_t last = config_.prefix.value_or(std::numeric_limits<int64_t>::max());
    for (int64_t t = 0; t < rows.count(); ++t, ++state.tokens) {
      if (state.tokens < last) {
        rows.add_to(state.sums, t);
      } else if (t > 0) {
        std::ranges::copy(rows.offsets_of(t - 1), rows.offsets_of(t).begin());
        continue;
      }
      mark_pool<T>(state.sums, sizes_.evaluation, rows.offsets_of(t));
    }
  }

  template <class T>
  void mark_listed(const Rows<T>& rows) const {
    std::ranges::fill(rows.offsets, static_cast<T>(kOutside));
    for (int64_t t = 0; t < rows.count(); ++t) {
      for (const int64_t e : config_.experts) rows.offsets_of(t)[static_cast<size_t>(e)] = T{0};
    }
  }

  /// m of the document that begins at token `begin`.
  [[nodiscard]] int64_t drawn_size(const ForwardContext& context, int64_t begin) const {
    const auto& offsets = context.layout.sequence_offsets;
    const auto sequence = std::ranges::upper_bound(offsets, begin) - offsets.begin() - 1;
    const auto s = static_cast<size_t>(sequence);
    const auto choices = static_cast<uint64_t>(sizes_.greatest - sizes_.least + 1);
    return sizes_.least + static_cast<int64_t>(
                              uniform_below(context.random_key(RandomPurpose::expert_pool, layer_),
                                            context.layout.global_samples[s],
                                            static_cast<uint64_t>(begin - offsets[s]), choices));
  }

  /// The scores, minus infinity outside the pool: no shift brings an expert in from there.
  [[nodiscard]] Tensor only_inside(const ForwardContext& context,
                                   const RouterScores& scores) const {
    Tensor ranked = context.tape.empty(scores.scores.shape(), scores.scores.dtype());
    if (!ranked.has_memory()) return ranked;
    dispatch_float(ranked.dtype(), [&]<class T>() {
      std::ranges::transform(scores.scores.span<T>(), scores.logits.span<T>(),
                             ranked.span<T>().begin(), [](T score, T logit) {
                               return logit < static_cast<T>(kOutside / 2)
                                          ? -std::numeric_limits<T>::infinity()
                                          : score;
                             });
    });
    return ranked;
  }

  int64_t experts_;
  DocumentPoolConfig config_;
  DocumentPoolConfig::Sizes sizes_;
};

}  // namespace

const RouterEntry document_pool_router = {
    .name = "document_pool",
    .doc = "the tokens of a document share a pool of experts (EMO 2026, arXiv 2605.06663)",
    .make_config = make_router_config<DocumentPoolConfig>,
    .make = make_router<DocumentPoolRouter, DocumentPoolConfig>,
};

}  // namespace sluice
