package deploytest

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

type dashboard struct {
	UID        string  `json:"uid"`
	Links      []link  `json:"links"`
	Panels     []panel `json:"panels"`
	Templating struct {
		List []struct {
			Name       string          `json:"name"`
			Type       string          `json:"type"`
			Query      json.RawMessage `json:"query"`
			Datasource *datasource     `json:"datasource"`
		} `json:"list"`
	} `json:"templating"`
	Annotations struct {
		List []struct {
			Name       string      `json:"name"`
			Expr       string      `json:"expr"`
			Datasource *datasource `json:"datasource"`
		} `json:"list"`
	} `json:"annotations"`
}

type link struct {
	URL string `json:"url"`
}

type panel struct {
	ID         int         `json:"id"`
	Type       string      `json:"type"`
	Title      string      `json:"title"`
	Links      []link      `json:"links"`
	Datasource *datasource `json:"datasource"`
	GridPos    struct {
		X int `json:"x"`
		Y int `json:"y"`
		W int `json:"w"`
		H int `json:"h"`
	} `json:"gridPos"`
	Targets []struct {
		RefID      string      `json:"refId"`
		Expr       string      `json:"expr"`
		Datasource *datasource `json:"datasource"`
	} `json:"targets"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

func (d *datasource) chosen() bool {
	return d != nil && d.Type == "prometheus" && d.UID == "${datasource}"
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	if err := json.Unmarshal(read(t, "deploy", "grafana", "deploy-worker.json"), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// What Grafana puts in the place of its variables.
var grafana = strings.NewReplacer("$__rate_interval", "1m", "$__interval", "1m", "$__range", "1h")

// Every panel asks the chosen data source for what the worker exports, of the
// chosen workers.
func TestDashboardQueries(t *testing.T) {
	t.Parallel()
	d, all := readDashboard(t), exported(t)
	queries := 0
	for _, p := range d.Panels {
		if p.Type == "row" {
			continue
		}
		if !p.Datasource.chosen() || len(p.Targets) == 0 {
			t.Errorf("%s does not ask the chosen data source", p.Title)
		}
		for _, target := range p.Targets {
			queries++
			if !target.Datasource.chosen() {
				t.Errorf("%s %s does not ask the chosen data source", p.Title, target.RefID)
			}
			if !strings.Contains(target.Expr, `instance=~"$instance"`) || !strings.Contains(target.Expr, `job=~"$job"`) {
				t.Errorf("%s %s does not obey the variables: %s", p.Title, target.RefID, target.Expr)
			}
			checkQuery(t, p.Title, grafana.Replace(target.Expr), all)
		}
	}
	for _, a := range d.Annotations.List {
		if !a.Datasource.chosen() {
			t.Errorf("the annotation %s does not ask the chosen data source", a.Name)
		}
		checkQuery(t, "the annotation "+a.Name, grafana.Replace(a.Expr), all)
	}
	if queries < 40 {
		t.Errorf("only %d queries", queries)
	}
}

var labelValues = regexp.MustCompile(`label_values\((.*), (\w+)\)`)

func TestDashboardVariables(t *testing.T) {
	t.Parallel()
	d, all := readDashboard(t), exported(t)
	kinds := make(map[string]string)
	for _, v := range d.Templating.List {
		kinds[v.Name] = v.Type
		if v.Type == "query" && !v.Datasource.chosen() {
			t.Errorf("the variable %s does not ask the chosen data source", v.Name)
		}
		if m := labelValues.FindSubmatch(v.Query); m != nil {
			checkQuery(t, "the variable "+v.Name, strings.ReplaceAll(string(m[1]), `\"`, `"`), all)
		} else if v.Type == "query" {
			t.Errorf("the variable %s asks for nothing: %s", v.Name, v.Query)
		}
	}
	for name, kind := range map[string]string{"datasource": "datasource", "job": "query", "instance": "query"} {
		if kinds[name] != kind {
			t.Errorf("the variable %s is %q, want %s", name, kinds[name], kind)
		}
	}
}

// Panels have ids of their own and do not lie upon each other.
func TestDashboardLayout(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	ids, taken := make(map[int]bool), make(map[[2]int]string)
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: the id is taken, or there is no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.X < 0 || g.W < 1 || g.X+g.W > 24 || g.H < 1 {
			t.Errorf("%s does not fit the grid: %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other, ok := taken[[2]int{x, y}]; ok {
					t.Fatalf("%s lies upon %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

// Links lead to sections of documents that exist, and every alert has a panel
// that leads to its section.
func TestDashboardLinks(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	const docs = "https://github.com/hostup/deploy-worker/blob/main/docs/"
	linked := make(map[string]bool)
	follow := func(where, url string) {
		page, section, _ := strings.Cut(strings.TrimPrefix(url, docs), "#")
		if !strings.HasPrefix(url, docs) || section != "" && !headings(t, "docs", page)[section] {
			t.Errorf("%s links to %s, which does not exist", where, url)
		}
		read(t, "docs", page)
		linked[section] = true
	}
	for _, l := range d.Links {
		follow("the dashboard", l.URL)
	}
	for _, p := range d.Panels {
		for _, l := range p.Links {
			follow(p.Title, l.URL)
		}
	}
	for _, r := range rules(t) {
		if name := strings.ToLower(r.Alert); !linked[name] && name != "deployworkerinstancedown" {
			t.Errorf("no panel leads to the section of %s", r.Alert)
		}
	}
}
