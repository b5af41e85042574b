#include "optim/groups.h"

#include <algorithm>
#include <array>
#include <set>

#include "autograd/support/error.h"
#include "autograd/support/registry.h"

namespace sluice {
namespace {

// In the order of ParameterKind.
constexpr std::array<std::string_view, 5> kKindNames = {"matrix", "router", "embedding", "norm",
                                                        "bias"};

bool takes(const GroupRule& rule, ParameterKind kind) {
  return std::find(rule.kinds.begin(), rule.kinds.end(), kind) != rule.kinds.end();
}

}  // namespace

std::span<const std::string_view> parameter_kind_names() { return kKindNames; }

std::vector<GroupRule> decay_rules(std::span<const std::string> decay_on) {
  for (const std::string& name : decay_on) {
    SLUICE_CHECK(ConfigError,
                 std::find(kKindNames.begin(), kKindNames.end(), name) != kKindNames.end(),
                 "decay_on: found \"{}\", allowed {}{}", name, fmt::join(kKindNames, ", "),
                 did_you_mean(name, kKindNames));
  }
  GroupRule decayed{"decayed", {}, true};
  GroupRule plain{"not_decayed", {}, false};
  for (size_t kind = 0; kind < kKindNames.size(); ++kind) {
    const bool decays =
        std::find(decay_on.begin(), decay_on.end(), kKindNames[kind]) != decay_on.end();
    (decays ? decayed : plain).kinds.push_back(static_cast<ParameterKind>(kind));
  }
  return {decayed, plain};
}

std::vector<ParameterGroup> make_groups(std::span<Parameter* const> parameters,
                                        std::span<const GroupRule> rules) {
  std::vector<ParameterGroup> groups;
  for (const GroupRule& rule : rules) groups.push_back({rule.name, rule.decays, {}});
  std::vector<std::string> misplaced;
  std::set<const Parameter*> seen;
  for (Parameter* parameter : parameters) {
    if (!parameter->trainable) continue;
    int64_t matches = 0;
    for (size_t i = 0; i < rules.size(); ++i) {
      if (!takes(rules[i], parameter->kind)) continue;
      groups[i].parameters.push_back(parameter);
      ++matches;
    }
    if (!seen.insert(parameter).second) {
      misplaced.push_back(parameter->name + " (given twice)");
    } else if (matches != 1) {
      misplaced.push_back(fmt::format("{} (in {} groups)", parameter->name, matches));
    }
  }
  SLUICE_CHECK(ConfigError, misplaced.empty(),
               "every parameter must be in exactly one group; found {}",
               fmt::join(misplaced, ", "));
  return groups;
}

}  // namespace sluice
