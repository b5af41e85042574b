#include "train/yaml_writer.h"

#include <algorithm>
#include <filesystem>

#include "autograd/support/error.h"
#include "train/field_snapshot.h"
#include "train/yaml_scalar.h"

namespace sluice {
namespace {

using Kind = FieldValue::Kind;

class Writer {
 public:
  explicit Writer(const YamlWriteOptions& options) : options_(options) {}

  std::string take() { return std::move(out_); }

  // The entries of a map at `indent`; the first line's indent is there already when `continues` a
  // list's dash.
  void map_entries(const FieldValue& map, int indent, bool continues) {
    for (const FieldValue& entry : map.values) {
      if (options_.with_docs && !entry.doc.empty()) {
        begin_line(indent, continues);
        out_ += fmt::format("# {}\n", entry.doc);
        continues = false;
      }
      begin_line(indent, continues);
      continues = false;
      out_ += entry.key + ':';
      value(entry, indent);
    }
  }

 private:
  void begin_line(int indent, bool continues) {
    if (!continues) out_.append(static_cast<size_t>(indent), ' ');
  }

  // What follows "key:", up to the end of its last line.
  void value(const FieldValue& field, int indent) {
    const bool is_block = !field.values.empty() && !is_flow(field);
    if (!is_block) {
      out_ += ' ' + flow(field) + '\n';
    } else if (field.kind == Kind::map) {
      out_ += '\n';
      map_entries(field, indent + kIndent, false);
    } else {
      out_ += '\n';
      for (const FieldValue& item : field.values) {
        begin_line(indent + kIndent, false);
        out_ += "- ";
        map_item(item, indent + 2 * kIndent);
      }
    }
  }

  void map_item(const FieldValue& item, int indent) {
    if (item.values.empty()) {
      out_ += "{}\n";
    } else {
      map_entries(item, indent, true);
    }
  }

  // Lists of scalars stand on one line.
  static bool is_flow(const FieldValue& field) {
    return field.kind == Kind::list &&
           std::none_of(field.values.begin(), field.values.end(),
                        [](const FieldValue& item) { return item.kind == Kind::map; });
  }
  std::string flow(const FieldValue& field) const {
    switch (field.kind) {
      case Kind::scalar:
        return field.text;
      case Kind::path:
        return format_text(options_.with_absolute_paths
                               ? std::filesystem::absolute(field.text).lexically_normal().string()
                               : field.text);
      case Kind::map:
        return "{}";
      case Kind::list:
        break;
    }
    std::vector<std::string> items;
    for (const FieldValue& item : field.values) items.push_back(flow(item));
    return fmt::format("[{}]", fmt::join(items, ", "));
  }

  static constexpr int kIndent = 2;

  const YamlWriteOptions& options_;
  std::string out_;
};

}  // namespace

std::string write_yaml(Configurable& config, const YamlWriteOptions& options) {
  const FieldValue root = snapshot(config);
  Writer writer(options);
  if (root.values.empty()) return "{}\n";
  writer.map_entries(root, 0, false);
  return writer.take();
}

}  // namespace sluice
