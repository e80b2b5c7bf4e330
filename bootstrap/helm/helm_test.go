package helm

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	kubefake "helm.sh/helm/v3/pkg/kube/fake"
	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/ropes-dev/ropes/bootstrap/rollout"
)

const workload = `
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}-{{ .Values.color }}
  namespace: {{ .Release.Namespace }}
---
apiVersion: v1
kind: Service
metadata:
  name: front
`

func chartFiles() fstest.MapFS {
	return fstest.MapFS{
		"Chart.yaml":               {Data: []byte("apiVersion: v2\nname: app\nversion: 0.1.0\n")},
		"values.yaml":              {Data: []byte("color: red\n")},
		"templates/workload.yaml":  {Data: []byte(workload)},
		"templates/_helpers.tpl":   {Data: []byte(`{{- define "x" }}{{ end }}`)},
		"templates/more/nest.yaml": {Data: []byte("")},
	}
}

func testRelease() Release {
	return Release{Name: "app", Namespace: "home", Labels: map[string]string{"istio-injection": "enabled"}, Chart: chartFiles()}
}

// bench is a Client on a cluster that takes everything, with releases kept in memory.
type bench struct {
	*Client
	config *action.Configuration
	kube   *kubefake.FailingKubeClient
}

func newBench() *bench {
	memory := driver.NewMemory()
	memory.SetNamespace("home")
	kube := &kubefake.FailingKubeClient{PrintingKubeClient: kubefake.PrintingKubeClient{Out: io.Discard, LogOutput: io.Discard}}
	config := &action.Configuration{
		Releases:     storage.Init(memory),
		KubeClient:   kube,
		Capabilities: chartutil.DefaultCapabilities,
		Log:          func(string, ...any) {},
	}
	return &bench{
		Client: &Client{kube: fake.NewClientset(), config: func(string) (*action.Configuration, error) { return config, nil }},
		config: config,
		kube:   kube,
	}
}

// history is the status of every revision, oldest first.
func (b *bench) history(t *testing.T) []release.Status {
	t.Helper()
	revisions, err := b.config.Releases.History("app")
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	found := make([]release.Status, len(revisions))
	for _, r := range revisions {
		found[r.Version-1] = r.Info.Status
	}
	return found
}

func (b *bench) apply(t *testing.T, rel Release) []rollout.Deployment {
	t.Helper()
	found, err := b.Apply(t.Context(), rel)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (b *bench) wantHistory(t *testing.T, want ...release.Status) {
	t.Helper()
	if diff := cmp.Diff(want, b.history(t)); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

func TestApply(t *testing.T) {
	b := newBench()
	got := b.apply(t, testRelease())
	if diff := cmp.Diff([]rollout.Deployment{{Namespace: "home", Name: "app-red"}}, got); diff != "" {
		t.Errorf("Deployments (-want +got):\n%s", diff)
	}
	b.wantHistory(t, release.StatusDeployed)
	ns, err := b.Client.kube.CoreV1().Namespaces().Get(t.Context(), "home", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ns.Labels["istio-injection"] != "enabled" {
		t.Errorf("the namespace is labelled %v", ns.Labels)
	}
}

func TestApplyAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Release)
		want   []release.Status
	}{
		"same":  {func(*Release) {}, []release.Status{release.StatusDeployed}},
		"value": {func(r *Release) { r.Values = map[string]any{"color": "blue"} }, []release.Status{release.StatusSuperseded, release.StatusDeployed}},
		"chart": {func(r *Release) {
			files := maps.Clone(chartFiles())
			files["templates/more/nest.yaml"] = &fstest.MapFile{Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new}\n")}
			r.Chart = files
		}, []release.Status{release.StatusSuperseded, release.StatusDeployed}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench()
			b.apply(t, testRelease())
			again := testRelease()
			tc.change(&again)
			b.apply(t, again)
			b.wantHistory(t, tc.want...)
			b.apply(t, again)
			b.wantHistory(t, tc.want...)
		})
	}
}

func TestApplyForgetsValuesOfBefore(t *testing.T) {
	b := newBench()
	blue := testRelease()
	blue.Values = map[string]any{"color": "blue"}
	b.apply(t, blue)
	got := b.apply(t, testRelease())
	if diff := cmp.Diff([]rollout.Deployment{{Namespace: "home", Name: "app-red"}}, got); diff != "" {
		t.Errorf("Deployments (-want +got):\n%s", diff)
	}
}

