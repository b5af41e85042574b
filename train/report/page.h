#pragma once
// A page of one file: its frame, style and script; nothing is fetched.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice::report {

/// A figure of the summary: large value, small words.
struct Tile {
  std::string name;
  std::string value;
  std::string note;  // under it; may be empty
};

struct Section {
  std::string id;     // of the page, unique
  std::string title;  // plain text
  std::string lead;   // one or two sentences, plain text
  std::string body;   // HTML
};

struct Page {
  std::string kind;   // over the title: "Training run"
  std::string title;  // plain text, as all below
  std::string lead;
  std::vector<Tile> tiles;
  std::vector<Section> sections;
  std::string foot;
};

/// The whole document.
[[nodiscard]] std::string page_html(const Page& page);

/// A table of names and values.
[[nodiscard]] std::string facts_table(
    const std::vector<std::pair<std::string, std::string>>& facts);

/// A sentence in place of what there is no data for.
[[nodiscard]] std::string missing(std::string_view sentence);

/// style.cpp, script.cpp
extern const std::string_view kStyle;
extern const std::string_view kScript;

}  // namespace sluice::report
