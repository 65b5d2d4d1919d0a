// The report's page: one HTML file with everything in it.
#pragma once
#include <string>
#include <vector>

#include "apps/history.h"

namespace taper {

// The same bytes for the same histories: no clock. The file says that nothing may be loaded from elsewhere.
std::string report_page(const std::vector<History>& runs, const std::string& title);

}  // namespace taper
