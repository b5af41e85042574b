#include "data/source.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "autograd/support/error.h"
#include "autograd/support/registry.h"
#include "data/files.h"
#include "data/utf8.h"

namespace sluice {

#define SLUICE_SOURCE(name) extern const SourceType k_source_##name;
#include "data/sources.def"
#undef SLUICE_SOURCE

namespace {

constexpr auto kNames = std::to_array<std::string_view>({
#define SLUICE_SOURCE(name) #name,
#include "data/sources.def"
#undef SLUICE_SOURCE
});
static_assert(all_distinct(kNames), "two kinds of sources share a name");

constexpr auto kTypes = std::to_array<const SourceType*>({
#define SLUICE_SOURCE(name) &k_source_##name,
#include "data/sources.def"
#undef SLUICE_SOURCE
});

Registry<SourceType> registry() { return {"source type", kTypes}; }

constexpr auto kTypeWords = [] {
  std::array<std::string_view, kNames.size() + 1> words{"auto"};
  std::copy(kNames.begin(), kNames.end(), words.begin() + 1);
  return words;
}();

}  // namespace

SourceConfig::SourceConfig() {
  for (const SourceType* source_type : kTypes) options_.push_back(source_type->make_options());
}

void SourceConfig::fields(FieldVisitor& v) {
  v.path({"path", "a file, or a folder whose files are read in the order of their names"}, path);
  v.text({"domain", "name under which losses are reported; empty: the file's name"}, domain);
  v.text({"modality",
          "the one of model.modalities.names that all its tokens are of; empty: by their ids"},
         modality);
  v.number({"weight", "multiplies the source's number of tokens in the mixture"}, weight,
           {.min = 0});
  v.word({"type", "text, jsonl, tokens or synthetic; auto: by the file's extension"}, type,
         kTypeWords);
  // A config that names neither file nor type is one that is being described, not read: show every
  // option.
  const bool is_described = path.empty() && type == "auto";
  for (size_t i = 0; i < kTypes.size(); ++i) {
    if (is_described || kTypes[i]->name == resolved_type()) options_[i]->fields(v);
  }
}

std::string SourceConfig::check() const {
  const SourceType& source_type = registry().at(resolved_type());
  if (source_type.reads_files && path.empty()) {
    return "path: missing; every source but a synthetic one reads a file or folder";
  }
  if (!source_type.reads_files && !path.empty()) {
    return fmt::format("path: not read by a source of type {}", source_type.name);
  }
  // It stands in JSON records, whose text is UTF-8.
  if (const auto at = find_invalid_utf8(resolved_domain())) {
    return fmt::format(
        "domain: found the name \"{}\"{}, allowed UTF-8 text (byte {} is none); give the domain a "
        "name of its own",
        replace_invalid_utf8(resolved_domain()), domain.empty() ? ", after the file" : "", *at);
  }
  return options(source_type.name).check();
}

std::string_view SourceConfig::resolved_type() const {
  if (type != "auto") return type;
  const std::string extension = extension_of(path);
  const auto is_one_of = [&](std::initializer_list<std::string_view> known) {
    return std::find(known.begin(), known.end(), extension) != known.end();
  };
  if (is_one_of({"jsonl", "ndjson"})) return "jsonl";
  if (is_one_of({"bin", "npy", "h5", "hdf5"})) return "tokens";
  return "text";
}

std::string SourceConfig::resolved_domain() const {
  if (!domain.empty()) return domain;
  if (path.empty()) return std::string(resolved_type());
  std::filesystem::path file(path);
  if (!file.has_filename()) file = file.parent_path();  // "folder/"
  return file.stem().string();
}

std::string SourceConfig::name() const {
  return path.empty() ? fmt::format("source {}", resolved_domain()) : path;
}

Configurable& SourceConfig::options(std::string_view type_name) const {
  const auto found = std::find(kNames.begin(), kNames.end(), type_name);
  SLUICE_INTERNAL_CHECK(found != kNames.end(), "no source type {}", type_name);
  return *options_[static_cast<size_t>(found - kNames.begin())];
}

std::unique_ptr<Source> make_source(const SourceConfig& config) {
  const SourceType& source_type = registry().at(config.resolved_type());
  return source_type.make(config.path, config.options(source_type.name));
}

}  // namespace sluice
