// RULER, documents: a question whose answer stands in one or a few of many documents.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "data/tasks/python_text.h"
#include "data/tasks/ruler_parts.h"
#include "tensor/error.h"

namespace taper {
namespace {

using Json = nlohmann::json;

Json parse(const Path& file) {
  Json all = Json::parse(read_file(file), nullptr, false);
  check(!all.is_discarded(), Exit::bad_data, "{}: must be one JSON value, in UTF-8; it is not", file.string());
  return all;
}

// Every access to a file that is not ours: what is missing or of another kind is the file's fault. f(where) says where it reads.
template <class F>
QaDocuments reading(const Path& file, const char* what, F&& f) {
  std::string where = "at its top";
  try {
    QaDocuments d = f(where);
    check(!d.questions.empty(), Exit::bad_data, "{}: holds no question that has an answer", file.string());
    return d;
  } catch (const Json::exception& e) {
    const std::string_view text = e.what();  // "[the exception's name] what is wrong"
    fail(Exit::bad_data, "{}: is not {}: {}, {}", file.string(), what, where, text.substr(std::min(text.size(), text.find("] ") + 2)));
  }
}

std::map<std::string, size_t> numbered(const std::set<std::string>& documents, QaDocuments& d) {
  std::map<std::string, size_t> number;
  for (const std::string& text : documents) number[text] = d.documents.size(), d.documents.push_back(text);
  return number;
}

}  // namespace

QaDocuments read_squad(const Path& file) {
  const Json all = parse(file);
  return reading(file, "SQuAD 2.0 (data[].paragraphs[].{context, qas[].{question, answers[].text}})", [&](std::string& where) {
    QaDocuments d;
    std::set<std::string> contexts;
    const Json& articles = all.at("data");
    for (size_t n = 0; n < articles.size(); ++n) {
      where = fmt::format("in data[{}]", n);
      const Json& paragraphs = articles.at(n).at("paragraphs");
      for (size_t i = 0; i < paragraphs.size(); ++i) {
        where = fmt::format("in data[{}].paragraphs[{}]", n, i);
        contexts.insert(paragraphs.at(i).at("context").get<std::string>());
      }
    }
    const auto number = numbered(contexts, d);
    for (size_t n = 0; n < articles.size(); ++n) {
      const Json& paragraphs = articles.at(n).at("paragraphs");
      std::vector<size_t> of_article;
      for (const Json& p : paragraphs) of_article.push_back(number.at(p.at("context").get<std::string>()));
      for (size_t i = 0; i < of_article.size(); ++i) {
        where = fmt::format("in data[{}].paragraphs[{}]", n, i);
        const Json& questions = paragraphs.at(i).at("qas");
        for (size_t k = 0; k < questions.size(); ++k) {
          where = fmt::format("in data[{}].paragraphs[{}].qas[{}]", n, i, k);
          const Json& q = questions.at(k);
          if (q.value("is_impossible", false) || q.at("answers").empty()) continue;
          QaDocuments::Question& question = d.questions.emplace_back();
          question.text = q.at("question").get<std::string>();
          for (const Json& a : q.at("answers")) {
            question.answers.push_back(a.at("text").get<std::string>());  // as often as it was given: a score is a share of all
          }
          question.needed = {of_article[i]};
          for (const size_t other : of_article)
            if (other != of_article[i]) question.related.push_back(other);
        }
      }
    }
    return d;
  });
}

QaDocuments read_hotpot(const Path& file) {
  const Json all = parse(file);
  return reading(file, "HotpotQA's distractor setting ([].{question, answer, context[][title, sentences[]]})", [&](std::string& where) {
    QaDocuments d;
    std::set<std::string> contexts;
    const auto text_of = [](const Json& c) {
      std::string text = c.at(0).get<std::string>() + "\n";
      for (const Json& sentence : c.at(1)) text += sentence.get<std::string>();
      return text;
    };
    for (size_t i = 0; i < all.size(); ++i) {
      where = fmt::format("in [{}]", i);
      for (const Json& c : all.at(i).at("context")) contexts.insert(text_of(c));
    }
    const auto number = numbered(contexts, d);
    for (size_t i = 0; i < all.size(); ++i) {
      where = fmt::format("in [{}]", i);
      const Json& q = all.at(i);
      QaDocuments::Question& question = d.questions.emplace_back();
      question.text = q.at("question").get<std::string>();
      question.answers = {q.at("answer").get<std::string>()};
      for (const Json& c : q.at("context")) question.needed.push_back(number.at(text_of(c)));
    }
    return d;
  });
}

namespace ruler {
namespace {

class Qa final : public RulerTask {
 public:
  Qa(const std::string& name, const QaDocuments& d, const RulerMaterials& m, const RulerOptions& o) : RulerTask(name, o), d_(d), t_(m.templates) { fit(); }
  int64_t new_tokens() const override { return 32; }
  bool published() const override { return t_.published({"qa", "qa_prefix", "qa_document"}); }
  int64_t samples() const override { return int64_t(d_.questions.size()); }

