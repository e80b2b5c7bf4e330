package samples

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/ropes-dev/ropes/bootstrap/helm"
	"github.com/ropes-dev/ropes/charts"
)

var update = flag.Bool("update", false, "write the golden files anew")

// render gives the text and the objects of one sample.
func render(t *testing.T, name string, values map[string]any) (string, []unstructured.Unstructured) {
	t.Helper()
	i := slices.IndexFunc(apps(), func(a app) bool { return a.name == name })
	rel, err := apps()[i].release(Config{Values: map[string]map[string]any{name: values}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := helm.Render(rel)
	if err != nil {
		t.Fatal(err)
	}
	var objects []unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		var o unstructured.Unstructured
		switch err := decoder.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return text, objects
		case err != nil:
			t.Fatalf("%s is no YAML: %v", name, err)
		case len(o.Object) > 0:
			objects = append(objects, o)
		}
	}
}

// as converts, and refuses fields that the type does not have.
func as[T any](t *testing.T, o unstructured.Unstructured) T {
	t.Helper()
	var typed T
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &typed, true); err != nil {
		t.Fatalf("%s %s: %v", o.GetKind(), o.GetName(), err)
	}
	return typed
}

func deploymentsOf(t *testing.T, objects []unstructured.Unstructured) []appsv1.Deployment {
	t.Helper()
	var found []appsv1.Deployment
	for _, o := range objects {
		if o.GetKind() == "Deployment" {
			found = append(found, as[appsv1.Deployment](t, o))
		}
	}
	return found
}

func TestEveryChartIsASample(t *testing.T) {
	entries, err := fs.ReadDir(charts.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	var have, want []string
	for _, e := range entries {
		have = append(have, e.Name())
	}
	for _, a := range apps() {
		want = append(want, a.name)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("-samples +charts:\n%s", diff)
	}
}

func TestGolden(t *testing.T) {
	for _, a := range apps() {
		t.Run(a.name, func(t *testing.T) {
			got, _ := render(t, a.name, nil)
			file := filepath.Join("testdata", a.name+".yaml")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v; run the test with -update", err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("-golden +rendered; -update accepts:\n%s", diff)
			}
		})
	}
}

func TestWorkloads(t *testing.T) {
	for _, a := range apps() {
		t.Run(a.name, func(t *testing.T) {
			_, objects := render(t, a.name, nil)
			accounts := map[string]bool{}
			for _, o := range objects {
				if o.GetNamespace() != a.name {
					t.Errorf("%s %s is in namespace %q", o.GetKind(), o.GetName(), o.GetNamespace())
				}
				switch o.GetKind() {
				case "ServiceAccount":
					accounts[as[corev1.ServiceAccount](t, o).Name] = true
				case "Service":
					as[corev1.Service](t, o)
				}
			}
			for _, d := range deploymentsOf(t, objects) {
				spec := d.Spec.Template.Spec
				if !accounts[spec.ServiceAccountName] {
					t.Errorf("%s runs as %q, which the chart does not have", d.Name, spec.ServiceAccountName)
				}
				for k, v := range d.Spec.Selector.MatchLabels {
					if d.Spec.Template.Labels[k] != v {
						t.Errorf("%s selects %s=%s, its pods do not have that", d.Name, k, v)
					}
				}
				c := spec.Containers[0]
				if c.Image != "ropes.local/app:v1" || c.ImagePullPolicy != corev1.PullIfNotPresent {
					t.Errorf("%s runs %s, pulled %s", d.Name, c.Image, c.ImagePullPolicy)
				}
				if c.Resources.Requests.Cpu().IsZero() || c.Resources.Requests.Memory().IsZero() {
					t.Errorf("%s requests %v", d.Name, c.Resources.Requests)
				}
				if s := c.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser == 1337 {
					// The sidecar's own user is exempt from redirection.
					t.Errorf("%s runs under %+v", d.Name, s)
				}
			}
		})
	}
}

