package session

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ropes-dev/ropes/checks/clustertest"
)

const (
	claimYAML  = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data, namespace: demo, uid: claim-1, annotations: {volume.kubernetes.io/storage-provisioner: x}}\nspec: {volumeName: pvc-1}"
	volumeYAML = "apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: pvc-1, uid: volume-1, annotations: {pv.kubernetes.io/provisioned-by: x}}\nspec: {persistentVolumeReclaimPolicy: Delete, claimRef: {namespace: demo, name: data, uid: claim-1}}\nstatus: {phase: Bound}"
	userYAML   = "apiVersion: v1\nkind: Pod\nmetadata: {name: user, namespace: demo, uid: pod-1}\nspec: {volumes: [{name: d, persistentVolumeClaim: {claimName: data}}]}"
)

func inventoryOf(objects ...*unstructured.Unstructured) *inventory {
	inv := &inventory{
		namespaces: map[string]*unstructured.Unstructured{}, objects: map[key]*unstructured.Unstructured{},
		uids: map[types.UID]bool{}, volumes: map[key]*unstructured.Unstructured{},
	}
	for _, u := range objects {
		inv.add(u)
	}
	inv.setAsideProvisioned()
	return inv
}

func keysOf(us []*unstructured.Unstructured) []string {
	out := []string{}
	for _, u := range us {
		out = append(out, keyOf(u).String())
	}
	return out
}

func TestProvisionedVolumes(t *testing.T) {
	deleted := "2026-01-01T00:00:00Z"
	get := func(manifest string) *unstructured.Unstructured { return clustertest.Object(t, manifest) }
	going := func(manifest string) *unstructured.Unstructured {
		u := get(manifest)
		_ = unstructured.SetNestedField(u.Object, deleted, "metadata", "deletionTimestamp")
		return u
	}
	retained := get(volumeYAML)
	_ = unstructured.SetNestedField(retained.Object, "Retain", "spec", "persistentVolumeReclaimPolicy")
	released := get(volumeYAML)
	_ = unstructured.SetNestedField(released.Object, "Released", "status", "phase")
	snap, err := inventoryOf(get(claimYAML), get(volumeYAML), get(userYAML)).snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		live                           []*unstructured.Unstructured
		extra, missing, volumes, users []string
	}{
		"as recorded":          {live: []*unstructured.Unstructured{get(claimYAML), get(volumeYAML), get(userYAML)}},
		"not bound again yet":  {live: []*unstructured.Unstructured{get(claimYAML), get(userYAML)}},
		"policy changed":       {live: []*unstructured.Unstructured{get(claimYAML), retained, get(userYAML)}, volumes: []string{"PersistentVolume pvc-1"}},
		"claim being deleted":  {live: []*unstructured.Unstructured{going(claimYAML), get(volumeYAML), get(userYAML)}, extra: []string{"PersistentVolume pvc-1", "PersistentVolumeClaim demo/data"}, missing: []string{"PersistentVolumeClaim demo/data"}, users: []string{"Pod demo/user"}},
		"volume being deleted": {live: []*unstructured.Unstructured{get(claimYAML), going(volumeYAML), get(userYAML)}, extra: []string{"PersistentVolumeClaim demo/data"}, missing: []string{"PersistentVolumeClaim demo/data"}, users: []string{"Pod demo/user"}},
		"claim gone, retained": {live: []*unstructured.Unstructured{released, get(userYAML)}, extra: []string{"PersistentVolume pvc-1"}, missing: []string{"PersistentVolumeClaim demo/data"}},
	} {
		t.Run(name, func(t *testing.T) {
			inv := inventoryOf(tt.live...)
			d, err := snap.compare(inv)
			if err != nil {
				t.Fatal(err)
			}
			for what, pair := range map[string][2][]string{
				"extra": {tt.extra, keysOf(d.extra)}, "missing": {tt.missing, keysOf(d.missing)}, "volumes": {tt.volumes, keysOf(d.volumes)},
				"users": {tt.users, keysOf(inv.users(d.extra))},
			} {
				if diff := cmp.Diff(append([]string{}, pair[0]...), pair[1]); diff != "" {
					t.Errorf("%s: %s", what, diff)
				}
			}
			if len(d.volumes) > 0 && policyOf(d.volumes[0]) != "Delete" {
				t.Errorf("policy to write back is %s", policyOf(d.volumes[0]))
			}
		})
	}
}

// TestOrphans: with a deployment go its replica set and its pods, in one round.
func TestOrphans(t *testing.T) {
	get := func(manifest string) *unstructured.Unstructured { return clustertest.Object(t, manifest) }
	deployment := get("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: demo, uid: d-1}")
	inv := inventoryOf(
		deployment,
		get("apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: demo, uid: p-1, ownerReferences: [{uid: r-1, controller: true}]}"),
		get("apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {name: r, namespace: demo, uid: r-1, ownerReferences: [{uid: d-1, controller: true}]}"),
		get("apiVersion: v1\nkind: Pod\nmetadata: {name: left, namespace: demo, uid: p-2, ownerReferences: [{uid: gone, controller: true}]}"),
	)
	inv.namespaces["demo"] = get("apiVersion: v1\nkind: Namespace\nmetadata: {name: demo}")
	if d := cmp.Diff([]string{"Pod demo/left"}, keysOf(orphans(inv, nil))); d != "" {
		t.Errorf("nothing deleted: %s", d)
	}
	got := keysOf(orphans(inv, []*unstructured.Unstructured{deployment}))
	if d := cmp.Diff([]string{"ReplicaSet demo/r", "Pod demo/left", "Pod demo/p"}, got); d != "" {
		t.Errorf("deployment deleted: %s", d)
	}
}
