//go:build live

package live

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/ropes-dev/ropes/bootstrap"
)

// team is what somebody else keeps on the cluster: none of it may change by a byte.
const team = `
apiVersion: v1
kind: Namespace
metadata: {name: payments, labels: {team: payments}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: rates, namespace: payments}
data: {eur: "1"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys, namespace: payments}
stringData: {key: geheim}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ledger, namespace: payments}
spec:
  selector: {matchLabels: {app: ledger}}
  template:
    metadata: {labels: {app: ledger}}
    spec: {containers: [{name: a, image: "ropes.local/app:v1", command: [sleep, infinity]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: none, namespace: payments}
spec: {podSelector: {}, policyTypes: [Ingress]}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: payments-archive}
spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], storageClassName: archive, hostPath: {path: /tmp/archive}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ledgers.payments.example}
spec:
  group: payments.example
  scope: Cluster
  names: {kind: Ledger, plural: ledgers, singular: ledger}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`

// TestExisting runs the labs on a cluster that belongs to others, by a user who has only
// the rights that `ropes rights` prints, and finds the cluster as it was afterwards.
func TestExisting(t *testing.T) {
	owner := newRig(t)
	before := vacant(t, owner, "live-base")
	owner.ok(t, "up", "--name", "live-base", "--bare", "--workers", "1", "--timeout", "10m")
	kubectl := func(stdin string, args ...string) string {
		t.Helper()
		res := owner.runIn(t, stdin, append([]string{"--name", "live-base", "kubectl"}, args...)...)
		if res.code != 0 {
			t.Fatalf("kubectl %v: %s", args, res.stderr)
		}
		return res.stdout
	}
	kubectl(team, "apply", "-f", "-")
	kubectl(owner.ok(t, "rights").stdout, "apply", "-f", "-")
	kubectl("", "create", "namespace", "people")
	kubectl("", "-n", "people", "create", "serviceaccount", "guest")
	for _, role := range []string{"ropes-labs", "ropes-istio"} {
		kubectl("", "create", "clusterrolebinding", role, "--clusterrole="+role, "--serviceaccount=people:guest")
	}
	kubectl("", "-n", "payments", "rollout", "status", "deployment/ledger", "--timeout=60s")
	token := strings.TrimSpace(kubectl("", "-n", "people", "create", "token", "guest", "--duration=3h"))
	admin := filepath.Join(owner.home, ".kube", "config")
	guest := newRig(t)
	guest.cache = owner.cache
	guest.extra = append(guest.extra, "KUBECONFIG="+guestConfig(t, admin, guest.home, token), "XDG_CACHE_HOME="+owner.cache)
	was := objects(t, admin)

	if res := guest.run(t, "doctor", "--provider", "existing", "--context", "theirs"); res.code != 0 {
		t.Fatalf("doctor: status %d\n%s%s", res.code, res.stdout, res.stderr)
	}
	t.Cleanup(func() { guest.run(t, "down", "--name", "guest") })
	guest.ok(t, "up", "--name", "guest", "--provider", "existing", "--context", "theirs")
	if s := guest.status(t, "--name", "guest"); !s.Ready {
		t.Errorf("status: %+v", s)
	}
	t.Run("a volume for the taking", func(t *testing.T) {
		const free = `{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"name":"free"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],"hostPath":{"path":"/tmp/free"}}}`
		kubectl(free, "apply", "-f", "-")
		defer kubectl("", "delete", "pv", "free")
		if res := guest.run(t, "--name", "guest", "start", "storage"); res.code != 1 || !strings.Contains(res.stderr, "claimRef") {
			t.Errorf("the storage lab began beside a volume that it could take: status %d\n%s", res.code, res.stderr)
		}
	})
	proveLabs(t, guest, "guest", true)

	t.Run("learner's own objects", func(t *testing.T) {
		guest.ok(t, "--name", "guest", "start", "storage")
		guest.run(t, "--name", "guest", "solution", "--apply")
	})
	t.Run("somebody else's Istio", func(t *testing.T) {
		other := newRig(t)
		other.extra = guest.extra
		res := other.run(t, "up", "--name", "second", "--provider", "existing", "--context", "theirs")
		if res.code != 1 || !strings.Contains(res.stderr, "--use-istio") || !strings.Contains(res.stderr, "bookinfo") {
			t.Errorf("a second one over the first: status %d\n%s", res.code, res.stderr)
		}
	})
	t.Run("without rights", func(t *testing.T) {
		kubectl("", "delete", "clusterrolebinding", "ropes-istio")
		res := guest.run(t, "doctor", "--provider", "existing", "--context", "theirs")
		if res.code != 1 || !strings.Contains(res.stdout, "customresourcedefinitions") || !strings.Contains(res.stdout, "ropes rights") {
			t.Errorf("doctor: status %d\n%s", res.code, res.stdout)
		}
		kubectl("", "create", "clusterrolebinding", "ropes-istio", "--clusterrole=ropes-istio", "--serviceaccount=people:guest")
	})

	guest.ok(t, "down", "--name", "guest")
	is := objects(t, admin)
	delete(was, madeAnew)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// Pods that a stalled machine has made unready for a moment get ready again; nothing else may get better by waiting.
	err := bootstrap.Poll(ctx, 2*time.Second, func(context.Context) error {
		err := changed(was, is)
		if err != nil {
			refresh(is, objects(t, admin))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d objects compared, byte for byte", len(was))
	owner.ok(t, "down", "--name", "live-base")
	sameAs(t, owner, before)
}

// madeAnew is what the test itself has deleted and created again.
const madeAnew = "rbac.authorization.k8s.io/clusterrolebindings//ropes-istio"

// refresh takes what controllers write of pods' readiness from a later reading. What has come or gone since stays as it was.
func refresh(is, later map[string]object) {
	for name, o := range later {
		if _, ok := is[name]; ok && o.followsPods {
			is[name] = o
		}
	}
}

// changed says what has gone, changed or come between two readings of a cluster.
func changed(was, is map[string]object) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(was)) {
		switch now, ok := is[name]; {
		case !ok:
			errs = append(errs, fmt.Errorf("%s is gone", name))
		case now.digest != was[name].digest:
			errs = append(errs, fmt.Errorf("%s has changed:\n%s\n%s", name, was[name].text, now.text))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(is)) {
		if _, ok := was[name]; !ok && name != madeAnew {
			errs = append(errs, fmt.Errorf("%s is left over", name))
		}
	}
	return errors.Join(errs...)
}

// guestConfig writes a kubeconfig of the context "theirs" with a token for its user.
func guestConfig(t *testing.T, admin, home, token string) string {
	t.Helper()
	conf, err := clientcmd.LoadFromFile(admin)
	if err != nil {
		t.Fatal(err)
	}
	out := clientcmdapi.NewConfig()
	out.Clusters["theirs"] = conf.Clusters["ropes-live-base"]
	out.AuthInfos["guest"] = &clientcmdapi.AuthInfo{Token: token}
	out.Contexts["theirs"] = &clientcmdapi.Context{Cluster: "theirs", AuthInfo: "guest"}
	path := filepath.Join(home, "kubeconfig")
	if err := clientcmd.WriteToFile(*out, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// object is one object of a cluster as the API server gives it.
type object struct {
	text, digest string
	followsPods  bool
}

// restless are kinds that change by themselves.
var restless = map[string]bool{
	"events": true, "leases.coordination.k8s.io": true, "nodes": true, "componentstatuses": true,
	"nodes.metrics.k8s.io": true, "pods.metrics.k8s.io": true, "events.events.k8s.io": true,
}

// followPods are kinds on which controllers write down how ready pods are.
var followPods = map[string]bool{
	"daemonsets.apps": true, "deployments.apps": true, "replicasets.apps": true, "statefulsets.apps": true,
	"endpoints": true, "endpointslices.discovery.k8s.io": true, "apiservices.apiregistration.k8s.io": true,
}

// timeless takes from an object of followPods when controllers last wrote that down; what they wrote stays.
func timeless(o *unstructured.Unstructured) error {
	o.SetResourceVersion("")
	o.SetManagedFields(slices.DeleteFunc(o.GetManagedFields(), func(e metav1.ManagedFieldsEntry) bool {
		return e.Manager == "kube-controller-manager" || e.Manager == "kube-apiserver"
	}))
	unstructured.RemoveNestedField(o.Object, "metadata", "annotations", corev1.EndpointsLastChangeTriggerTime)
	conditions, found, err := unstructured.NestedSlice(o.Object, "status", "conditions")
	if err != nil || !found {
		return err
	}
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok {
			delete(c, "lastTransitionTime")
			delete(c, "lastUpdateTime")
		}
	}
	return unstructured.SetNestedSlice(o.Object, conditions, "status", "conditions")
}

// objects reads everything there is in a cluster, with all that the API server tells of it
// but what the kubelet reports of pods, and the times that timeless takes.
func objects(t *testing.T, kubeconfig string) map[string]object {
	t.Helper()
	conf, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	conf.QPS = -1
	disco := discovery.NewDiscoveryClientForConfigOrDie(conf)
	client := dynamic.NewForConfigOrDie(conf)
	lists, err := disco.ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]object{}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range l.APIResources {
			gvr := gv.WithResource(r.Name)
			if !slices.Contains(r.Verbs, "list") || strings.Contains(r.Name, "/") || restless[gvr.GroupResource().String()] {
				continue
			}
			items, err := client.Resource(gvr).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatalf("list %s: %v", gvr, err)
			}
			for i := range items.Items {
				o := &items.Items[i]
				follows := followPods[gvr.GroupResource().String()]
				if gvr.Resource == "pods" && gvr.Group == "" {
					// The kubelet adds to its report of a pod whenever it likes.
					delete(o.Object, "status")
					o.SetResourceVersion("")
					o.SetManagedFields(nil)
				}
				if follows {
					if err := timeless(o); err != nil {
						t.Fatal(err)
					}
				}
				text, err := json.Marshal(o.Object)
				if err != nil {
					t.Fatal(err)
				}
				sum := sha256.Sum256(text)
				out[fmt.Sprintf("%s/%s/%s/%s", gvr.Group, gvr.Resource, o.GetNamespace(), o.GetName())] = object{string(text), hex.EncodeToString(sum[:]), follows}
			}
		}
	}
	return out
}
