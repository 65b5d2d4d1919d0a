// Templates: the sentences that RULER's prompts are made of, with {places} to fill.
//
// Built in are this project's own sentences: results with them are "ruler-like". The published sentences are the user's to
// bring, as DIR/<name>.txt; a file is known for the published one by its length and SHA-256, and results whose sentences are
// all published are "ruler". A file's last newline is not part of it, unless the published text has it.
//
//   niah ({type} {context} {query})   niah_needle ({type} {key} {value})   niah_repeat   niah_prefix_one, niah_prefix_many ({type} {query})
//   vt ({context} {query})   vt_prefix ({num_v} {query})   vt_noise (ends with a newline)
//   cwe, fwe ({context})   cwe_prefix   fwe_prefix   qa ({context} {query})   qa_prefix   qa_document ({i} {document})
//
// {type_needle_v} is another spelling of {type}. For one needle niah becomes singular: Some -> A, are all -> is, are -> is,
// answers -> answer, before its places are filled.
//
// Errors: a directory without any of the files (66), a file that lacks a place (65).
#pragma once
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "tensor/file.h"

namespace taper {

class Templates {
 public:
  Templates();                                // built in
  explicit Templates(const Path& directory);  // those that are there, the others built in
  const std::string& operator[](const std::string& name) const { return texts_.at(name); }
  bool published(std::initializer_list<const char*> names) const;
  std::string digest() const;  // SHA-256 of all texts

 private:
  std::map<std::string, std::string> texts_;
};

// Each {name} replaced by its value; what a value holds is not looked at again.
std::string fill(std::string_view text, std::initializer_list<std::pair<std::string_view, std::string_view>> values);

}  // namespace taper
