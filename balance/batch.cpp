#include "balance/batch.h"

#include <algorithm>

#include "autograd/kernels/top_k.h"
#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr int64_t kTokenBlock = 512;

void prepare(int64_t tokens, int64_t experts, int64_t slots, Selection& selection) {
  selection.tokens = tokens;
  selection.experts = experts;
  selection.top_k = slots;
  selection.expert.assign(static_cast<size_t>(tokens * slots), kNoExpert);
  selection.shifted = true;
}

}  // namespace

std::vector<int64_t> counted_tokens(const SequenceLayout& layout) {
  std::vector<int64_t> tokens;
  counted_tokens(layout, tokens);
  return tokens;
}

void counted_tokens(const SequenceLayout& layout, std::vector<int64_t>& tokens) {
  tokens.clear();
  tokens.reserve(layout.counted.size());
  for (size_t t = 0; t < layout.counted.size(); ++t) {
    if (layout.counted[t] != 0) tokens.push_back(static_cast<int64_t>(t));
  }
}

std::vector<double> rows_of(const Tensor& x, std::span<const int64_t> tokens) {
  const int64_t width = x.dim(1);
  std::vector<double> rows(tokens.size() * static_cast<size_t>(width));
  dispatch_float(x.dtype(), [&]<class T>() {
    const T* values = x.data<T>();
    const auto count = static_cast<int64_t>(tokens.size());
    parallel_for_ranges(count, kTokenBlock, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        const T* row = values + tokens[static_cast<size_t>(t)] * width;
        std::copy_n(row, width, rows.begin() + t * width);
      }
    });
  });
  return rows;
}

std::span<double> shifted_rows(ArenaScope& scratch, const Tensor& x,
                               std::span<const double> shift) {
  const int64_t width = x.dim(1);
  const std::span<double> rows(scratch.allocate<double>(x.numel()), static_cast<size_t>(x.numel()));
  dispatch_float(x.dtype(), [&]<class T>() {
    const T* values = x.data<T>();
    parallel_for_ranges(x.dim(0), kTokenBlock, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t e = 0; e < width; ++e) {
          const double moved = shift.empty() ? 0.0 : shift[static_cast<size_t>(e)];
          rows[static_cast<size_t>(t * width + e)] =
              static_cast<double>(values[t * width + e]) + moved;
        }
      }
    });
  });
  return rows;
}

void select_top_k(std::span<const double> values, int64_t tokens, int64_t experts, int64_t top_k,
                  Selection& selection) {
  prepare(tokens, experts, top_k, selection);
  kernels::top_k<double>(tokens, {.E = experts,
                                  .k = top_k,
                                  .scores = values.data(),
                                  .values = nullptr,
                                  .indices = selection.expert.data()});
}

void select_positive(std::span<const double> values, int64_t tokens, int64_t experts,
                     int64_t least_slots, Selection& selection) {
  int64_t slots = least_slots;
  for (int64_t t = 0; t < tokens; ++t) {
    const auto row = values.subspan(static_cast<size_t>(t * experts), static_cast<size_t>(experts));
    slots = std::max<int64_t>(slots, std::ranges::count_if(row, [](double x) { return x > 0.0; }));
  }
  prepare(tokens, experts, slots, selection);
  parallel_for_ranges(tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> chosen;
    for (int64_t t = begin; t < end; ++t) {
      const double* row = values.data() + t * experts;
      chosen.clear();
      for (int32_t e = 0; e < static_cast<int32_t>(experts); ++e) {
        if (row[e] > 0.0) chosen.push_back(e);
      }
      std::ranges::stable_sort(chosen, [&](int32_t a, int32_t b) { return row[a] > row[b]; });
      std::ranges::copy(chosen, selection.expert.begin() + t * slots);
    }
  });
}

}  // namespace sluice
