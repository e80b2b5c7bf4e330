package istio

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/namespaces"

	"github.com/google/go-cmp/cmp"
	"istio.io/istio/operator/pkg/component"
	"istio.io/istio/operator/pkg/util/progress"
	istiolog "istio.io/istio/pkg/log"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func request(t *testing.T, method, path string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://server"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRequestsEndWithTheInstallation(t *testing.T) {
	cause := errors.New("the learner has had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	b := bound{ctx: ctx, next: tripper(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})}
	cancel(cause)
	resp, err := b.RoundTrip(request(t, http.MethodGet, "/"))
	if err == nil {
		_ = resp.Body.Close()
	}
	if !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
}

func TestBodyOutlivesTheRoundTrip(t *testing.T) {
	var seen context.Context
	b := bound{ctx: t.Context(), next: tripper(func(r *http.Request) (*http.Response, error) {
		seen = r.Context()
		return &http.Response{Body: io.NopCloser(strings.NewReader("all of it"))}, nil
	})}
	resp, err := b.RoundTrip(request(t, http.MethodGet, "/"))
	if err != nil {
		t.Fatal(err)
	}
	if seen.Err() != nil {
		t.Error("the request ended before its body was read")
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil || string(text) != "all of it" {
		t.Errorf("body %q, %v", text, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if seen.Err() == nil {
		t.Error("the request goes on after its body was closed")
	}
}

func TestGatewaysWaitForTheRootCertificate(t *testing.T) {
	const apps = "/apis/apps/v1/namespaces/istio-ingress/deployments/"
	for _, tc := range []struct {
		method, path string
		held         bool
	}{
		{http.MethodPatch, apps + ingressGateway, true},
		{http.MethodPatch, apps + egressGateway, true},
		{http.MethodGet, apps + ingressGateway, false},
		{http.MethodPatch, apps + istiod, false},
		{http.MethodPatch, "/api/v1/namespaces/istio-ingress/services/" + ingressGateway, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			open := make(chan struct{})
			passed := false
			g := gatewaysLast{open: open, next: tripper(func(*http.Request) (*http.Response, error) {
				passed = true
				return nil, errors.New("no server")
			})}
			done := make(chan struct{})
			go func() {
				defer close(done)
				resp, err := g.RoundTrip(request(t, tc.method, tc.path))
				if err == nil {
					_ = resp.Body.Close()
				}
			}()
			synctest.Wait()
			if passed == tc.held {
				t.Errorf("%s %s: passed before the certificate: %v", tc.method, tc.path, passed)
			}
			close(open)
			<-done
			if !passed {
				t.Errorf("%s %s never passed", tc.method, tc.path)
			}
		})
	}
}

func TestHeldGatewayEndsWithItsRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := request(t, http.MethodPatch, "/deployments/"+ingressGateway).WithContext(ctx)
	g := gatewaysLast{open: make(chan struct{}), next: tripper(func(*http.Request) (*http.Response, error) {
		t.Error("it passed")
		return nil, errors.New("no server")
	})}
	resp, err := g.RoundTrip(r)
	if err == nil {
		_ = resp.Body.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestProgressGoesToTheLog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	before := progressWriter
	failure := errors.New("no")
	err := withProgress(log, func(p *progress.Log) error {
		p.NewComponent(string(component.PilotComponentName)).ReportFinished()
		return failure
	})
	if !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(out.String(), "Istiod installed") {
		t.Errorf("the log has %q", out.String())
	}
	if progressWriter != before {
		t.Error("the operator's progress still comes to us")
	}
}

func TestQuietlyRestoresLevels(t *testing.T) {
	levels := func() map[string]istiolog.Level {
		all := map[string]istiolog.Level{}
		for name, scope := range istiolog.Scopes() {
			all[name] = scope.GetOutputLevel()
		}
		return all
	}
	before := levels()
	err := quietly(func() error {
		for name, level := range levels() {
			if level != istiolog.NoneLevel {
				t.Errorf("scope %s is at %v", name, level)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, levels()); diff != "" {
		t.Errorf("levels (-before +after):\n%s", diff)
	}
}

func TestUnreadableKubeconfig(t *testing.T) {
	for name, kubeconfig := range map[string]string{"empty": "", "noise": "}{"} {
		if err := Install(t.Context(), Config{Kubeconfig: []byte(kubeconfig)}, func(string) {}); err == nil || !strings.Contains(err.Error(), "kubeconfig") {
			t.Errorf("%s: got %v, want an error that names the kubeconfig", name, err)
		}
	}
}

func TestInstalledOnlyWithDigestAndDeployments(t *testing.T) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: SystemNamespace, Annotations: map[string]string{digestAnnotation: "d"}}}
	client := fake.NewClientset(ns)
	// The annotation alone: somebody has deleted the Deployments.
	if installed, err := isInstalled(t.Context(), client, "d"); err != nil || installed {
		t.Errorf("without Deployments: %v, %v", installed, err)
	}
	for _, ref := range deployments() {
		if _, err := client.AppsV1().Deployments(ref.Namespace).Create(t.Context(), deploymentNamed(ref.Namespace, ref.Name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if installed, err := isInstalled(t.Context(), client, "d"); err != nil || !installed {
		t.Errorf("with all: %v, %v", installed, err)
	}
	if installed, err := isInstalled(t.Context(), client, "other"); err != nil || installed {
		t.Errorf("with another digest: %v, %v", installed, err)
	}
}

func TestForeignNamespaceStaysForeign(t *testing.T) {
	client := fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: IngressNamespace}})
	for _, name := range []string{IngressNamespace, EgressNamespace} {
		if err := (Config{Owner: "mine"}).makeNamespace(t.Context(), client, name); err != nil {
			t.Fatal(err)
		}
	}
	for name, ours := range map[string]bool{IngressNamespace: false, EgressNamespace: true} {
		ns, err := client.CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := ns.Labels[namespaces.PartLabel] == part && ns.Labels[bootstrap.ClusterLabel] == "mine"; got != ours {
			t.Errorf("%s is ours: %v, want %v", name, got, ours)
		}
	}
}

func deploymentNamed(namespace, name string) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}
