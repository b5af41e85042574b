// BIP-based balancing for tokens that come one by one: each is routed by prices that it and the
// tokens before it set, of a window of n tokens that the experts are to share evenly.
//
//   C = floor(n k / E);   for token t, repeat `iterations` times:
//     p <- max(0, (k + 1)-th largest over e of s_te - q_e)
//     q_e <- max(0, (C + 1)-th largest of s_te - p and of the window's earlier s_le - p_l), 0 while
//            there are no C + 1
//   route: top-k of s_t - q; combine weights come from s alone
//
// Sun 2025, "Binary-Integer-Programming Based Algorithm for Expert Load Balancing in
// Mixture-of-Experts Models", the online algorithm and its approximation in constant space; both
// reconstructed [R] from a description. `form: heaps` keeps the C + 1 largest values of each expert
// (n k numbers in all), `histogram` counts them in bins of [0, 1], whatever the window (values past
// 1 go to the last bin): its prices are the lower edges, at most a bin below. Prices grow as the
// window fills: early tokens go where they want, late ones to what is left.
//
// Ours [R]: a window is the micro-batch (auto) or a number of tokens with a loss, which may span
// micro-batches; tokens without a loss are routed but set no price. The method ranks experts
// itself: groups of the router do not apply. Evaluation routes with the prices that the last whole
// window ended with. In training a token's route depends on the micro-batch's earlier tokens, other
// documents included. Values that are not finite count for nothing.

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include "balance/batch.h"
#include "balance/method.h"

namespace sluice {
namespace {

enum class Form : uint8_t { heaps, histogram };

struct BipOnlineConfig final : Configurable {
  int64_t iterations = 4;
  std::optional<int64_t> window;
  Form form = Form::heaps;
  int64_t bins = 256;

  void fields(FieldVisitor& v) override {
    v.integer({"iterations", "rounds of prices per token"}, iterations, {.min = 1, .max = 1000});
    v.optional_integer({"window",
                        "tokens with a loss that the experts share evenly (auto: those of the "
                        "micro-batch)"},
                       window, {.min = 1}, "auto");
    v.enumeration(
        {"form", "heaps: exact, of n k numbers; histogram: of constant size, scores from 0 to 1"},
        form, {{"heaps", Form::heaps}, {"histogram", Form::histogram}});
    v.integer({"bins", "form: histogram: bins of an expert between 0 and 1"}, bins,
              {.min = 1, .max = 1 << 20});
  }
};

/// What the experts were offered in a window, as far as their prices need it.
class Offers {
 public:
  virtual ~Offers() = default;
  /// Forgets all; from now on prices are the (capacity + 1)-th largest offer.
  virtual void restart(int64_t experts, int64_t capacity) = 0;
  /// The price of an expert with this offer besides.
  [[nodiscard]] virtual double price_with(int64_t expert, double offer) const = 0;
  virtual void add(int64_t expert, double offer) = 0;
  virtual void visit_state(StateVisitor& visitor) = 0;
};

/// The capacity + 1 largest offers of every expert, the least of them in front.
class Heaps final : public Offers {
 public:
  void restart(int64_t experts, int64_t capacity) override {
    slots_ = capacity + 1;
    sizes_.assign(static_cast<size_t>(experts), 0);
    values_.assign(static_cast<size_t>(experts * slots_), 0.0);
  }
  [[nodiscard]] double price_with(int64_t expert, double offer) const override {
    const int64_t size = sizes_[static_cast<size_t>(expert)];
    const double* heap = values_.data() + expert * slots_;
    if (size + 1 < slots_) return 0.0;
    double least = offer;
    if (size < slots_) {
      if (size > 0) least = std::min(heap[0], offer);
    } else if (offer <= heap[0]) {
      least = heap[0];
    } else {
      // It drives out the least, and the next is one of the two below that.
      for (int64_t i = 1; i < std::min<int64_t>(3, size); ++i) least = std::min(least, heap[i]);
    }
    return std::max(0.0, least);
  }
  void add(int64_t expert, double offer) override {
    int64_t& size = sizes_[static_cast<size_t>(expert)];
    double* heap = values_.data() + expert * slots_;
    if (size == slots_) {
      if (offer <= heap[0]) return;
      std::pop_heap(heap, heap + size, std::greater<>());
      --size;
    }
    heap[size++] = offer;
    std::push_heap(heap, heap + size, std::greater<>());
  }
  void visit_state(StateVisitor& visitor) override {
    visitor.integer("slots", slots_);
    visitor.list("sizes", sizes_);
    visitor.list("values", values_);
  }

