package netpol

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func newObject(edit func(*corev1.Pod)) *corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"long": "story"}},
		Spec: corev1.PodSpec{
			NodeName: "w1",
			Containers: []corev1.Container{
				{Name: "main", Image: "i", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}, {ContainerPort: 81}}},
			},
			InitContainers: []corev1.Container{
				{Name: "once", Ports: []corev1.ContainerPort{{Name: "gone", ContainerPort: 90}}},
				{Name: "sidecar", RestartPolicy: &always, Ports: []corev1.ContainerPort{{Name: "side", ContainerPort: 91, Protocol: corev1.ProtocolUDP}}},
			},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "fd00::1",
			PodIPs: []corev1.PodIP{{IP: "fd00::1"}, {IP: a1}},
		},
	}
	if edit != nil {
		edit(p)
	}
	return p
}

func TestNewPod(t *testing.T) {
	want := Pod{
		Namespace: "a", Name: "p", Node: "w1", IP: netip.MustParseAddr(a1), Labels: map[string]string{"app": "web"},
		Ports: []NamedPort{{"http", corev1.ProtocolTCP, 80}, {"side", corev1.ProtocolUDP, 91}},
	}
	for name, object := range map[string]*corev1.Pod{"whole": newObject(nil), "slim": slimPod(newObject(nil))} {
		got, ok := newPod(object)
		if !ok {
			t.Fatalf("%s: not a pod", name)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for name, edit := range map[string]func(*corev1.Pod){
		"host network": func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"succeeded":    func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded },
		"failed":       func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed },
		"no address":   func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil },
		"IPv6 only":    func(p *corev1.Pod) { p.Status.PodIPs = p.Status.PodIPs[:1] },
	} {
		if got, ok := newPod(newObject(edit)); ok {
			t.Errorf("%s: policies apply to %+v", name, got)
		}
	}
}

// From API objects to rules, as they come and go.
func TestWatch(t *testing.T) {
	client := fake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"team": "a"}}},
		newObject(nil),
	)
	touched := make(chan struct{}, 100)
	o, err := watch(client, func() { touched <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer o.stop()
	defer cancel()
	if !o.start(ctx) {
		t.Fatal("did not start")
	}
	isolated := func() bool {
		r, err := Compile(o.snapshot("w1"))
		if err != nil {
			t.Fatal(err)
		}
		return len(r.Ingress.Isolated) == 1
	}
	if isolated() {
		t.Fatal("isolated without a policy")
	}
	await := func(want bool) {
		t.Helper()
		for isolated() != want {
			select {
			case <-touched:
			case <-t.Context().Done():
				t.Fatal("no event came")
			}
		}
	}
	policies := client.NetworkingV1().NetworkPolicies("a")
	if _, err := policies.Create(ctx, policy(t, "deny", `podSelector: {matchLabels: {app: web}}`), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(true)
	changed := newObject(func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} })
	if _, err := client.CoreV1().Pods("a").Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(false)
}

func TestTellIsRecordedOnce(t *testing.T) {
	client := fake.NewClientset()
	w := Warning{Namespace: "a", Policy: "six", Message: "has no effect"}
	if err := tell(t.Context(), client, w); err != nil {
		t.Fatal(err)
	}
	if err := tell(t.Context(), client, w); !apierrors.IsAlreadyExists(err) {
		t.Errorf("second node: %v, want AlreadyExists", err)
	}
	events, err := client.CoreV1().Events("a").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(events.Items) != 1 || events.Items[0].InvolvedObject.Name != "six" || events.Items[0].Message != w.Message {
		t.Errorf("events %+v", events.Items)
	}
}

func TestReadyz(t *testing.T) {
	e := newEnforcer(slog.New(slog.DiscardHandler))
	get := func() int {
		w := httptest.NewRecorder()
		readyz(e).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return w.Code
	}
	if code := get(); code != http.StatusServiceUnavailable {
		t.Errorf("before the rules: %d", code)
	}
	e.ready.Store(true)
	if code := get(); code != http.StatusOK {
		t.Errorf("with the rules: %d", code)
	}
}

func TestParse(t *testing.T) {
	t.Setenv("NODE_NAME", "w1")
	got, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := (options{node: "w1", health: DefaultHealth}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	t.Setenv("NODE_NAME", "")
	for _, args := range [][]string{nil, {"-node", "w1", "stray"}, {"-nonsense"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
