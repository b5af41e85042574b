#include "train/interchange/tokenizer_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "data/json_text.h"
#include "data/tokenizers/byte_characters.h"
#include "data/tokenizers/file.h"
#include "data/tokenizers/sentencepiece_model.h"
#include "data/tokenizers/tokenizer_json.h"
#include "train/interchange/sentencepiece_json.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::string_view kBytesKind = "bytes";
constexpr std::string_view kJsonKind = "tokenizer_json";
constexpr std::string_view kEndOfText = "<|endoftext|>";
constexpr std::string_view kQwen2Pieces =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// tokenizer.json of one token per byte and one that ends documents.
ordered_json bytes_json() {
  ordered_json vocabulary = ordered_json::object();
  const auto& characters = byte_characters();
  for (size_t byte = 0; byte < characters.size(); ++byte) vocabulary[characters[byte]] = byte;
  vocabulary[std::string(kEndOfText)] = characters.size();
  const ordered_json level = {{"type", "ByteLevel"},
                              {"add_prefix_space", false},
                              {"trim_offsets", true},
                              {"use_regex", false}};
  ordered_json end = {{"id", characters.size()}, {"content", kEndOfText}};
  for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) end[flag] = false;
  end["special"] = true;
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", ordered_json::array({end})},
          {"normalizer", nullptr},
          {"pre_tokenizer", level},
          {"post_processor", nullptr},
          {"decoder", level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"vocab", vocabulary},
            {"merges", ordered_json::array()}}}};
}

FoundTokenizer bytes_tokenizer() {
  return {deserialize_tokenizer(kBytesKind, "bytes 257"), R"({"type": "bytes"})"};
}

FoundTokenizer from_file(const fs::path& path) {
  return {load_tokenizer_file(path.string()), tokenizer_choice(path)};
}

/// Single bytes as write_tokenizer writes them, or byte pairs.
FoundTokenizer from_json(const fs::path& path) {
  const json found = read_json_file(path, raise_as<DataError>);
  const json ours = json::parse(bytes_json().dump());
  const bool is_bytes =
      found.is_object() && found.contains("model") && found["model"].is_object() &&
      found["model"].contains("vocab") && found["model"].contains("merges") &&
      found["model"]["vocab"] == ours["model"]["vocab"] && found["model"]["merges"].empty();
  if (is_bytes) return bytes_tokenizer();
  try {
    return from_file(path);
  } catch (const DataError& error) {
    throw DataError(fmt::format("{}; --tokenizer FILE names another tokenizer", error.what()));
  }
}

/// Files of `folder` that llama2.c would call a tokenizer, by name.
std::vector<fs::path> llama2c_vocabularies(const fs::path& folder) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("tok") && name.ends_with(".bin")) found.push_back(entry.path());
  }
  std::ranges::sort(found);
  return found;
}

void write_json(FileSystem& files, const fs::path& path, const ordered_json& content) {
  write_file_atomically(files, path, bytes_of(content.dump(2) + "\n"), raise_as<CheckpointError>);
}

/// The file that was read, byte for byte, and the names of its control tokens.
void write_tokenizer_json(FileSystem& files, const fs::path& folder,
                          const StoredTokenizerJson& stored) {
  write_file_atomically(files, folder / "tokenizer.json", bytes_of(stored.file),
                        raise_as<CheckpointError>);
  ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  const auto add = [&](const char* key, const std::optional<std::string>& name) {
    if (name) config[key] = *name;
  };
  add("bos_token", stored.bos);
  add("eos_token", stored.eos);
  add("pad_token", stored.pad);
  config["clean_up_tokenization_spaces"] = false;
  write_json(files, folder / "tokenizer_config.json", config);
}

