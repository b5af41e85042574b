#pragma once
// The table of balancing methods: what `balance: {type: bip, ...}` can name.
//
// A method is one file in balance/methods/ and one line in methods.def.

#include <memory>
#include <span>

#include "autograd/support/fields.h"
#include "layers/routing.h"

namespace sluice {

/// Every method, in the order of methods.def, for FieldVisitor::tagged_list.
[[nodiscard]] std::span<const Choice> balance_choices();

/// The balancer of one expert layer: the methods of the list together. Their losses add up; the one
/// that selects or shifts, if any, routes; each keeps its state under "<method>/". Throws
/// ConfigError when the list is empty, names a method twice, names `none` beside another, holds two
/// methods that select or an auxiliary loss beside a method that takes none, or names an
/// unknown one (with the known names and the nearest).
[[nodiscard]] std::unique_ptr<Balancer> make_balancer(std::span<const Tagged> methods,
                                                      const BalancerSetup& setup);

}  // namespace sluice
