#include "data/tokenizers/byte_level_model.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "autograd/support/error.h"
#include "data/json_text.h"
#include "data/tokenizers/byte_characters.h"

namespace sluice {
namespace {

using nlohmann::json;

constexpr int kMaxSteps = 64;  // of normalizers and pre-tokenizers together
constexpr size_t kMaxContentBytes = 4096;
constexpr int64_t kMaxId = (int64_t{1} << 24U) - 1;
constexpr std::string_view kPunctuation = R"([\p{P}$+<=>^`|~])";

/// A part of the file and where it stands in it ("pre_tokenizer.pretokenizers[1]").
class Part {
 public:
  Part(const json& value, std::string where) : value_(&value), where_(std::move(where)) {}

  [[noreturn]] void refuse(std::string_view allowed) const {
    throw DataError(fmt::format("{}: found {}, allowed {}", where_, shown(), allowed));
  }
  [[nodiscard]] std::string shown() const {
    if (value_->is_object() && value_->contains("type") && (*value_)["type"].is_string()) {
      return (*value_)["type"].get<std::string>().substr(0, 80);
    }
    const std::string text = value_->dump(-1, ' ', false, json::error_handler_t::replace);
    return text.size() <= 80 ? text : text.substr(0, 77) + "...";
  }
  [[nodiscard]] const json& value() const { return *value_; }
  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] bool is_null() const { return value_->is_null(); }

  /// null where the key is absent.
  [[nodiscard]] Part at(const char* key) const {
    static const json kNull;
    if (!value_->is_object()) refuse("an object");
    const auto found = value_->find(key);
    return {found == value_->end() ? kNull : *found,
            where_.empty() ? key : fmt::format("{}.{}", where_, key)};
  }
  [[nodiscard]] std::vector<Part> items(const char* key) const {
    const Part list = at(key);
    if (!list.value().is_array()) list.refuse("a list");
    std::vector<Part> result;
    for (size_t i = 0; i < list.value().size(); ++i) {
      result.emplace_back(list.value()[i], fmt::format("{}[{}]", list.where(), i));
    }
    return result;
  }
  [[nodiscard]] const std::string& text() const {
    if (!value_->is_string()) refuse("a text");
    return value_->get_ref<const std::string&>();
  }
  [[nodiscard]] bool flag(const char* key, bool absent) const {
    const Part found = at(key);
    if (found.is_null()) return absent;
    if (!found.value().is_boolean()) found.refuse("true or false");
    return found.value().get<bool>();
  }
  [[nodiscard]] std::string type() const {
    const Part found = at("type");
    return found.is_null() ? std::string() : found.text();
  }
  /// Throws unless the key is absent, null or one of these.
  void require(const char* key, std::initializer_list<json> harmless, const char* allowed) const {
    const Part found = at(key);
    const bool is_harmless =
        found.is_null() ||
        std::find(harmless.begin(), harmless.end(), found.value()) != harmless.end();
    if (!is_harmless) found.refuse(allowed);
  }

 private:
  const json* value_;
  std::string where_;
};

std::string shown(std::string_view name) {
  return json(name.substr(0, 60)).dump(-1, ' ', false, json::error_handler_t::replace);
}

class Reader {
 public:
  explicit Reader(const json& file) : file_(file, "") {}

  ByteLevelModel run() {
    const Part model = file_.at("model");
    check_model(model);
    max_id_ = largest_id(model.at("vocab"), file_.at("added_tokens"));
    read_names(model.at("vocab"));
    read_added();
    read_bytes(model);
    read_merges(model);
    result_.whole_first = model.flag("ignore_merges", false);
    read_normalizer(file_.at("normalizer"));
    read_pre_tokenizer(file_.at("pre_tokenizer"));
    if (!has_byte_level_) file_.at("pre_tokenizer").refuse("ByteLevel as the last step");
    read_post_processor(file_.at("post_processor"));
    check_decoder(file_.at("decoder"));
    return std::move(result_);
  }

