package session

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// record returns what has to be written to bring obj about again: what somebody asked for,
// without what the API server and controllers add on their own.
func record(obj *unstructured.Unstructured) *unstructured.Unstructured {
	u := obj.DeepCopy()
	delete(u.Object, "status")
	md, _ := u.Object["metadata"].(map[string]any)
	for _, k := range []string{
		"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink",
		"deletionTimestamp", "deletionGracePeriodSeconds",
		"ownerReferences", // by uid, and the uid will be another one
	} {
		delete(md, k)
	}
	u.SetFinalizers(slices.DeleteFunc(u.GetFinalizers(), isSystemFinalizer))
	if len(u.GetFinalizers()) == 0 {
		delete(md, "finalizers")
	}
	if kind := recorders[u.GroupVersionKind().GroupKind().String()]; kind != nil {
		kind(u, obj)
	}
	dropKeys(u, "annotations", controllerAnnotations...)
	return u
}

// essence is what a digest is made of: the record without the notes of the tool that wrote
// the object.
func essence(rec *unstructured.Unstructured) *unstructured.Unstructured {
	u := rec.DeepCopy()
	dropKeys(u, "annotations", lastApplied)
	return u
}

const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// digest identifies the essence of a record, in hex.
func digest(rec *unstructured.Unstructured) (string, error) {
	data, err := json.Marshal(essence(rec).Object) // maps are encoded in order of keys
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", keyOf(rec), err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

var controllerAnnotations = []string{
	"deployment.kubernetes.io/revision",
	"pv.kubernetes.io/bind-completed",
	"pv.kubernetes.io/bound-by-controller",
	"volume.kubernetes.io/selected-node",
	"volume.kubernetes.io/storage-provisioner",
	"volume.beta.kubernetes.io/storage-provisioner",
	"batch.kubernetes.io/job-tracking",
	injectionStatus,
}

func isSystemFinalizer(f string) bool {
	switch f {
	case "kubernetes.io/pv-protection", "kubernetes.io/pvc-protection", "foregroundDeletion", "orphan",
		"external-provisioner.volume.kubernetes.io/finalizer", "service.kubernetes.io/load-balancer-cleanup",
		"batch.kubernetes.io/job-tracking":
		return true
	}
	return false
}

func dropKeys(u *unstructured.Unstructured, field string, keys ...string) {
	m, _, _ := unstructured.NestedStringMap(u.Object, "metadata", field)
	maps.DeleteFunc(m, func(k, _ string) bool { return slices.Contains(keys, k) })
	if len(m) == 0 {
		unstructured.RemoveNestedField(u.Object, "metadata", field)
		return
	}
	_ = unstructured.SetNestedStringMap(u.Object, m, "metadata", field)
}

// recorders treat the kinds whose spec is written by controllers too. u is to be changed;
// live is the object with its status.
var recorders = map[string]func(u, live *unstructured.Unstructured){
	"Pod":                   recordPod,
	"Service":               recordService,
	"Namespace":             recordNamespace,
	"ServiceAccount":        func(u, _ *unstructured.Unstructured) { delete(u.Object, "secrets") },
	"Job.batch":             recordJob,
	"PersistentVolume":      recordVolume,
	"PersistentVolumeClaim": recordClaim,
}

func drop(u *unstructured.Unstructured, path ...string) {
	unstructured.RemoveNestedField(u.Object, path...)
}

// injectionStatus is the annotation in which Istio's injector lists what it added to a pod.
const injectionStatus = "sidecar.istio.io/status"

func recordPod(u, _ *unstructured.Unstructured) {
	drop(u, "spec", "nodeName")
	drop(u, "spec", "ephemeralContainers") // cannot be part of a new pod
	added := struct{ InitContainers, Containers, Volumes []string }{}
	if s := u.GetAnnotations()[injectionStatus]; s != "" && json.Unmarshal([]byte(s), &added) == nil {
		dropNamed(u, "initContainers", added.InitContainers)
		dropNamed(u, "containers", added.Containers)
		// proxies may be native sidecars, which are init containers, whatever the list says
		dropNamed(u, "initContainers", added.Containers)
		dropNamed(u, "volumes", added.Volumes)
	}
	for _, list := range []string{"initContainers", "containers"} {
		items, _, _ := unstructured.NestedSlice(u.Object, "spec", list)
		for _, c := range items {
			if c, ok := c.(map[string]any); ok {
				mounts, _ := c["volumeMounts"].([]any)
				setOrDelete(c, "volumeMounts", slices.DeleteFunc(mounts, isTokenVolume))
			}
		}
		if len(items) > 0 {
			_ = unstructured.SetNestedSlice(u.Object, items, "spec", list)
		}
	}
	spec, _ := u.Object["spec"].(map[string]any)
	vols, _ := spec["volumes"].([]any)
	setOrDelete(spec, "volumes", slices.DeleteFunc(vols, isTokenVolume))
}

// isTokenVolume recognises the volume that the API server gives every pod for its token.
func isTokenVolume(v any) bool {
	m, _ := v.(map[string]any)
	name, _ := m["name"].(string)
	return strings.HasPrefix(name, "kube-api-access-")
}

func setOrDelete(m map[string]any, key string, list []any) {
	if len(list) == 0 {
		delete(m, key)
		return
	}
	m[key] = list
}

func dropNamed(u *unstructured.Unstructured, list string, names []string) {
	spec, _ := u.Object["spec"].(map[string]any)
	items, _ := spec[list].([]any)
	setOrDelete(spec, list, slices.DeleteFunc(items, func(v any) bool {
		m, _ := v.(map[string]any)
		name, _ := m["name"].(string)
		return slices.Contains(names, name)
	}))
}

func recordService(u, _ *unstructured.Unstructured) {
	if ip, _, _ := unstructured.NestedString(u.Object, "spec", "clusterIP"); ip != "None" {
		drop(u, "spec", "clusterIP")
		drop(u, "spec", "clusterIPs")
	}
	drop(u, "spec", "healthCheckNodePort")
}

func recordNamespace(u, _ *unstructured.Unstructured) {
	drop(u, "spec")
	dropKeys(u, "labels", "kubernetes.io/metadata.name")
}

// recordJob drops the selector and labels that the API server generates from the uid.
func recordJob(u, _ *unstructured.Unstructured) {
	if manual, _, _ := unstructured.NestedBool(u.Object, "spec", "manualSelector"); manual {
		return
	}
	drop(u, "spec", "selector")
	for _, l := range []string{"controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name"} {
		drop(u, "spec", "template", "metadata", "labels", l)
	}
}

// recordVolume keeps whom a volume is bound or reserved to, by name. A released one keeps
// the uid of its dead claim: that is what makes it released.
func recordVolume(u, live *unstructured.Unstructured) {
	drop(u, "spec", "claimRef", "resourceVersion")
	drop(u, "spec", "claimRef", "apiVersion")
	drop(u, "spec", "claimRef", "kind")
	if phase, _, _ := unstructured.NestedString(live.Object, "status", "phase"); phase != "Released" && phase != "Failed" {
		drop(u, "spec", "claimRef", "uid")
	}
}

// recordClaim drops the volume that a controller chose; one that the claim's author named stays.
func recordClaim(u, live *unstructured.Unstructured) {
	a := live.GetAnnotations()
	if a["pv.kubernetes.io/bound-by-controller"] != "" || isProvisioned(a) {
		drop(u, "spec", "volumeName")
	}
}

func isProvisioned(annotations map[string]string) bool {
	return annotations["volume.kubernetes.io/storage-provisioner"] != "" || annotations["volume.beta.kubernetes.io/storage-provisioner"] != ""
}

// creatable returns what to create for a record. A pod that was written with kubectl apply
// is created from what was applied then: the injector has changed probes and the like in
// the live one and would change them again.
func creatable(rec *unstructured.Unstructured) *unstructured.Unstructured {
	u := rec.DeepCopy()
	applied := rec.GetAnnotations()[lastApplied]
	if rec.GetKind() != "Pod" || applied == "" {
		return u
	}
	var m map[string]any
	if json.Unmarshal([]byte(applied), &m) != nil {
		return u
	}
	orig := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(m)}
	ann := orig.GetAnnotations()
	if ann == nil {
		ann = map[string]string{}
	}
	ann[lastApplied] = applied
	orig.SetAnnotations(ann)
	return orig
}
