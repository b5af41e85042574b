#pragma once
// Where documents come from. Implementations stand in data/sources, one file each, listed in
// sources.def; a source gives either text, which a tokenizer still has to encode, or ready tokens.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/fields.h"
#include "autograd/support/function_ref.h"
#include "data/fingerprint.h"

namespace sluice {

/// One document, valid during the visit only. A source of text gives `text`, and a `prompt` before
/// it that is read but not learned; a source of tokens gives `tokens`, without an end-of-document
/// token.
struct DocumentView {
  std::string_view prompt;
  std::string_view text;
  std::span<const int32_t> tokens;
};

/// Immutable; reading never changes it. Everything it reads exists when it is made.
class Source {
 public:
  virtual ~Source() = default;

  [[nodiscard]] virtual bool holds_tokens() const { return false; }
  /// Calls `visit` once per document, in the same order every time; empty documents may be among
  /// them. Throws DataError for content that is not what the source expects, naming file and place.
  virtual void read(FunctionRef<void(const DocumentView&)> visit) const = 0;
  /// Adds all that decides the documents: options and the content of files, not their names.
  virtual void add_to(Fingerprint& fingerprint) const = 0;
};

struct SourceConfig;

/// One line of sources.def.
struct SourceType {
  std::string_view name;
  std::string_view doc;
  bool reads_files = true;
  std::unique_ptr<Configurable> (*make_options)();
  /// Throws ConfigError for a missing file.
  std::unique_ptr<Source> (*make)(const std::string& path, const Configurable& options);
};

/// One item of the recipe's `data.sources`: the keys every source has, then those of its type.
struct SourceConfig final : Configurable {
  std::string path;
  std::string domain;
  std::string modality;  // of all its tokens; empty: they go by their ids
  double weight = 1.0;
  std::string type = "auto";

  SourceConfig();
  void fields(FieldVisitor& visitor) override;
  [[nodiscard]] std::string check() const override;

  /// `type`, or what `auto` stands for: by the extension of `path`, `text` for an unknown one.
  [[nodiscard]] std::string_view resolved_type() const;
  /// `domain`, or the file's or folder's name without its extension, or the type's name.
  [[nodiscard]] std::string resolved_domain() const;
  /// What messages call the source: its path, or its type's name.
  [[nodiscard]] std::string name() const;
  /// The options of the type named `type_name`.
  [[nodiscard]] Configurable& options(std::string_view type_name) const;

 private:
  // One per line of sources.def. Shared: immutable once read, and copies of a recipe share them.
  std::vector<std::shared_ptr<Configurable>> options_;
};

/// Throws ConfigError for a missing file or folder.
[[nodiscard]] std::unique_ptr<Source> make_source(const SourceConfig& config);

}  // namespace sluice
