// RULER's families: one maker for each, for data/tasks/ruler.cpp.
#pragma once
#include "data/tasks/draws.h"
#include "data/tasks/ruler.h"

namespace taper::ruler {

std::unique_ptr<RulerTask> make_niah(const std::string& name, const RulerMaterials& m, const RulerOptions& o);
std::unique_ptr<RulerTask> make_vt(const RulerMaterials& m, const RulerOptions& o);
std::unique_ptr<RulerTask> make_cwe(const RulerMaterials& m, const RulerOptions& o);
std::unique_ptr<RulerTask> make_fwe(const RulerMaterials& m, const RulerOptions& o);
std::unique_ptr<RulerTask> make_qa(const std::string& name, const RulerMaterials& m, const RulerOptions& o);

std::string join(const std::vector<std::string>& parts, std::string_view between);
std::string joined(std::string_view prompt, std::string_view prefix, std::string_view joint = " ");  // nothing between them where there is whitespace

}  // namespace taper::ruler