/// The model that was read, byte for byte, the same for the tokenizers library, and the names of its
/// control tokens.
void write_sentencepiece(FileSystem& files, const fs::path& folder, const CheckpointMeta& meta) {
  const auto tokenizer = deserialize_tokenizer(meta.tokenizer_kind, meta.tokenizer);
  const auto vocabulary = parse_sentencepiece(meta.tokenizer);
  SLUICE_CHECK(CheckpointError, vocabulary.has_value(), "its SentencePiece model is damaged");
  write_file_atomically(files, folder / "tokenizer.model", bytes_of(meta.tokenizer),
                        raise_as<CheckpointError>);
  write_json(files, folder / "tokenizer.json",
             sentencepiece_json(*vocabulary, tokenizer->is_lossless()));
  ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}};
  const auto add = [&](const char* key, std::optional<int32_t> id) {
    if (id) config[key] = vocabulary->pieces[static_cast<size_t>(*id)].text;
  };
  add("bos_token", tokenizer->bos_id());
  add("eos_token", tokenizer->eos_id());
  add("pad_token", tokenizer->pad_id());
  const auto unknown =
      std::ranges::find(vocabulary->pieces, SentencePieceVocabulary::Kind::unknown,
                        &SentencePieceVocabulary::Piece::kind);
  if (unknown != vocabulary->pieces.end()) config["unk_token"] = unknown->text;
  config["clean_up_tokenization_spaces"] = false;
  write_json(files, folder / "tokenizer_config.json", config);
}

}  // namespace

std::string tokenizer_choice(const fs::path& path) {
  return json{{"type", "file"}, {"path", fs::absolute(path).string()}}.dump(
      -1, ' ', false, json::error_handler_t::replace);
}

FoundTokenizer find_tokenizer(const fs::path& folder, const std::string& named) {
  if (named == kBytesKind) return bytes_tokenizer();
  if (!named.empty()) {
    return fs::path(named).extension() == ".json" && fs::exists(named) ? from_json(named)
                                                                       : from_file(named);
  }
  if (fs::exists(folder / "tokenizer.model")) return from_file(folder / "tokenizer.model");
  if (fs::exists(folder / "tokenizer.json")) return from_json(folder / "tokenizer.json");
  const std::vector<fs::path> vocabularies = llama2c_vocabularies(folder);
  SLUICE_CHECK(ConfigError, vocabularies.size() == 1,
               "{}: holds {} tokenizer that is known (tokenizer.model, tokenizer.json, tok*.bin); "
               "name one with --tokenizer FILE, or say --tokenizer bytes",
               folder.string(), vocabularies.empty() ? "no" : "more than one");
  return from_file(vocabularies.front());
}

void write_tokenizer(FileSystem& files, const fs::path& folder, const CheckpointMeta& meta) {
  if (meta.tokenizer_kind == kBytesKind) {
    write_json(files, folder / "tokenizer.json", bytes_json());
    write_json(files, folder / "tokenizer_config.json",
               {{"tokenizer_class", "PreTrainedTokenizerFast"},
                {"eos_token", kEndOfText},
                {"clean_up_tokenization_spaces", false}});
    return;
  }
  if (meta.tokenizer_kind == kJsonKind) {
    write_tokenizer_json(files, folder, stored_tokenizer_json(meta.tokenizer));
    return;
  }
  SLUICE_CHECK(CheckpointError, meta.tokenizer_kind == "sentencepiece",
               "its tokenizer is of kind {}, which has no file of other programs",
               meta.tokenizer_kind);
  write_sentencepiece(files, folder, meta);
}

bool cuts_as_qwen2(const CheckpointMeta& meta) {
  if (meta.tokenizer_kind != kJsonKind) return false;
  const json file = json::parse(stored_tokenizer_json(meta.tokenizer).file, nullptr, false);
  const auto is = [&](const char* pointer, std::string_view value) {
    const json::json_pointer place(pointer);
    return file.contains(place) && file[place] == json(value);
  };
  return is("/normalizer/type", "NFC") &&
         is("/pre_tokenizer/pretokenizers/0/pattern/Regex", kQwen2Pieces);
}

}  // namespace sluice
