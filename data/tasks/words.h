// Words: what keys and lists of synthetic tasks are made from. Each list is sorted and holds a word once.
#pragma once
#include <string>
#include <vector>

namespace taper {

struct Words {
  std::vector<std::string> adjectives, nouns, verbs;
};

const Words& built_in_words();  // more than 700 adjectives, 1300 nouns, 900 verbs

}  // namespace taper
