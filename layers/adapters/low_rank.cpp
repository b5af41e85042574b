#include "layers/adapters/low_rank.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/ops/dropout.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/reshape.h"

namespace sluice {

void fill_b(const Builder& b, Parameter& parameter, double std) {
  if (std == 0.0) return;
  const double bound = std * std::sqrt(3.0);
  b.fill(parameter, [bound](int64_t, double u) { return bound * (2.0 * u - 1.0); });
}

Tensor adapter_dropout(const ForwardContext& context, const Tensor& x, double probability,
                       int64_t stream) {
  if (!context.training || probability == 0.0) return x;
  return dropout(context.tape, x, probability,
                 {context.random_key(RandomPurpose::dropout, stream),
                  context.layout.sequence_offsets, context.layout.global_samples});
}

Factors::Factors(const Builder& b, const FactorSpec& spec)
    : in_(spec.in),
      out_(spec.out),
      ranks_(spec.ranks),
      total_(std::accumulate(ranks_.begin(), ranks_.end(), int64_t{0})) {
  const Init init = Init::uniform(in_);
  const auto add = [&](const std::string& suffix, int64_t experts, int64_t rank) {
    const Stack stack = spec.routed ? Stack::routed_experts : Stack::none;
    const auto shape = [&](int64_t width) {
      return spec.routed ? Shape{experts, rank, width} : Shape{rank, width};
    };
    a_.push_back(&parameter(b, "w_a" + suffix, shape(in_), ParameterKind::matrix, init, stack));
    b_.push_back(
        &parameter(b, "w_b" + suffix, shape(out_), ParameterKind::matrix, Init::zeros(), stack));
    fill_b(b, *b_.back(), spec.b_std);
    a_.back()->stays_f32 = b_.back()->stays_f32 = true;  // they are cut and joined
  };
  const bool are_equal = std::ranges::all_of(ranks_, [&](int64_t r) { return r == ranks_[0]; });
  if (are_equal) {
    add("", num_experts(), ranks_[0]);
    return;
  }
  for (size_t e = 0; e < ranks_.size(); ++e) {
    if (ranks_[e] > 0) add(fmt::format(".{}", e), 1, ranks_[e]);
  }
}

Tensor Factors::joined(Tape& tape, std::span<Parameter* const> parts, int64_t width) const {
  const auto rows = [&](Parameter* part) {
    const Tensor own = tape.use(*part);
    return reshape(tape, own, {own.numel() / width, width});
  };
  if (parts.size() == 1) return rows(parts.front());  // without taking memory
  std::vector<Tensor> tensors;
  for (Parameter* part : parts) tensors.push_back(rows(part));
  return concat_rows(tape, tensors);
}

FactorTensors Factors::tensors(Tape& tape) const {
  return {joined(tape, a_, in_), joined(tape, b_, out_)};
}

std::vector<LoraExpert> Factors::experts(double scale, std::span<const double> scales) const {
  std::vector<LoraExpert> result;
  int64_t first = 0;
  size_t own = 0;  // of those that have matrices of their own
  for (size_t e = 0; e < ranks_.size(); ++e) {
    if (ranks_[e] == 0) continue;
    const bool is_stacked = a_.size() == 1;
    const size_t at = is_stacked ? 0 : own++;
    result.push_back({a_[at], b_[at], is_stacked ? first : 0, ranks_[e],
                      scale * (scales.empty() ? 1.0 : scales[e])});
    first += ranks_[e];
  }
  return result;
}

Tensor Factors::spread(Tape& tape, const Tensor& gates, std::span<const double> scales) const {
  const bool are_single = std::ranges::all_of(ranks_, [](int64_t r) { return r == 1; });
  if (are_single && scales.empty()) return gates;
  Tensor map = Tensor::zeros(tape.pool(), {num_experts(), total_}, gates.dtype());
  if (map.has_memory()) {
    dispatch_float(map.dtype(), [&]<class T>() {
      T* at = map.data<T>();
      for (size_t e = 0; e < ranks_.size(); ++e) {
        const double factor = scales.empty() ? 1.0 : scales[e];
        std::fill_n(at, ranks_[e], static_cast<T>(factor));
        at += ranks_[e] + total_;  // one row down
      }
    });
  }
  return matmul(tape, gates, map);
}

LowRankAdapter::LowRankAdapter(const Builder& b, const AdapterSetup& setup,
                               const AdapterSettings& settings, double scale)
    : pool_(b.pool()),
      in_(setup.in),
      out_(setup.out),
      scale_(scale),
      dropout_(settings.dropout),
      stream_(setup.stream) {}

Tensor LowRankAdapter::apply(const ForwardContext& context, const Tensor& x,
                             const Tensor& y) const {
  SLUICE_CHECK(
      ConfigError, x.dim(0) == context.layout.tokens(),
      "model.adapters: a linear map of {} rows carries one in a pass of {} tokens; allowed "
      "maps that every token goes through",
      x.dim(0), context.layout.tokens());
  Tape& tape = context.tape;
  const FactorTensors own = factors(tape);
  Tensor u = linear(tape, adapter_dropout(context, x, dropout_, stream_), own.a);  // [N, R]
  const Tensor g = gates(context, x, own);
  if (g.defined()) u = mul(tape, u, g);
  return add_scaled(tape, y, matmul(tape, u, own.b), scale_);
}

std::string LowRankAdapter::merge_into(std::span<double> w) const {
  const Merging how = merging();
  if (!how.why_not.empty()) return how.why_not;
  Tape tape(pool_);
  const NoGrad no_grad(tape);
  const FactorTensors own = factors(tape);
  SLUICE_INTERNAL_CHECK(std::ssize(w) == in_ * out_, "a matrix of {} numbers, not {} x {}",
                        w.size(), out_, in_);
  dispatch_float(own.a.dtype(), [&]<class T>() {
    const auto a = own.a.span<T>();
    const auto b = own.b.span<T>();
    const int64_t ranks = own.a.dim(0);
    for (int64_t r = 0; r < ranks; ++r) {
      for (int64_t o = 0; o < out_; ++o) {
        const double factor =
            how.factor * scale_ * static_cast<double>(b[static_cast<size_t>(r * out_ + o)]);
        if (factor == 0.0) continue;
        for (int64_t i = 0; i < in_; ++i) {
          w[static_cast<size_t>(o * in_ + i)] +=
              factor * static_cast<double>(a[static_cast<size_t>(r * in_ + i)]);
        }
      }
    }
  });
  return {};
}

}  // namespace sluice
