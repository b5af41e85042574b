#pragma once
// What choices and loads tell about a router, as pure functions: evaluation, traces, reports and
// tests all take them from here. How evenly loads spread is in load.h.
//
// Letters: N tokens, E experts, k slots per token, S_t the set of experts that token t chose.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace sluice {

/// The slots of some tokens: who was chosen, in one layer.
struct Choices {
  std::span<const int32_t> expert;  // [N, k]; kNoExpert where a slot is empty
  int64_t top_k = 0;                // k
  /// [N]: 1 where the token counts; empty when all do.
  std::span<const uint8_t> counted = {};

  [[nodiscard]] int64_t tokens() const {
    return top_k > 0 ? static_cast<int64_t>(expert.size()) / top_k : 0;
  }
  [[nodiscard]] std::span<const int32_t> of(int64_t token) const {
    return expert.subspan(static_cast<size_t>(token * top_k), static_cast<size_t>(top_k));
  }
  [[nodiscard]] bool counts(int64_t token) const {
    return counted.empty() || counted[static_cast<size_t>(token)] != 0;
  }
};

/// Which experts are chosen together (OLMoE, Muennighoff et al. 2024, section 5.2).
class Coactivation {
 public:
  explicit Coactivation(int64_t experts);
  /// An expert in several slots of one token counts once.
  void add(const Choices& choices);

  [[nodiscard]] int64_t experts() const { return experts_; }
  /// [E, E]: tokens that chose both; on the diagonal, tokens that chose the expert. Sums of several
  /// layers or ranks are sums of these.
  [[nodiscard]] std::span<int64_t> counts() { return counts_; }
  [[nodiscard]] std::span<const int64_t> counts() const { return counts_; }
  /// (i, j) = tokens that chose both / tokens that chose i, 0 on the diagonal and for an expert that
  /// nobody chose. [E, E]
  [[nodiscard]] std::vector<double> shares() const;

 private:
  int64_t experts_;
  std::vector<int64_t> counts_;
};

/// How far the choices of the same tokens agree at two points of a run.
struct ChoiceOverlap {
  int64_t tokens = 0;
  double overlap = 0.0;  // sum over tokens of |S_t intersected with S'_t| / max(|S_t|, |S'_t|)
  int64_t changed = 0;   // tokens with S_t != S'_t

  void add(const ChoiceOverlap& other);
  /// Mean overlap: with one k for all tokens, (1 / N) sum |S_t and S'_t| / k, the router saturation
  /// of OLMoE (section 5.1). 1 for no token.
  [[nodiscard]] double saturation() const;
  /// Routing fluctuation between two neighbouring points: 1 - saturation.
  [[nodiscard]] double fluctuation() const { return 1.0 - saturation(); }
  /// Share of tokens whose set is another one. 0 for no token.
  [[nodiscard]] double changed_share() const;
};

/// Both must hold the same tokens; k may differ (a schedule). Two empty sets agree. Tokens that
/// `before` does not count are left out.
[[nodiscard]] ChoiceOverlap choice_overlap(const Choices& before, const Choices& after);

/// Domain specialisation (OLMoE, section 5.3): (i, D) = assignments of tokens of D to i / tokens of
/// D; k / E for a router that does not look. The same with token ids in place of domains is the
/// vocabulary specialisation. `chosen` [E] are assignments, `tokens` the tokens they come from;
/// zeros for no token.
[[nodiscard]] std::vector<double> specialisation(std::span<const int64_t> chosen, int64_t tokens);

/// One layer's domain specialisation in a few numbers (ours). The baseline of an expert is the mean
/// share over experts and all tokens, k / E when every token uses k.
struct SpecialisationSummary {
  /// Times the baseline that this share has to reach for an expert to count as specialised.
  static constexpr double kSpecialised = 2.0;

  std::vector<double> peak;         // [D]: largest (i, D) over the baseline; 0 without tokens
  double mean_peak = 0.0;           // over the domains with tokens
  int64_t specialised_experts = 0;  // experts at kSpecialised times the baseline in some domain
  /// Mutual information of domain and expert over assignments, in nats: 0 when every domain uses
  /// the experts alike, however unevenly; at most the entropy of the domains.
  double information = 0.0;
};
/// `chosen`[D] is [E], `tokens`[D].
[[nodiscard]] SpecialisationSummary summarise_specialisation(
    std::span<const std::vector<int64_t>> chosen, std::span<const int64_t> tokens);

/// The congestion coefficient gamma of one layer ("Three Phases of Expert Routing", arXiv
/// 2604.04230; the estimator is reconstructed [R]). Loads are seen as the equilibrium of a
/// congestion game with linear cost, m_i proportional to exp(q_i - gamma m_i); so gamma is minus the
/// least-squares slope of (log m_i - q_i) on m_i over experts with m_i > 0. `share` [E] are load
/// fractions m, `quality` [E] how good each expert is thought to be: the mean router logit over
/// tokens. 0: load follows quality; large: load hardly does. nullopt when fewer than two loads
/// differ, or a number is not finite.
[[nodiscard]] std::optional<double> congestion_coefficient(std::span<const double> share,
                                                           std::span<const double> quality);

}  // namespace sluice
