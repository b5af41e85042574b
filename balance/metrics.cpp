#include "balance/metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/support/error.h"
#include "layers/routing.h"

namespace sluice {
namespace {

/// The experts of a token in ascending order, each once.
void sorted_set(std::span<const int32_t> slots, std::vector<int32_t>& set) {
  set.clear();
  for (const int32_t expert : slots) {
    if (expert != kNoExpert) set.push_back(expert);
  }
  std::sort(set.begin(), set.end());
  set.erase(std::unique(set.begin(), set.end()), set.end());
}

int64_t common(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  int64_t count = 0;
  for (auto x = a.begin(), y = b.begin(); x != a.end() && y != b.end();) {
    if (*x == *y)
      ++count, ++x, ++y;
    else if (*x < *y)
      ++x;
    else
      ++y;
  }
  return count;
}

double sum(std::span<const int64_t> counts) {
  return static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
}

/// sum over domains and experts of p(D, i) log(p(D, i) / (p(D) p(i))).
double mutual_information(std::span<const std::vector<int64_t>> chosen, double total) {
  if (total <= 0.0) return 0.0;
  double information = 0.0;
  for (size_t expert = 0; expert < chosen.front().size(); ++expert) {
    double of_expert = 0.0;
    for (const auto& counts : chosen) of_expert += static_cast<double>(counts[expert]);
    for (const auto& counts : chosen) {
      const auto both = static_cast<double>(counts[expert]);
      if (both == 0.0) continue;
      information += both / total * std::log(both * total / (sum(counts) * of_expert));
    }
  }
  return std::max(information, 0.0);
}

}  // namespace

Coactivation::Coactivation(int64_t experts)
    : experts_(experts), counts_(static_cast<size_t>(experts * experts), 0) {}

void Coactivation::add(const Choices& choices) {
  std::vector<int32_t> set;
  for (int64_t token = 0; token < choices.tokens(); ++token) {
    if (!choices.counts(token)) continue;
    sorted_set(choices.of(token), set);
    for (const int32_t i : set) {
      for (const int32_t j : set) ++counts_[static_cast<size_t>(i * experts_ + j)];
    }
  }
}

std::vector<double> Coactivation::shares() const {
  std::vector<double> result(counts_.size(), 0.0);
  for (int64_t i = 0; i < experts_; ++i) {
    const int64_t chosen = counts_[static_cast<size_t>(i * experts_ + i)];
    for (int64_t j = 0; j < experts_; ++j) {
      const auto at = static_cast<size_t>(i * experts_ + j);
      if (i != j && chosen > 0) {
        result[at] = static_cast<double>(counts_[at]) / static_cast<double>(chosen);
      }
    }
  }
  return result;
}

void ChoiceOverlap::add(const ChoiceOverlap& other) {
  tokens += other.tokens;
  overlap += other.overlap;
  changed += other.changed;
}

double ChoiceOverlap::saturation() const {
  return tokens > 0 ? overlap / static_cast<double>(tokens) : 1.0;
}

double ChoiceOverlap::changed_share() const {
  return tokens > 0 ? static_cast<double>(changed) / static_cast<double>(tokens) : 0.0;
}

ChoiceOverlap choice_overlap(const Choices& before, const Choices& after) {
  SLUICE_INTERNAL_CHECK(before.tokens() == after.tokens(), "choices of {} and of {} tokens",
                        before.tokens(), after.tokens());
  ChoiceOverlap result;
  std::vector<int32_t> old_set;
  std::vector<int32_t> new_set;
  for (int64_t token = 0; token < before.tokens(); ++token) {
    if (!before.counts(token)) continue;
    sorted_set(before.of(token), old_set);
    sorted_set(after.of(token), new_set);
    const size_t larger = std::max(old_set.size(), new_set.size());
    ++result.tokens;
    result.overlap +=
        larger == 0 ? 1.0
                    : static_cast<double>(common(old_set, new_set)) / static_cast<double>(larger);
    result.changed += old_set == new_set ? 0 : 1;
  }
  return result;
}

std::vector<double> specialisation(std::span<const int64_t> chosen, int64_t tokens) {
  std::vector<double> result(chosen.size(), 0.0);
  if (tokens == 0) return result;
  for (size_t i = 0; i < chosen.size(); ++i) {
    result[i] = static_cast<double>(chosen[i]) / static_cast<double>(tokens);
  }
  return result;
}

SpecialisationSummary summarise_specialisation(std::span<const std::vector<int64_t>> chosen,
                                               std::span<const int64_t> tokens) {
  SpecialisationSummary result{.peak = std::vector<double>(chosen.size(), 0.0)};
  double assignments = 0.0;
  for (const auto& counts : chosen) assignments += sum(counts);
  if (chosen.empty() || assignments == 0.0) return result;
  const size_t experts = chosen.front().size();
  const double baseline = assignments / sum(tokens) / static_cast<double>(experts);
  std::vector<uint8_t> specialised(experts, 0);
  int64_t domains = 0;
  for (size_t domain = 0; domain < chosen.size(); ++domain) {
    if (tokens[domain] == 0) continue;
    ++domains;
    const std::vector<double> shares = specialisation(chosen[domain], tokens[domain]);
    result.peak[domain] = *std::max_element(shares.begin(), shares.end()) / baseline;
    result.mean_peak += result.peak[domain];
    for (size_t i = 0; i < experts; ++i) {
      if (shares[i] >= SpecialisationSummary::kSpecialised * baseline) specialised[i] = 1;
    }
  }
  result.mean_peak /= static_cast<double>(domains);
  result.specialised_experts = std::count(specialised.begin(), specialised.end(), 1);
  result.information = mutual_information(chosen, assignments);
  return result;
}

std::optional<double> congestion_coefficient(std::span<const double> share,
                                             std::span<const double> quality) {
  SLUICE_INTERNAL_CHECK(share.size() == quality.size(), "{} loads, {} qualities", share.size(),
                        quality.size());
  double count = 0.0;
  double mean_x = 0.0;
  double mean_y = 0.0;
  const auto each = [&](auto&& body) {
    for (size_t i = 0; i < share.size(); ++i) {
      if (share[i] > 0.0) body(share[i], std::log(share[i]) - quality[i]);
    }
  };
  each([&](double x, double y) {
    count += 1.0;
    mean_x += x;
    mean_y += y;
  });
  if (count < 2.0) return std::nullopt;
  mean_x /= count;
  mean_y /= count;
  double variance = 0.0;
  double covariance = 0.0;
  each([&](double x, double y) {
    variance += (x - mean_x) * (x - mean_x);
    covariance += (x - mean_x) * (y - mean_y);
  });
  // Loads that are equal differ from their mean by rounding.
  constexpr double kRounding = 1e-15;
  if (variance <= count * kRounding * kRounding * mean_x * mean_x) return std::nullopt;
  const double slope = covariance / variance;
  return std::isfinite(slope) ? std::optional(-slope) : std::nullopt;
}

}  // namespace sluice
