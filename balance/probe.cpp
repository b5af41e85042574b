#include "balance/probe.h"

#include <algorithm>
#include <numeric>

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// Co-activation takes the square of the experts; 1024 are 8 MiB a layer.
constexpr int64_t kMostTogether = 1024;

/// A name for the token at `place` of sequence `sample`; sequences are shorter than 2^32.
uint64_t name_of(uint64_t sample, int64_t place) {
  constexpr int kPlaceBits = 32;
  return sample << kPlaceBits | static_cast<uint64_t>(place);
}

/// Spreads names evenly over 64 bits (the finaliser of SplitMix64, Steele et al. 2014), so that no
/// period of the text meets that of the stride.
uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

void append(std::vector<int64_t>& all, std::span<const int64_t> part) {
  all.insert(all.end(), part.begin(), part.end());
}

/// Copies the next values of `from` over `to`, and steps over them.
void take(std::span<const int64_t>& from, std::span<int64_t> to) {
  std::copy_n(from.begin(), to.size(), to.begin());
  from = from.subspan(to.size());
}

}  // namespace

LayerProbe::LayerProbe(int64_t domains, int64_t experts)
    : chosen(static_cast<size_t>(domains), std::vector<int64_t>(static_cast<size_t>(experts), 0)),
      together(experts <= kMostTogether ? experts : 0),
      logit_sum(static_cast<size_t>(experts), 0.0) {}

std::vector<int64_t> LayerProbe::all_chosen() const {
  std::vector<int64_t> total(logit_sum.size(), 0);
  for (const auto& counts : chosen) {
    for (size_t i = 0; i < total.size(); ++i) total[i] += counts[i];
  }
  return total;
}

double LayerProbe::strongest_pair() const {
  const std::vector<double> shares = together.shares();
  const auto experts = static_cast<size_t>(together.experts());
  double sum = 0.0;
  int64_t used = 0;
  for (size_t i = 0; i < experts; ++i) {
    if (together.counts()[i * experts + i] == 0) continue;
    const auto row = std::span(shares).subspan(i * experts, experts);
    sum += *std::max_element(row.begin(), row.end());
    ++used;
  }
  return used > 0 ? sum / static_cast<double>(used) : 0.0;
}

std::optional<double> LayerProbe::congestion(int64_t tokens) const {
  const std::vector<int64_t> counts = all_chosen();
  const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  if (tokens == 0 || total == 0.0) return std::nullopt;
  std::vector<double> share;
  std::vector<double> quality;
  for (size_t i = 0; i < counts.size(); ++i) {
    share.push_back(static_cast<double>(counts[i]) / total);
    quality.push_back(logit_sum[i] / static_cast<double>(tokens));
  }
  return congestion_coefficient(share, quality);
}

std::vector<Choices> RememberedChoices::layers() const {
  std::vector<Choices> result;
  size_t begin = 0;
  for (const int64_t k : width) {
    const size_t size = token.size() * static_cast<size_t>(k);
    SLUICE_CHECK(CheckpointError, begin + size <= expert.size(),
                 "remembered choices: {} slots, expected more", expert.size());
    result.push_back({std::span(expert).subspan(begin, size), k});
    begin += size;
  }
  return result;
}

void RememberedChoices::visit_state(StateVisitor& visitor) {
  visitor.integer("step", step);
  visitor.list("token", token);
  visitor.list("width", width);
  visitor.list("expert", expert);
}

std::vector<ChoiceOverlap> compare_choices(const RememberedChoices& before,
                                           const RememberedChoices& after,
                                           Communicator& communicator) {
  std::vector<ChoiceOverlap> result(after.width.size());
  if (before.token == after.token && before.width.size() == after.width.size()) {
    const std::vector<Choices> old_choices = before.layers();
    const std::vector<Choices> new_choices = after.layers();
    for (size_t layer = 0; layer < result.size(); ++layer) {
      if (before.width[layer] == 0 || after.width[layer] == 0) continue;
      result[layer] = choice_overlap(old_choices[layer], new_choices[layer]);
    }
  }
  std::vector<int64_t> counts;
  std::vector<double> overlaps;
  for (const ChoiceOverlap& overlap : result) {
    counts.insert(counts.end(), {overlap.tokens, overlap.changed});
    overlaps.push_back(overlap.overlap);
  }
  communicator.sum(std::span<int64_t>(counts));
  communicator.sum(std::span<double>(overlaps));
  for (size_t layer = 0; layer < result.size(); ++layer) {
    result[layer] = {counts[2 * layer], overlaps[layer], counts[2 * layer + 1]};
  }
  const bool any =
      std::ranges::any_of(result, [](const ChoiceOverlap& overlap) { return overlap.tokens > 0; });
  return any ? result : std::vector<ChoiceOverlap>{};
}

