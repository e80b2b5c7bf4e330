package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ropes-dev/ropes/bootstrap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const readyText = `Cluster ropes (embedded) is ready.

NODE                  STATUS   ROLE            VERSION
ropes-control-plane   Ready    control-plane   v1.36.3
ropes-worker          Ready    worker          v1.36.3
ropes-worker2         Ready    worker          v1.36.3

COMPONENT         STATUS   PODS
istiod            Ready    1/1
ingress gateway   Ready    1/1
egress gateway    Ready    1/1
bookinfo          Ready    2/2
httpbin           Ready    1/1
client            Ready    1/1
outside           Ready    1/1

Sample app    http://127.0.0.1:8080/productpage
TLS ingress   https://127.0.0.1:8443
API server    https://127.0.0.1:6443   context ropes-ropes
`

func TestStatus(t *testing.T) {
	b := newBench(t)
	b.expect(result{"", "ropes: there is no cluster called \"ropes\"\n  try: ropes up\n", 1}, "status")
	b.expect(result{`{
  "name": "ropes",
  "exists": false,
  "running": false,
  "ready": false,
  "problem": "there is no cluster called \"ropes\""
}
`, "", 1}, "status", "-o", "json")

	b.provider.clusters["ropes"] = clusterOf("ropes", 2, false)
	b.expect(result{"Cluster ropes (embedded) is not running. ropes up resumes it.\n", "", 1}, "status")

	b.up()
	b.expect(result{readyText + "\nNo lab is started. Next: ropes labs\n", "", 0}, "status")
	b.session.lab, b.session.met = "namespaces", map[string]bool{"create": true}
	b.expect(result{readyText + "\nLab namespaces: 1 of 2 steps met, now at quota. Next: ropes watch\n", "", 0}, "status")
	b.session.met["quota"] = true
	b.expect(result{readyText + "\nLab namespaces: all 2 steps met. Next: ropes labs\n", "", 0}, "status")

	b.apiErr = errors.New("connection refused")
	b.expect(result{"Cluster ropes (embedded) is running, but connection refused\n", "", 1}, "status")
}

func TestStatusNotReady(t *testing.T) {
	b := newBench(t)
	b.up()
	b.provider.clusters["ropes"] = func() bootstrap.Cluster {
		c := clusterOf("ropes", 3, true)
		c.Notes = []string{"port 8080 was taken, 8081 is used"}
		return c
	}()
	for _, obj := range b.objects {
		switch o := obj.(type) {
		case *corev1.Node:
			if o.Name == "ropes-worker" {
				o.Status.Conditions[0].Status = corev1.ConditionUnknown
				o.Status.Conditions[0].Message = "Kubelet stopped\nposting node status."
			}
			o.Spec.Unschedulable = o.Name == "ropes-worker2"
		case *appsv1.Deployment:
			switch o.Name {
			case "istiod":
				o.Name = "istiod-of-somebody-else"
			case "reviews-v1":
				o.Status = appsv1.DeploymentStatus{Replicas: 1, UpdatedReplicas: 1}
			case "httpbin":
				o.Annotations = nil // a learner's, not Helm's
			case "client":
				o.Spec.Replicas = new(int32)
				o.Status = appsv1.DeploymentStatus{}
			}
		}
	}
	b.expect(result{`Cluster ropes (embedded) is running, but not all of it is ready.

NODE                  STATUS     ROLE            VERSION
ropes-control-plane   Ready      control-plane   v1.36.3
ropes-worker          NotReady   worker          v1.36.3   Kubelet stopped posting node status.
ropes-worker2         Ready      worker          v1.36.3   cordoned
ropes-worker3         NotReady                             not registered

COMPONENT         STATUS     PODS
istiod            NotReady   0/0    not installed
ingress gateway   Ready      1/1
egress gateway    Ready      1/1
bookinfo          NotReady   1/2    reviews-v1: pods are not yet ready
httpbin           NotReady   0/0    not installed
client            NotReady   0/0    scaled to zero
outside           Ready      1/1

Sample app    http://127.0.0.1:8080/productpage
TLS ingress   https://127.0.0.1:8443
API server    https://127.0.0.1:6443   context ropes-ropes
Note: port 8080 was taken, 8081 is used

No lab is started. Next: ropes labs
`, "", 1}, "status")
}

func TestStatusJSON(t *testing.T) {
	b := newBench(t)
	b.up()
	b.session.lab, b.session.met = "namespaces", map[string]bool{"create": true}
	r := b.run("status", "-o", "json")
	var got Report
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || r.code != 0 || r.err != "" {
		t.Fatalf("%v: %+v", err, r)
	}
	if strings.Contains(r.out, "token") || strings.Contains(r.out, "ubeconfig") {
		t.Error("status gives away credentials")
	}
	if !got.Ready || len(got.Health.Nodes) != 3 || len(got.Health.Components) != len(parts) {
		t.Errorf("%+v", got)
	}
	got.Health, got.Cluster = nil, bootstrap.Cluster{}
	want := Report{
		Name: "ropes", Exists: true, Running: true, Ready: true, Context: "ropes-ropes",
		URLs: &URLs{API: "https://127.0.0.1:6443", Ingress: "http://127.0.0.1:8080", IngressTLS: "https://127.0.0.1:8443", ProductPage: "http://127.0.0.1:8080/productpage"},
		Lab:  &LabStatus{ID: "namespaces", Title: "Rooms in the house", Step: "quota", Met: 1, Steps: 2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDoctor(t *testing.T) {
	b := newBench(t)
	b.provider.findings = []bootstrap.Finding{
		{Check: "kernel", Severity: bootstrap.OK, Detail: "6.1", Mend: "not shown"},
		{Check: "memory", Severity: bootstrap.Warning, Detail: "3 GiB free", Mend: "close something"},
	}
	b.expect(result{"Provider embedded can run here\n✓ kernel: 6.1\n! memory: 3 GiB free\n    close something\n", "", 0}, "doctor")
	b.provider.findings = []bootstrap.Finding{{Check: "rights", Severity: bootstrap.Fatal, Detail: "not root"}}
	b.expect(result{"Provider embedded cannot run here\n✗ rights: not root\n", "", 1}, "doctor", "--provider", "embedded")
	b.expect(result{`[
  {
    "provider": "embedded",
    "canRun": false,
    "findings": [
      {
        "check": "rights",
        "severity": "fatal",
        "detail": "not root"
      }
    ]
  }
]
`, "", 1}, "doctor", "-o", "json")
	b.expect(result{"", "ropes: provider \"kind\" is not in this build of ropes: it comes with a later release\n  try: --provider embedded\n", 1}, "doctor", "--provider", "kind")
}

func podOf(namespace, name, label, value string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{label: value}}}
	for _, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c})
	}
	return p
}

