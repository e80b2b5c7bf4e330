package existing

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
	discoveryfake "k8s.io/client-go/discovery/fake"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/ropes-dev/ropes/bootstrap"
)

// cluster is an API server with one node, on which the given rights are denied.
func cluster(denied map[string]bool, objects ...kruntime.Object) *fake.Clientset {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n"},
		Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Allocatable: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("110"),
			},
		},
	}
	c := fake.NewClientset(append(objects, node)...)
	c.PrependReactor("create", "selfsubjectaccessreviews", func(a ktesting.Action) (bool, kruntime.Object, error) {
		r := a.(ktesting.CreateAction).GetObject().(*authorizationv1.SelfSubjectAccessReview)
		r.Status.Allowed = !denied[describe(*r.Spec.ResourceAttributes)]
		return true, r, nil
	})
	c.Discovery().(*discoveryfake.FakeDiscovery).FakedServerVersion = &version.Info{Major: "1", Minor: "36", GitVersion: "v1.36.3"}
	return c
}

func space(name, owner string) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if owner != "" {
		ns.Labels = map[string]string{bootstrap.ClusterLabel: owner}
	}
	return ns
}

func istiod(namespace string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "istiod", Labels: map[string]string{"app": "istiod"}},
		Status:     appsv1.DeploymentStatus{ReadyReplicas: 1},
	}
}

func TestExamination(t *testing.T) {
	istioGroups := []*metav1.APIResourceList{{GroupVersion: "networking.istio.io/v1"}}
	for name, tt := range map[string]struct {
		client   *fake.Clientset
		groups   []*metav1.APIResourceList
		minor    string
		useIstio bool
		check    string // whose severity and words are looked at
		severity bootstrap.Severity
		says     string
	}{
		"all is well":            {client: cluster(nil), check: "rights", severity: bootstrap.OK},
		"old":                    {client: cluster(nil), minor: "31", check: "version", severity: bootstrap.Fatal, says: "older"},
		"missing right":          {client: cluster(map[string]bool{"create namespaces": true}), check: "rights", severity: bootstrap.Fatal, says: "create namespaces"},
		"no right to CRDs":       {client: cluster(map[string]bool{"create customresourcedefinitions.apiextensions.k8s.io": true}), check: "rights", severity: bootstrap.Fatal},
		"CRDs are not needed":    {client: cluster(map[string]bool{"create customresourcedefinitions.apiextensions.k8s.io": true}, istiod("mesh")), useIstio: true, check: "rights", severity: bootstrap.OK},
		"somebody's Istio":       {client: cluster(nil, istiod("istio-system"), space("istio-system", "")), groups: istioGroups, check: "Istio", severity: bootstrap.Fatal, says: "--use-istio"},
		"somebody else's ropes":  {client: cluster(nil, istiod("istio-system"), space("istio-system", "other")), groups: istioGroups, check: "Istio", severity: bootstrap.Fatal, says: "--use-istio"},
		"its own Istio":          {client: cluster(nil, istiod("istio-system"), space("istio-system", "mine")), groups: istioGroups, check: "Istio", severity: bootstrap.OK},
		"somebody's Istio, used": {client: cluster(nil, istiod("istio-system"), space("istio-system", "")), groups: istioGroups, useIstio: true, check: "Istio", severity: bootstrap.OK},
		"used, but not there":    {client: cluster(nil), useIstio: true, check: "Istio", severity: bootstrap.Fatal, says: "no istiod"},
		"left-over CRDs":         {client: cluster(nil), groups: istioGroups, check: "Istio", severity: bootstrap.Fatal, says: "definitions"},
		"name taken":             {client: cluster(nil, space("bookinfo", "")), check: "namespaces", severity: bootstrap.Fatal, says: "bookinfo"},
		"name ours":              {client: cluster(nil, space("bookinfo", "mine")), check: "namespaces", severity: bootstrap.OK},
		"no images":              {client: cluster(nil), check: "images", severity: bootstrap.Warning, says: "ropes images save"},
		"no room": {client: cluster(nil, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "big"},
			Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("3Gi")},
			}}}},
		}), check: "room", severity: bootstrap.Warning, says: "memory 1Gi"},
	} {
		t.Run(name, func(t *testing.T) {
			d := tt.client.Discovery().(*discoveryfake.FakeDiscovery)
			d.Resources = tt.groups
			if tt.minor != "" {
				d.FakedServerVersion.Minor = tt.minor
			}
			e := examination{client: tt.client, name: "mine", useIstio: tt.useIstio, mesh: []string{"istio-system"}, spaces: []string{"istio-system", "bookinfo"}}
			found, err := e.run(t.Context(), func(string) {})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range found {
				if f.Check == tt.check {
					if f.Severity != tt.severity || !strings.Contains(f.Detail+f.Mend, tt.says) {
						t.Errorf("%+v, want %s and a word of %q", f, tt.severity, tt.says)
					}
					return
				}
			}
			t.Errorf("%s was not looked at: %+v", tt.check, found)
		})
	}
}

