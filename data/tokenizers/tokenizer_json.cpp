#include "data/tokenizers/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "data/files.h"
#include "data/json_text.h"
#include "data/tokenizers/byte_level_model.h"
#include "data/utf8.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kKind = "tokenizer_json";
constexpr std::array<std::string_view, 2> kModes = {"text", "tokens"};
constexpr const char* kModeKey = "special_tokens";
constexpr std::array<const char*, 3> kControlKeys = {"bos_token", "eos_token", "pad_token"};

/// What published vocabularies call the token that ends a document, the usual one first.
constexpr auto kEndNames = std::to_array<std::string_view>({
    "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "</s>", "<eos>",
    "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",  // DeepSeek's
});

/// The settings beside the file: names of tokens or null, and a mode.
struct Settings {
  std::array<std::optional<std::string>, 3> control;  // as kControlKeys
  std::string mode = std::string(kModes[0]);

  [[nodiscard]] std::string text() const {
    json result;
    for (size_t i = 0; i < control.size(); ++i) {
      result[kControlKeys[i]] = control[i] ? json(*control[i]) : json();
    }
    result[kModeKey] = mode;
    return result.dump(-1, ' ', false, json::error_handler_t::replace);
  }
};

/// A token as tokenizer_config.json names it: a text, or an object with its text.
std::optional<std::string> token_name(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return std::nullopt;
  const json* name = &*found;
  if (name->is_object() && name->contains("content")) name = &(*name)["content"];
  SLUICE_CHECK(DataError, name->is_string(), "{}: found {}, allowed the name of a token", key,
               found->type_name());
  return name->get<std::string>();
}

Settings settings_of(const json& object) {
  SLUICE_CHECK(DataError, object.is_object(), "found {}, allowed an object", object.type_name());
  Settings settings;
  for (size_t i = 0; i < kControlKeys.size(); ++i) {
    settings.control[i] = token_name(object, kControlKeys[i]);
  }
  return settings;
}

struct Stored {
  Settings settings;
  std::string_view file;
};

/// The settings stand in the first line.
Stored take_apart(std::string_view serialized) {
  const size_t end = std::min(serialized.find('\n'), serialized.size());
  return with_context([] { return std::string("stored tokenizer_json tokenizer"); },
                      [&] {
                        const json line =
                            parse_json(serialized.substr(0, end), "", raise_as<DataError>);
                        Stored stored{settings_of(line), serialized.substr(end)};
                        const auto mode = token_name(line, kModeKey).value_or("nothing");
                        SLUICE_CHECK(DataError, std::ranges::find(kModes, mode) != kModes.end(),
                                     "{}: found {}, allowed {} or {}", kModeKey, mode.substr(0, 40),
                                     kModes[0], kModes[1]);
                        stored.settings.mode = mode;
                        if (!stored.file.empty()) stored.file.remove_prefix(1);
                        return stored;
                      });
}

/// The ids of the tokens beside a text; whatever the file says of them, they are text no more.
std::array<std::optional<int32_t>, 3> take_control(ByteLevelModel& model,
                                                   const Settings& settings) {
  std::array<std::optional<int32_t>, 3> ids;
  for (size_t i = 0; i < kControlKeys.size(); ++i) {
    if (!settings.control[i]) continue;
    const std::string shown = settings.control[i]->substr(0, 80);
    ids[i] = model.id_of(*settings.control[i]);
    SLUICE_CHECK(DataError, ids[i].has_value(), "{}: \"{}\" is no token of the file",
                 kControlKeys[i], shown);
    const bool is_text =
        std::ranges::find(model.byte_ids, *ids[i]) != model.byte_ids.end() ||
        std::ranges::find(model.merges, *ids[i], &BytePairs::Merge::result) != model.merges.end();
    SLUICE_CHECK(DataError, !is_text, "{}: \"{}\" is what texts become, allowed a token of its own",
                 kControlKeys[i], shown);
    std::erase(model.pieces, *ids[i]);
    model.bytes[static_cast<size_t>(*ids[i])].clear();
  }
  return ids;
}

