#pragma once
// A browser without a window, where one is installed: for pages that people will open.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::testing {

class Browser {
 public:
  /// Looked for on PATH, in this order. (Firefox has no way to print what became of a page.)
  static constexpr std::string_view kNames = "chromium chromium-browser google-chrome";

  [[nodiscard]] static std::optional<Browser> find();

  struct View {
    std::string dom;                      // after the page's script
    std::vector<std::string> complaints;  // lines of its console, and of uncaught errors
    int64_t screenshot_bytes = 0;         // of a PNG; 0 when there is none
  };
  /// The page's own: those in it run, or none do.
  enum class Scripts : uint8_t { run, none };
  /// Opens a local page in a window of 1280 x 4000. `folder` takes what the browser writes.
  [[nodiscard]] View open(const std::filesystem::path& page, const std::filesystem::path& folder,
                          Scripts scripts = Scripts::run) const;

 private:
  explicit Browser(std::string program) : program_(std::move(program)) {}
  void run(const std::string& arguments, const std::filesystem::path& page,
           const std::filesystem::path& folder) const;
  std::string program_;
};

}  // namespace sluice::testing
