#pragma once
// Lets a stream of text through until a stop text comes.
//
//   StopText stop({"\n\n"});
//   std::string shown = stop.push("one\n");        // "one": the line break may begin a stop text
//   shown = stop.push("\ntwo");                    // "", and stop.reached()

#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// Holds back no more than what may still become a stop text. The stop text itself and all after it
/// never come out.
class StopText {
 public:
  /// Texts that are empty are a ConfigError.
  explicit StopText(std::vector<std::string> texts);

  /// What may be shown after `piece` has come.
  [[nodiscard]] std::string push(std::string_view piece);
  /// What was held back, when nothing more comes; "" after a stop text.
  [[nodiscard]] std::string flush();
  [[nodiscard]] bool reached() const { return reached_; }

 private:
  std::vector<std::string> texts_;
  std::string held_;
  bool reached_ = false;
};

}  // namespace sluice
