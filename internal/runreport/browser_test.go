//go:build browser

package runreport

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"image"
	"image/color"
	"image/png"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// required makes a machine without a browser fail the test; see the Makefile.
var required = flag.Bool("require", false, "fail where there is no browser, instead of skipping")

// pagePath names a page of a real run, to be opened beside the example.
var pagePath = flag.String("page", "", "a report to open in the browser as well")

// shotsPath keeps the screenshots, for people to look at.
var shotsPath = flag.String("shots", "", "a directory to leave the screenshots in")

// browsers are tried in this order.
var browsers = []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"}

// browserTime bounds one start of the browser.
const browserTime = time.Minute

func browser(t *testing.T) string {
	t.Helper()
	for _, name := range browsers {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if *required {
		t.Fatalf("a browser is required and there is none of %s", strings.Join(browsers, ", "))
	}
	t.Skipf("there is none of %s", strings.Join(browsers, ", "))
	return ""
}

// TestBrowser opens pages as people do, without a network.
func TestBrowser(t *testing.T) {
	t.Parallel()

	exe := browser(t)
	var made bytes.Buffer
	if err := Write(&made, example()); err != nil {
		t.Fatal(err)
	}
	pages := map[string][]byte{"example": made.Bytes()}
	if *pagePath != "" {
		page, err := os.ReadFile(*pagePath)
		if err != nil {
			t.Fatal(err)
		}
		pages["run"] = page
	}
	for name, page := range pages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "page.html")
			if err := os.WriteFile(path, page, 0o600); err != nil {
				t.Fatal(err)
			}
			checkDOM(t, exe, path, page)
			for _, wide := range []int{1280, 400} {
				for _, dark := range []bool{false, true} {
					shot(t, exe, path, name, image.Pt(wide, 900), dark)
				}
			}
		})
	}
}

// checkDOM looks whether the browser understood the page as it was meant.
func checkDOM(t *testing.T, exe, path string, page []byte) {
	t.Helper()
	dom := open(t, exe, path, "--dump-dom")
	for _, part := range []string{`<details class="order">`, "<tr>", "<li>", "<figure>", "<rect ", "<use ", "<pattern ", "<title>"} {
		want, got := bytes.Count(page, []byte(part)), bytes.Count(dom, []byte(part))
		if want == 0 || got != want {
			t.Errorf("%d of %d %s are in the document that the browser made", got, want, part)
		}
	}
}

// shot takes a screenshot and looks whether something is on it.
func shot(t *testing.T, exe, path, name string, size image.Point, dark bool) {
	t.Helper()
	scheme, look := "1", "light"
	if dark {
		scheme, look = "0", "dark"
	}
	file := filepath.Join(t.TempDir(), "shot.png")
	if *shotsPath != "" {
		file = filepath.Join(*shotsPath, name+"-"+strconv.Itoa(size.X)+"-"+look+".png")
	}
	open(t, exe, path, "--screenshot="+file, "--hide-scrollbars", "--window-size="+strconv.Itoa(size.X)+","+strconv.Itoa(size.Y),
		"--blink-settings=preferredColorScheme="+scheme)
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	picture, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("the screenshot: %v", err)
	}
	if picture.Bounds().Size() != size {
		t.Errorf("the screenshot is %v, want %v", picture.Bounds().Size(), size)
	}
	counts := make(map[color.Color]int)
	for y := range size.Y {
		for x := range size.X {
			counts[picture.At(x, y)]++
		}
	}
	paper := picture.At(1, 1)
	if written := size.X*size.Y - counts[paper]; len(counts) < 50 || written < size.X*size.Y/50 {
		t.Errorf("%s at %v: %d colours, %d pixels that are not paper", look, size, len(counts), written)
	}
	if r, _, _, _ := paper.RGBA(); (r < 0x4000) != dark {
		t.Errorf("%s at %v: the paper is %v", look, size, paper)
	}
}

// open runs the browser on a file. Whatever it asks the network for goes to a
// proxy that fails the test.
func open(t *testing.T, exe, path string, args ...string) []byte {
	t.Helper()
	proxy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 1)
	go func() {
		defer close(asked)
		for {
			c, err := proxy.Accept()
			if err != nil {
				return
			}
			head := make([]byte, 512)
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			n, _ := c.Read(head)
			c.Close()
			select {
			case asked <- string(head[:n]):
			default:
			}
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), browserTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
		"--user-data-dir=" + t.TempDir(), "--proxy-server=http://" + proxy.Addr().String(),
	}, append(args, "file://"+path)...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	proxy.Close()
	if err := errors.Join(err, ctx.Err()); err != nil {
		t.Fatalf("%s: %v\n%s", exe, err, &said)
	}
	for request := range asked {
		t.Errorf("the page made the browser ask the network: %q", request)
	}
	return out.Bytes()
}
