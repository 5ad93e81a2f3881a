# Reads `go test -json` and prints what `go test` would: a line a package, and
# the output of what failed. Then it counts, because a lane that ran nothing or
# skipped quietly looks the same as a lane that passed.
#
#   -v lane=NAME    stands before the numbers
#   -v need=1       fail if no test passed
#   -v allow=REGEX  a skip whose output matches is expected; any other one fails
#
# Written for POSIX awk: Debian has mawk.

# field returns the string value of a key in the JSON object of this line. The
# values that matter here are strings, and go test writes one object per line.
function field(key,    at, rest, out, c) {
    at = index($0, "\"" key "\":\"")
    if (at == 0) return ""
    rest = substr($0, at + length(key) + 4)
    # Up to the first quote that is not escaped.
    if (match(rest, /^([^"\\]|\\.)*/) == 0) return ""
    rest = substr(rest, 1, RLENGTH)
    out = ""
    while ((at = index(rest, "\\")) > 0) {
        out = out substr(rest, 1, at - 1)
        c = substr(rest, at + 1, 1)
        if (c == "u") {
            c = tolower(substr(rest, at + 2, 4))
            out = out (c == "003c" ? "<" : c == "003e" ? ">" : c == "0026" ? "&" : "?")
            rest = substr(rest, at + 6)
            continue
        }
        out = out (c == "n" ? "\n" : c == "t" ? "\t" : c == "r" ? "" : c)
        rest = substr(rest, at + 2)
    }
    return out rest
}

# Not JSON: for example a message of the go command itself.
!/^\{/ { print; next }

{
    action = field("Action")
    package = field("Package")
    test = field("Test")
    id = package "." test
}

action == "build-output" { printf "%s", field("Output"); next }

action == "output" {
    text = field("Output")
    if (test != "") output[id] = output[id] text
    else if (text ~ /^-test.shuffle/) order[package] = text # told if the package fails
    else if (text !~ /^PASS\n$/) printf "%s", text
    next
}

action == "run" { running[id] = package; next }

test != "" && (action == "pass" || action == "fail" || action == "skip") {
    delete running[id]
    count[action]++
    if (action == "fail") printf "%s", output[id]
    if (action == "skip") {
        if (allow != "" && output[id] ~ allow) expected++
        else unexpected[++nUnexpected] = id "\n" output[id]
    }
    delete output[id]
    next
}

# A panic or a timeout ends a package without saying what became of its tests.
test == "" && action == "fail" {
    failedPackages++
    printf "%s", order[package]
    for (id in running) if (running[id] == package) { count["fail"]++; printf "%s", output[id]; delete running[id] }
    next
}

test == "" && (action == "pass" || action == "skip") { packages++ }

END {
    for (i = 1; i <= nUnexpected; i++) printf "unexpected skip: %s", unexpected[i]
    if (expected > 0) printf "%s lane: %d skips were expected (%s)\n", lane, expected, allow
    printf "%s: %d passed, %d failed, %d skipped\n", lane, count["pass"], count["fail"], count["skip"]
    bad = 0
    if (failedPackages > 0) { printf "%s lane: %d packages failed\n", lane, failedPackages; bad = 1 }
    if (nUnexpected > 0) { printf "%s lane: %d tests were skipped that must run\n", lane, nUnexpected; bad = 1 }
    if (need && count["pass"] == 0) { printf "%s lane: no test ran\n", lane; bad = 1 }
    exit bad
}
