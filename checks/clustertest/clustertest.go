// Package clustertest gives tests a cluster that is only an object store: it knows some
// kinds, keeps what is written and tells watchers. No controller acts in it.
package clustertest

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	fakediscovery "k8s.io/client-go/discovery/fake"
	fakedynamic "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"

	"github.com/ropes-dev/ropes/checks"
)

// kinds are what the cluster knows.
var kinds = []struct {
	groupVersion, resource, kind string
	namespaced                   bool
}{
	{"v1", "namespaces", "Namespace", false},
	{"v1", "nodes", "Node", false},
	{"v1", "persistentvolumes", "PersistentVolume", false},
	{"v1", "persistentvolumeclaims", "PersistentVolumeClaim", true},
	{"v1", "pods", "Pod", true},
	{"v1", "services", "Service", true},
	{"v1", "configmaps", "ConfigMap", true},
	{"v1", "serviceaccounts", "ServiceAccount", true},
	{"v1", "events", "Event", true},
	{"v1", "resourcequotas", "ResourceQuota", true},
	{"v1", "limitranges", "LimitRange", true},
	{"apps/v1", "deployments", "Deployment", true},
	{"apps/v1", "replicasets", "ReplicaSet", true},
	{"networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", true},
	{"rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole", false},
	{"rbac.authorization.k8s.io/v1", "clusterrolebindings", "ClusterRoleBinding", false},
	{"rbac.authorization.k8s.io/v1", "roles", "Role", true},
	{"rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding", true},
	{"storage.k8s.io/v1", "storageclasses", "StorageClass", false},
}

// New returns a cluster that holds objects, and its client for reactors and for writing.
func New(t *testing.T, objects ...*unstructured.Unstructured) (*checks.Cluster, *fakedynamic.FakeDynamicClient) {
	t.Helper()
	listKinds := map[schema.GroupVersionResource]string{}
	byGV := map[string]*metav1.APIResourceList{}
	disc := &fakediscovery.FakeDiscovery{Fake: &clienttesting.Fake{}}
	for _, k := range kinds {
		gv, err := schema.ParseGroupVersion(k.groupVersion)
		if err != nil {
			t.Fatal(err)
		}
		listKinds[gv.WithResource(k.resource)] = k.kind + "List"
		l := byGV[k.groupVersion]
		if l == nil {
			l = &metav1.APIResourceList{GroupVersion: k.groupVersion}
			byGV[k.groupVersion] = l
			disc.Resources = append(disc.Resources, l)
		}
		l.APIResources = append(l.APIResources, metav1.APIResource{
			Name: k.resource, Kind: k.kind, Namespaced: k.namespaced, Verbs: metav1.Verbs{"create", "delete", "get", "list", "update", "watch"},
		})
	}
	objs := make([]runtime.Object, len(objects))
	for i, o := range objects {
		objs[i] = o
	}
	dyn := fakedynamic.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), listKinds, objs...)
	return checks.NewCluster(dyn, memory.NewMemCacheClient(disc)), dyn
}

// Objects reads objects from YAML documents.
func Objects(t *testing.T, manifests string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	for _, doc := range strings.Split(manifests, "\n---\n") {
		js, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(js); err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

// Object reads one object from YAML.
func Object(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	return Objects(t, manifest)[0]
}
