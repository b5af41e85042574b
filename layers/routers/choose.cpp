#include "layers/routers/choose.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/support/error.h"
#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr int64_t kTokenBlock = 256;
constexpr double kExcluded = -std::numeric_limits<double>::infinity();

/// The k best of `biased`, by insertion: k is small, and equal values keep their order.
void pick(std::span<const double> biased, std::span<int32_t> chosen) {
  size_t filled = 0;
  for (size_t e = 0; e < biased.size(); ++e) {
    const double value = std::isnan(biased[e]) ? kExcluded : biased[e];
    const auto better = [&](size_t at) {
      const double other = biased[static_cast<size_t>(chosen[at])];
      return value > (std::isnan(other) ? kExcluded : other);
    };
    if (filled == chosen.size() && !better(filled - 1)) continue;
    size_t at = filled < chosen.size() ? filled++ : filled - 1;
    for (; at > 0 && better(at - 1); --at) chosen[at] = chosen[at - 1];
    chosen[at] = static_cast<int32_t>(e);
  }
}

void prepare(const Tensor& scores, int64_t top_k, Selection& selection) {
  selection.tokens = scores.dim(0);
  selection.experts = scores.dim(1);
  selection.top_k = top_k;
  SLUICE_INTERNAL_CHECK(top_k >= 1 && top_k <= selection.experts, "top_k {} of {} experts", top_k,
                        selection.experts);
  selection.expert.assign(static_cast<size_t>(selection.tokens * top_k), kNoExpert);
}

/// Shapes only: there are no scores, so every expert gets its share.
void deal_out(Selection& selection) {
  for (size_t slot = 0; slot < selection.expert.size(); ++slot) {
    selection.expert[slot] = static_cast<int32_t>(slot % static_cast<size_t>(selection.experts));
  }
}

/// The part of a shift, [E] or [N, E] or empty, that is `token`'s: [E] or empty.
std::span<const double> shift_of(std::span<const double> shift, int64_t token, int64_t experts) {
  if (std::ssize(shift) <= experts) return shift;
  return shift.subspan(static_cast<size_t>(token * experts), static_cast<size_t>(experts));
}

}  // namespace

void choose_top_k(const Tensor& scores, std::span<const double> shift, int64_t top_k,
                  Selection& selection) {
  choose_top_k(scores, shift, top_k, selection, [](std::span<double>) {});
}

void choose_top_k(const Tensor& scores, std::span<const double> shift, int64_t top_k,
                  Selection& selection, FunctionRef<void(std::span<double>)> mask) {
  prepare(scores, top_k, selection);
  if (!scores.has_memory()) {
    deal_out(selection);
    return;
  }
  const int64_t experts = selection.experts;
  const auto sizes = {int64_t{0}, experts, selection.tokens * experts};
  SLUICE_INTERNAL_CHECK(std::ranges::find(sizes, std::ssize(shift)) != sizes.end(),
                        "shift of {} for {} tokens and {} experts", shift.size(), selection.tokens,
                        experts);
  dispatch_float(scores.dtype(), [&]<class T>() {
    const T* values = scores.data<T>();
    parallel_for_ranges(selection.tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
      ArenaScope scratch(thread_arena());
      const std::span<double> biased(scratch.allocate<double>(experts),
                                     static_cast<size_t>(experts));
      for (int64_t token = begin; token < end; ++token) {
        const std::span<const double> of_token = shift_of(shift, token, experts);
        for (int64_t e = 0; e < experts; ++e) {
          const auto i = static_cast<size_t>(e);
          biased[i] = static_cast<double>(values[token * experts + e]) +
                      (of_token.empty() ? 0.0 : of_token[i]);
        }
        mask(biased);
        pick(biased, std::span(selection.expert)
                         .subspan(static_cast<size_t>(token * top_k), static_cast<size_t>(top_k)));
      }
    });
  });
}

void keep_first(Selection& selection,
                FunctionRef<int64_t(int64_t, std::span<const int32_t>)> count) {
  const auto k = static_cast<size_t>(selection.top_k);
  parallel_for_ranges(selection.tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const auto chosen = std::span(selection.expert).subspan(static_cast<size_t>(token) * k, k);
      const int64_t kept = count(token, chosen);
      SLUICE_INTERNAL_CHECK(kept >= 0 && kept <= selection.top_k, "{} of {} slots kept", kept,
                            selection.top_k);
      std::fill(chosen.begin() + kept, chosen.end(), kNoExpert);
    }
  });
}

}  // namespace sluice
