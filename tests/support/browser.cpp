#include "tests/support/browser.h"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "autograd/support/error.h"
#include "autograd/support/file.h"

namespace sluice::testing {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& file) {
  return fs::exists(file) ? read_file(file, raise_as<DataError>) : "";
}

}  // namespace

std::optional<Browser> Browser::find() {
  const char* path = std::getenv("PATH");
  std::istringstream names{std::string(kNames)};
  for (std::string name; names >> name;) {
    std::istringstream folders(path == nullptr ? "" : path);
    for (std::string folder; std::getline(folders, folder, ':');) {
      std::error_code ignored;
      if (fs::exists(fs::path(folder) / name, ignored)) {
        return Browser((fs::path(folder) / name).string());
      }
    }
  }
  return std::nullopt;
}

void Browser::run(const std::string& arguments, const fs::path& page,
                  const fs::path& folder) const {
  const std::string command = fmt::format(
      "HOME='{0}' timeout 50 '{1}' --headless --no-sandbox --disable-gpu --hide-scrollbars "
      "--no-first-run --user-data-dir='{0}/profile' --window-size=1280,4000 "
      "--enable-logging=stderr --v=0 {2} 'file://{3}' >'{0}/dom.html' 2>'{0}/browser.txt'",
      folder.string(), program_, arguments, page.string());
  // The status is not looked at: what is missing afterwards tells more.
  (void)!std::system(command.c_str());
}

Browser::View Browser::open(const fs::path& page, const fs::path& folder, Scripts scripts) const {
  fs::path shown = page;
  if (scripts == Scripts::none) {
    // The browser needs scripts of its own to print and to take a picture; only the page's are
    // forbidden.
    std::string text = text_of(page);
    const size_t head = text.find("<head>");
    SLUICE_CHECK(DataError, head != std::string::npos, "{}: no <head>", page.string());
    text.insert(head + std::string_view("<head>").size(),
                "<meta http-equiv=\"Content-Security-Policy\" content=\"script-src 'none'\">");
    shown = folder / "without_scripts.html";
    std::ofstream(shown, std::ios::binary) << text;
  }
  View view;
  run("--dump-dom", shown, folder);
  view.dom = text_of(folder / "dom.html");
  std::istringstream lines(text_of(folder / "browser.txt"));
  for (std::string line; std::getline(lines, line);) {
    if (line.find("CONSOLE") != std::string::npos) view.complaints.push_back(line);
  }
  const fs::path image = folder / "screenshot.png";
  std::error_code ignored;
  fs::remove(image, ignored);
  run(fmt::format("--screenshot='{}'", image.string()), shown, folder);
  if (fs::exists(image)) view.screenshot_bytes = static_cast<int64_t>(fs::file_size(image));
  return view;
}

}  // namespace sluice::testing
