#pragma once
// What tests of every balancing method run through: each method with its defaults, and the options
// that make another method of it.

#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "balance/make.h"

namespace sluice::testing {

struct MethodVariant {
  std::string name;
  std::string type;
  nlohmann::json options = nlohmann::json::object();
  // The name is all that a list of tests should show.
  friend void PrintTo(const MethodVariant& variant, std::ostream* out) { *out << variant.name; }
};

[[nodiscard]] inline std::vector<MethodVariant> method_variants() {
  std::vector<MethodVariant> result;
  for (const Choice& choice : balance_choices()) {
    result.push_back({std::string(choice.name), std::string(choice.name)});
  }
  result.push_back(
      {"loss_free_bias_multiplicative", "loss_free_bias", {{"form", "multiplicative"}}});
  result.push_back({"selective_sinkhorn_planned", "selective_sinkhorn", {{"probability", 1.0}}});
  result.push_back(
      {"expert_choice_over_tokens", "expert_choice", {{"over", "tokens"}, {"coverage", 0.01}}});
  return result;
}

}  // namespace sluice::testing
