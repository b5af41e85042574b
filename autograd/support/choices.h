#pragma once
// The entries of a table as the choices of a recipe's key.

#include <span>
#include <vector>

#include "autograd/support/fields.h"

namespace sluice {

/// For FieldVisitor::tagged: name, doc and make_config of every entry, in order.
template <class Entry>
[[nodiscard]] std::vector<Choice> choices_of(std::span<const Entry* const> entries) {
  std::vector<Choice> result;
  for (const Entry* entry : entries)
    result.push_back({entry->name, entry->doc, entry->make_config});
  return result;
}

}  // namespace sluice
