#pragma once
// Looking into HTML that reports are made of.

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace sluice::testing {

[[nodiscard]] inline int count_of(std::string_view text, std::string_view part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) {
    ++count;
  }
  return count;
}

/// The first data island of a figure, parsed as a browser would find it: up to the next "</script".
[[nodiscard]] inline nlohmann::json data_of(std::string_view figure) {
  constexpr std::string_view kOpening = "<script type=\"application/json\">";
  const size_t begin = figure.find(kOpening) + kOpening.size();
  return nlohmann::json::parse(figure.substr(begin, figure.find("</script", begin) - begin));
}

}  // namespace sluice::testing