// A process that is killed leaves the newest revision in the state that it was in.
func TestApplyAfterAKill(t *testing.T) {
	for name, tc := range map[string]struct {
		left release.Status
		want []release.Status
	}{
		"install":   {release.StatusPendingInstall, []release.Status{release.StatusFailed, release.StatusDeployed}},
		"upgrade":   {release.StatusPendingUpgrade, []release.Status{release.StatusFailed, release.StatusDeployed}},
		"failed":    {release.StatusFailed, []release.Status{release.StatusFailed, release.StatusDeployed}},
		"uninstall": {release.StatusUninstalling, []release.Status{release.StatusDeployed}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench()
			b.apply(t, testRelease())
			last, err := b.config.Releases.Last("app")
			if err != nil {
				t.Fatal(err)
			}
			last.SetStatus(tc.left, "")
			if err := b.config.Releases.Update(last); err != nil {
				t.Fatal(err)
			}
			got := b.apply(t, testRelease())
			// Superseded is what Helm makes of a revision that it went on from.
			history := b.history(t)
			if len(history) == 2 && history[0] == release.StatusSuperseded {
				history[0] = release.StatusFailed
			}
			if diff := cmp.Diff(tc.want, history); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			if len(got) != 1 {
				t.Errorf("Deployments %v", got)
			}
		})
	}
}

func TestApplyThatFailsCanBeRepeated(t *testing.T) {
	b := newBench()
	b.apply(t, testRelease())
	quota := errors.New("quota exceeded")
	b.kube.UpdateError = quota
	blue := testRelease()
	blue.Values = map[string]any{"color": "blue"}
	if _, err := b.Apply(t.Context(), blue); !errors.Is(err, quota) || !strings.Contains(err.Error(), "release app") {
		t.Errorf("got %v, want %v and the release", err, quota)
	}
	b.wantHistory(t, release.StatusDeployed, release.StatusFailed)
	b.kube.UpdateError = nil
	b.apply(t, blue)
	b.wantHistory(t, release.StatusSuperseded, release.StatusFailed, release.StatusDeployed)
}

func TestApplyUnderAnEndedContext(t *testing.T) {
	b := newBench()
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted)
	if _, err := b.Apply(ctx, testRelease()); !errors.Is(err, interrupted) {
		t.Errorf("got %v, want %v", err, interrupted)
	}
	b.wantHistory(t)
}

func TestUninstall(t *testing.T) {
	b := newBench()
	b.apply(t, testRelease())
	for range 2 { // the second finds nothing, which is no error
		if err := b.Uninstall(t.Context(), "app", "home"); err != nil {
			t.Fatal(err)
		}
		b.wantHistory(t)
	}
	b.apply(t, testRelease())
	b.wantHistory(t, release.StatusDeployed)
}

func TestBrokenChart(t *testing.T) {
	for name, tc := range map[string]struct {
		files fs.FS
		want  string
	}{
		"no Chart.yaml":   {fstest.MapFS{"values.yaml": {Data: []byte("a: b\n")}}, "Chart.yaml"},
		"broken template": {fstest.MapFS{"Chart.yaml": chartFiles()["Chart.yaml"], "templates/x.yaml": {Data: []byte("{{ nope }}")}}, "templates/x.yaml:1"},
	} {
		t.Run(name, func(t *testing.T) {
			rel := testRelease()
			rel.Chart = tc.files
			if _, err := newBench().Apply(t.Context(), rel); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "release app") {
				t.Errorf("got %v, want an error with %q and the release", err, tc.want)
			}
			if _, err := Render(rel); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Render: got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestRenderUsesValues(t *testing.T) {
	rel := testRelease()
	rel.Values = map[string]any{"color": "blue"}
	text, err := Render(rel)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text, "name: app-blue") || !strings.Contains(text, "namespace: home") {
		t.Errorf("rendered:\n%s", text)
	}
}

func TestDeploymentsIn(t *testing.T) {
	manifest := `---
# Source: x
apiVersion: apps/v1
kind: Deployment
metadata: {name: a, namespace: there}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: b}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: c}
`
	want := []rollout.Deployment{{Namespace: "there", Name: "a"}, {Namespace: "home", Name: "b"}}
	if diff := cmp.Diff(want, deploymentsIn(manifest, "home")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestUnreadableKubeconfig(t *testing.T) {
	for name, kubeconfig := range map[string]string{"empty": "", "noise": "}{"} {
		if _, err := New([]byte(kubeconfig), nil); err == nil || !strings.Contains(err.Error(), "kubeconfig") {
			t.Errorf("%s: got %v, want an error that names the kubeconfig", name, err)
		}
	}
}
