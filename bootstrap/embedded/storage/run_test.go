package storage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/ropes-dev/ropes/bootstrap"
)

// serve runs the whole controller for node w1 against a fake API until the test ends.
func serve(t *testing.T, objects ...runtime.Object) (kubernetes.Interface, *Volumes) {
	t.Helper()
	client := fake.NewClientset(objects...)
	v := &Volumes{node: "w1", hostname: "w1", root: "/volumes", dir: t.TempDir(), placer: placer{client: client}}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { run(ctx, client, v) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return client, v
}

// await polls until fn is content, for at most ten seconds.
func await(t *testing.T, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := bootstrap.Poll(ctx, 10*time.Millisecond, fn); err != nil {
		t.Fatal(err)
	}
}

func TestLifeOfAVolume(t *testing.T) {
	claim := newClaim(nil)
	elsewhere := newClaim(func(c *corev1.PersistentVolumeClaim) {
		c.Name, c.UID = "elsewhere", "u-2"
		c.Annotations[annSelectedNode] = "w2"
	})
	client, v := serve(t, newClass(nil), node("w1", nil), claim, elsewhere)
	volumes := client.CoreV1().PersistentVolumes()
	dir := filepath.Join(v.dir, "pvc-u-1")

	var pv *corev1.PersistentVolume
	await(t, func(ctx context.Context) (err error) {
		pv, err = volumes.Get(ctx, "pvc-u-1", metav1.GetOptions{})
		return err
	})
	if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.Name != "data" || pv.Spec.StorageClassName != "standard" {
		t.Errorf("volume is not the claim's: %+v", pv.Spec)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}

	pv.Status.Phase = corev1.VolumeReleased
	if _, err := volumes.UpdateStatus(t.Context(), pv, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, func(ctx context.Context) error {
		_, err := volumes.Get(ctx, "pvc-u-1", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("the released volume is still there"), err)
	})
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory is still there: %v", err)
	}
	if _, err := volumes.Get(t.Context(), "pvc-u-2", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the claim of another node was served here: %v", err)
	}
}

func TestRetainKeepsVolumeAndData(t *testing.T) {
	retain := corev1.PersistentVolumeReclaimRetain
	class := newClass(nil)
	class.ReclaimPolicy = &retain
	client, v := serve(t, class, node("w1", nil), newClaim(nil))
	volumes := client.CoreV1().PersistentVolumes()
	await(t, func(ctx context.Context) error {
		_, err := volumes.Get(ctx, "pvc-u-1", metav1.GetOptions{})
		return err
	})
	// The volume may be deleted at once: no finalizer of ours stands in the way.
	await(t, func(ctx context.Context) error {
		pv, err := volumes.Get(ctx, "pvc-u-1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(pv.Finalizers) > 0 {
			return errors.New("finalizers " + strings.Join(pv.Finalizers, ", "))
		}
		pv.Status.Phase = corev1.VolumeReleased
		_, err = volumes.UpdateStatus(ctx, pv, metav1.UpdateOptions{})
		return err
	})
	// A claim served after the release shows that the release has been looked at.
	second := newClaim(func(c *corev1.PersistentVolumeClaim) { c.Name, c.UID = "second", "u-2" })
	if _, err := client.CoreV1().PersistentVolumeClaims("team").Create(t.Context(), second, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, func(ctx context.Context) error {
		_, err := volumes.Get(ctx, "pvc-u-2", metav1.GetOptions{})
		return err
	})
	if _, err := volumes.Get(t.Context(), "pvc-u-1", metav1.GetOptions{}); err != nil {
		t.Errorf("the retained volume is gone: %v", err)
	}
	if _, err := os.Stat(filepath.Join(v.dir, "pvc-u-1")); err != nil {
		t.Errorf("its data is gone: %v", err)
	}
}

func TestRefusalBecomesAnEvent(t *testing.T) {
	tests := map[string]struct {
		edit func(*corev1.PersistentVolumeClaim)
		want string
	}{
		"access mode": {
			edit: func(c *corev1.PersistentVolumeClaim) {
				c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
			},
			want: "access mode ReadWriteMany is not supported by ropes.dev/local",
		},
		"block": {
			edit: func(c *corev1.PersistentVolumeClaim) {
				m := corev1.PersistentVolumeBlock
				c.Spec.VolumeMode = &m
			},
			want: "ropes.dev/local does not support block volume",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			client, _ := serve(t, newClass(nil), node("w1", nil), newClaim(tt.edit))
			await(t, func(ctx context.Context) error {
				events, err := client.CoreV1().Events("team").List(ctx, metav1.ListOptions{})
				if err != nil {
					return err
				}
				for _, e := range events.Items {
					if e.Type == corev1.EventTypeWarning && e.InvolvedObject.Name == "data" && strings.Contains(e.Message, tt.want) {
						return nil
					}
				}
				return errors.New("no such event yet")
			})
		})
	}
}
