// RWKV's "world" vocabulary: a trie of byte strings, of which the longest that fits is taken.
//
// A line of its file is `id literal length`: the id, the token as Python writes a string or bytes ('\n'
// or b'\xe4\xb8'), its length in bytes. Ids are 1..n in any order; 0, which is not in the file, is EOD.
// Every single byte must be a token. A bad line, an id twice or left out, a token twice: 65, with the line.
#pragma once
#include "data/tokenizer.h"

namespace taper {

// `who` names the file in errors.
std::unique_ptr<Tokenizer> world_tokenizer(TokenizerFile file, std::string identity, const std::string& who);

}  // namespace taper
