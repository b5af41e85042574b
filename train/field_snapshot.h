#pragma once
// The values of a config as a plain tree: what the YAML writer prints, what two recipes are
// compared by.

#include <string>
#include <vector>

#include "autograd/support/fields.h"

namespace sluice {

/// One key with its value. Scalars hold their canonical text, which the YAML reader reads back to
/// the same value.
struct FieldValue {
  enum class Kind { scalar, path, list, map };

  std::string key;  // empty for an item of a list
  std::string doc;
  Kind kind = Kind::scalar;
  std::string text;                // scalar (written as YAML) or path (raw)
  std::vector<FieldValue> values;  // items of a list, entries of a map
};

/// Every field of `config` with its current value, in the order of its field list; unions start
/// with their `type`. A union without a type, and an empty path, are left out: they stand for "not
/// given". `config` is not changed.
[[nodiscard]] FieldValue snapshot(Configurable& config);

struct FlatField {
  std::string key;    // full dotted key; items of lists by number: "data.sources.0.path"
  std::string value;  // canonical text
  friend bool operator==(const FlatField&, const FlatField&) = default;
};

/// The leaves of a snapshot in order. A list of scalars, and an empty list or map, is one leaf.
[[nodiscard]] std::vector<FlatField> flatten(Configurable& config);

struct FieldDifference {
  std::string key;
  std::string before;  // "not set" when only the other config has the key
  std::string after;
};

/// The keys whose values differ: those of `before` in its order, then those only `after` has.
[[nodiscard]] std::vector<FieldDifference> differences(Configurable& before, Configurable& after);

}  // namespace sluice
