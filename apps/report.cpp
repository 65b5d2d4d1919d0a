// report: runs as one page of HTML to look at.
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/history.h"
#include "apps/json_text.h"
#include "apps/report_page.h"
#include "tensor/error.h"

namespace taper {
namespace {

struct Options {
  std::vector<std::string> runs;
  std::string out, title;
};

int report(const Options& o, const Common& common) {
  check(o.runs.size() == 1 || !o.out.empty(), Exit::usage, "report: several runs want a file to write; give -o FILE.html");
  for (size_t i = 0; i < o.runs.size(); ++i)
    for (size_t j = 0; j < i; ++j) {
      std::error_code error;
      check(!std::filesystem::equivalent(o.runs[i], o.runs[j], error), Exit::usage, "report: each run once; {} and {} are the same", o.runs[j], o.runs[i]);
    }
  std::vector<History> runs;
  for (const std::string& dir : o.runs) runs.push_back(read_history(dir));
  name_runs(runs);
  const Path out = o.out.empty() ? Path(o.runs[0]) / "report.html" : Path(o.out);
  std::string title = o.title;
  if (title.empty()) {  // four names, or three and that there are more
    const size_t named = runs.size() > 4 ? 3 : runs.size();
    for (size_t i = 0; i < named; ++i) title += (i ? ", " : "") + runs[i].name;
    if (named < runs.size()) title += ", …";
  }
  const std::string page = report_page(runs, title);
  write_file(out, page);
  for (const History& r : runs)
    for (const std::string& note : r.notes) fmt::print(stderr, "report: {}: {}\n", r.name, note);
  if (common.json) fmt::print("{}\n", json_text(nlohmann::ordered_json{{"report", out.string()}, {"bytes", page.size()}, {"runs", runs.size()}}));
  else fmt::print("{}: {} run{}, {:.0f} kB\n", out.string(), runs.size(), runs.size() > 1 ? "s" : "", double(page.size()) / 1000);
  return 0;
}

}  // namespace

void report_command(CLI::App& program, Common& common) {
  auto o = std::make_shared<Options>();
  CLI::App& app = *program.add_subcommand("report", "Runs as one self-contained HTML page: losses, spectra, evaluations, configurations");
  app.add_option("RUN", o->runs, "Run directories; a run may still be training")->required();
  app.add_option("-o,--output", o->out, "The file to write (of one run: report.html in its directory)");
  app.add_option("--title", o->title, "The page's heading (the runs' names)");
  app.callback([=, &common] { common.chosen = [=, &common] { return report(*o, common); }; });
}

}  // namespace taper
