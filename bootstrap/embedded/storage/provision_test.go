package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// newVolumes serves node w1, whose hostname label differs from its name on purpose.
func newVolumes(t *testing.T) *Volumes {
	t.Helper()
	return &Volumes{node: "w1", hostname: "w1.lab", root: "/volumes", dir: t.TempDir(), placer: placer{client: fake.NewClientset()}}
}

func newClaim(edit func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	class := "standard"
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data", Namespace: "team", UID: "u-1", Annotations: map[string]string{
			annProvisioner: Name, annSelectedNode: "w1",
		}},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class,
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceStorage: resource.MustParse("1Gi"),
			}},
		},
	}
	if edit != nil {
		edit(c)
	}
	return c
}

func newClass(edit func(*storagev1.StorageClass)) *storagev1.StorageClass {
	mode, reclaim := storagev1.VolumeBindingWaitForFirstConsumer, corev1.PersistentVolumeReclaimDelete
	c := &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "standard"}, Provisioner: Name,
		VolumeBindingMode: &mode, ReclaimPolicy: &reclaim,
	}
	if edit != nil {
		edit(c)
	}
	return c
}

func TestProvisionMakesDirectoryAndVolume(t *testing.T) {
	v := newVolumes(t)
	retain := corev1.PersistentVolumeReclaimRetain
	o := controller.ProvisionOptions{
		PVName: "pvc-u-1", SelectedNodeName: "w1", PVC: newClaim(nil),
		StorageClass: newClass(func(c *storagev1.StorageClass) {
			c.ReclaimPolicy = &retain
			c.MountOptions = []string{"noatime"}
		}),
	}
	for range 2 { // a second attempt after a lost answer finds the directory there
		pv, state, err := v.Provision(t.Context(), o)
		if err != nil || state != controller.ProvisioningFinished {
			t.Fatalf("Provision: state %s, error %v", state, err)
		}
		if got := pv.Spec.Local.Path; got != "/volumes/pvc-u-1" {
			t.Errorf("path %q", got)
		}
		if got := hostnameOf(pv); got != "w1.lab" {
			t.Errorf("node affinity names %q", got)
		}
		if got := pv.Spec.Capacity.Storage().String(); got != "1Gi" {
			t.Errorf("capacity %s", got)
		}
		if pv.Spec.PersistentVolumeReclaimPolicy != retain {
			t.Errorf("reclaim policy %s", pv.Spec.PersistentVolumeReclaimPolicy)
		}
		if diff := cmp.Diff([]string{"noatime"}, pv.Spec.MountOptions); diff != "" {
			t.Errorf("mount options (-want +got):\n%s", diff)
		}
	}
	info, err := os.Stat(filepath.Join(v.dir, "pvc-u-1"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != fs.ModeDir|0o777 {
		t.Errorf("mode %s, want a directory that all may write to", info.Mode())
	}
}

func TestProvisionRefusesByName(t *testing.T) {
	block := corev1.PersistentVolumeBlock
	tests := map[string]struct {
		claim func(*corev1.PersistentVolumeClaim)
		class func(*storagev1.StorageClass)
		want  string
	}{
		"read-write-many": {
			claim: func(c *corev1.PersistentVolumeClaim) {
				c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteMany}
			},
			want: "access mode ReadWriteMany is not supported",
		},
		"read-only-many": {
			claim: func(c *corev1.PersistentVolumeClaim) {
				c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
			},
			want: "access mode ReadOnlyMany is not supported",
		},
		"block": {
			claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = &block },
			want:  "volumeMode Block is not supported",
		},
		"selector": {
			claim: func(c *corev1.PersistentVolumeClaim) { c.Spec.Selector = &metav1.LabelSelector{} },
			want:  "spec.selector is not supported",
		},
		"clone": {
			claim: func(c *corev1.PersistentVolumeClaim) {
				c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "old"}
			},
			want: "spec.dataSource (PersistentVolumeClaim old) is not supported",
		},
		"populator": {
			claim: func(c *corev1.PersistentVolumeClaim) {
				c.Spec.DataSourceRef = &corev1.TypedObjectReference{Kind: "Hydrator", Name: "h"}
			},
			want: "spec.dataSourceRef (Hydrator h) is not supported",
		},
		"parameter": {
			class: func(c *storagev1.StorageClass) { c.Parameters = map[string]string{"type": "ssd", "iops": "9"} },
			want:  `parameter "iops" of StorageClass standard is not supported`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			v := newVolumes(t)
			_, state, err := v.Provision(t.Context(), controller.ProvisionOptions{
				PVName: "pvc-u-1", SelectedNodeName: "w1", PVC: newClaim(tt.claim), StorageClass: newClass(tt.class),
			})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one that says %q", err, tt.want)
			}
			if state != controller.ProvisioningFinished {
				t.Errorf("state %s", state)
			}
			if left, _ := os.ReadDir(v.dir); len(left) != 0 {
				t.Errorf("a refused claim left %v behind", left)
			}
		})
	}
}

