// The look of the report's page: its style sheet, and the script that answers the pointer. The page is whole without the script.
#pragma once

namespace taper {

extern const char* const report_css;
extern const char* const report_script;

}  // namespace taper