 private:
  int64_t slots_ = 1;           // C + 1
  std::vector<int64_t> sizes_;  // [E]
  std::vector<double> values_;  // [E, C + 1]
};

/// How many offers of every expert lie in each bin; offers below 0 are not counted.
class Histograms final : public Offers {
 public:
  explicit Histograms(int64_t bins) : bins_(bins) {}
  void restart(int64_t experts, int64_t capacity) override {
    capacity_ = capacity;
    counts_.assign(static_cast<size_t>(experts * (bins_ + 1)), 0);
    threshold_.assign(static_cast<size_t>(experts), -1);
    above_.assign(static_cast<size_t>(experts), 0);
  }
  [[nodiscard]] double price_with(int64_t expert, double offer) const override {
    const int64_t threshold = threshold_with(expert, bin_of(offer));
    return threshold < 0 ? 0.0 : static_cast<double>(threshold) / static_cast<double>(bins_);
  }
  void add(int64_t expert, double offer) override {
    const int64_t bin = bin_of(offer);
    if (bin < 0) return;
    const auto e = static_cast<size_t>(expert);
    const int64_t threshold = threshold_with(expert, bin);
    ++counts_[e * static_cast<size_t>(bins_ + 1) + static_cast<size_t>(bin)];
    if (bin > threshold_[e]) ++above_[e];
    if (threshold == threshold_[e]) return;
    threshold_[e] = threshold;
    above_[e] -= count(expert, threshold);
  }
  void visit_state(StateVisitor& visitor) override {
    visitor.integer("capacity", capacity_);
    visitor.list("counts", counts_);
    visitor.list("threshold", threshold_);
    visitor.list("above", above_);
  }

 private:
  [[nodiscard]] int64_t bin_of(double offer) const {
    if (!(offer >= 0.0)) return -1;
    return static_cast<int64_t>(
        std::min(std::floor(offer * static_cast<double>(bins_)), static_cast<double>(bins_)));
  }
  [[nodiscard]] int64_t count(int64_t expert, int64_t bin) const {
    return counts_[static_cast<size_t>(expert * (bins_ + 1) + bin)];
  }
  /// The highest bin from which on there are more than C offers, one more in `bin` included; -1 for
  /// none. One offer moves it to the next filled bin at most.
  [[nodiscard]] int64_t threshold_with(int64_t expert, int64_t bin) const {
    const auto e = static_cast<size_t>(expert);
    const int64_t threshold = threshold_[e];
    if (bin <= threshold || above_[e] + 1 <= capacity_) return threshold;
    for (int64_t next = threshold + 1; next < bin; ++next) {
      if (count(expert, next) > 0) return next;
    }
    return bin;
  }

  int64_t bins_;
  int64_t capacity_ = 0;
  std::vector<int64_t> counts_;     // [E, bins + 1]; the last for offers from 1 up
  std::vector<int64_t> threshold_;  // [E]
  std::vector<int64_t> above_;      // [E]: offers in bins past the threshold, at most C
};

class BipOnline final : public Balancer {
 public:
  BipOnline(const BipOnlineConfig& config, const BalancerSetup& setup)
      : config_(config),
        prices_(static_cast<size_t>(setup.experts), 0.0),
        current_(prices_),
        offers_(config.form == Form::heaps ? std::unique_ptr<Offers>(std::make_unique<Heaps>())
                                           : std::make_unique<Histograms>(config.bins)) {}

