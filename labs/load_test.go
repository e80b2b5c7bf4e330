package labs_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/ropes-dev/ropes/labs"
)

// sound is a lab with nothing wrong.
const sound = `id: demo
title: Demo
summary: A lab.
minutes: 5
namespaces: [demo]
steps:
  - id: make
    title: Make it
    hints: [Think.]
    objects:
      ns: {apiVersion: v1, kind: Namespace, name: demo}
    checks:
      - id: there
        description: It is there
        expr: ns != null
        want: a namespace demo
        why: It has to be there.
        next: kubectl create namespace demo
        mistakes:
          - id: wrong-label
            when: ns != null
            why: Wrong.
            next: Right.
`

func demo(yaml string) fstest.MapFS {
	return fstest.MapFS{
		"demo/lab.yaml":                     {Data: []byte(yaml)},
		"demo/steps/01-make.md":             {Data: []byte("# Make it\n")},
		"demo/solve/make.sh":                {Data: []byte("kubectl create ns demo\n")},
		"demo/mistakes/make.wrong-label.sh": {Data: []byte("true\n")},
		"demo/baseline/a.yaml":              {Data: []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: demo}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: demo}\ndata: {a: b}\n")},
	}
}

func TestLoad(t *testing.T) {
	cat, err := labs.Load(labs.Source{Name: "here", FS: demo(sound)})
	if err != nil {
		t.Fatal(err)
	}
	lab, ok := cat.Lab("demo")
	if !ok {
		t.Fatal("no lab demo")
	}
	step, ok := lab.Step("make")
	if !ok {
		t.Fatal("no step make")
	}
	want := []labs.Script{{Mistake: "wrong-label", Check: "there", Body: "true\n"}}
	if d := cmp.Diff(want, step.Mistakes); d != "" {
		t.Error(d)
	}
	if step.Text != "# Make it\n" || len(lab.Baseline) != 2 || lab.Source != "here" {
		t.Errorf("text %q, %d baseline objects, source %q", step.Text, len(lab.Baseline), lab.Source)
	}
	if got := step.Checks[0].Expr.Program.Vars(); !cmp.Equal(got, []string{"ns"}) {
		t.Errorf("vars of expr: %v", got)
	}
}

