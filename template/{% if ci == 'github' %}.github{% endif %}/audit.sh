#!/usr/bin/env bash
# Looks for known vulnerabilities of the packages in uv.lock, by OSV. Exits with 1 if there is one. If the source does not
# answer, the run warns and its summary shows that: a source that is down must not look like a clean result.
#
#   bash .github/audit.sh --ignore GHSA-xxxx-xxxx-xxxx    # one that does not affect you; write the reason beside it
set -uo pipefail

if [ -f uv.lock ]; then set -- --locked "$@"; fi
uv audit --preview-features audit-command "$@"
code=$?

if [ "$code" -eq 1 ]; then
    echo "::error title=Known vulnerabilities::Update what is listed above, or ignore it by its id in .github/audit.sh."
elif [ "$code" -ne 0 ]; then
    said="uv audit ended with $code before it had an answer: no dependency was looked up."
    echo "::warning title=Nothing was audited::$said"
    echo "**Nothing was audited.** $said" >> "${GITHUB_STEP_SUMMARY:-/dev/null}"
    code=0
fi
exit "$code"
