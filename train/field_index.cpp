#include "train/field_index.h"

#include <algorithm>
#include <functional>
#include <typeindex>

#include "autograd/support/error.h"

namespace sluice {

/// Records each key with its section, and descends.
class FieldIndexBuilder : public FieldVisitor {
 public:
  using Record = std::function<void(std::string_view key, const std::string& section)>;

  FieldIndexBuilder(bool descends, Record record)
      : descends_(descends), record_(std::move(record)) {}

  void visit(Configurable& config, const std::string& path, const std::string& section) {
    // A config that can hold its own kind (a union of unions) would be walked for ever.
    const std::type_index type = typeid(config);
    if (std::find(open_.begin(), open_.end(), type) != open_.end()) return;
    open_.push_back(type);
    const std::string outer_path = std::exchange(path_, path);
    const std::string outer_section = std::exchange(section_, section);
    config.fields(*this);
    path_ = outer_path;
    section_ = outer_section;
    open_.pop_back();
  }

  void boolean(FieldInfo info, bool&) override { leaf(info); }
  void integer(FieldInfo info, int64_t&, IntegerRange) override { leaf(info); }
  void number(FieldInfo info, double&, NumberRange) override { leaf(info); }
  void text(FieldInfo info, std::string&) override { leaf(info); }
  void path(FieldInfo info, std::string&) override { leaf(info); }
  void optional_integer(FieldInfo info, std::optional<int64_t>&, IntegerRange,
                        std::string_view) override {
    leaf(info);
  }
  void optional_number(FieldInfo info, std::optional<double>&, NumberRange,
                       std::string_view) override {
    leaf(info);
  }
  void optional_path(FieldInfo info, std::optional<std::string>&, std::string_view) override {
    leaf(info);
  }
  void word(FieldInfo info, std::string&, std::span<const std::string_view>) override {
    leaf(info);
  }
  // The keys of a schedule are the same under every scheduled key: no hint in them.
  void scheduled(FieldInfo info, Scheduled&, NumberRange) override { leaf(info); }
  void optional_scheduled(FieldInfo info, std::optional<Scheduled>&, NumberRange,
                          std::string_view) override {
    leaf(info);
  }
  void duration(FieldInfo info, Duration&) override { leaf(info); }
  void optional_duration(FieldInfo info, std::optional<Duration>&, std::string_view) override {
    leaf(info);
  }
  void numbers(FieldInfo info, std::vector<double>&, NumberRange) override { leaf(info); }
  void integers(FieldInfo info, std::vector<int64_t>&, IntegerRange) override { leaf(info); }
  void texts(FieldInfo info, std::vector<std::string>&) override { leaf(info); }

  void object(FieldInfo info, Configurable& value) override {
    leaf(info);
    if (descends_) visit(value, child(info), child(info));
  }
  void optional_object(FieldInfo info, std::shared_ptr<Configurable>&,
                       const std::function<std::shared_ptr<Configurable>()>& make,
                       std::string_view) override {
    leaf(info);
    if (descends_) visit(*make(), child(info), child(info));
  }
  void object_list(FieldInfo info, std::vector<std::shared_ptr<Configurable>>&,
                   const std::function<std::shared_ptr<Configurable>()>& make) override {
    leaf(info);
    if (descends_) visit(*make(), child(info), child(info));
  }
  void tagged(FieldInfo info, Tagged&, std::span<const Choice> choices) override {
    leaf(info);
    visit_choices(info, choices);
  }
  void tagged_list(FieldInfo info, std::vector<Tagged>&, std::span<const Choice> choices) override {
    leaf(info);
    visit_choices(info, choices);
  }
  void tagged_map(FieldInfo info, TaggedMap&, std::span<const Choice> choices) override {
    leaf(info);
    visit_choices(info, choices);
  }

 private:
  void leaf(const FieldInfo& info) { record_(info.key, section_); }
  std::string child(const FieldInfo& info) const {
    return path_.empty() ? std::string(info.key) : path_ + '.' + std::string(info.key);
  }
  void visit_choices(const FieldInfo& info, std::span<const Choice> choices) {
    if (!descends_) return;
    for (const Choice& choice : choices) {
      visit(*choice.make_config(), child(info),
            fmt::format("{} of type {}", child(info), choice.name));
    }
  }

  bool descends_;
  Record record_;
  std::string path_;
  std::string section_;
  std::vector<std::type_index> open_;
};

std::vector<std::string> keys_of(Configurable& config) {
  std::vector<std::string> keys;
  FieldIndexBuilder builder(
      false, [&](std::string_view key, const std::string&) { keys.emplace_back(key); });
  builder.visit(config, "", "");
  return keys;
}

FieldIndex::FieldIndex(Configurable& root) {
  FieldIndexBuilder builder(true, [this](std::string_view key, const std::string& section) {
    items_.push_back({std::string(key), section});
  });
  builder.visit(root, "", "the top level");
}

std::vector<std::string> FieldIndex::sections_with(std::string_view key) const {
  std::vector<std::string> sections;
  for (const Item& item : items_) {
    if (item.key == key) sections.push_back(item.section);
  }
  return sections;
}

}  // namespace sluice