class TokenizerJson final : public Tokenizer {
 public:
  TokenizerJson(ByteLevelModel model, Settings settings, std::string_view file)
      : serialized_(fmt::format("{}\n{}", settings.text(), file)),
        model_(std::move(model)),
        control_(take_control(model_, settings)),
        pairs_(model_.bytes, model_.pieces, model_.byte_ids, model_.merges, model_.whole_first) {
    std::vector<AddedToken> raw;
    std::vector<AddedToken> normalized;
    const bool finds_special = settings.mode == kModes[1];
    for (AddedToken& token : model_.added) {
      const bool is_text = !model_.bytes[static_cast<size_t>(token.id)].empty();
      if (!is_text && !finds_special) continue;
      is_lossless_ = is_lossless_ && is_text;
      if (!token.is_normalized) {
        raw.push_back(token);
      } else {
        normalise(token.content);
        normalized.push_back(token);
      }
    }
    raw_tokens_ = AddedTokens(std::move(raw));
    normalized_tokens_ = AddedTokens(std::move(normalized));
    is_lossless_ = is_lossless_ && model_.has_all_bytes() && model_.normal_forms.empty() &&
                   model_.pre_tokenizer.is_lossless() && raw_tokens_.is_lossless() &&
                   normalized_tokens_.is_lossless();
  }

  std::string_view kind() const override { return kKind; }
  std::string serialize() const override { return serialized_; }
  int64_t vocab_size() const override { return std::ssize(model_.bytes); }
  std::optional<int32_t> bos_id() const override { return control_[0]; }
  std::optional<int32_t> eos_id() const override { return control_[1]; }
  std::optional<int32_t> pad_id() const override { return control_[2]; }
  bool is_lossless() const override { return is_lossless_; }

  std::vector<int32_t> encode(std::string_view text) const override {
    Work work;
    while (!text.empty()) {
      const auto invalid = find_invalid_utf8(text);
      const auto valid = static_cast<size_t>(invalid.value_or(std::ssize(text)));
      encode_valid(text.substr(0, valid), work);
      text.remove_prefix(valid);
      const size_t bytes = invalid_bytes(text);
      pairs_.encode(text.substr(0, bytes), work.pairs, work.ids);
      text.remove_prefix(bytes);
    }
    return std::move(work.ids);
  }

  std::string_view token_bytes(int32_t id) const override {
    SLUICE_CHECK(DataError, id >= 0 && id < vocab_size(),
                 "token id {} is outside the vocabulary of {} tokenizer_json tokens", id,
                 vocab_size());
    return model_.bytes[static_cast<size_t>(id)];
  }

 private:
  struct Work {
    RegexScratch regex;
    BytePairs::Scratch pairs;
    std::vector<int32_t> ids;
  };

  /// Bytes until the next character.
  static size_t invalid_bytes(std::string_view text) {
    size_t bytes = 0;
    while (bytes < text.size() && find_invalid_utf8(text.substr(bytes, 4)) == 0) ++bytes;
    return bytes;
  }

  void normalise(std::string& text) const {
    for (const NormalForm form : model_.normal_forms) to_normal_form(form, text);
  }

  void encode_valid(std::string_view text, Work& work) const {
    raw_tokens_.for_each_part(text, [&](std::string_view part, std::optional<int32_t> id) {
      if (id) {
        work.ids.push_back(*id);
      } else if (model_.normal_forms.empty()) {
        encode_normalized(part, work);
      } else {
        std::string text_of_part(part);
        normalise(text_of_part);
        encode_normalized(text_of_part, work);
      }
    });
  }

  void encode_normalized(std::string_view text, Work& work) const {
    normalized_tokens_.for_each_part(text, [&](std::string_view part, std::optional<int32_t> id) {
      if (id) {
        work.ids.push_back(*id);
        return;
      }
      model_.pre_tokenizer.for_each_piece(part, work.regex, [&](std::string_view piece) {
        pairs_.encode(piece, work.pairs, work.ids);
      });
    });
  }