// TestImagesForOtherNodes: what a laptop's ropes carries does not run on every cluster's nodes.
func TestImagesForOtherNodes(t *testing.T) {
	node := func(name, arch string, ready corev1.ConditionStatus) corev1.Node {
		return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
			NodeInfo: corev1.NodeSystemInfo{Architecture: arch}, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
			Images: []corev1.ContainerImage{{Names: []string{"ropes.local/app:v1"}}},
		}}
	}
	for name, tt := range map[string]struct {
		nodes    []corev1.Node
		severity bootstrap.Severity
	}{
		"same":           {[]corev1.Node{node("a", runtime.GOARCH, "True"), node("b", "", "True")}, bootstrap.OK},
		"one other":      {[]corev1.Node{node("a", runtime.GOARCH, "True"), node("b", "s390x", "True")}, bootstrap.Warning},
		"that is not up": {[]corev1.Node{node("a", runtime.GOARCH, "True"), node("b", "s390x", "False")}, bootstrap.OK},
	} {
		t.Run(name, func(t *testing.T) {
			e := examination{nodes: tt.nodes}
			f, err := e.images(t.Context())
			if err != nil || f.Severity != tt.severity || f.Severity != bootstrap.OK && !strings.Contains(f.Detail, "b is s390x") {
				t.Errorf("%+v, %v", f, err)
			}
		})
	}
}

// TestRightsSuffice makes sure that what is asked for is what Rights grants, and that no
// rule is so wide that it could not be documented.
func TestRights(t *testing.T) {
	all, err := roles()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{labsRole, istioRole} {
		if len(all[name]) == 0 {
			t.Errorf("no rules for %s", name)
		}
		for _, r := range all[name] {
			for _, v := range r.Verbs {
				if v == "*" {
					t.Errorf("%s: every verb on %v", name, r.Resources)
				}
			}
		}
	}
}

