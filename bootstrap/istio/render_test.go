package istio

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/ropes-dev/ropes/bootstrap/rollout"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with testdata/name, or writes it there.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
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
		t.Errorf("%s (-golden +rendered; -update accepts):\n%s", file, diff)
	}
}

// find decodes the one rendered object of a kind and name.
func find[T any](t *testing.T, docs []string, kind, name string) T {
	t.Helper()
	var found []T
	for _, doc := range docs {
		var head metav1.PartialObjectMetadata
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatalf("decode %.100s: %v", doc, err)
		}
		if head.Kind != kind || head.Name != name {
			continue
		}
		var o T
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("decode %s %s: %v", kind, name, err)
		}
		found = append(found, o)
	}
	if len(found) != 1 {
		t.Fatalf("%d objects are %s %s, want 1", len(found), kind, name)
	}
	return found[0]
}

func rendered(t *testing.T, cfg Config) []string {
	t.Helper()
	docs, err := Render(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

func TestRenderedObjects(t *testing.T) {
	var names []string
	var full strings.Builder
	for _, doc := range rendered(t, Config{}) {
		var head metav1.PartialObjectMetadata
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimSpace(fmt.Sprintf("%s %s %s", head.Kind, head.Namespace, head.Name)))
		// What our settings shape is kept whole; Istio's CRDs, roles and templates are its own.
		mesh := head.Kind == "ConfigMap" && head.Name == "istio"
		if mesh || head.Kind == "Deployment" || (head.Kind == "Service" && head.Namespace != SystemNamespace) {
			var o map[string]any
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				t.Fatal(err)
			}
			text, err := yaml.Marshal(o)
			if err != nil {
				t.Fatal(err)
			}
			full.WriteString("---\n" + string(text))
		}
	}
	slices.Sort(names)
	golden(t, "objects.txt", strings.Join(names, "\n")+"\n")
	golden(t, "workloads.yaml", full.String())
}

func TestRenderIsDeterministic(t *testing.T) {
	if diff := cmp.Diff(rendered(t, Config{}), rendered(t, Config{})); diff != "" {
		t.Errorf("two renderings differ:\n%s", diff)
	}
}

func TestEveryDeploymentIsWaitedFor(t *testing.T) {
	var got []rollout.Deployment
	for _, doc := range rendered(t, Config{}) {
		var d appsv1.Deployment
		if err := yaml.Unmarshal([]byte(doc), &d); err == nil && d.Kind == "Deployment" {
			got = append(got, rollout.Deployment{Namespace: d.Namespace, Name: d.Name})
		}
	}
	if diff := cmp.Diff(deployments(), got); diff != "" {
		t.Errorf("Deployments (-waited for +rendered):\n%s", diff)
	}
}

func TestImagesComeFromHubAndTag(t *testing.T) {
	docs := rendered(t, Config{Hub: "registry.example/istio", Tag: "1.31.7"})
	want := map[string]string{
		istiod:         "registry.example/istio/pilot:1.31.7",
		ingressGateway: "registry.example/istio/proxyv2:1.31.7",
		egressGateway:  "registry.example/istio/proxyv2:1.31.7",
	}
	for name, image := range want {
		d := find[appsv1.Deployment](t, docs, "Deployment", name)
		if got := d.Spec.Template.Spec.Containers[0].Image; got != image {
			t.Errorf("%s runs %s, want %s", name, got, image)
		}
	}
	// The injector has its own copy of these values.
	values := injectorValues(t, docs)
	if values.Global.Hub != "registry.example/istio" || values.Global.Tag != "1.31.7" {
		t.Errorf("sidecars come from %s and %s", values.Global.Hub, values.Global.Tag)
	}
}

func TestNothingLimitsCPUOrMemory(t *testing.T) {
	docs := rendered(t, Config{})
	for _, ref := range deployments() {
		d := find[appsv1.Deployment](t, docs, "Deployment", ref.Name)
		r := d.Spec.Template.Spec.Containers[0].Resources
		if len(r.Limits) != 0 {
			t.Errorf("%s is limited to %v", ref, r.Limits)
		}
		if r.Requests.Cpu().IsZero() || r.Requests.Memory().IsZero() {
			t.Errorf("%s requests %v", ref, r.Requests)
		}
	}
	proxy := injectorValues(t, docs).Global.Proxy.Resources
	if len(proxy.Limits) != 0 || proxy.Requests.Cpu().String() != "10m" || proxy.Requests.Memory().String() != "40Mi" {
		t.Errorf("sidecars ask for %+v", proxy)
	}
}

func TestIngressNodePorts(t *testing.T) {
	s := find[corev1.Service](t, rendered(t, Config{HTTPNodePort: 31080, HTTPSNodePort: 31443}), "Service", ingressGateway)
	if s.Namespace != IngressNamespace || s.Spec.Type != corev1.ServiceTypeNodePort {
		t.Errorf("the ingress service is a %s in %s", s.Spec.Type, s.Namespace)
	}
	got := map[string][3]int{}
	for _, p := range s.Spec.Ports {
		got[p.Name] = [3]int{int(p.Port), p.TargetPort.IntValue(), int(p.NodePort)}
	}
	want := map[string][3]int{"status-port": {15021, 15021, 0}, "http2": {80, 8080, 31080}, "https": {443, 8443, 31443}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("port, targetPort, nodePort (-want +got):\n%s", diff)
	}
}

type injected struct {
	Global struct {
		Hub, Tag string
		Proxy    struct{ Resources corev1.ResourceRequirements }
	}
}

func injectorValues(t *testing.T, docs []string) injected {
	t.Helper()
	cm := find[corev1.ConfigMap](t, docs, "ConfigMap", "istio-sidecar-injector")
	var v injected
	if err := json.Unmarshal([]byte(cm.Data["values"]), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestDigestFollowsSettings(t *testing.T) {
	digest := func(c Config) string {
		d, err := c.withDefaults().digest()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if digest(Config{}) != digest(Config{Kubeconfig: []byte("elsewhere")}) {
		t.Error("the digest depends on the cluster")
	}
	for name, c := range map[string]Config{"hub": {Hub: "h"}, "tag": {Tag: "1.32"}, "http": {HTTPNodePort: 1}, "https": {HTTPSNodePort: 1}} {
		if digest(c) == digest(Config{}) {
			t.Errorf("the digest does not depend on %s", name)
		}
	}
}

func TestNoFileIsLeft(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	rendered(t, Config{})
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 0 {
		t.Errorf("rendering left %v", left)
	}
}
