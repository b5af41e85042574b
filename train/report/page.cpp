#include "train/report/page.h"

#include <fmt/format.h>

#include "train/report/heat_map.h"
#include "train/report/text.h"

namespace sluice::report {
namespace {

std::string tiles_html(const std::vector<Tile>& tiles) {
  std::string html;
  for (const Tile& tile : tiles) {
    html +=
        fmt::format("<div><dt>{}</dt><dd>{}</dd>{}</div>", escaped(tile.name), escaped(tile.value),
                    tile.note.empty() ? "" : "<small>" + escaped(tile.note) + "</small>");
  }
  return html.empty() ? html : "<dl class=\"tiles\">" + html + "</dl>";
}

std::string contents_html(const std::vector<Section>& sections) {
  std::string html;
  for (const Section& section : sections) {
    html += fmt::format("<a href=\"#{}\">{}</a>", escaped(section.id), escaped(section.title));
  }
  return "<nav aria-label=\"sections\"><div>" + html + "</div></nav>";
}

std::string section_html(const Section& section) {
  return fmt::format(
      "<section id=\"{}\"><h2>{}</h2>{}{}</section>\n", escaped(section.id), escaped(section.title),
      section.lead.empty() ? "" : "<p class=\"lead\">" + escaped(section.lead) + "</p>",
      section.body);
}

}  // namespace

std::string page_html(const Page& page) {
  std::string sections;
  for (const Section& section : page.sections) sections += section_html(section);
  std::string html =
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n"
      // Nothing is loaded, and nothing but the page's own script can run, whatever a name holds.
      "<link rel=\"icon\" href=\"data:,\">\n";
  html +=
      fmt::format("<title>{} · Sluice</title>\n<style>{}{}@media (prefers-color-scheme:dark){{{}}}",
                  escaped(page.title), kStyle, palette_rules(false), palette_rules(true));
  html += fmt::format(
      "</style>\n</head>\n<body>\n<header><p class=\"kind\">{}</p><h1>{}</h1><p "
      "class=\"lead\">{}</p>"
      "{}</header>\n{}\n<main>\n{}</main>\n<footer>{}</footer>\n<script>{}</script>\n</body>\n</"
      "html>\n",
      escaped(page.kind), escaped(page.title), escaped(page.lead), tiles_html(page.tiles),
      contents_html(page.sections), sections, escaped(page.foot), kScript);
  return html;
}

std::string facts_table(const std::vector<std::pair<std::string, std::string>>& facts) {
  std::string rows;
  for (const auto& [name, value] : facts) {
    rows +=
        fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>", escaped(name), escaped(value));
  }
  return "<table class=\"facts\">" + rows + "</table>";
}

std::string missing(std::string_view sentence) {
  return "<p class=\"missing\">" + escaped(sentence) + "</p>";
}

}  // namespace sluice::report