 private:
  static void check_model(const Part& model) {
    if (model.is_null()) model.refuse("a byte-level BPE model");
    const bool has_merges = model.value().is_object() && model.value().contains("merges");
    const std::string type = model.type();
    if (type != "BPE" && !(type.empty() && has_merges)) model.refuse("BPE");
    model.require("dropout", {0, 0.0}, "none (encoding is not random)");
    model.require("continuing_subword_prefix", {""}, "none");
    model.require("end_of_word_suffix", {""}, "none");
  }

  /// Half of the ids may lack a token, so that no file makes long tables with one number.
  static int64_t largest_id(const Part& vocabulary, const Part& added) {
    const auto tokens = static_cast<int64_t>(vocabulary.value().size() + added.value().size());
    return std::clamp<int64_t>(2 * tokens - 1, 0, kMaxId);
  }

  int32_t read_id(const Part& id) const {
    const bool is_right = id.value().is_number_unsigned() &&
                          id.value().get<uint64_t>() <= static_cast<uint64_t>(max_id_);
    if (!is_right) {
      id.refuse(fmt::format("a whole number from 0 to {} (at most every other id without a token)",
                            max_id_));
    }
    return id.value().get<int32_t>();
  }

  /// Throws when the id is another token's.
  void give_name(int32_t id, const std::string& token) {
    const auto at = static_cast<size_t>(id);
    if (at >= result_.names.size()) {
      result_.names.resize(at + 1);
      has_token_.resize(at + 1);
    }
    SLUICE_CHECK(DataError, !has_token_[at], "the id {} is given to both {} and {}", id,
                 shown(result_.names[at]), shown(token));
    result_.names[at] = token;
    has_token_[at] = true;
    ids_.emplace(token, id);
  }

  void read_names(const Part& vocabulary) {
    if (!vocabulary.value().is_object()) vocabulary.refuse("an object of tokens and their ids");
    for (const auto& [token, id] : vocabulary.value().items()) {
      give_name(read_id({id, fmt::format("model.vocab[{}]", shown(token))}), token);
    }
    if (ids_.empty()) vocabulary.refuse("at least one token");
    in_vocabulary_ = has_token_;
  }

  void read_added() {
    if (file_.at("added_tokens").is_null()) return;
    std::unordered_map<std::string, int32_t> seen;
    for (const Part& part : file_.items("added_tokens")) {
      AddedToken token{.content = part.at("content").text(),
                       .id = read_id(part.at("id")),
                       .is_special = part.flag("special", false),
                       .is_normalized = part.flag("normalized", false),
                       .takes_space_before = part.flag("lstrip", false),
                       .takes_space_behind = part.flag("rstrip", false)};
      if (token.content.empty() || token.content.size() > kMaxContentBytes) {
        part.at("content").refuse(fmt::format("a text of 1 to {} bytes", kMaxContentBytes));
      }
      part.require("single_word", {false}, "false (a token is found within words too)");
      SLUICE_CHECK(DataError, seen.emplace(token.content, token.id).second,
                   "{}: {} is given a second time", part.where(), shown(token.content));
      const auto known = ids_.find(token.content);
      if (known == ids_.end()) {
        with_context([&] { return part.where(); }, [&] { give_name(token.id, token.content); });
      } else {
        SLUICE_CHECK(DataError, known->second == token.id,
                     "{}: {} has the id {}, in the vocabulary {}", part.where(),
                     shown(token.content), token.id, known->second);
      }
      result_.added.push_back(std::move(token));
    }
  }

