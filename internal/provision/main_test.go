package provision_test

import (
	"flag"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// histories is how many histories the property test tries, unless
// -rapid.checks says otherwise. One takes a few
// milliseconds under -race.
const histories = "600"

func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		flag.Set("rapid.checks", histories)
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			os.Stderr.WriteString(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}