func TestBookinfoVersionsAndIdentities(t *testing.T) {
	_, objects := render(t, "bookinfo", nil)
	got := map[string]string{}
	for _, d := range deploymentsOf(t, objects) {
		l := d.Spec.Template.Labels
		got[d.Name] = l["app"] + " " + l["version"] + " " + d.Spec.Template.Spec.ServiceAccountName + " " + d.Spec.Template.Spec.Containers[0].Env[0].Value
	}
	want := map[string]string{
		"details-v1":     "details v1 bookinfo-details v1",
		"productpage-v1": "productpage v1 bookinfo-productpage v1",
		"ratings-v1":     "ratings v1 bookinfo-ratings v1",
		"reviews-v1":     "reviews v1 bookinfo-reviews v1",
		"reviews-v2":     "reviews v2 bookinfo-reviews v2",
		"reviews-v3":     "reviews v3 bookinfo-reviews v3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("app, version, service account, SERVICE_VERSION (-want +got):\n%s", diff)
	}
}

func TestBookinfoSwitches(t *testing.T) {
	count := func(values map[string]any, kind string) int {
		_, objects := render(t, "bookinfo", values)
		n := 0
		for _, o := range objects {
			if o.GetKind() == kind {
				n++
			}
		}
		return n
	}
	for name, tc := range map[string]struct {
		values                        map[string]any
		gateways, routes, rules, apps int
	}{
		"as it comes":       {nil, 1, 1, 0, 6},
		"destination rules": {map[string]any{"destinationRules": true}, 1, 1, 4, 6},
		"no gateway":        {map[string]any{"gateway": map[string]any{"enabled": false}}, 0, 0, 0, 6},
		"one reviews":       {map[string]any{"services": map[string]any{"reviews": map[string]any{"versions": []any{"v1"}}}}, 1, 1, 0, 4},
	} {
		t.Run(name, func(t *testing.T) {
			got := []int{count(tc.values, "Gateway"), count(tc.values, "VirtualService"), count(tc.values, "DestinationRule"), count(tc.values, "Deployment")}
			if diff := cmp.Diff([]int{tc.gateways, tc.routes, tc.rules, tc.apps}, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestOnlyOutsideIsOutside(t *testing.T) {
	for _, a := range apps() {
		_, objects := render(t, a.name, nil)
		out := a.name == "outside"
		if got := a.injection == "disabled"; got != out {
			t.Errorf("namespace %s: injection %s", a.name, a.injection)
		}
		for _, d := range deploymentsOf(t, objects) {
			if got := d.Spec.Template.Labels["sidecar.istio.io/inject"] == "false"; got != out {
				t.Errorf("%s/%s refuses a sidecar: %v", a.name, d.Name, got)
			}
		}
		for _, o := range objects {
			if o.GetKind() == "Service" && (o.GetAnnotations()["networking.istio.io/exportTo"] == "~") != out {
				t.Errorf("service %s/%s is hidden from the mesh: %v", a.name, o.GetName(), !out)
			}
		}
	}
}

func TestOpen(t *testing.T) {
	const whole = "<p>Served by <code>reviews</code> v1</p><footer>Served by <code>productpage</code></footer>"
	for name, tc := range map[string]struct {
		status     int
		page, want string
	}{
		"whole":         {200, whole, ""},
		"no route":      {404, whole, "answers 404 Not Found"},
		"somebody else": {200, "You have reached a service that stands beyond the mesh.", "is somebody else's"},
		"without a part": {
			200, "<p class=\"sorry\">Sorry, product reviews are currently unavailable for this book.</p>" + whole,
			"says: Sorry, product reviews are currently unavailable",
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				io.WriteString(w, tc.page)
			}))
			defer server.Close()
			err := Open(t.Context(), server.URL)
			if got := fmt.Sprint(err); (err == nil) != (tc.want == "") || !strings.Contains(got, tc.want) && err != nil {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if err := Open(t.Context(), "http://127.0.0.1:1/"); err == nil {
		t.Error("a page that nobody serves came")
	}
}