func TestProvisionAcceptsReadWriteOncePod(t *testing.T) {
	v := newVolumes(t)
	_, _, err := v.Provision(t.Context(), controller.ProvisionOptions{
		PVName: "pvc-u-1", SelectedNodeName: "w1", StorageClass: newClass(nil),
		PVC: newClaim(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
		}),
	})
	if err != nil {
		t.Error(err)
	}
}

// provisioned makes a volume with data and with links that lead out of it.
func provisioned(t *testing.T, v *Volumes) (pv *corev1.PersistentVolume, outside string) {
	t.Helper()
	pv, _, err := v.Provision(t.Context(), controller.ProvisionOptions{
		PVName: "pvc-u-1", SelectedNodeName: "w1", PVC: newClaim(nil), StorageClass: newClass(nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	outside = t.TempDir()
	dir := filepath.Join(v.dir, "pvc-u-1")
	for _, err := range []error{
		os.WriteFile(filepath.Join(outside, "precious"), []byte("x"), 0o600),
		os.MkdirAll(filepath.Join(dir, "a/b"), 0o755),
		os.WriteFile(filepath.Join(dir, "a/b/f"), []byte("x"), 0o600),
		os.Symlink(outside, filepath.Join(dir, "a/out")),
		os.Symlink(filepath.Join(outside, "precious"), filepath.Join(dir, "f")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return pv, outside
}

func TestDeleteRemovesDataAndFollowsNoLink(t *testing.T) {
	v := newVolumes(t)
	pv, outside := provisioned(t, v)
	for range 2 { // deleting again after a lost answer is harmless
		if err := v.Delete(t.Context(), pv); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(v.dir, "pvc-u-1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(outside, "precious")); err != nil {
		t.Errorf("a file outside the volume is gone: %v", err)
	}
}

func TestDeleteOfALinkInPlaceOfTheVolume(t *testing.T) {
	v := newVolumes(t)
	pv, outside := provisioned(t, v)
	dir := filepath.Join(v.dir, "pvc-u-1")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, dir); err != nil {
		t.Fatal(err)
	}
	if err := v.Delete(t.Context(), pv); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "precious")); err != nil {
		t.Errorf("what the link pointed to is gone: %v", err)
	}
}

func TestDeleteRefusesForeignPaths(t *testing.T) {
	for _, path := range []string{"/etc", "/volumes/pvc-other", "/volumes/pvc-u-1/..", "/volumes"} {
		t.Run(path, func(t *testing.T) {
			v := newVolumes(t)
			pv, _ := provisioned(t, v)
			pv.Spec.Local.Path = path
			if err := v.Delete(t.Context(), pv); err == nil {
				t.Error("deleted without complaint")
			}
			if _, err := os.Stat(filepath.Join(v.dir, "pvc-u-1/a/b/f")); err != nil {
				t.Errorf("data is gone: %v", err)
			}
		})
	}
}

func TestDeleteLeavesOtherNodesAlone(t *testing.T) {
	v := newVolumes(t)
	pv, _ := provisioned(t, v)
	pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values = []string{"w2.lab"}
	if v.ShouldDelete(t.Context(), pv) {
		t.Error("claims a volume of another node")
	}
	if err := v.Delete(t.Context(), pv); !errors.As(err, new(*controller.IgnoredError)) {
		t.Errorf("error %v, want IgnoredError", err)
	}
	pv.Spec.NodeAffinity = nil
	if v.ShouldDelete(t.Context(), pv) {
		t.Error("claims a volume without a node")
	}
}

func node(name string, edit func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, "zone": "a"}},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
	if edit != nil {
		edit(n)
	}
	return n
}

func TestShouldProvisionDividesTheWork(t *testing.T) {
	immediate := storagev1.VolumeBindingImmediate
	client := fake.NewClientset(
		newClass(func(c *storagev1.StorageClass) { c.Name = "now"; c.VolumeBindingMode = &immediate }),
		newClass(nil),
		node("cp", func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}}
		}),
		node("w1", nil), node("w2", nil),
		node("w3", func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }),
	)
	all := map[string]*Volumes{}
	for _, n := range []string{"cp", "w1", "w2", "w3"} {
		all[n] = &Volumes{node: n, hostname: n, placer: placer{client: client}}
	}
	takers := func(c *corev1.PersistentVolumeClaim) (names []string) {
		for n, v := range all {
			if v.ShouldProvision(t.Context(), c) {
				names = append(names, n)
			}
		}
		return names
	}
	t.Run("the selected node and no other", func(t *testing.T) {
		c := newClaim(func(c *corev1.PersistentVolumeClaim) { c.Annotations[annSelectedNode] = "cp" })
		if diff := cmp.Diff([]string{"cp"}, takers(c)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("nobody before the first consumer", func(t *testing.T) {
		c := newClaim(func(c *corev1.PersistentVolumeClaim) { delete(c.Annotations, annSelectedNode) })
		if got := takers(c); got != nil {
			t.Errorf("taken by %v", got)
		}
	})
	t.Run("immediate: one fit node each, and all fit nodes in turn", func(t *testing.T) {
		seen := map[string]int{}
		for i := range 100 {
			c := newClaim(func(c *corev1.PersistentVolumeClaim) {
				delete(c.Annotations, annSelectedNode)
				c.UID = types.UID(fmt.Sprintf("uid-%d", i))
				name := "now"
				c.Spec.StorageClassName = &name
			})
			got := takers(c)
			if len(got) != 1 {
				t.Fatalf("claim %d is taken by %v", i, got)
			}
			seen[got[0]]++
		}
		if seen["w1"]+seen["w2"] != 100 || seen["w1"] < 20 || seen["w2"] < 20 {
			t.Errorf("unfair: %v", seen)
		}
	})
	t.Run("a foreign provisioner's claim", func(t *testing.T) {
		c := newClaim(func(c *corev1.PersistentVolumeClaim) {
			delete(c.Annotations, annSelectedNode)
			c.Annotations[annProvisioner] = "example.com/other"
		})
		if got := takers(c); got != nil {
			t.Errorf("taken by %v", got)
		}
	})
}

func TestImmediateWithoutAFitNodeSaysWhy(t *testing.T) {
	class := newClass(func(c *storagev1.StorageClass) {
		m := storagev1.VolumeBindingImmediate
		c.VolumeBindingMode = &m
		c.AllowedTopologies = []corev1.TopologySelectorTerm{{
			MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "zone", Values: []string{"b"}}},
		}}
	})
	v := newVolumes(t)
	v.placer.client = fake.NewClientset(class, node("w1", nil))
	claim := newClaim(func(c *corev1.PersistentVolumeClaim) { delete(c.Annotations, annSelectedNode) })
	if !v.ShouldProvision(t.Context(), claim) {
		t.Fatal("nobody takes the claim, so nobody says what is wrong with it")
	}
	_, _, err := v.Provision(t.Context(), controller.ProvisionOptions{PVName: "pvc-u-1", PVC: claim, StorageClass: class})
	if err == nil || !strings.Contains(err.Error(), "does not match allowedTopologies") {
		t.Errorf("error %v", err)
	}
}

func TestParse(t *testing.T) {
	t.Setenv("NODE_NAME", "w1")
	got, err := parse([]string{"-root", "/r"})
	if err != nil {
		t.Fatal(err)
	}
	if want := (options{node: "w1", root: "/r", dir: "/r"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	t.Setenv("NODE_NAME", "")
	for _, args := range [][]string{nil, {"-node", "w1", "stray"}, {"-nonsense"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
