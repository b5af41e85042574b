#include "train/diagnostics.h"

#include <algorithm>
#include <tuple>

#include "autograd/support/error.h"

namespace sluice {

std::string Location::to_string() const {
  if (!source) return {};
  if (line == 0) return source->label;
  return fmt::format("{}:{}:{}", source->label, line, column);
}

std::string Diagnostic::to_string() const {
  std::string text = where.to_string();
  for (const std::string& part : {key, message}) {
    if (part.empty()) continue;
    if (!text.empty()) text += ": ";
    text += part;
  }
  return text;
}

void Diagnostics::add(Location where, std::string key, std::string message) {
  items_.push_back({std::move(where), std::move(key), std::move(message)});
}

void Diagnostics::add(const Diagnostics& others) {
  items_.insert(items_.end(), others.items_.begin(), others.items_.end());
}

void Diagnostics::sort() {
  const auto place = [](const Diagnostic& item) {
    const int order = item.where.source ? item.where.source->order : -1;
    return std::make_tuple(order, item.where.line, item.where.column);
  };
  std::stable_sort(items_.begin(), items_.end(),
                   [&](const Diagnostic& a, const Diagnostic& b) { return place(a) < place(b); });
}

std::string Diagnostics::to_string() const {
  std::string text;
  for (const Diagnostic& item : items_) {
    if (!text.empty()) text += '\n';
    text += item.to_string();
  }
  return text;
}

void Diagnostics::throw_if_any() const {
  if (!empty()) throw ConfigError(to_string());
}

}  // namespace sluice
