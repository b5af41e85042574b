#pragma once
// Parameter groups: which parameters are updated alike.
//
//   const auto groups = make_groups(model.parameters(), decay_rules({"matrix", "router"}));
//
// Every trainable parameter stands in exactly one group; what a rule forgets or claims twice is an
// error that lists it.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/core/parameter.h"

namespace sluice {

/// The kinds that a group takes.
struct GroupRule {
  std::string name;
  std::vector<ParameterKind> kinds;
  bool decays = false;  // weight decay applies
};

struct ParameterGroup {
  std::string name;
  bool decays = false;
  std::vector<Parameter*> parameters;  // trainable ones, in the order given
};

/// "matrix", "router", "embedding", "norm", "bias": the words of `optim.decay_on`.
[[nodiscard]] std::span<const std::string_view> parameter_kind_names();

/// Two rules: weight decay on the named kinds, and none on the others. Throws ConfigError for an
/// unknown kind.
[[nodiscard]] std::vector<GroupRule> decay_rules(std::span<const std::string> decay_on);

/// The groups, one per rule, maybe empty. Throws ConfigError listing the parameters that no rule or
/// more than one rule takes, and those given twice.
[[nodiscard]] std::vector<ParameterGroup> make_groups(std::span<Parameter* const> parameters,
                                                      std::span<const GroupRule> rules);

}  // namespace sluice
