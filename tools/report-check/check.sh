#!/bin/sh
# Opens a report of `embdb retrain --report` in a headless Chromium and checks what it renders.
#
#     tools/report-check/check.sh PAGE.html [SCREENSHOT.png]
#
# Checks that the page, as the browser understands it, has every section, draws its charts with a size, stays as
# narrow as a phone, asks the network for nothing and reports no error. With SCREENSHOT.png also takes its pictures: light and dark
# (SCREENSHOT.png, SCREENSHOT.dark.png), and on a phone (SCREENSHOT.phone.png). CHROMIUM names the browser.
set -eu

page=$(realpath "$1")
picture=${2:-}
browser=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [ -z "$browser" ]; then
    echo "report-check: there is no Chromium here; set CHROMIUM to its path" >&2
    exit 3
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# All names lead nowhere, so that whatever the page asks of the network fails and is told.
open() {
    timeout 120 "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --disable-dev-shm-usage \
        --user-data-dir="$work/profile" --host-resolver-rules='MAP * ~NOTFOUND' --enable-logging=stderr --v=0 "$@"
}

fail() {
    echo "report-check: $page: $1" >&2
    exit 1
}

# The probe is a page around the report: it measures the report in a frame as wide as a phone and writes what it found as
# text. Frames of local files may look into each other only with the flag below; the report itself may run no script.
cat > "$work/probe.html" <<PROBE
<!DOCTYPE html><meta charset="utf-8"><title>probe</title>
<iframe id="frame" width="360" height="800" src="file://$page"></iframe><pre id="found">nothing</pre>
<script>
addEventListener("load", () => {
    const inside = document.getElementById("frame").contentDocument, root = inside.documentElement;
    const charts = [...inside.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect());
    const seen = selector => [...inside.querySelectorAll(selector)].length;
    const line = (name, value) => name + "=" + value + ";";
    document.getElementById("found").textContent = [
        line("sections", ["quality", "training", "queries", "spent"].every(id => inside.getElementById(id))),
        line("charts", charts.length),
        line("drawn", charts.every(box => box.width > 200 && box.height > 20)),
        line("narrow", root.scrollWidth <= 360),
        line("verdicts", seen(".verdict")),
        line("scripts", seen("script, img, link, iframe, object")),
        line("letters", root.innerText.length > 200),
        line("styled", getComputedStyle(inside.querySelector(".verdict")).borderTopWidth === "1px"),
    ].join("\n");
});
</script>
PROBE

open --allow-file-access-from-files --virtual-time-budget=3000 --dump-dom "file://$work/probe.html" \
    > "$work/dom" 2> "$work/log" || fail "the browser does not open it"
for wanted in 'sections=true;' 'drawn=true;' 'narrow=true;' 'verdicts=1;' 'scripts=0;' 'letters=true;' 'styled=true;'; do
    grep -qF "$wanted" "$work/dom" || fail "not $wanted but $(sed -n '/<pre/,/<\/pre/p' "$work/dom" | tr '\n' ' ')"
done
open --virtual-time-budget=3000 --dump-dom "file://$page" > "$work/dom" 2> "$work/log" || fail "the browser does not open it"
if grep -E 'CONSOLE|ERR_|Refused to' "$work/log" >&2; then
    fail "the browser complains"
fi
if [ -n "$picture" ]; then
    base=${picture%.png}
    open --window-size=1000,2600 --screenshot="$base.png" "file://$page" 2> "$work/log"
    open --window-size=1000,2600 --blink-settings=preferredColorScheme=0 --screenshot="$base.dark.png" "file://$page" 2> "$work/log"
    # A window of headless Chromium is at least 500 wide: the phone is a frame of 360.
    printf '<!DOCTYPE html><body style="margin:0"><iframe width="360" height="3200" style="border:0" src="file://%s"></iframe>' "$page" > "$work/phone.html"
    open --window-size=500,3200 --screenshot="$base.phone.png" "file://$work/phone.html" 2> "$work/log"
fi
echo "report-check: $page renders"