  [[nodiscard]] BalancerTraits traits() const override {
    return {.selects = true, .batch_dependent = true};
  }

  void route(const RouterInput& input, Selection& selection) override {
    if (!input.training) {
      std::vector<double> shift;
      for (const double price : prices_) shift.push_back(-price);
      input.choose(shift, selection);
      return;
    }
    const Tensor& s = input.router.scores;
    const size_t experts = prices_.size();
    const int64_t window = config_.window.value_or(input.layout.counted_tokens());
    ArenaScope scratch(thread_arena());
    const std::span<double> values = shifted_rows(scratch, s, {});
    for (size_t t = 0; t * experts < values.size(); ++t) {
      const std::span<double> row(values.data() + t * experts, experts);
      if (input.layout.counted[t] != 0) offer(row, window, input.top_k);
      for (size_t e = 0; e < experts; ++e) row[e] -= current_[e];
    }
    select_top_k(values, s.dim(0), s.dim(1), input.top_k, selection);
  }

  void visit_state(StateVisitor& visitor) override {
    const auto experts = static_cast<int64_t>(prices_.size());
    visitor.array<double>("prices", prices_, std::span(&experts, 1));
    visitor.array<double>("current_prices", current_, std::span(&experts, 1));
    visitor.integer("tokens", seen_);
    offers_->visit_state(visitor);
  }

  void metrics(std::vector<std::pair<std::string, double>>& metrics) const override {
    const auto [least, greatest] = std::minmax_element(prices_.begin(), prices_.end());
    metrics.emplace_back("price_min", *least);
    metrics.emplace_back("price_max", *greatest);
  }

 private:
  /// One token's scores set its price and move those of the experts.
  void offer(std::span<const double> scores, int64_t window, int64_t top_k) {
    const auto experts = std::ssize(scores);
    if (seen_ == 0) {
      offers_->restart(experts, window * top_k / experts);
      std::ranges::fill(current_, 0.0);
    }
    double price = 0.0;
    const auto offered = [&](int64_t e) {
      const double value = scores[static_cast<size_t>(e)] - price;
      return std::isfinite(value) ? value : -1.0;
    };
    for (int64_t i = 0; i < config_.iterations; ++i) {
      price = token_price(scores, top_k);
      for (int64_t e = 0; e < experts; ++e) {
        current_[static_cast<size_t>(e)] = offers_->price_with(e, offered(e));
      }
    }
    for (int64_t e = 0; e < experts; ++e) offers_->add(e, offered(e));
    if (++seen_ < window) return;
    prices_ = current_;
    seen_ = 0;
    offers_->restart(0, 0);  // nothing to keep
  }

  /// max(0, (k + 1)-th largest of s - q); NaN counts as the least.
  [[nodiscard]] double token_price(std::span<const double> scores, int64_t top_k) {
    if (top_k >= std::ssize(scores)) return 0.0;
    ranked_.assign(scores.begin(), scores.end());
    for (size_t e = 0; e < ranked_.size(); ++e) {
      ranked_[e] -= current_[e];
      if (std::isnan(ranked_[e])) ranked_[e] = -std::numeric_limits<double>::infinity();
    }
    std::nth_element(ranked_.begin(), ranked_.begin() + top_k, ranked_.end(), std::greater<>());
    return std::max(0.0, ranked_[static_cast<size_t>(top_k)]);
  }

  BipOnlineConfig config_;
  std::vector<double> prices_;   // q [E] of the last whole window
  std::vector<double> current_;  // q [E] of this one
  int64_t seen_ = 0;             // tokens of this one
  std::unique_ptr<Offers> offers_;
  std::vector<double> ranked_;  // scratch of token_price
};

}  // namespace

const BalancerEntry bip_online_balancer = {
    .name = "bip_online",
    .doc =
        "prices of the assignment problem, token by token, exact or in constant space (Sun 2025)",
    .make_config = make_balancer_config<BipOnlineConfig>,
    .make = make_balancer_method<BipOnline, BipOnlineConfig>,
    .assumes_top_k = true,
};

}  // namespace sluice
