#pragma once
// Which sections of a config know a key: for the message about a key that stands in the wrong
// place.

#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/fields.h"

namespace sluice {

/// The keys that a config reads itself, in order ("type" of a union is not among them).
[[nodiscard]] std::vector<std::string> keys_of(Configurable& config);

/// Every section of a config, all choices of all unions included.
class FieldIndex {
 public:
  /// Walks the fields of `root` without changing it.
  explicit FieldIndex(Configurable& root);

  /// The sections that know `key`, in order: "optim", "balance of type loss_free_bias", "the top
  /// level".
  [[nodiscard]] std::vector<std::string> sections_with(std::string_view key) const;

 private:
  friend class FieldIndexBuilder;
  struct Item {
    std::string key;
    std::string section;
  };
  std::vector<Item> items_;
};

}  // namespace sluice