 protected:
  Growth growth() const override { return {.least = 1, .start = 10, .step = 10, .most = int64_t(d_.documents.size())}; }

  // n documents: those that are needed (as many as there is room for), then the article's others, then any.
  RulerSample make(Draws& draws, int64_t n, uint64_t index) const override {
    const QaDocuments::Question& q = d_.questions.at(index);
    std::vector<size_t> chosen(q.needed.begin(), q.needed.begin() + int64_t(std::min(size_t(n), q.needed.size())));
    const auto add = [&](const std::vector<size_t>& from) {
      for (const uint64_t i : draws.different(std::min(uint64_t(n) - chosen.size(), uint64_t(from.size())), from.size())) chosen.push_back(from[i]);
    };
    add(q.related);
    if (chosen.size() < size_t(n)) {
      std::set<size_t> out(q.needed.begin(), q.needed.end());
      out.insert(q.related.begin(), q.related.end());
      std::vector<size_t> others;
      for (size_t i = 0; i < d_.documents.size(); ++i)
        if (!out.contains(i)) others.push_back(i);
      add(others);
    }
    draws.shuffle(chosen);
    std::vector<std::string> parts;
    for (size_t i = 0; i < chosen.size(); ++i) parts.push_back(document(i + 1, chosen[i]));
    return asked(join(parts, "\n\n"), q);
  }

  std::string counted(const RulerSample& s, bool growing) const override { return growing ? s.prompt + " " + python::repr(s.answers) : s.prompt; }

  // One document alone is too long: its end goes.
  RulerSample cut(RulerSample s, uint64_t index) const override {
    const QaDocuments::Question& q = d_.questions.at(index);
    if (options_.compat) {
      const int64_t room = options_.length - new_tokens() - 5;
      const std::string& whole = t_["qa"];
      if (room <= 0) return s;
      s.prompt.resize(longest(s.prompt, [&](std::string_view front) { return options_.tokens(front) <= room; }));
      s.prompt += "\n" + fill(std::string_view(whole).substr(whole.rfind('\n') + 1), {{"context", ""}, {"query", q.text}});
      return s;
    }
    const std::string all = q.needed.empty() ? "" : document(1, q.needed[0]);
    return asked(all.substr(0, longest(all, [&](std::string_view front) { return fits(asked(std::string(front), q)); })), q);
  }

 private:
  std::string document(size_t number, size_t which) const {
    return fill(t_["qa_document"], {{"i", std::to_string(number)}, {"document", d_.documents[which]}});
  }
  RulerSample asked(const std::string& context, const QaDocuments::Question& q) const {
    return {.prompt = fill(t_["qa"], {{"context", context}, {"query", q.text}}), .prefix = std::string(python::strip(t_["qa_prefix"])), .answers = q.answers};
  }
  // Bytes of the longest front of a text, in whole characters, that is good; more tokens are never better.
  static size_t longest(std::string_view text, const std::function<bool(std::string_view)>& good) {
    size_t low = 0, high = text.size() + 1;  // low is good, or nothing is
    while (high - low > 1) {
      const size_t middle = low + (high - low) / 2;
      (good(text.substr(0, middle)) ? low : high) = middle;
    }
    while (low > 0 && low < text.size() && (uint8_t(text[low]) & 0xc0) == 0x80) --low;
    return low;
  }
  const QaDocuments& d_;
  const Templates& t_;
};

}  // namespace

std::unique_ptr<RulerTask> make_qa(const std::string& name, const RulerMaterials& m, const RulerOptions& o) {
  const bool squad = name == "qa_squad";
  const QaDocuments& d = squad ? m.squad : m.hotpot;
  check(!d.questions.empty(), Exit::no_input, "eval: {} wants {} FILE, {}", name, squad ? "--squad" : "--hotpot",
        squad ? "the development set of SQuAD 2.0 (dev-v2.0.json)" : "HotpotQA's development set, distractor setting");
  return std::make_unique<Qa>(name, d, m, o);
}

}  // namespace ruler
}  // namespace taper
