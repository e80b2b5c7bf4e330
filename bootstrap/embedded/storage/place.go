package storage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Annotations that the scheduler and the volume controller put on a claim.
const (
	annSelectedNode = "volume.kubernetes.io/selected-node"
	annProvisioner  = "volume.kubernetes.io/storage-provisioner"
)

// placer picks the node for a claim that no scheduler has picked one for, which is
// the case for classes with volumeBindingMode Immediate. Every node's provisioner
// comes to the same answer on its own.
type placer struct {
	client kubernetes.Interface
}

// place is the name of the node that is to hold the claim's volume. Where no node is
// eligible one is named all the same: it then refuses with the reason.
func (p placer) place(ctx context.Context, claim *corev1.PersistentVolumeClaim) (string, error) {
	if claim.Spec.StorageClassName == nil {
		return "", fmt.Errorf("claim %s/%s names no StorageClass", claim.Namespace, claim.Name)
	}
	class, err := p.client.StorageV1().StorageClasses().Get(ctx, *claim.Spec.StorageClassName, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if m := class.VolumeBindingMode; m != nil && *m == storagev1.VolumeBindingWaitForFirstConsumer {
		return "", fmt.Errorf("claim %s/%s waits for its first consumer", claim.Namespace, claim.Name)
	}
	nodes, err := p.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	var names, all []string
	for i := range nodes.Items {
		all = append(all, nodes.Items[i].Name)
		if unfit(&nodes.Items[i], class) == "" {
			names = append(names, nodes.Items[i].Name)
		}
	}
	if len(names) == 0 {
		names = all
	}
	return highest(string(claim.UID), names), nil
}

// eligible is nil where the node may hold volumes of the class, and else says why not.
func (p placer) eligible(ctx context.Context, name string, class *storagev1.StorageClass) error {
	node, err := p.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if why := unfit(node, class); why != "" {
		return fmt.Errorf("no node can take a volume of StorageClass %s at once: the last one, %s, %s", class.Name, name, why)
	}
	return nil
}

// unfit says why the node may not hold a volume of the class; empty where it may.
func unfit(node *corev1.Node, class *storagev1.StorageClass) string {
	if node.Spec.Unschedulable {
		return "is cordoned"
	}
	for _, t := range node.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute {
			return fmt.Sprintf("has the taint %s", t.ToString())
		}
	}
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	if !ready {
		return "is not Ready"
	}
	if !inTopology(node, class.AllowedTopologies) {
		return "does not match allowedTopologies"
	}
	return ""
}

// inTopology says whether the node matches one of the terms; no terms match any node.
func inTopology(node *corev1.Node, terms []corev1.TopologySelectorTerm) bool {
	if len(terms) == 0 {
		return true
	}
	return slices.ContainsFunc(terms, func(t corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchLabelExpressions, func(r corev1.TopologySelectorLabelRequirement) bool {
			value, ok := node.Labels[r.Key]
			return !ok || !slices.Contains(r.Values, value)
		})
	})
}

// highest is the name whose hash together with the key is highest (rendezvous
// hashing): adding or losing a node moves only the claims of that node.
func highest(key string, names []string) string {
	var best string
	var top []byte
	for _, name := range slices.Sorted(slices.Values(names)) {
		if sum := sha256.Sum256([]byte(name + "/" + key)); bytes.Compare(sum[:], top) > 0 {
			best, top = name, sum[:]
		}
	}
	return best
}
