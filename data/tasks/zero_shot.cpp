// Zero-shot tasks: records into questions.
#include "data/tasks/zero_shot.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "data/tasks/python_text.h"
#include "tensor/error.h"

namespace taper {
namespace {

using Json = nlohmann::ordered_json;

// A value in a message: its first characters.
std::string shown(const Json& value) {
  const std::string all = value.dump(-1, ' ', true);
  return all.size() <= 60 ? all : all.substr(0, 60) + "...";
}

// A record and where it stands; every question about it that it cannot answer is an error of the file.
struct Record {
  const ZeroShotTask& task;
  std::string where;
  Json json;

  template <class... A>
  [[noreturn]] void wrong(fmt::format_string<A...> text, const A&... a) const {
    fail(Exit::bad_data, "{}: {} {}", where, task.name, fmt::vformat(text, fmt::make_format_args(a...)));
  }
  std::string fields() const {
    std::string all;
    for (const auto& [key, value] : json.items()) all += (all.empty() ? "" : ", ") + key;
    return all.empty() ? "none" : all;
  }
  const Json& at(const Json& object, const std::string& key, const std::string& path) const {
    if (!object.is_object() || !object.contains(key)) wrong("wants the field '{}'; the record has {}", path, fields());
    return object.at(key);
  }
  std::string text_of(const Json& value, const std::string& path) const {
    if (!value.is_string()) wrong("wants text in '{}'; got {}", path, shown(value));
    return value.get<std::string>();
  }
  std::string text(const std::string& key) const { return text_of(at(json, key, key), key); }
  // A number, or text that is one.
  int64_t number(const std::string& key, int64_t low, int64_t high) const {
    const Json& value = at(json, key, key);
    std::optional<int64_t> n;
    if (value.is_number_integer()) n = value.get<int64_t>();
    else if (value.is_string())
      if (const std::string s = value.get<std::string>(); s.size() == 1 && '0' <= s[0] && s[0] <= '9') n = s[0] - '0';
    if (!n || *n < low || *n > high) wrong("wants a number from {} to {} in '{}'; got {}", low, high, key, shown(value));
    return *n;
  }
};

Choice choice(const std::string& context, const std::string& text) { return {context, " " + text, python::length(text)}; }

void last_word(const Record& r, TaskDocument& d) {  // the text's single spaces part its pieces
  const std::string text = r.text("text");
  const size_t space = text.rfind(' ');
  d.choices = {choice(space == std::string::npos ? "" : text.substr(0, space), space == std::string::npos ? text : text.substr(space + 1))};
}

void hellaswag(const Record& r, TaskDocument& d) {
  const std::string context = clean_hellaswag(r.text("activity_label") + ": " + r.text("ctx_a") + " " + python::capitalize(r.text("ctx_b")));
  const Json& endings = r.at(r.json, "endings", "endings");
  if (!endings.is_array() || endings.size() != 4) r.wrong("wants four endings; got {}", shown(endings));
  for (const Json& ending : endings) d.choices.push_back(choice(context, clean_hellaswag(r.text_of(ending, "endings"))));
  d.gold = r.number("label", 0, 3);
}

void piqa(const Record& r, TaskDocument& d) {
  const std::string context = "Question: " + r.text("goal") + "\nAnswer:";
  d.choices = {choice(context, r.text("sol1")), choice(context, r.text("sol2"))};
  d.gold = r.number("label", 0, 1);
}

void winogrande(const Record& r, TaskDocument& d) {
  const std::string sentence = r.text("sentence");
  const size_t blank = sentence.find('_');
  if (blank == std::string::npos) r.wrong("wants a '_' in the sentence; got {}", shown(r.json["sentence"]));
  const std::string rest(python::strip(std::string_view(sentence).substr(blank + 1)));
  for (const char* option : {"option1", "option2"}) d.choices.push_back(choice(sentence.substr(0, blank) + r.text(option), rest));
  d.gold = r.number("answer", 1, 2) - 1;
}

// ARC and OpenBookQA, in the export's and the original's form. `stem`: the export's field of the question.
void letters(const Record& r, TaskDocument& d, const std::string& stem, const char* before, const char* after) {
  std::string question;
  std::vector<std::string> texts, labels;
  if (r.json.contains("question") && r.json["question"].is_object()) {
    const Json& q = r.json["question"];
    question = r.text_of(r.at(q, "stem", "question.stem"), "question.stem");
    const Json& choices = r.at(q, "choices", "question.choices");
    if (!choices.is_array()) r.wrong("wants a list in 'question.choices'; got {}", shown(choices));
    for (const Json& c : choices) {
      texts.push_back(r.text_of(r.at(c, "text", "question.choices[].text"), "question.choices[].text"));
      labels.push_back(r.text_of(r.at(c, "label", "question.choices[].label"), "question.choices[].label"));
    }
  } else {
    question = r.text(stem);
    const Json& choices = r.at(r.json, "choices", "choices");
    const auto list = [&](const char* key, std::vector<std::string>& into) {
      const Json& all = r.at(choices, key, std::string("choices.") + key);
      if (!all.is_array()) r.wrong("wants a list in 'choices.{}'; got {}", key, shown(all));
      for (const Json& one : all) into.push_back(r.text_of(one, std::string("choices.") + key));
    };
    list("text", texts);
    list("label", labels);
  }
  if (texts.size() < 2 || texts.size() != labels.size()) r.wrong("wants at least two choices and a label for each; got {} and {}", texts.size(), labels.size());
  const std::string key = r.text("answerKey");
  const size_t begin = key.find_first_not_of(' ');
  const auto found = std::ranges::find(labels, begin == std::string::npos ? "" : key.substr(begin));
  if (found == labels.end()) r.wrong("wants an answerKey among the labels {}; got '{}'", shown(labels), key);
  for (const std::string& t : texts) d.choices.push_back(choice(before + question + after, t));
  d.gold = found - labels.begin();
}

void whole_text(const Record& r, TaskDocument& d) {
  const bool wikitext = r.task.name == "wikitext";
  const std::string page = r.text(wikitext && r.json.contains("page") ? "page" : "text");
  d.text = wikitext ? detokenize_wikitext(page) : page;
  d.words = python::count_split(page);
  d.bytes = int64_t(page.size());
}

TaskDocument document(const Record& r) {
  TaskDocument d{.where = r.where, .record = r.json.dump(2, ' ', false, Json::error_handler_t::replace)};
  const std::string& name = r.task.name;
  if (r.task.kind == TaskKind::last_word) last_word(r, d);
  else if (r.task.kind == TaskKind::text) whole_text(r, d);
  else if (name == "hellaswag") hellaswag(r, d);
  else if (name == "piqa") piqa(r, d);
  else if (name == "winogrande") winogrande(r, d);
  else if (name == "openbookqa") letters(r, d, "question_stem", "", "");
  else letters(r, d, "question", "Question: ", "\nAnswer:");
  return d;
}

std::vector<std::string_view> lines_of(std::string_view all) {
  std::vector<std::string_view> lines;
  while (!all.empty()) {
    const size_t end = std::min(all.find('\n'), all.size());
    std::string_view line = all.substr(0, end);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    lines.push_back(line);
    all.remove_prefix(std::min(end + 1, all.size()));
  }
  return lines;
}

// PIQA's published labels: a file of their own, a line for each record.
void add_label(Record& r, const std::vector<std::string_view>& labels, size_t record, const Path& file) {
  if (r.json.contains("label") || labels.empty()) return;
  check(record < labels.size(), Exit::bad_data, "{}: wants a label for every record of piqa.jsonl; it ends after {}", file.string(), labels.size());
  r.json["label"] = std::string(python::strip(labels[record]));
}

TaskDocuments read_text_files(const ZeroShotTask& task, const Path& directory, int64_t limit) {
  std::vector<Path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error))
    if (entry.path().extension() == ".txt") files.push_back(entry.path());
  check(!files.empty(), Exit::no_input, "{}: no such file, and no .txt beside it; `{}` wants one or the other", (directory / "text.jsonl").string(), task.name);
  std::ranges::sort(files);
  TaskDocuments all{.documents = {}, .all = int64_t(files.size())};
  for (const Path& file : files) {
    if (limit && int64_t(all.documents.size()) == limit) break;
    const std::string text = read_file(file);
    all.documents.push_back(document({task, file.string(), {{"text", text}}}));
  }
  return all;
}

}  // namespace