  void read_bytes(const Part& model) {
    const size_t size = result_.names.size();
    std::vector<bool> is_special(size);
    std::vector<bool> is_added(size);
    for (const AddedToken& token : result_.added) {
      is_added[static_cast<size_t>(token.id)] = true;
      is_special[static_cast<size_t>(token.id)] = token.is_special;
    }
    result_.bytes.resize(size);
    in_vocabulary_.resize(size);
    for (size_t id = 0; id < size; ++id) {
      if (!has_token_[id] || is_special[id]) continue;
      const std::string& name = result_.names[id];
      const auto spelled = unspelled_bytes(name);
      // An added token is text as it stands, and so is what spells no bytes.
      const bool is_piece = spelled && !spelled->empty() && in_vocabulary_[id] &&
                            (!is_added[id] || *spelled == name);
      result_.bytes[id] = is_piece ? *spelled : name;
      if (is_piece) result_.pieces.push_back(static_cast<int32_t>(id));
    }
    result_.byte_ids.fill(-1);
    for (const int32_t id : result_.pieces) {
      const std::string& bytes = result_.bytes[static_cast<size_t>(id)];
      if (bytes.size() == 1) result_.byte_ids[static_cast<unsigned char>(bytes[0])] = id;
    }
    if (std::ranges::all_of(result_.byte_ids, [](int32_t id) { return id < 0; })) {
      throw DataError("model.vocab: no token spells a byte; it is none of a byte-level model");
    }
    if (!result_.has_all_bytes()) {
      model.require("byte_fallback", {false}, "false (some bytes have no character here)");
    }
  }

  void read_merges(const Part& model) {
    const auto token = [&](const Part& part, const std::string& name) {
      const auto found = ids_.find(name);
      SLUICE_CHECK(DataError, found != ids_.end(), "{}: {} is no token of the vocabulary",
                   part.where(), shown(name));
      return found->second;
    };
    std::vector<bool> is_piece(result_.names.size());
    for (const int32_t id : result_.pieces) is_piece[static_cast<size_t>(id)] = true;
    for (const Part& part : model.items("merges")) {
      const auto [left, right] = merge_of(part);
      const BytePairs::Merge merge{token(part, left), token(part, right),
                                   token(part, left + right)};
      // The letters of a special token are text and stay it, though a vocabulary that was learned from
      // texts with its name in them merges them.
      if (is_piece[static_cast<size_t>(merge.result)]) result_.merges.push_back(merge);
    }
  }

  static std::pair<std::string, std::string> merge_of(const Part& part) {
    if (part.value().is_string()) {
      const std::string& text = part.text();
      const size_t space = text.find(' ');
      const bool is_pair = space != std::string::npos && space > 0 && space + 1 < text.size() &&
                           text.find(' ', space + 1) == std::string::npos;
      if (is_pair) return {text.substr(0, space), text.substr(space + 1)};
    } else if (part.value().is_array() && part.value().size() == 2 &&
               part.value()[0].is_string() && part.value()[1].is_string()) {
      return {part.value()[0].get<std::string>(), part.value()[1].get<std::string>()};
    }
    part.refuse("two tokens, as \"a b\" or [\"a\", \"b\"]");
  }

  void count_step(const Part& part) {
    if (++steps_ > kMaxSteps) part.refuse(fmt::format("at most {} steps", kMaxSteps));
  }

  void read_normalizer(const Part& part) {
    if (part.is_null()) return;
    const std::string type = part.type();
    count_step(part);
    if (type == "Sequence") {
      for (const Part& step : part.items("normalizers")) read_normalizer(step);
    } else if (type == "NFC") {
      result_.normal_forms.push_back(NormalForm::nfc);
    } else if (type == "NFD") {
      result_.normal_forms.push_back(NormalForm::nfd);
    } else if (type == "NFKC") {
      result_.normal_forms.push_back(NormalForm::nfkc);
    } else if (type == "NFKD") {
      result_.normal_forms.push_back(NormalForm::nfkd);
    } else {
      part.refuse("NFC, NFD, NFKC, NFKD, a Sequence of them or null");
    }
  }

