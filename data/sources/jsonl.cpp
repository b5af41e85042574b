// JSON lines: one object per line, with a text, or with a prompt and a response of which only the
// response is learned.

#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "data/files.h"
#include "data/source.h"
#include "data/utf8.h"

namespace sluice {
namespace {

using Json = nlohmann::json;

struct JsonlOptions final : Configurable {
  std::string text_key = "text";
  std::string prompt_key;
  std::string response_key;

  void fields(FieldVisitor& v) override {
    v.text({"text_key", "key of a document's text"}, text_key);
    v.text({"prompt_key", "key of a prompt, read but not learned; empty: documents have none"},
           prompt_key);
    v.text({"response_key", "key of the response to the prompt; replaces text_key"}, response_key);
  }
  [[nodiscard]] std::string check() const override {
    if (prompt_key.empty() != response_key.empty()) {
      return fmt::format("{}: missing; prompt_key and response_key go together",
                         prompt_key.empty() ? "prompt_key" : "response_key");
    }
    if (text_key.empty() && prompt_key.empty()) return "text_key: found \"\", allowed a key";
    return {};
  }
};

class JsonlSource final : public Source {
 public:
  JsonlSource(const std::string& path, JsonlOptions options)
      : files_(files_at(path, {"jsonl", "ndjson"})), options_(std::move(options)) {}

  void read(FunctionRef<void(const DocumentView&)> visit) const override {
    for (const std::string& file : files_) read_lines(file, read_input_file(file), visit);
  }

  void add_to(Fingerprint& fingerprint) const override {
    fingerprint.add(options_.text_key);
    fingerprint.add(options_.prompt_key);
    fingerprint.add(options_.response_key);
    for (const std::string& file : files_) fingerprint.add(read_input_file(file));
  }

 private:
  void read_lines(const std::string& file, std::string_view content,
                  FunctionRef<void(const DocumentView&)> visit) const {
    int64_t number = 0;
    for (size_t begin = 0; begin < content.size();) {
      ++number;
      const size_t end = std::min(content.find('\n', begin), content.size());
      const std::string_view line = content.substr(begin, end - begin);
      with_context([&] { return fmt::format("{}:{}", file, number); },
                   [&] { read_line(line, begin, visit); });
      begin = end + 1;
    }
  }

  void read_line(std::string_view line, size_t offset,
                 FunctionRef<void(const DocumentView&)> visit) const {
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) return;
    const auto invalid = find_invalid_utf8(line);
    SLUICE_CHECK(DataError, !invalid, "invalid UTF-8 at byte {} of the file",
                 static_cast<int64_t>(offset) + *invalid);
    Json object;
    try {
      object = Json::parse(line);
    } catch (const Json::parse_error& error) {
      throw DataError(fmt::format("not valid JSON at byte {} of the line", error.byte));
    }
    SLUICE_CHECK(DataError, object.is_object(), "found {} {}, expected an object",
                 object.type_name()[0] == 'a' ? "an" : "a", object.type_name());
    if (options_.prompt_key.empty()) {
      visit({.text = text_of(object, options_.text_key)});
    } else {
      visit({.prompt = text_of(object, options_.prompt_key),
             .text = text_of(object, options_.response_key)});
    }
  }

  static std::string_view text_of(const Json& object, const std::string& key) {
    const auto found = object.find(key);
    SLUICE_CHECK(DataError, found != object.end(), "no key \"{}\"", key);
    SLUICE_CHECK(DataError, found->is_string(), "\"{}\" is of type {}, expected a string", key,
                 found->type_name());
    return found->get_ref<const std::string&>();
  }

  std::vector<std::string> files_;
  JsonlOptions options_;
};

}  // namespace

extern const SourceType k_source_jsonl;
const SourceType k_source_jsonl = {
    .name = "jsonl",
    .doc = "JSON lines with a text, or a prompt and a response",
    .make_options = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<JsonlOptions>();
    },
    .make = [](const std::string& path, const Configurable& options) -> std::unique_ptr<Source> {
      return std::make_unique<JsonlSource>(path, dynamic_cast<const JsonlOptions&>(options));
    },
};

}  // namespace sluice
