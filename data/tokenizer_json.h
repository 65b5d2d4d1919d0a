// tokenizer.json: byte-level BPE as the tokenizers of GPT-2, GPT-NeoX, Llama-3 and Qwen are written down.
//
// Supported, each by the name it has in the file; anything else is refused by its name (65):
//   normalizer      NFC, Sequence of them
//   pre_tokenizer   ByteLevel, Split (Regex or String; every behavior, invert), Digits, Sequence; ByteLevel last
//   model           BPE without dropout, affixes or byte_fallback; ignore_merges; merges as "a b" or ["a", "b"]
//   added_tokens    special, normalized, single_word, lstrip, rstrip
//   post_processor  ByteLevel, TemplateProcessing (frame()), Sequence of them
//   decoder         ByteLevel, Sequence of it
// Each byte that UTF-8 may hold must be a token, each merge made of tokens and making one, and the ids 0 to n-1
// all taken. The end of a document is the first of these that is a special token: <|endoftext|>,
// <|end_of_text|>, <eos>, </s>; a file with none of them is refused.
#pragma once
#include "data/tokenizer.h"

namespace taper {

// `who` names the file in errors.
std::unique_ptr<Tokenizer> json_tokenizer(TokenizerFile file, std::string identity, const std::string& who);

}  // namespace taper