  std::string serialized_;
  ByteLevelModel model_;
  std::array<std::optional<int32_t>, 3> control_;  // as kControlKeys
  BytePairs pairs_;                                // refers to model_
  AddedTokens raw_tokens_;         // found in the text as it is
  AddedTokens normalized_tokens_;  // found in its normal form
  bool is_lossless_ = true;
};

std::optional<std::string> usual_end(const ByteLevelModel& model) {
  for (const std::string_view name : kEndNames) {
    const auto found = std::ranges::find_if(model.added, [&](const AddedToken& token) {
      return token.is_special && token.content == name;
    });
    if (found != model.added.end()) return found->content;
  }
  return std::nullopt;
}

/// Of tokenizer_config.json in the folder of `path`; none without one.
Settings settings_beside(const std::string& path) {
  const fs::path beside = fs::path(path).parent_path() / "tokenizer_config.json";
  std::error_code absent;
  if (!fs::exists(beside, absent)) return {};
  const json config = read_json_file(beside, raise_as<DataError>);
  return with_context([&] { return beside.string(); }, [&] { return settings_of(config); });
}

std::unique_ptr<Tokenizer> load(const TokenizerJsonConfig& config) {
  const std::string file = read_input_file(config.path);
  SLUICE_CHECK(DataError, std::ssize(file) <= kMaxJsonBytes, "{}: {} bytes, allowed at most {}",
               config.path, file.size(), kMaxJsonBytes);
  Settings settings = settings_beside(config.path);
  settings.mode = config.special_tokens;
  return with_context(
      [&] { return config.path; },
      [&]() -> std::unique_ptr<Tokenizer> {
        ByteLevelModel model = read_byte_level_model(file);
        const auto name = [&](std::optional<int32_t> id) -> std::optional<std::string> {
          if (!id) return std::nullopt;
          return model.names[static_cast<size_t>(*id)];
        };
        auto& [bos, eos, pad] = settings.control;
        if (!config.eos.empty()) eos = config.eos;
        if (!bos) bos = name(model.bos);
        if (!eos) eos = name(model.eos);
        if (!eos) eos = usual_end(model);
        return std::make_unique<TokenizerJson>(std::move(model), std::move(settings), file);
      });
}

std::unique_ptr<Tokenizer> deserialize(std::string_view bytes) {
  Stored stored = take_apart(bytes);
  return with_context([] { return std::string("stored tokenizer_json tokenizer"); },
                      [&] {
                        return std::make_unique<TokenizerJson>(read_byte_level_model(stored.file),
                                                               std::move(stored.settings),
                                                               stored.file);
                      });
}

}  // namespace

void TokenizerJsonConfig::fields(FieldVisitor& v) {
  v.path({.key = "path", .doc = "a tokenizer.json of byte-level byte pairs", .required = true},
         path);
  v.word({kModeKey,
          "what the name of a special token in a text is: text, or tokens for texts that were made "
          "with them (a chat template)"},
         special_tokens, kModes);
  v.text({"eos",
          "name of the token that ends a document; empty: that of tokenizer_config.json beside the "
          "file, or the usual one"},
         eos);
}

std::unique_ptr<Tokenizer> load_tokenizer_json(const std::string& path) {
  TokenizerJsonConfig config;
  config.path = path;
  return load(config);
}

StoredTokenizerJson stored_tokenizer_json(std::string_view serialized) {
  Stored stored = take_apart(serialized);
  auto& [bos, eos, pad] = stored.settings.control;
  return {stored.file, std::move(bos), std::move(eos), std::move(pad)};
}

extern const TokenizerType k_tokenizer_tokenizer_json;
const TokenizerType k_tokenizer_tokenizer_json = {
    .name = kKind,
    .doc = "byte-level byte pairs of a published model (GPT-2, Llama 3, Qwen): its tokenizer.json",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<TokenizerJsonConfig>();
    },
    .make = [](const Configurable& config, TextCorpus) -> std::unique_ptr<Tokenizer> {
      return load(dynamic_cast<const TokenizerJsonConfig&>(config));
    },
    .add_to = nullptr,
    .deserialize = deserialize,
};

}  // namespace sluice
