// Plain text: a UTF-8 file, or a folder of them. A line that holds only the separator ends a
// document.

#include "autograd/support/error.h"
#include "data/files.h"
#include "data/source.h"
#include "data/utf8.h"

namespace sluice {
namespace {

struct TextOptions final : Configurable {
  std::string separator = "<|endoftext|>";

  void fields(FieldVisitor& v) override {
    v.text({"separator", "a line that holds only this ends a document; empty: a file is one"},
           separator);
  }
  [[nodiscard]] std::string check() const override {
    if (separator.find('\n') == std::string::npos) return {};
    return "separator: found a line break, allowed one line";
  }
};

/// Bytes of the line break at the start of `text`, 0 when there is none but the text ends, or
/// nullopt.
std::optional<size_t> line_break(std::string_view text) {
  if (text.empty()) return 0;
  if (text.starts_with('\n')) return 1;
  if (text.starts_with("\r\n")) return 2;
  return std::nullopt;
}

class TextSource final : public Source {
 public:
  TextSource(const std::string& path, std::string separator)
      : files_(files_at(path)), separator_(std::move(separator)) {}

  void read(FunctionRef<void(const DocumentView&)> visit) const override {
    for (const std::string& file : files_) {
      const std::string content = read_input_file(file);
      const auto invalid = find_invalid_utf8(content);
      SLUICE_CHECK(DataError, !invalid, "{}: invalid UTF-8 at byte {}", file, *invalid);
      read_documents(content, visit);
    }
  }

  void add_to(Fingerprint& fingerprint) const override {
    fingerprint.add(separator_);
    for (const std::string& file : files_) fingerprint.add(read_input_file(file));
  }

 private:
  void read_documents(std::string_view text, FunctionRef<void(const DocumentView&)> visit) const {
    size_t begin = 0;
    if (!separator_.empty()) {
      size_t at = text.find(separator_);
      while (at != std::string_view::npos) {
        const size_t after = at + separator_.size();
        const auto line_end = line_break(text.substr(after));
        if (line_end && (at == 0 || text[at - 1] == '\n')) {
          visit({.text = text.substr(begin, at - begin)});
          begin = after + *line_end;
        }
        at = text.find(separator_, after);
      }
    }
    visit({.text = text.substr(begin)});
  }

  std::vector<std::string> files_;
  std::string separator_;
};

}  // namespace

extern const SourceType k_source_text;
const SourceType k_source_text = {
    .name = "text",
    .doc = "UTF-8 text files",
    .make_options = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<TextOptions>();
    },
    .make = [](const std::string& path, const Configurable& options) -> std::unique_ptr<Source> {
      return std::make_unique<TextSource>(path,
                                          dynamic_cast<const TextOptions&>(options).separator);
    },
};

}  // namespace sluice