  void read_pre_tokenizer(const Part& part) {
    if (part.is_null()) return;
    const std::string type = part.type();
    if (type == "Sequence") {
      for (const Part& step : part.items("pretokenizers")) read_pre_tokenizer(step);
      return;
    }
    count_step(part);
    if (has_byte_level_) part.refuse("no step behind ByteLevel");
    if (type == "ByteLevel") {
      if (part.flag("add_prefix_space", true)) result_.pre_tokenizer.add_space_before();
      if (part.flag("use_regex", true)) result_.pre_tokenizer.add_gpt2_split();
      has_byte_level_ = true;
    } else if (type == "Split") {
      add_split(part, pattern_of(part.at("pattern")), behavior_of(part.at("behavior")),
                part.flag("invert", false));
    } else if (type == "Digits") {
      const bool are_single = part.flag("individual_digits", false);
      add_split(part, are_single ? R"(\p{N})" : R"(\p{N}+)", SplitBehavior::isolated);
    } else if (type == "Punctuation") {
      const Part behavior = part.at("behavior");
      add_split(part, kPunctuation,
                behavior.is_null() ? SplitBehavior::isolated : behavior_of(behavior));
    } else {
      part.refuse("ByteLevel, Split, Digits, Punctuation or a Sequence of them");
    }
  }

  void add_split(const Part& part, std::string_view pattern, SplitBehavior behavior,
                 bool inverted = false) {
    with_context([&] { return part.where(); },
                 [&] { result_.pre_tokenizer.add_split(pattern, behavior, inverted); });
  }

  static std::string pattern_of(const Part& part) {
    if (part.value().is_object() && part.value().contains("Regex")) return part.at("Regex").text();
    if (!part.value().is_object() || !part.value().contains("String")) {
      part.refuse("{\"Regex\": ...} or {\"String\": ...}");
    }
    std::string pattern;
    for (const char c : part.at("String").text()) {
      const bool is_plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
                            (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 0x80;
      if (!is_plain) pattern += '\\';
      pattern += c;
    }
    return pattern;
  }

  static SplitBehavior behavior_of(const Part& part) {
    const std::string& name = part.text();
    if (name == "Isolated") return SplitBehavior::isolated;
    if (name == "Removed") return SplitBehavior::removed;
    if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
    if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
    if (name == "Contiguous") return SplitBehavior::contiguous;
    part.refuse("Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous");
  }

  void read_post_processor(const Part& part) {
    if (part.is_null()) return;
    const std::string type = part.type();
    if (type == "Sequence") {
      for (const Part& step : part.items("processors")) read_post_processor(step);
    } else if (type == "TemplateProcessing") {
      read_template(part);
    } else if (type != "ByteLevel") {  // which settles offsets alone
      part.refuse("ByteLevel, TemplateProcessing, a Sequence of them or null");
    }
  }

  /// The special tokens next to the text of a template for one text.
  void read_template(const Part& part) {
    bool is_behind = false;
    for (const Part& piece : part.items("single")) {
      if (piece.value().is_object() && piece.value().contains("Sequence")) {
        is_behind = true;
        continue;
      }
      const Part name = piece.at("SpecialToken").at("id");
      const auto found = ids_.find(name.text());
      if (found == ids_.end()) name.refuse("a token of the file");
      if (!is_behind) result_.bos = found->second;
      if (is_behind && !result_.eos) result_.eos = found->second;
    }
  }

  static void check_decoder(const Part& part) {
    if (part.is_null()) return;
    const std::string type = part.type();
    if (type == "Sequence") {
      for (const Part& step : part.items("decoders")) check_decoder(step);
    } else if (type != "ByteLevel" && type != "Fuse") {
      part.refuse("ByteLevel, Fuse, a Sequence of them or null");
    }
  }

  Part file_;
  ByteLevelModel result_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<bool> has_token_;
  std::vector<bool> in_vocabulary_;
  int64_t max_id_ = 0;
  bool has_byte_level_ = false;
  int steps_ = 0;
};

}  // namespace

std::optional<int32_t> ByteLevelModel::id_of(std::string_view name) const {
  const auto found = std::ranges::find(names, name);
  if (name.empty() || found == names.end()) return std::nullopt;
  return static_cast<int32_t>(found - names.begin());
}

bool ByteLevelModel::has_all_bytes() const {
  return std::ranges::none_of(byte_ids, [](int32_t id) { return id < 0; });
}

ByteLevelModel read_byte_level_model(std::string_view tokenizer_json) {
  const json file = parse_json(tokenizer_json, "", raise_as<DataError>);
  SLUICE_CHECK(DataError, file.is_object(), "its JSON is no object");
  return Reader(file).run();
}

}  // namespace sluice