// learner is a home with a kubeconfig of two contexts.
func learner(t *testing.T, server string) *Provider {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	text := `{"apiVersion":"v1","kind":"Config","current-context":"home","clusters":[{"name":"c","cluster":{"server":"` + server + `"}}],
		"users":[{"name":"u","user":{"token":"t"}}],"contexts":[{"name":"home","context":{"cluster":"c","user":"u"}},{"name":"work","context":{"cluster":"c","user":"u"}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return New(Options{StateRoot: filepath.Join(dir, "state"), Kubeconfigs: func() ([]string, error) { return []string{path}, nil }})
}

func TestContextMustBeNamed(t *testing.T) {
	p := learner(t, "https://nowhere.invalid")
	for _, context := range []string{"", "play"} {
		_, err := p.Up(t.Context(), bootstrap.Spec{Name: "x", Context: context}, bootstrap.Discard)
		if !errors.Is(err, ErrNoContext) || !strings.Contains(err.Error(), "home, work") {
			t.Errorf("context %q: %v, want one that lists the known ones", context, err)
		}
	}
	if names, err := p.List(); err != nil || len(names) > 0 {
		t.Errorf("remembered: %v, %v", names, err)
	}
}

func TestKubeconfigStandsAlone(t *testing.T) {
	p := learner(t, "https://api.example:6443")
	data, server, err := p.alone("work", "x")
	if err != nil {
		t.Fatal(err)
	}
	conf, err := clientcmd.Load(data)
	if err != nil {
		t.Fatal(err)
	}
	if server != "https://api.example:6443" || conf.CurrentContext != "ropes-x" || len(conf.Contexts) != 1 || conf.AuthInfos["ropes-x"].Token != "t" {
		t.Errorf("server %s, %+v", server, conf)
	}
}

// TestRemembered goes from a first record to letting go, without a cluster.
func TestRemembered(t *testing.T) {
	p := learner(t, "https://api.example:6443")
	if _, err := p.Status(t.Context(), "x"); !errors.Is(err, bootstrap.ErrNotFound) {
		t.Fatal(err)
	}
	r, err := p.plan(bootstrap.Spec{Name: "x", Context: "work", UseIstio: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.save("x", r); err != nil {
		t.Fatal(err)
	}
	c, err := p.Status(t.Context(), "x")
	if err != nil || !c.Shared || !c.OtherIstio || c.Provider != "existing" || len(c.Kubeconfig) == 0 {
		t.Errorf("%+v, %v", c, err)
	}
	if again, err := p.plan(bootstrap.Spec{Name: "x"}); err != nil || again.Context != "work" || !again.UseIstio {
		t.Errorf("resumed as %+v, %v", again, err)
	}
	if _, err := p.plan(bootstrap.Spec{Name: "x", Context: "home", UseIstio: true}); err == nil {
		t.Error("another context was taken under the same name")
	}
	if err := p.Down(t.Context(), "x", bootstrap.Discard); err != nil {
		t.Fatal(err)
	}
	if names, err := p.List(); err != nil || len(names) > 0 {
		t.Errorf("still remembered: %v, %v", names, err)
	}
	if err := p.Down(t.Context(), "x", bootstrap.Discard); err != nil {
		t.Error(err)
	}
}

// TestRenewedCredentials: what the learner has logged in with since is used, on the same
// cluster and on no other.
func TestRenewedCredentials(t *testing.T) {
	const before = "https://api.example:6443"
	for name, tt := range map[string]struct {
		server, ca string // by now
		insecure   bool
		want       string // token
	}{
		"the same cluster":          {server: before, want: "new"},
		"another server":            {server: "https://other.example", want: "t"},
		"another authority":         {server: before, ca: "b3RoZXI=", want: "t"},
		"a server that proves none": {server: before, insecure: true, want: "t"},
	} {
		t.Run(name, func(t *testing.T) {
			p := learner(t, before)
			r, err := p.plan(bootstrap.Spec{Name: "x", Context: "work"})
			if err != nil {
				t.Fatal(err)
			}
			if err := p.save("x", r); err != nil {
				t.Fatal(err)
			}
			paths, _ := p.opts.Kubeconfigs()
			conf, err := clientcmd.LoadFromFile(paths[0])
			if err != nil {
				t.Fatal(err)
			}
			conf.AuthInfos["u"].Token = "new"
			conf.Clusters["c"].Server, conf.Clusters["c"].CertificateAuthorityData, conf.Clusters["c"].InsecureSkipTLSVerify = tt.server, []byte(tt.ca), tt.insecure
			if err := clientcmd.WriteToFile(*conf, paths[0]); err != nil {
				t.Fatal(err)
			}
			c, err := p.Status(t.Context(), "x")
			if err != nil {
				t.Fatal(err)
			}
			got, err := clientcmd.Load(c.Kubeconfig)
			if err != nil || got.AuthInfos["ropes-x"].Token != tt.want || got.Clusters["ropes-x"].Server != before {
				t.Errorf("%v\n%s", err, c.Kubeconfig)
			}
			if err := os.Remove(paths[0]); err != nil {
				t.Fatal(err)
			}
			if c, err := p.Status(t.Context(), "x"); err != nil || len(c.Kubeconfig) == 0 {
				t.Errorf("without a kubeconfig: %v", err)
			}
		})
	}
}

// TestAnotherClusterBehindTheContext notices that a context leads elsewhere by now.
func TestAnotherClusterBehindTheContext(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: "kube-system", UID: "new"}})
	}))
	defer srv.Close()
	p := learner(t, srv.URL)
	r, err := p.plan(bootstrap.Spec{Name: "x", Context: "work"})
	if err != nil {
		t.Fatal(err)
	}
	r.UID = "old"
	if err := p.save("x", r); err != nil {
		t.Fatal(err)
	}
	_, err = p.Up(context.Background(), bootstrap.Spec{Name: "x"}, bootstrap.Discard)
	if err == nil || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("%v", err)
	}
}
