//go:build conformance

package conformance

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The guard that the standard channel comes with, against an unmeant change of channel.
const upgradeGuard = "safe-upgrades.gateway.networking.k8s.io"

const establishTimeout = time.Minute

// installExperimental puts the experimental channel in the place of the standard one that
// every lab has: some features that istiod claims are in no other.
func installExperimental(t *testing.T, c client.Client) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: upgradeGuard}
	for _, o := range []client.Object{
		&admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: meta}, &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: meta},
	} {
		if err := client.IgnoreNotFound(c.Delete(t.Context(), o)); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(goTool(t, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api"), "config/crd/experimental")
	files, err := filepath.Glob(filepath.Join(dir, "gateway.networking.*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no definitions in %s: %v", dir, err)
	}
	for _, file := range files {
		for _, o := range objectsOf(t, file) {
			if o.GetKind() != "CustomResourceDefinition" {
				continue
			}
			apply := func(ctx context.Context) (bool, error) {
				// The guard is gone a moment after it is deleted.
				err = c.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("conformance"), client.ForceOwnership)
				return err == nil, nil
			}
			if wait.PollUntilContextTimeout(t.Context(), time.Second, establishTimeout, true, apply) != nil {
				t.Fatalf("apply %s: %v", o.GetName(), err)
			}
			awaitEstablished(t, c, o.GetName())
		}
	}
}

func objectsOf(t *testing.T, file string) []*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096); ; {
		o := &unstructured.Unstructured{}
		switch err := decoder.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			t.Fatalf("%s: %v", file, err)
		case len(o.Object) > 0:
			out = append(out, o)
		}
	}
}

func awaitEstablished(t *testing.T, c client.Client, name string) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, establishTimeout, true, func(ctx context.Context) (bool, error) {
		var crd apiextensionsv1.CustomResourceDefinition
		if err := c.Get(ctx, client.ObjectKey{Name: name}, &crd); err != nil {
			return false, err
		}
		for _, cond := range crd.Status.Conditions {
			if cond.Type == apiextensionsv1.Established && cond.Status == apiextensionsv1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
