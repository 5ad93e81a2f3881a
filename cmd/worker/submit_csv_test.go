package main

import "testing"

// What begins with one of these is calculated by spreadsheets (OWASP, CSV
// injection); what does not must come out as it is.
func TestInert(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "", "vps_1": "vps_1", "a=b": "a=b", "'=1": "'=1",
		"=HYPERLINK(\"x\")": "'=HYPERLINK(\"x\")", "+1": "'+1", "-1": "'-1", "@SUM(1)": "'@SUM(1)", "\t=1": "'\t=1", "\r=1": "'\r=1",
	} {
		if got := inert(text); got != want {
			t.Errorf("inert(%q) = %q, want %q", text, got, want)
		}
	}
}