const std::vector<ZeroShotTask>& zero_shot_tasks() {
  static const std::vector<ZeroShotTask> all{
      {"lambada_openai", 1, TaskKind::last_word, false}, {"hellaswag", 1, TaskKind::choices, true},  {"piqa", 1, TaskKind::choices, true},
      {"arc_easy", 1, TaskKind::choices, true},          {"arc_challenge", 1, TaskKind::choices, true}, {"winogrande", 1, TaskKind::choices, false},
      {"openbookqa", 1, TaskKind::choices, true},        {"wikitext", 2, TaskKind::text, false},     {"text", 1, TaskKind::text, false}};
  return all;
}

const ZeroShotTask* find_zero_shot_task(std::string_view name) {
  const auto& all = zero_shot_tasks();
  const auto found = std::ranges::find(all, name, &ZeroShotTask::name);
  return found == all.end() ? nullptr : &*found;
}

TaskDocuments read_task(const ZeroShotTask& task, const Path& directory, int64_t limit) {
  const Path file = directory / (task.name + ".jsonl"), labels_file = directory / "piqa.lst";
  std::error_code error;
  check(std::filesystem::is_directory(directory, error), Exit::no_input, "{}: no such directory; --data names the one that holds {}.jsonl", directory.string(),
      task.name);
  if (task.name == "text" && !std::filesystem::exists(file, error)) return read_text_files(task, directory, limit);
  const bool has_labels = task.name == "piqa" && std::filesystem::exists(labels_file, error);
  const std::string contents = read_file(file), labels_contents = has_labels ? read_file(labels_file) : "";
  const std::vector<std::string_view> lines = lines_of(contents), labels = lines_of(labels_contents);
  TaskDocuments all;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (python::strip(lines[i]).empty()) continue;
    const size_t record = size_t(all.all++);
    if (limit && int64_t(all.documents.size()) == limit) continue;
    Record r{task, fmt::format("{}:{}", file.string(), i + 1), Json::parse(lines[i], nullptr, false)};
    check(!r.json.is_discarded(), Exit::bad_data, "{}: a line must be one JSON value, in UTF-8; this one is not", r.where);
    check(r.json.is_object(), Exit::bad_data, "{}: a record must be a JSON object; got {}", r.where, r.json.type_name());
    add_label(r, labels, record, labels_file);
    all.documents.push_back(document(r));
  }
  check(!all.documents.empty(), Exit::bad_data, "{}: holds no record", file.string());
  return all;
}

