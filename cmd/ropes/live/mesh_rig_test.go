//go:build live

package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	"github.com/ropes-dev/ropes/bootstrap"
)

// mesh is a running cluster with the suite's workloads in it.
type mesh struct {
	r       *rig
	cluster string
	cfg     *rest.Config
	kube    kubernetes.Interface
	dyn     dynamic.Interface
	mapper  meta.RESTMapper

	client   *relay // in the mesh, namespace mesh
	other    *relay // in the mesh, namespace mesh-two, an identity of its own
	stranger *relay // outside of the mesh
}

// settle bounds how long a configuration may take from the API server to the last proxy.
const settle = 20 * time.Second

// newMesh connects to a cluster that is up.
func newMesh(t *testing.T, r *rig, cluster string) *mesh {
	t.Helper()
	m := &mesh{r: r, cluster: cluster}
	var s status
	if res := r.run(t, "status", "-o", "json", "--name", cluster); json.Unmarshal([]byte(res.stdout), &s) != nil || s.Cluster.Dir == "" {
		t.Fatalf("status of %s:\n%s%s", cluster, res.stdout, res.stderr)
	}
	kubeconfig := filepath.Join(s.Cluster.Dir, "kubeconfig")
	var err error
	if m.cfg, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
		t.Fatal(err)
	}
	m.cfg.QPS, m.cfg.Burst = 200, 400
	m.kube = kubernetes.NewForConfigOrDie(m.cfg)
	m.dyn = dynamic.NewForConfigOrDie(m.cfg)
	m.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(m.kube.Discovery()))
	return m
}

// documents splits YAML into objects.
func documents(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	dec := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		u := &unstructured.Unstructured{}
		err := dec.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if len(u.Object) > 0 {
			out = append(out, u)
		}
	}
}

func (m *mesh) resource(u *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := u.GroupVersionKind()
	mapping, err := m.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return m.dyn.Resource(mapping.Resource), nil
	}
	if u.GetNamespace() == "" {
		u.SetNamespace("mesh")
	}
	return m.dyn.Resource(mapping.Resource).Namespace(u.GetNamespace()), nil
}

// put applies objects (namespace mesh where they name none).
func (m *mesh) put(ctx context.Context, u *unstructured.Unstructured) error {
	ri, err := m.resource(u)
	if err != nil {
		return err
	}
	u = u.DeepCopy()
	_, err = ri.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: "ropes-live", Force: true})
	return err
}

func (m *mesh) drop(ctx context.Context, u *unstructured.Unstructured) error {
	ri, err := m.resource(u)
	if err != nil {
		return err
	}
	if err = ri.Delete(ctx, u.GetName(), metav1.DeleteOptions{}); apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// apply applies objects until the end of the test.
func (m *mesh) apply(t *testing.T, text string) {
	t.Helper()
	for _, u := range documents(t, text) {
		if err := m.put(t.Context(), u); err != nil {
			t.Fatalf("apply %s %s: %v", u.GetKind(), u.GetName(), err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
			defer cancel()
			if err := m.drop(ctx, u); err != nil {
				t.Errorf("delete %s %s: %v", u.GetKind(), u.GetName(), err)
			}
		})
	}
}

// eventually polls until fn has no complaint, and fails the test with the last one when that takes too long.
func eventually(t *testing.T, within time.Duration, fn func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := bootstrap.Poll(ctx, 60*time.Millisecond, func(context.Context) error { return fn() }); err != nil {
		t.Fatal(err)
	}
}

// pod finds the newest running pod with a label.
func (m *mesh) pod(ctx context.Context, ns, selector string) (*corev1.Pod, error) {
	list, err := m.kube.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	var found *corev1.Pod
	for i := range list.Items {
		p := &list.Items[i]
		if p.DeletionTimestamp == nil && podReady(p) && (found == nil || found.CreationTimestamp.Before(&p.CreationTimestamp)) {
			found = p
		}
	}
	if found == nil {
		return nil, fmt.Errorf("no ready pod %s in %s (%d there)", selector, ns, len(list.Items))
	}
	return found, nil
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (m *mesh) mustPod(t *testing.T, ns, selector string) *corev1.Pod {
	t.Helper()
	var p *corev1.Pod
	eventually(t, 3*time.Minute, func() (err error) {
		p, err = m.pod(t.Context(), ns, selector)
		return err
	})
	return p
}

// forward opens a port of a pod on the loopback, past its proxy, until the end of the test.
func (m *mesh) forward(t *testing.T, p *corev1.Pod, port int) string {
	t.Helper()
	rt, upgrader, err := spdy.RoundTripperFor(m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	u := m.kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(p.Namespace).Name(p.Name).SubResource("portforward").URL()
	stop, ready := make(chan struct{}), make(chan struct{})
	var said bytes.Buffer
	pf, err := portforward.NewOnAddresses(spdy.NewDialer(upgrader, &http.Client{Transport: rt}, http.MethodPost, u),
		[]string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, &said)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- pf.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("port-forward to %s: %v %s", p.Name, err, &said)
	}
	t.Cleanup(func() {
		close(stop)
		<-ended
	})
	ports, err := pf.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
}

// relay makes requests from a pod.
type relay struct {
	base string
	pod  *corev1.Pod
	http *http.Client
}

func (m *mesh) relayIn(t *testing.T, ns, selector string) *relay {
	t.Helper()
	p := m.mustPod(t, ns, selector)
	return &relay{
		base: "http://" + m.forward(t, p, 7000), pod: p,
		http: &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 16}},
	}
}