RoutingProbe::RoutingProbe(std::span<const int64_t> experts_per_layer, int64_t domains,
                           int64_t stride)
    : stride_(stride),
      tokens_(static_cast<size_t>(domains), 0),
      layer_tokens_(experts_per_layer.size(), tokens_),
      rows_(experts_per_layer.size()) {
  for (const int64_t experts : experts_per_layer) layers_.emplace_back(domains, experts);
}

void RoutingProbe::observe(const RoutingObservation& observation) {
  const Selection& selection = observation.selection;
  const auto domain = static_cast<size_t>(domain_);
  LayerProbe& layer = layers_[static_cast<size_t>(observation.layer)];
  int64_t& seen = layer_tokens_[static_cast<size_t>(observation.layer)][domain];
  seen += observation.layout.counted_tokens();
  tokens_[domain] = std::max(tokens_[domain], seen);
  for (size_t i = 0; i < selection.load.size(); ++i) layer.chosen[domain][i] += selection.load[i];
  if (layer.together.experts() > 0) {
    layer.together.add({selection.expert, selection.top_k, observation.layout.counted});
  }
  dispatch_float(observation.router.logits.dtype(), [&]<class T>() {
    const T* logits = observation.router.logits.data<T>();
    for (int64_t token = 0; token < selection.tokens; ++token) {
      if (observation.layout.counted[static_cast<size_t>(token)] == 0) continue;
      for (size_t i = 0; i < layer.logit_sum.size(); ++i) {
        layer.logit_sum[i] +=
            static_cast<double>(logits[token * selection.experts + static_cast<int64_t>(i)]);
      }
    }
  });
  if (stride_ > 0) remember(observation);
}

void RoutingProbe::remember(const RoutingObservation& observation) {
  const SequenceLayout& layout = observation.layout;
  const Choices choices{observation.selection.expert, observation.selection.top_k};
  Rows& rows = rows_[static_cast<size_t>(observation.layer)];
  for (int64_t sequence = 0; sequence < layout.sequences(); ++sequence) {
    const auto s = static_cast<size_t>(sequence);
    const int64_t begin = layout.sequence_offsets[s];
    for (int64_t token = begin; token < layout.sequence_offsets[s + 1]; ++token) {
      const uint64_t name = name_of(layout.global_samples[s], token - begin);
      const bool wanted = mixed(name) % static_cast<uint64_t>(stride_) == 0;
      if (!wanted || layout.counted[static_cast<size_t>(token)] == 0) continue;
      rows.tokens.push_back(name);
      for (const int32_t expert : choices.of(token)) {
        if (expert != kNoExpert) rows.values.push_back(expert);
      }
      rows.ends.push_back(static_cast<int64_t>(rows.values.size()));
    }
  }
}

void RoutingProbe::reduce(Communicator& communicator) {
  std::vector<int64_t> counts = tokens_;
  std::vector<double> logits;
  for (LayerProbe& layer : layers_) {
    for (const auto& chosen : layer.chosen) append(counts, chosen);
    append(counts, layer.together.counts());
    logits.insert(logits.end(), layer.logit_sum.begin(), layer.logit_sum.end());
  }
  communicator.sum(std::span<int64_t>(counts));
  communicator.sum(std::span<double>(logits));
  std::span<const int64_t> rest = counts;
  auto logit = logits.begin();
  take(rest, tokens_);
  for (LayerProbe& layer : layers_) {
    for (auto& chosen : layer.chosen) take(rest, chosen);
    take(rest, layer.together.counts());
    const auto end = logit + std::ssize(layer.logit_sum);
    std::copy(logit, end, layer.logit_sum.begin());
    logit = end;
  }
}

RememberedChoices RoutingProbe::remembered(int64_t step) const {
  RememberedChoices result{.step = step};
  const auto most =
      std::ranges::max_element(rows_, {}, [](const Rows& rows) { return rows.tokens.size(); });
  if (most != rows_.end()) result.token = most->tokens;
  for (const Rows& rows : rows_) {
    if (rows.tokens != result.token) {
      result.width.push_back(0);
      continue;
    }
    int64_t width = 0;
    int64_t begin = 0;
    for (const int64_t end : rows.ends) {
      width = std::max(width, end - std::exchange(begin, end));
    }
    width = std::max<int64_t>(width, 1);
    result.width.push_back(width);
    begin = 0;
    for (const int64_t end : rows.ends) {
      for (int64_t at = begin; at < begin + width; ++at) {
        result.expert.push_back(at < end ? rows.values[static_cast<size_t>(at)] : kNoExpert);
      }
      begin = end;
    }
  }
  return result;
}

}  // namespace sluice