func TestLoadComplains(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(fs fstest.MapFS)
		edit   [2]string
		want   []string
	}{
		"unknown field":   {edit: [2]string{"    title: Make it\n", "    title: Make it\n    titel: x\n"}, want: []string{`here/demo/lab.yaml:9: steps[0]: unknown field "titel"; known are checks, hints, id,`}},
		"bad yaml":        {edit: [2]string{"title: Demo", "title: [Demo"}, want: []string{"here/demo/lab.yaml:"}},
		"wrong type":      {edit: [2]string{"minutes: 5", "minutes: soon"}, want: []string{`here/demo/lab.yaml:4: minutes: "soon" is not a int`}},
		"key twice":       {edit: [2]string{"minutes: 5", "minutes: 5\nminutes: 6"}, want: []string{`here/demo/lab.yaml:5: top level: "minutes" is already given in line 4`}},
		"bad CEL":         {edit: [2]string{"expr: ns != null", "expr: |\n          ns != null &&\n          nope"}, want: []string{"here/demo/lab.yaml:17: expression, column 1: undeclared reference to 'nope'"}},
		"not a bool":      {edit: [2]string{"expr: ns != null", "expr: '\"text\"'"}, want: []string{"here/demo/lab.yaml:15: expression, column 1: gives a string, not a bool"}},
		"two at once":     {edit: [2]string{"minutes: 5\n", "minutes: 0\nneeds: [moon]\n"}, want: []string{"minutes: want", `needs: unknown "moon"`}},
		"unused object":   {edit: [2]string{"    objects:\n", "    objects:\n      x: {apiVersion: v1, kind: Pod}\n"}, want: []string{`here/demo/lab.yaml:11: step make: no expression mentions object "x"`}},
		"step twice":      {edit: [2]string{"steps:\n", "steps:\n  - {id: make, title: t, hints: [h], checks: [{id: c, description: d, expr: 'true', want: w, why: y, next: n}]}\n"}, want: []string{`step "make" comes twice`}},
		"other id":        {edit: [2]string{"id: demo\n", "id: other\n"}, want: []string{`id "other" differs from the folder's name "demo"`}},
		"system":          {edit: [2]string{"[demo]", "[demo, kube-system]"}, want: []string{"kube-system belongs to the cluster"}},
		"foreign":         {edit: [2]string{"namespaces: [demo]", "namespaces: [other]"}, want: []string{"here/demo/baseline/a.yaml:1: Namespace demo: namespace demo is not listed", "here/demo/baseline/a.yaml:5: ConfigMap c"}},
		"no solution":     {change: func(fs fstest.MapFS) { delete(fs, "demo/solve/make.sh") }, want: []string{"here/demo/lab.yaml:7: here/demo/solve/make.sh is missing"}},
		"no mistake":      {change: func(fs fstest.MapFS) { delete(fs, "demo/mistakes/make.wrong-label.sh") }, want: []string{"here/demo/lab.yaml:20: here/demo/mistakes/make.wrong-label.sh is missing"}},
		"left over":       {change: func(fs fstest.MapFS) { fs["demo/mistakes/make.gone.sh"] = fs["demo/solve/make.sh"] }, want: []string{"here/demo/mistakes/make.gone.sh: belongs to no step"}},
		"wrong number":    {change: func(fs fstest.MapFS) { fs["demo/steps/02-make.md"] = fs["demo/steps/01-make.md"] }, want: []string{"here/demo/steps/02-make.md: belongs to no step"}},
		"empty":           {change: func(fs fstest.MapFS) { fs["demo/lab.yaml"].Data = nil }, want: []string{"here/demo/lab.yaml: is empty"}},
		"baseline object": {change: func(fs fstest.MapFS) { fs["demo/baseline/b.yaml"] = &fstest.MapFile{Data: []byte("kind: Pod\n")} }, want: []string{"here/demo/baseline/b.yaml:1: a baseline object needs"}},
		"two probes": {
			edit: [2]string{"        expr: ns != null", "        probes: {p: {from: host, exec: {command: [ls]}}, q: {http: {url: x}, tcp: {address: y}}}\n        expr: ns != null && p.ok && q.ok"},
			want: []string{"probe p: a command is run in a pod", "probe q: give exactly one of"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			yaml := sound
			if tt.edit[0] != "" {
				if !strings.Contains(yaml, tt.edit[0]) {
					t.Fatalf("nothing to edit: %q", tt.edit[0])
				}
				yaml = strings.Replace(yaml, tt.edit[0], tt.edit[1], 1)
			}
			fs := demo(yaml)
			if tt.change != nil {
				tt.change(fs)
			}
			cat, err := labs.Load(labs.Source{Name: "here", FS: fs})
			if err == nil || len(cat) > 0 {
				t.Fatalf("loaded %d labs, error %v", len(cat), err)
			}
			for _, w := range tt.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("complaint lacks %q:\n%v", w, err)
				}
			}
		})
	}
}

func TestLoadSeveralSources(t *testing.T) {
	single := fstest.MapFS{}
	for name, f := range demo(strings.Replace(sound, "id: demo", "id: mine", 1)) {
		single[strings.TrimPrefix(name, "demo/")] = f
	}
	cat, err := labs.Load(labs.Source{Name: "built in", FS: demo(sound)}, labs.Source{Name: "mine", FS: single})
	if err != nil || len(cat) != 2 {
		t.Fatalf("%d labs, %v", len(cat), err)
	}
	cat, err = labs.Load(labs.Source{Name: "built in", FS: demo(sound)}, labs.Source{Name: "twin", FS: demo(sound)})
	if len(cat) != 1 || err == nil || !strings.Contains(err.Error(), `twin/demo/lab.yaml:1: lab "demo" is already defined at built in/demo/lab.yaml:1`) {
		t.Errorf("%d labs, %v", len(cat), err)
	}
	if _, err = labs.Load(labs.Source{Name: "nothing", FS: fstest.MapFS{}}); err == nil {
		t.Error("a source without labs is no complaint")
	}
	if _, err = labs.Load(labs.Source{Name: "gone", FS: os.DirFS(t.TempDir() + "/gone")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
}

// TestFormatExample keeps the example of FORMAT.md loadable.
func TestFormatExample(t *testing.T) {
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```yaml\n")
	example, _, _ := strings.Cut(rest, "```")
	file := &fstest.MapFile{Data: []byte("true\n")}
	_, err = labs.Load(labs.Source{Name: "FORMAT.md", FS: fstest.MapFS{
		"namespaces/lab.yaml":                              {Data: []byte(example)},
		"namespaces/steps/01-quota.md":                     file,
		"namespaces/solve/quota.sh":                        file,
		"namespaces/mistakes/quota.limits-not-requests.sh": file,
	}})
	if err != nil {
		t.Error(err)
	}
}