// order, outcome and the others are what cmd/ropes-app/internal/servers takes and gives; see there.
type order struct {
	URL, Method, Host string      `json:",omitempty"`
	Headers           http.Header `json:",omitempty"`
	Body              []byte      `json:",omitempty"`
	Address           string      `json:",omitempty"`
	HTTP2             bool        `json:",omitempty"`
	TimeoutMS         int         `json:",omitempty"`
	TLS               orderTLS
}

type orderTLS struct {
	ServerName    string   `json:",omitempty"`
	CA, Cert, Key []byte   `json:",omitempty"`
	ALPN          []string `json:",omitempty"`
}

type outcome struct {
	Status            int
	Proto             string
	Headers, Trailers http.Header
	Body              []byte
	TookMS            float64
	Peer              []string
	Err               string
}

func (o outcome) String() string {
	return fmt.Sprintf("status %d, %q after %.0fms, headers %v, trailers %v, body %.600s", o.Status, o.Err, o.TookMS, o.Headers, o.Trailers, o.Body)
}

// echo is what the server says that it heard.
type echo struct {
	Method, Host, Path, Query, Body, Hostname string
	Headers                                   http.Header
	TLS                                       struct{ Version, ServerName, ClientSubject string }
}

func (o outcome) echo() echo {
	var e echo
	_ = json.Unmarshal(o.Body, &e) // what is no echo leaves it empty
	return e
}

// version tells which version of app has answered: the pod's name starts with it.
func (o outcome) version() string {
	rest, ok := strings.CutPrefix(o.echo().Hostname, "app-")
	if !ok {
		return ""
	}
	v, _, _ := strings.Cut(rest, "-")
	return v
}

type rawOrder struct {
	Address      string
	Secure       bool
	TLS          orderTLS
	Send, Then   []byte
	Want, WaitMS int
}

type rawOutcome struct {
	Received []byte
	Peer     []string
	Err      string
}

func post[Out any](c *http.Client, url string, in any) (Out, error) {
	var out Out
	body, err := json.Marshal(in)
	if err != nil {
		return out, err
	}
	resp, err := c.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		return out, fmt.Errorf("relay: %s: %s", resp.Status, b)
	}
	return out, json.NewDecoder(resp.Body).Decode(&out)
}

