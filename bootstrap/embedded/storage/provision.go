package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

// Name is what a StorageClass gives as its provisioner to be served by this package.
const Name = "ropes.dev/local"

// DefaultRoot is the directory on each node that holds one directory for each volume.
const DefaultRoot = "/var/local/ropes-volumes"

// volumeMode lets any user of any pod write, since a claim does not say who will.
const volumeMode fs.FileMode = 0o777

// Volumes provisions and deletes the volumes of one node.
type Volumes struct {
	node     string // name of the node
	hostname string // its label kubernetes.io/hostname, by which volumes name it
	root     string // directory that holds the volumes, by the name it has on the node
	dir      string // the same directory, by the name it has for this process
	placer   placer
}

var (
	_ controller.Provisioner   = (*Volumes)(nil)
	_ controller.Qualifier     = (*Volumes)(nil)
	_ controller.DeletionGuard = (*Volumes)(nil)
)

// ShouldProvision implements controller.Qualifier: whether the claim is this node's.
func (v *Volumes) ShouldProvision(ctx context.Context, claim *corev1.PersistentVolumeClaim) bool {
	if node := claim.Annotations[annSelectedNode]; node != "" {
		return node == v.node
	}
	if claim.Annotations[annProvisioner] != Name {
		return false
	}
	node, err := v.placer.place(ctx, claim)
	return err == nil && node == v.node
}

// Provision implements controller.Provisioner: it makes the directory and describes
// it as a volume. Doing it twice for one claim is harmless.
func (v *Volumes) Provision(ctx context.Context, o controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	if err := refuse(o); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	if o.SelectedNodeName == "" {
		if err := v.placer.eligible(ctx, v.node, o.StorageClass); err != nil {
			return nil, controller.ProvisioningFinished, err
		}
	}
	if err := v.makeDir(o.PVName); err != nil {
		return nil, controller.ProvisioningFinished, fmt.Errorf("make the volume's directory on node %s: %w", v.node, err)
	}
	return v.describe(o), controller.ProvisioningFinished, nil
}

// refuse says by name what a claim or its class asks for that a directory cannot give.
func refuse(o controller.ProvisionOptions) error {
	claim, class := o.PVC, o.StorageClass
	for _, mode := range claim.Spec.AccessModes {
		switch mode {
		case corev1.ReadWriteOnce, corev1.ReadWriteOncePod:
		default:
			return fmt.Errorf("access mode %s is not supported by %s: its volumes are directories of one node and cannot be mounted on many; ask for %s or %s",
				mode, Name, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
		}
	}
	if m := claim.Spec.VolumeMode; m != nil && *m != corev1.PersistentVolumeFilesystem {
		return fmt.Errorf("volumeMode %s is not supported by %s: it makes directories, not block devices", *m, Name)
	}
	if claim.Spec.Selector != nil {
		return fmt.Errorf("spec.selector is not supported by %s: a new volume has no labels to select by; create a PersistentVolume by hand or drop the selector", Name)
	}
	if src := claim.Spec.DataSource; src != nil {
		return fmt.Errorf("spec.dataSource (%s %s) is not supported by %s: it makes empty volumes only", src.Kind, src.Name, Name)
	}
	if src := claim.Spec.DataSourceRef; src != nil {
		return fmt.Errorf("spec.dataSourceRef (%s %s) is not supported by %s: it makes empty volumes only", src.Kind, src.Name, Name)
	}
	for _, key := range slices.Sorted(maps.Keys(class.Parameters)) {
		return fmt.Errorf("parameter %q of StorageClass %s is not supported: %s takes no parameters", key, class.Name, Name)
	}
	return nil
}

func (v *Volumes) makeDir(name string) error {
	root, err := os.OpenRoot(v.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(name, volumeMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is there already and is no directory", filepath.Join(v.root, name))
	}
	return root.Chmod(name, volumeMode) // Mkdir's mode went through the umask
}

func (v *Volumes) describe(o controller.ProvisionOptions) *corev1.PersistentVolume {
	reclaim := corev1.PersistentVolumeReclaimDelete
	if o.StorageClass.ReclaimPolicy != nil {
		reclaim = *o.StorageClass.ReclaimPolicy
	}
	mode := corev1.PersistentVolumeFilesystem
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: o.PVName},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: reclaim,
			AccessModes:                   o.PVC.Spec.AccessModes,
			VolumeMode:                    &mode,
			MountOptions:                  o.StorageClass.MountOptions,
			Capacity: corev1.ResourceList{
				corev1.ResourceStorage: o.PVC.Spec.Resources.Requests[corev1.ResourceStorage],
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				Local: &corev1.LocalVolumeSource{Path: filepath.Join(v.root, o.PVName)},
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{
					MatchExpressions: []corev1.NodeSelectorRequirement{{
						Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{v.hostname},
					}},
				}},
			}},
		},
	}
}

// ShouldDelete implements controller.DeletionGuard: whether the volume is this node's.
func (v *Volumes) ShouldDelete(_ context.Context, pv *corev1.PersistentVolume) bool {
	return hostnameOf(pv) == v.hostname
}

// Delete implements controller.Provisioner: it removes the volume's directory and all
// in it. A path that is not the one Provision chose for that volume is refused, so
// that no object can name a directory of the node to be removed. Symbolic links in
// the volume are removed and never followed.
func (v *Volumes) Delete(_ context.Context, pv *corev1.PersistentVolume) error {
	if hostnameOf(pv) != v.hostname {
		return &controller.IgnoredError{Reason: fmt.Sprintf("volume %s is not on node %s", pv.Name, v.node)}
	}
	want := filepath.Join(v.root, pv.Name)
	if pv.Spec.Local == nil || pv.Spec.Local.Path != want || strings.ContainsRune(pv.Name, filepath.Separator) {
		return fmt.Errorf("volume %s does not lie at %s: %s did not make it and will not remove its data", pv.Name, want, Name)
	}
	root, err := os.OpenRoot(v.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.RemoveAll(pv.Name); err != nil {
		return fmt.Errorf("remove the volume's directory on node %s: %w", v.node, err)
	}
	return nil
}

// hostnameOf is the one hostname that pv's node affinity asks for, or empty.
func hostnameOf(pv *corev1.PersistentVolume) string {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return ""
	}
	terms := pv.Spec.NodeAffinity.Required.NodeSelectorTerms
	if len(terms) != 1 || len(terms[0].MatchFields) != 0 || len(terms[0].MatchExpressions) != 1 {
		return ""
	}
	e := terms[0].MatchExpressions[0]
	if e.Key != corev1.LabelHostname || e.Operator != corev1.NodeSelectorOpIn || len(e.Values) != 1 {
		return ""
	}
	return e.Values[0]
}
