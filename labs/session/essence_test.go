package session

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ropes-dev/ropes/checks/clustertest"
)

func dig(t *testing.T, u *unstructured.Unstructured) string {
	t.Helper()
	d, err := digest(record(u))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDigestIgnoresTheClustersWork pairs objects that somebody asked for in the same way.
func TestDigestIgnoresTheClustersWork(t *testing.T) {
	for name, pair := range map[string][2]string{
		"metadata and status": {
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: nn}\ndata: {a: b}",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: nn, uid: u, resourceVersion: '7', generation: 3, creationTimestamp: '2026-01-01T00:00:00Z', managedFields: [{manager: m}], ownerReferences: [{uid: x, name: o}]}\ndata: {a: b}\nstatus: {x: y}",
		},
		"last applied": {
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: nn}",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: nn, annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}}",
		},
		"pod with and without what admission adds": {
			"apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: nn}\nspec: {containers: [{name: c}]}",
			`
apiVersion: v1
kind: Pod
metadata:
  name: p
  namespace: nn
  annotations: {sidecar.istio.io/status: '{"initContainers":["istio-init","istio-proxy"],"containers":null,"volumes":["istio-token"]}'}
spec:
  nodeName: worker
  initContainers: [{name: istio-init}, {name: istio-proxy}]
  containers: [{name: c, volumeMounts: [{name: kube-api-access-x9, mountPath: /var/run}]}]
  volumes: [{name: kube-api-access-x9}, {name: istio-token}]
  ephemeralContainers: [{name: debug}]`,
		},
		"service address": {
			"apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: nn}\nspec: {ports: [{port: 80}]}",
			"apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: nn}\nspec: {ports: [{port: 80}], clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1]}",
		},
		"claim before and after binding": {
			"apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: c, namespace: nn}\nspec: {accessModes: [ReadWriteOnce]}",
			"apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: c, namespace: nn, finalizers: [kubernetes.io/pvc-protection], annotations: {pv.kubernetes.io/bind-completed: 'yes', pv.kubernetes.io/bound-by-controller: 'yes'}}\nspec: {accessModes: [ReadWriteOnce], volumeName: pv}",
		},
		"volume bound to another life of its claim": {
			"apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: v}\nspec: {claimRef: {namespace: nn, name: c}}",
			"apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: v, annotations: {pv.kubernetes.io/bound-by-controller: 'yes'}}\nspec: {claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: nn, name: c, uid: u, resourceVersion: '3'}}\nstatus: {phase: Bound}",
		},
		"job": {
			"apiVersion: batch/v1\nkind: Job\nmetadata: {name: j, namespace: nn}\nspec: {template: {metadata: {labels: {a: b}}}}",
			"apiVersion: batch/v1\nkind: Job\nmetadata: {name: j, namespace: nn}\nspec: {selector: {matchLabels: {controller-uid: x}}, template: {metadata: {labels: {a: b, controller-uid: x, batch.kubernetes.io/controller-uid: x, job-name: j, batch.kubernetes.io/job-name: j}}}}",
		},
	} {
		a, b := clustertest.Object(t, pair[0]), clustertest.Object(t, pair[1])
		if dig(t, a) != dig(t, b) {
			t.Errorf("%s: %s", name, cmp.Diff(essence(record(a)).Object, essence(record(b)).Object))
		}
	}
}

// TestDigestSeesTheLearnersWork pairs objects between which somebody did something.
func TestDigestSeesTheLearnersWork(t *testing.T) {
	for name, pair := range map[string][2]string{
		"label": {
			"apiVersion: v1\nkind: Namespace\nmetadata: {name: nn, labels: {kubernetes.io/metadata.name: nn}}",
			"apiVersion: v1\nkind: Namespace\nmetadata: {name: nn, labels: {kubernetes.io/metadata.name: nn, istio-injection: enabled}}",
		},
		"annotation": {
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: nn}",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: nn, annotations: {a: b}}",
		},
		"volume released": {
			"apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: v}\nspec: {claimRef: {namespace: nn, name: c, uid: u}}\nstatus: {phase: Bound}",
			"apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: v}\nspec: {claimRef: {namespace: nn, name: c, uid: u}}\nstatus: {phase: Released}",
		},
		"volume named by the learner": {
			"apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: c, namespace: nn}\nspec: {volumeName: a}",
			"apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: c, namespace: nn}\nspec: {volumeName: b}",
		},
		"headless": {
			"apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: nn}\nspec: {clusterIP: 10.0.0.1}",
			"apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: nn}\nspec: {clusterIP: None}",
		},
		"finalizer": {
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: nn}",
			"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: nn, finalizers: [example.com/keep]}",
		},
	} {
		if dig(t, clustertest.Object(t, pair[0])) == dig(t, clustertest.Object(t, pair[1])) {
			t.Errorf("%s: same digest", name)
		}
	}
}
