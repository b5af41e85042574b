#include "layers/depth.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reduce.h"
#include "autograd/support/choices.h"
#include "layers/key_value_sharing.h"

namespace sluice {
namespace {

#define SLUICE_DEPTH(name) &name##_depth,
constexpr const DepthEntry* kDepths[] = {
#include "layers/depths.def"
};
#undef SLUICE_DEPTH

bool is_eligible(std::span<const uint8_t> eligible, int64_t token) {
  return eligible.empty() || eligible[static_cast<size_t>(token)] != 0;
}

/// [N] values of a tensor of N elements; zeros without memory.
std::vector<double> host_values(const Tensor& values) {
  std::vector<double> result(static_cast<size_t>(values.numel()), 0.0);
  if (!values.has_memory()) return result;
  dispatch_float(values.dtype(), [&]<class T>() {
    // Not a number ranks last.
    std::ranges::transform(values.span<T>(), result.begin(), [](T value) {
      return std::isnan(value) ? -std::numeric_limits<double>::infinity() : value;
    });
  });
  return result;
}

/// A constant column [N, 1] like `logits`.
Tensor constant_column(const ForwardContext& context, const Tensor& logits,
                       std::span<const double> values) {
  Tensor column = context.tape.empty(logits.shape(), logits.dtype());
  if (!column.has_memory()) return column;
  dispatch_float(column.dtype(), [&]<class T>() { std::ranges::copy(values, column.data<T>()); });
  return column;
}

}  // namespace

const Registry<DepthEntry>& depth_registry() {
  static const Registry<DepthEntry> registry("depth", kDepths);
  return registry;
}

std::span<const Choice> depth_choices() {
  static const std::vector<Choice> choices = choices_of<DepthEntry>(kDepths);
  return choices;
}

std::vector<uint8_t> choose_largest(const SequenceLayout& layout, const Tensor& values,
                                    std::span<const uint8_t> eligible,
                                    FunctionRef<int64_t(int64_t length)> count_of) {
  std::vector<uint8_t> chosen(static_cast<size_t>(layout.tokens()), 0);
  const std::vector<double> value = host_values(values);
  std::vector<int64_t> order;
  for (int64_t document = 0; document < layout.documents(); ++document) {
    const int64_t begin = layout.document_offsets[static_cast<size_t>(document)];
    const int64_t end = layout.document_offsets[static_cast<size_t>(document) + 1];
    order.clear();
    for (int64_t token = begin; token < end; ++token) {
      if (is_eligible(eligible, token)) order.push_back(token);
    }
    const int64_t count = std::min<int64_t>(count_of(end - begin), std::ssize(order));
    // Stable, so that of equal values the earlier token wins.
    std::ranges::stable_sort(order, [&](int64_t a, int64_t b) {
      return value[static_cast<size_t>(a)] > value[static_cast<size_t>(b)];
    });
    for (int64_t i = 0; i < count; ++i)
      chosen[static_cast<size_t>(order[static_cast<size_t>(i)])] = 1;
  }
  return chosen;
}

std::vector<uint8_t> choose_positive(const Tensor& values, std::span<const uint8_t> eligible) {
  const std::vector<double> value = host_values(values);
  std::vector<uint8_t> chosen(value.size(), 0);
  for (size_t token = 0; token < value.size(); ++token) {
    const bool is_chosen = value[token] > 0.0 && is_eligible(eligible, static_cast<int64_t>(token));
    chosen[token] = is_chosen ? 1 : 0;
  }
  return chosen;
}

void add_choice_loss(const ForwardContext& context, double coefficient, const Tensor& logits,
                     std::span<const uint8_t> chosen, std::span<const uint8_t> eligible,
                     BlockState& state) {
  if (coefficient == 0.0) return;
  Tape& tape = context.tape;
  const double weight = coefficient / static_cast<double>(context.valid_tokens);
  std::vector<double> all(chosen.size(), 0.0);
  std::vector<double> positive(chosen.size(), 0.0);
  for (size_t token = 0; token < chosen.size(); ++token) {
    const bool counts =
        context.layout.counted[token] != 0 && is_eligible(eligible, static_cast<int64_t>(token));
    all[token] = counts ? weight : 0.0;
    positive[token] = counts && chosen[token] != 0 ? weight : 0.0;
  }
  // -log sigmoid(u) = softplus(u) - u, -log(1 - sigmoid(u)) = softplus(u).
  const Tensor every = mul(tape, softplus(tape, logits), constant_column(context, logits, all));
  const Tensor of_chosen = mul(tape, logits, constant_column(context, logits, positive));
  state.add_loss(tape, {LossKind::depth, sum(tape, sub(tape, every, of_chosen))});
}

BlockState state_of(Tensor hidden, const BlockState& state) {
  BlockState result;
  result.hidden = std::move(hidden);
  result.losses = state.losses;
  return result;
}

void key_values_field(FieldVisitor& v, RecursionKeyValues& key_values) {
  v.enumeration(
      {"key_values",
       "what a pass attends to: own, the keys and values of its own tokens (recursion-wise "
       "caching); shared, those that the first pass made of all its tokens (one cache for "
       "all passes)"},
      key_values, {{"own", RecursionKeyValues::own}, {"shared", RecursionKeyValues::shared}});
}

BlockState RecursionPasses::run(DepthBody body, const std::shared_ptr<const TokenSubset>& subset,
                                std::span<const uint8_t> chosen, BlockState state) {
  ForwardContext context = subset->context(whole_);
  if (key_values_ == RecursionKeyValues::own) return body(context, std::move(state), visit_++);
  auto sharing = std::make_shared<KeyValueSharing>();
  if (visit_ == 0) {
    first_ = subset;
    chosen_first_.assign(chosen.begin(), chosen.end());
  } else {
    std::vector<uint8_t> of_first;
    for (size_t token = 0; token < chosen.size(); ++token) {
      if (chosen_first_[token] != 0) of_first.push_back(chosen[token]);
    }
    sharing->here = TokenSubset::of(first_->context(whole_), of_first);
    state.key_values = made_;
  }
  sharing->first = &first_->layout;
  context.sharing = sharing.get();
  whole_.tape.keep(sharing);
  BlockState done = body(context, std::move(state), visit_);
  if (visit_++ == 0) made_ = done.key_values;
  return done;
}

}  // namespace sluice
