#include "train/yaml_parser.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <map>
#include <optional>
#include <sstream>
#include <utility>

#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr size_t kDeepestNesting = 64;
// Aliases of aliases grow without bound; no recipe comes near.
constexpr size_t kMostNodes = 100000;

struct InvalidByte {
  size_t offset;
  const char* problem;
};

// Length of the UTF-8 sequence at `text`, or 0 if it is none (overlong forms and surrogates
// included).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const auto follows = [&](size_t i, unsigned low = 0x80, unsigned high = 0xBF) {
    return byte(i) >= low && byte(i) <= high;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return follows(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const unsigned low = lead == 0xE0 ? 0xA0 : 0x80;
    const unsigned high = lead == 0xED ? 0x9F : 0xBF;
    return follows(1, low, high) && follows(2) ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const unsigned low = lead == 0xF0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xF4 ? 0x8F : 0xBF;
    return follows(1, low, high) && follows(2) && follows(3) ? 4 : 0;
  }
  return 0;
}

std::optional<InvalidByte> find_invalid_byte(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text.substr(i));
    if (length == 0) return InvalidByte{i, "is not valid UTF-8"};
    const auto c = static_cast<unsigned char>(text[i]);
    const bool is_control = (c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7F;
    if (is_control) return InvalidByte{i, "is a control character"};
    i += length;
  }
  return std::nullopt;
}

// yaml-cpp turns the escapes \N and \_ into the single bytes 0x85 and 0xA0 of Latin-1. The text it
// was given is valid UTF-8, so a byte that is not can only be one of them.
std::string with_valid_escapes(const std::string& text) {
  std::string valid;
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(std::string_view(text).substr(i));
    if (length == 0) valid += '\xC2';
    const size_t taken = std::max<size_t>(length, 1);
    valid.append(text, i, taken);
    i += taken;
  }
  return valid;
}