// fetch makes one request from the relay's pod.
func (r *relay) fetch(t *testing.T, o order) outcome {
	t.Helper()
	out, err := post[outcome](r.http, r.base+"/fetch", o)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (r *relay) raw(t *testing.T, o rawOrder) rawOutcome {
	t.Helper()
	out, err := post[rawOutcome](r.http, r.base+"/raw", o)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// want polls until the answer to a request satisfies all checks, and returns it.
func (r *relay) want(t *testing.T, o order, checks ...func(outcome) error) outcome {
	t.Helper()
	var got outcome
	eventually(t, settle, func() error {
		got = r.fetch(t, o)
		for _, c := range checks {
			if err := c(got); err != nil {
				return fmt.Errorf("%s %s %v: %w; got %s", o.Method, o.URL, o.Headers, err, got)
			}
		}
		return nil
	})
	return got
}

// always asks n times and fails the test at the first answer that does not satisfy all checks.
func (r *relay) always(t *testing.T, n int, o order, checks ...func(outcome) error) {
	t.Helper()
	for range n {
		got := r.fetch(t, o)
		for _, c := range checks {
			if err := c(got); err != nil {
				t.Errorf("%s %s: %v; got %s", o.Method, o.URL, err, got)
				return
			}
		}
	}
}

// only polls until a row of answers comes from one version.
func (r *relay) only(t *testing.T, version string, o order) {
	t.Helper()
	eventually(t, settle, func() error {
		if got := r.count(t, 10, o, outcome.version); got[version] != 10 {
			return fmt.Errorf("%s: want %s only, got %v", o.URL, version, got)
		}
		return nil
	})
}

// count asks n times and counts the answers by what key says of them.
func (r *relay) count(t *testing.T, n int, o order, key func(outcome) string) map[string]int {
	t.Helper()
	out := map[string]int{}
	for range n {
		out[key(r.fetch(t, o))]++
	}
	return out
}

func code(want int) func(outcome) error {
	return func(o outcome) error {
		if o.Status != want {
			return fmt.Errorf("want status %d", want)
		}
		return nil
	}
}

func from(version string) func(outcome) error {
	return func(o outcome) error {
		if o.version() != version {
			return fmt.Errorf("want an answer from %s", version)
		}
		return nil
	}
}

func header(name, value string) func(outcome) error {
	return func(o outcome) error {
		if got := o.Headers.Get(name); got != value {
			return fmt.Errorf("want response header %s %q, not %q", name, value, got)
		}
		return nil
	}
}

// heard checks a header as the server saw it.
func heard(name, value string) func(outcome) error {
	return func(o outcome) error {
		if got := strings.Join(o.echo().Headers[http.CanonicalHeaderKey(name)], "|"); got != value {
			return fmt.Errorf("want the server to see %s %q, not %q", name, value, got)
		}
		return nil
	}
}

func that(what string, ok func(outcome) bool) func(outcome) error {
	return func(o outcome) error {
		if !ok(o) {
			return errors.New("want " + what)
		}
		return nil
	}
}

func says(text string) func(outcome) error {
	return that(fmt.Sprintf("%q in the body", text), func(o outcome) bool { return strings.Contains(string(o.Body), text) })
}

func unanswered() func(outcome) error {
	return that("no answer", func(o outcome) bool { return o.Err != "" })
}

func get(url string, headers ...string) order {
	o := order{URL: url, Method: http.MethodGet}
	for i := 0; i+1 < len(headers); i += 2 {
		if o.Headers == nil {
			o.Headers = http.Header{}
		}
		o.Headers.Add(headers[i], headers[i+1])
	}
	return o
}

// script tells a server what to answer; see cmd/ropes-app, serve --control.
type script struct{ base string }

type rule struct {
	Contains          string            `json:",omitempty"`
	Times             int               `json:",omitempty"`
	Status            int               `json:",omitempty"`
	Headers, Trailers map[string]string `json:",omitempty"`
	Body              []byte            `json:",omitempty"`
	DelayMS           int               `json:",omitempty"`
	Reset             bool              `json:",omitempty"`
}

type record struct {
	Method, Host, Path, Proto string
	Headers                   http.Header
	Body                      []byte
}

func (m *mesh) scriptOf(t *testing.T, ns, selector string) script {
	t.Helper()
	return script{"http://" + m.forward(t, m.mustPod(t, ns, selector), 7001)}
}

// set gives the server rules until the end of the test.
func (s script) set(t *testing.T, rules ...rule) {
	t.Helper()
	s.do(t, http.MethodPut, rules, nil)
	t.Cleanup(func() { s.do(t, http.MethodDelete, nil, nil) })
}

func (s script) heard(t *testing.T) []record {
	t.Helper()
	var out []record
	s.do(t, http.MethodGet, nil, &out)
	return out
}

func (s script) do(t *testing.T, method string, in, out any) {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(method, s.base+"/script", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("script: %s", resp.Status)
	}
	if out != nil {
		if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
			t.Fatal(err)
		}
	}
}

// patch merges JSON into an object.
func (m *mesh) patch(t *testing.T, kind, ns, name, merge string) {
	t.Helper()
	var u unstructured.Unstructured
	u.SetAPIVersion("v1")
	if strings.Contains(kind, "/") {
		i := strings.LastIndexByte(kind, '/')
		u.SetAPIVersion(kind[:i])
		kind = kind[i+1:]
	}
	u.SetKind(kind)
	u.SetNamespace(ns)
	ri, err := m.resource(&u)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	if _, err := ri.Patch(ctx, name, types.MergePatchType, []byte(merge), metav1.PatchOptions{}); err != nil {
		t.Fatalf("patch %s %s: %v", kind, name, err)
	}
}

// TestMesh runs the mesh suite against a cluster that is up already: its name in ROPES_LIVE_CLUSTER, the home directory
// that it was brought up with in ROPES_LIVE_HOME. TestLab runs the suite on the cluster that it brings up.
func TestMesh(t *testing.T) {
	name, home := os.Getenv("ROPES_LIVE_CLUSTER"), os.Getenv("ROPES_LIVE_HOME")
	if name == "" {
		t.Skip("ROPES_LIVE_CLUSTER names no cluster; TestLab runs this suite on its own")
	}
	r := newRig(t)
	r.home, r.cache = home, filepath.Join(home, ".cache")
	meshSuite(t, r, name)
}
