package cel_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/checks/cel"
)

func eval(t *testing.T, source string, want cel.Result, vars map[string]any) (any, error) {
	t.Helper()
	names := []string{"ns", "pods", "page", "unused"}
	c, err := cel.NewCompiler(names)
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Compile(source, want)
	if err != nil {
		t.Fatalf("compile %q: %v", source, err)
	}
	return p.Eval(vars)
}

var (
	pod = map[string]any{
		"kind": "Pod", "metadata": map[string]any{"name": "p", "labels": map[string]any{"app": "web"}},
		"spec":   map[string]any{"containers": []any{map[string]any{"resources": map[string]any{"requests": map[string]any{"cpu": "500m"}}}}},
		"status": map[string]any{"conditions": []any{map[string]any{"type": "Ready", "status": "True"}}},
	}
	deployment = map[string]any{
		"kind": "Deployment", "metadata": map[string]any{"generation": int64(2)}, "spec": map[string]any{"replicas": int64(2)},
		"status": map[string]any{"observedGeneration": int64(2), "replicas": int64(2), "updatedReplicas": int64(2), "availableReplicas": int64(2)},
	}
)

func TestEval(t *testing.T) {
	vars := map[string]any{
		"ns": pod, "pods": []any{pod, pod}, "unused": nil,
		"page": map[string]any{"ok": true, "status": int64(200), "json": map[string]any{"n": 1.0}},
	}
	for source, want := range map[string]bool{
		`ns.metadata.labels.app == "web"`:          true,
		`unused == null`:                           true,
		`unused.?metadata.?name.orValue("") == ""`: true,
		`quantity(ns.spec.containers[0].resources.requests.cpu).compareTo(quantity("0.5"))==0`: true,
		`pods.all(p, ready(p)) && size(pods) == 2`:                                             true,
		`condition(ns, "Ready") == "True" && condition(unused, "Ready") == ""`:                 true,
		`ready(unused)`:                             false,
		`page.status == 200 && page.ok`:             true,
		`page.json.n == 1`:                          true,
		`ns.metadata.name.find("[a-z]") == "p"`:     true,
		`cidr("10.0.0.0/8").containsIP("10.1.2.3")`: true,
	} {
		got, err := eval(t, source, cel.Bool, vars)
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", source, got, err, want)
		}
	}
	if got, err := eval(t, `ready(ns)`, cel.Bool, map[string]any{"ns": deployment}); err != nil || got != true {
		t.Errorf("ready(deployment): %v, %v", got, err)
	}
}

func TestEvalAbsent(t *testing.T) {
	vars := map[string]any{"ns": pod, "pods": []any{}, "unused": nil, "page": map[string]any{"status": int64(1)}}
	for _, source := range []string{`ns.spec.nothing == 1`, `unused.metadata.name == "x"`, `pods[0].kind == "Pod"`, `ns.metadata.labels["team"] == "a"`} {
		if _, err := eval(t, source, cel.Bool, vars); !errors.Is(err, checks.ErrAbsent) {
			t.Errorf("%s: got %v, want ErrAbsent", source, err)
		}
	}
	for _, source := range []string{`page.status.startsWith("2")`, `page.status`, `quantity(ns.metadata.name) == quantity("1")`} {
		if _, err := eval(t, source, cel.Bool, vars); err == nil || errors.Is(err, checks.ErrAbsent) {
			t.Errorf("%s: got %v, want an error other than ErrAbsent", source, err)
		}
	}
}

func TestEvalString(t *testing.T) {
	vars := map[string]any{"ns": pod, "unused": nil}
	for source, want := range map[string]string{
		`"app is " + ns.metadata.labels.app`: "app is web",
		`size(ns.spec.containers)`:           "1",
		`ns.metadata.labels`:                 `{"app":"web"}`,
		`ns.?metadata.?name`:                 "p",
	} {
		if got, err := eval(t, source, cel.String, vars); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %s", source, got, err, want)
		}
	}
	if _, err := eval(t, `unused.?name`, cel.String, vars); !errors.Is(err, checks.ErrAbsent) {
		t.Errorf("empty optional: got %v, want ErrAbsent", err)
	}
}

func TestCompile(t *testing.T) {
	c, err := cel.NewCompiler([]string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Compile(`b != null && [1].all(x, x > 0) && b.c == "a"`, cel.Bool)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"b"}, p.Vars()); d != "" {
		t.Errorf("vars: %s", d)
	}
	for source, line := range map[string]int{"a ==": 1, "a == 1\n&& nope == 2": 2, `"text"`: 1, `quantity(`: 1, "1 + \"x\" == 2": 1} {
		_, err := c.Compile(source, cel.Bool)
		var issues cel.IssuesError
		if !errors.As(err, &issues) || issues[0].Line != line {
			t.Errorf("%q: got %v, want an issue in line %d", source, err, line)
		}
	}
}