// Builds the tree from the parser's events, and collects what YAML allows but a recipe does not.
class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string_view text, std::shared_ptr<const SourceText> source, bool has_lines)
      : text_(text), source_(std::move(source)), has_lines_(has_lines) {
    line_begins_.push_back(0);
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\n') line_begins_.push_back(i + 1);
    }
  }

  YamlNode take_root() { return std::move(root_); }
  const Diagnostics& problems() const { return problems_; }

  // yaml-cpp counts lines and bytes from 0; people count lines and characters from 1.
  Location at(const YAML::Mark& mark) const {
    if (!has_lines_ || mark.line < 0) return {source_, 0, 0};
    const size_t line = std::min(static_cast<size_t>(mark.line), line_begins_.size() - 1);
    const size_t begin = line_begins_[line];
    return at_offset(line, begin, begin + static_cast<size_t>(std::max(mark.column, 0)));
  }
  Location at_offset(size_t offset) const {
    if (!has_lines_) return {source_, 0, 0};
    size_t line = line_begins_.size() - 1;
    while (line_begins_[line] > offset) --line;
    return at_offset(line, line_begins_[line], offset);
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0)
      refuse(mark, "a recipe is one YAML document, and a second one starts here");
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    count_one(0, mark);
    YamlNode node;
    node.where = at(mark);
    finish(std::move(node), anchor, mark);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    count_one(0, mark);
    YamlNode node;
    node.kind = YamlNode::Kind::scalar;
    node.where = at(mark);
    node.text = with_valid_escapes(value);
    node.is_quoted = is_text_tag(tag, mark);
    finish(std::move(node), anchor, mark);
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto named = anchors_.find(anchor);
    if (named == anchors_.end()) refuse(mark, "an alias stands inside what it names");
    count(named->second, stack_.size() + 1, mark);
    finish(named->second, 0, mark);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    open(YamlNode::Kind::list, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    open(YamlNode::Kind::map, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    YamlNode node;
    YAML::anchor_t anchor;
    YAML::Mark mark;
    std::optional<std::pair<std::string, Location>> key;  // of a map, until its value is complete
  };

  [[noreturn]] static void refuse(const YAML::Mark& mark, const std::string& message) {
    throw YAML::ParserException(mark, message);
  }

  Location at_offset(size_t line, size_t begin, size_t offset) const {
    int column = 1;
    for (size_t i = begin; i < std::min(offset, text_.size()); ++i) {
      const bool continues = (static_cast<unsigned char>(text_[i]) & 0xC0U) == 0x80U;
      if (!continues) ++column;
    }
    return {source_, static_cast<int>(line) + 1, column};
  }

  // Quoted and block scalars carry the tag "!"; `!!str` asks for text.
  static bool is_text_tag(const std::string& tag, const YAML::Mark& mark) {
    if (tag == "!" || tag == "tag:yaml.org,2002:str") return true;
    check_tag(tag, mark);
    return false;
  }
  static void check_tag(const std::string& tag, const YAML::Mark& mark) {
    const bool is_plain =
        tag.empty() || tag == "?" || tag == "!" || tag.starts_with("tag:yaml.org,2002:");
    if (!is_plain) refuse(mark, fmt::format("the tag {} means nothing in a recipe", tag));
  }

  void count_one(size_t depth, const YAML::Mark& mark) {
    if (++nodes_ > kMostNodes) refuse(mark, fmt::format("more than {} values", kMostNodes));
    if (depth > kDeepestNesting) {
      refuse(mark, fmt::format("nested deeper than {} levels", kDeepestNesting));
    }
  }
  void count(const YamlNode& node, size_t depth, const YAML::Mark& mark) {
    count_one(depth, mark);
    for (const YamlNode& item : node.items) count(item, depth + 1, mark);
    for (const YamlEntry& entry : node.entries) count(entry.value, depth + 1, mark);
  }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag,
            YAML::anchor_t anchor) {
    check_tag(tag, mark);
    count_one(stack_.size() + 1, mark);
    Frame frame;
    frame.node.kind = kind;
    frame.node.where = at(mark);
    frame.anchor = anchor;
    frame.mark = mark;
    stack_.push_back(std::move(frame));
  }

  void close() {
    Frame frame = std::move(stack_.back());
    stack_.pop_back();
    finish(std::move(frame.node), frame.anchor, frame.mark);
  }

  // A value is complete: it is the root, an item, the key of a map, or the value of the key before
  // it.
  void finish(YamlNode node, YAML::anchor_t anchor, const YAML::Mark& mark) {
    if (anchor != 0) anchors_[anchor] = node;
    if (stack_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& parent = stack_.back();
    if (parent.node.kind == YamlNode::Kind::list) {
      parent.node.items.push_back(std::move(node));
    } else if (!parent.key) {
      if (node.kind != YamlNode::Kind::scalar) {
        refuse(mark, fmt::format("a key is a word, not {}", node.describe()));
      }
      parent.key.emplace(std::move(node.text), node.where);
    } else {
      add_entry(parent, std::move(node));
    }
  }

  void add_entry(Frame& parent, YamlNode value) {
    auto [key, where] = std::move(*parent.key);
    parent.key.reset();
    if (const YamlEntry* first = std::as_const(parent.node).find(key)) {
      problems_.add(where, full_key(key), "given twice; first at " + first->where.to_string());
      return;
    }
    // The parser places an empty value at whatever follows it.
    if (value.kind == YamlNode::Kind::null) value.where = where;
    parent.node.entries.push_back({std::move(key), std::move(where), std::move(value)});
  }

  std::string full_key(const std::string& last) const {
    std::string key;
    for (const Frame& frame : stack_) {
      if (frame.key) key += frame.key->first + '.';
      if (frame.node.kind == YamlNode::Kind::list)
        key += fmt::format("{}.", frame.node.items.size());
    }
    return key + last;
  }

  std::string_view text_;
  std::shared_ptr<const SourceText> source_;
  bool has_lines_;
  std::vector<size_t> line_begins_;
  std::vector<Frame> stack_;
  std::map<YAML::anchor_t, YamlNode> anchors_;
  YamlNode root_;
  Diagnostics problems_;
  size_t nodes_ = 0;
  int documents_ = 0;
};

std::string root_problem(const YamlNode& root) {
  if (root.kind == YamlNode::Kind::map) return {};
  if (root.kind == YamlNode::Kind::null)
    return "holds no keys; a recipe is a mapping, such as \"seed: 1\"";
  return fmt::format("found {} at the top, allowed a mapping, such as \"seed: 1\"",
                     root.describe());
}

}  // namespace

YamlDocument parse_source(std::string_view text, std::shared_ptr<const SourceText> source,
                          bool is_recipe) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());

  YamlDocument document;
  TreeBuilder builder(text, source, is_recipe);
  const auto fail = [&](Location where, std::string message) {
    document.problems.add(std::move(where), {}, std::move(message));
    document.is_broken = true;
  };
  if (const auto invalid = find_invalid_byte(text)) {
    fail(builder.at_offset(invalid->offset),
         fmt::format("byte 0x{:02x} {}", static_cast<unsigned char>(text[invalid->offset]),
                     invalid->problem));
    return document;
  }
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    fail(builder.at(error.mark), fmt::format("not a valid recipe in YAML: {}", error.msg));
  }
  document.problems.add(builder.problems());
  if (document.is_broken) return document;

  document.root = builder.take_root();
  if (!document.root.where.source) document.root.where = builder.at_offset(0);
  if (const std::string problem = root_problem(document.root); is_recipe && !problem.empty()) {
    fail(document.root.where, problem);
  }
  return document;
}

}  // namespace sluice
