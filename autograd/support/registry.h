#pragma once
// Lookup over the table that a `.def` list expands to. An unknown name is an error that lists the
// known names and the nearest one; duplicates fail a static_assert in the table's file.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/error.h"

namespace sluice {

/// The known name nearest to `name` by edit distance (insert, delete, replace, swap of neighbours;
/// case ignored), the first of equals, when near enough to be a plausible slip: distance at most a
/// third of the longer name, at least 1. Otherwise the first name that `name` (three letters or
/// more) abbreviates: "coef" of "coefficient".
/// "" when there is neither.
[[nodiscard]] std::string nearest_name(std::string_view name,
                                       std::span<const std::string_view> known);

/// `; did you mean "bip"?` or "".
[[nodiscard]] std::string did_you_mean(std::string_view name,
                                       std::span<const std::string_view> known);

/// `unknown optimizer "adamv"; did you mean "adamw"? Known: adamw, muon`.
[[nodiscard]] std::string unknown_name(std::string_view what, std::string_view name,
                                       std::span<const std::string_view> known);

/// True when no two names are equal; constexpr so that a table can static_assert it.
[[nodiscard]] constexpr bool all_distinct(std::span<const std::string_view> names) {
  for (size_t i = 0; i < names.size(); ++i) {
    for (size_t j = i + 1; j < names.size(); ++j) {
      if (names[i] == names[j]) return false;
    }
  }
  return true;
}

/// A named table of entries with a `std::string_view name` member; the entries are static, never
/// copied.
template <class Entry>
class Registry {
 public:
  /// `what` is the noun of the error: "balancing method".
  constexpr Registry(std::string_view what, std::span<const Entry* const> entries)
      : what_(what), entries_(entries) {}

  [[nodiscard]] std::span<const Entry* const> entries() const { return entries_; }

  [[nodiscard]] const Entry* find(std::string_view name) const {
    for (const Entry* entry : entries_) {
      if (entry->name == name) return entry;
    }
    return nullptr;
  }

  [[nodiscard]] std::vector<std::string_view> names() const {
    std::vector<std::string_view> result;
    for (const Entry* entry : entries_) result.push_back(entry->name);
    return result;
  }

  /// Throws ConfigError: `unknown balancing method "bpi"; did you mean "bip"? Known: none,
  /// aux_loss, ...`, or `unknown balancing method "magic". Known: ...` when no name is near.
  [[nodiscard]] const Entry& at(std::string_view name) const {
    const Entry* entry = find(name);
    if (entry == nullptr) throw ConfigError(unknown_name(what_, name, names()));
    return *entry;
  }

 private:
  std::string_view what_;
  std::span<const Entry* const> entries_;
};

}  // namespace sluice