std::string clean_hellaswag(std::string_view text) {
  std::string s = python::replace(python::strip(text), " [title]", ". "), out;
  for (size_t i = 0; i < s.size();) {  // \[.*?\], where . is anything but a newline
    if (s[i] == '[') {
      const size_t end = s.find_first_of("]\n", i + 1);
      if (end != std::string::npos && s[end] == ']') {
        i = end + 1;
        continue;
      }
    }
    out += s[i++];
  }
  return python::replace(out, "  ", " ");
}

namespace {

// Between each opening mark and the next closing one: no whitespace at the ends.
std::string trim_between(std::string_view text, char open, char close) {
  std::string out;
  for (size_t at; (at = text.find(open)) != std::string_view::npos;) {
    const size_t end = text.find(close, at + 1);
    if (end == std::string_view::npos) break;
    out.append(text.substr(0, at + 1)).append(python::strip(text.substr(at + 1, end - at - 1))) += close;
    text.remove_prefix(end + 1);
  }
  return out.append(text);
}

}  // namespace

std::string detokenize_wikitext(std::string_view page) {
  std::string s = python::replace(page, "s '", "s'");
  const auto each = [&s](std::initializer_list<std::pair<const char*, const char*>> pairs) {
    for (const auto& [from, to] : pairs) s = python::replace(s, from, to);
  };
  // "/' 5/", as the harness's pattern has it, becomes its replacement as it stands.
  for (size_t at = 0; (at = s.find("/' ", at)) != std::string::npos; ++at)
    if (at + 4 < s.size() && s[at + 3] >= '0' && s[at + 3] <= '9' && s[at + 4] == '/') s.replace(at, 5, "/'[0-9]/"), at += 7;
  each({{" @-@ ", "-"}, {" @,@ ", ","}, {" @.@ ", "."}});
  for (const char* mark : {": ", "; ", ". ", "! ", "? ", ", "}) s = python::replace(s, std::string(" ") + mark, mark);
  for (const auto& [open, close] : {std::pair{'(', ')'}, {'[', ']'}, {'{', '}'}, {'"', '"'}, {'\'', '\''}}) s = trim_between(s, open, close);
  each({{"= = = =", "===="}, {"= = =", "==="}, {"= =", "=="}, {" \u00b0 ", "\u00b0"}, {" \n", "\n"}, {"\n ", "\n"}, {" N ", " 1 "}, {" 's", "'s"}});
  return s;
}

}  // namespace taper