func TestLogs(t *testing.T) {
	b := newBench(t)
	b.up()
	always := corev1.ContainerRestartPolicyAlways
	product := podOf("bookinfo", "productpage-v1-x", "app", "productpage", "app")
	product.Spec.InitContainers = []corev1.Container{{Name: "istio-init"}, {Name: "istio-proxy", RestartPolicy: &always}}
	b.objects = append(
		b.objects,
		podOf("kube-system", "etcd-ropes-control-plane", "component", "etcd", "etcd"),
		podOf("kube-system", "kube-apiserver-ropes-control-plane", "component", "kube-apiserver", "kube-apiserver"),
		podOf("bookinfo", "reviews-v1-x", "app", "reviews", "app"),
		podOf("bookinfo", "reviews-v2-x", "app", "reviews", "app"),
		podOf("istio-ingress", "istio-ingressgateway-x", "app", "istio-ingressgateway", "istio-proxy"),
		podOf("team-a", "of-a-learner", "app", "learner", "app"),
		product,
	)
	b.expect(result{`COMPONENT              FROM   PODS
supervisor             host
ropes-worker/kubelet   host
etcd                   pods   kube-system/etcd-ropes-control-plane
istio-ingressgateway   pods   istio-ingress/istio-ingressgateway-x
kube-apiserver         pods   kube-system/kube-apiserver-ropes-control-plane
productpage            pods   bookinfo/productpage-v1-x
reviews                pods   bookinfo/reviews-v1-x bookinfo/reviews-v2-x
`, "", 0}, "logs")
	for component, want := range map[string]string{
		"supervisor":              "supervisor says\n",
		"ropes-worker/kubelet":    "kubelet says\n",
		"etcd":                    "fake logs\n",
		"apiserver":               "fake logs\n",
		"ingress":                 "fake logs\n",
		"productpage":             "fake logs\n",
		"productpage/istio-proxy": "fake logs\n",
		"reviews":                 "[reviews-v1-x/app] fake logs\n[reviews-v2-x/app] fake logs\n",
	} {
		b.expect(result{want, "", 0}, "logs", component)
	}
	b.expect(result{"", "ropes: there is no component \"istiot\"; ropes logs lists them\n  try: ropes logs --help\n", 2}, "logs", "istiot")
	b.expect(result{"", "ropes: there is no component \"review\"; did you mean \"reviews\"?; ropes logs lists them\n  try: ropes logs --help\n", 2}, "logs", "review")
	b.expect(result{"", "ropes: productpage has no container \"proxy\"; it has app, istio-proxy\n  try: ropes logs --help\n", 2}, "logs", "productpage/proxy")
	b.expect(result{"", "ropes: -o json is for the list of components; a log is text\n  try: ropes logs --help\n", 2}, "logs", "etcd", "-o", "json")

	b.apiErr = errors.New("connection refused")
	b.expect(result{"supervisor says\n", "", 0}, "logs", "supervisor")
	b.expect(result{"COMPONENT              FROM   PODS\nsupervisor             host\nropes-worker/kubelet   host\n", "ropes: pods are missing here: connection refused\n", 0}, "logs")
	b.expect(result{"", "ropes: no log of \"etcd\" on this host, and pods cannot be asked for: connection refused\n  try: ropes logs   (it lists what can be read without the API server)\n", 1}, "logs", "etcd")
}

func TestVersion(t *testing.T) {
	b := newBench(t)
	version, commit, date = "v0.1.0", "0123456789abcdef", "2026-01-02T03:04:05Z"
	t.Cleanup(func() { version, commit, date = "", "", "" })
	var v Version
	r := b.run("version", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || r.code != 0 || v.Version != "v0.1.0" || v.Commit != commit || v.Payload["kubernetes"] != "v1.36.3" {
		t.Errorf("%v: %+v", err, r)
	}
	r = b.run("version")
	if !strings.HasPrefix(r.out, "ropes v0.1.0 (0123456789ab) ") || !strings.Contains(r.out, "For clusters\n  kubernetes   v1.36.3\n") {
		t.Errorf("%+v", r)
	}
	b.deps.Versions = func() (map[string]string, error) { return nil, fmt.Errorf("this build carries no payload") }
	if r := b.run("version"); r.code != 0 || !strings.Contains(r.out, "this build carries no payload") {
		t.Errorf("%+v", r)
	}
}
