package addons

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// judges say of an object of each kind that is waited for what is missing until it is
// ready; empty when it is.
var judges = map[string]judge{
	"DaemonSet":  {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}, daemonSet},
	"Deployment": {schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, deployment},
	"APIService": {schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}, apiService},
}

type judge struct {
	resource schema.GroupVersionResource
	missing  func(*unstructured.Unstructured) (string, error)
}

func convert[T any](u *unstructured.Unstructured) (*T, error) {
	o := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, o); err != nil {
		return nil, fmt.Errorf("read %s: %w", describe(u), err)
	}
	return o, nil
}

func daemonSet(u *unstructured.Unstructured) (string, error) {
	d, err := convert[appsv1.DaemonSet](u)
	if err != nil {
		return "", err
	}
	s := d.Status
	switch {
	case s.ObservedGeneration < d.Generation || s.DesiredNumberScheduled == 0:
		return "has not been looked at yet", nil
	case s.UpdatedNumberScheduled < s.DesiredNumberScheduled || s.NumberAvailable < s.DesiredNumberScheduled:
		return fmt.Sprintf("%d of %d nodes", min(s.UpdatedNumberScheduled, s.NumberAvailable), s.DesiredNumberScheduled), nil
	}
	return "", nil
}

func deployment(u *unstructured.Unstructured) (string, error) {
	d, err := convert[appsv1.Deployment](u)
	if err != nil {
		return "", err
	}
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	s := d.Status
	switch {
	case s.ObservedGeneration < d.Generation:
		return "has not been looked at yet", nil
	case s.UpdatedReplicas < want || s.Replicas > s.UpdatedReplicas || s.AvailableReplicas < want:
		return fmt.Sprintf("%d of %d replicas", min(s.UpdatedReplicas, s.AvailableReplicas), want), nil
	}
	return "", nil
}

func apiService(u *unstructured.Unstructured) (string, error) {
	a, err := convert[apiregistration.APIService](u)
	if err != nil {
		return "", err
	}
	for _, c := range a.Status.Conditions {
		if c.Type != apiregistration.Available {
			continue
		}
		if c.Status == apiregistration.ConditionTrue {
			return "", nil
		}
		return strings.TrimSpace(c.Reason + " " + c.Message), nil
	}
	return "has not been looked at yet", nil
}
