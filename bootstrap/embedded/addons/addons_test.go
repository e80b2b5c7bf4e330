package addons

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta/testrestmapper"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	clienttesting "k8s.io/client-go/testing"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/ropes-dev/ropes/manifests"
)

// kinds knows every kind that the manifests use.
func kinds(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiregistration.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func loadAll(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	objects, err := load(manifests.FS)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// Every manifest must decode into its kind without a field left over.
func TestManifestsAreStrictlyValid(t *testing.T) {
	s := kinds(t)
	for _, o := range loadAll(t) {
		typed, err := s.New(o.GroupVersionKind())
		if err != nil {
			t.Errorf("%s: %v", describe(o), err)
			continue
		}
		data, err := json.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(data, typed); err != nil {
			t.Errorf("%s: %v", describe(o), err)
		}
	}
}

func podSpecs(t *testing.T) map[string]corev1.PodTemplateSpec {
	t.Helper()
	specs := map[string]corev1.PodTemplateSpec{}
	for _, o := range loadAll(t) {
		switch o.GetKind() {
		case "DaemonSet":
			d, err := convert[appsv1.DaemonSet](o)
			if err != nil {
				t.Fatal(err)
			}
			specs[describe(o)] = d.Spec.Template
		case "Deployment":
			d, err := convert[appsv1.Deployment](o)
			if err != nil {
				t.Fatal(err)
			}
			specs[describe(o)] = d.Spec.Template
		}
	}
	return specs
}

func TestPodsPullNothingTwiceAndAskForLittle(t *testing.T) {
	specs := podSpecs(t)
	if len(specs) != 3 {
		t.Fatalf("%d workloads, want 3", len(specs))
	}
	for name, template := range specs {
		for _, c := range template.Spec.Containers {
			if c.ImagePullPolicy != corev1.PullIfNotPresent || !strings.HasPrefix(c.Image, "ropes.local/") {
				t.Errorf("%s: image %s, pull policy %s", name, c.Image, c.ImagePullPolicy)
			}
			if cpu := c.Resources.Requests.Cpu(); cpu.IsZero() || cpu.MilliValue() > 20 {
				t.Errorf("%s: asks for %s of CPU", name, cpu)
			}
			sc := c.SecurityContext
			if sc == nil || sc.Privileged != nil || sc.Capabilities == nil || !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s: security context %+v", name, sc)
			}
		}
	}
}

func TestEveryNodeGetsItsAgents(t *testing.T) {
	taint := corev1.Taint{Key: "node-role.kubernetes.io/control-plane", Effect: corev1.TaintEffectNoSchedule}
	for name, template := range podSpecs(t) {
		if !slices.ContainsFunc(template.Spec.Tolerations, func(c corev1.Toleration) bool {
			return (c.Key == "" || c.Key == taint.Key) && (c.Effect == "" || c.Effect == taint.Effect)
		}) {
			t.Errorf("%s does not tolerate %s", name, taint.ToString())
		}
	}
}

func TestLoadPutsFirstWhatOthersNeed(t *testing.T) {
	objects, err := load(fstest.MapFS{
		"1.yaml": {Data: []byte("apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: d, namespace: home}\n---\n# nothing\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: a, namespace: home}\n")},
		"2.yaml": {Data: []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: home}\n")},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range objects {
		got = append(got, describe(o))
	}
	if diff := cmp.Diff([]string{"Namespace home", "ServiceAccount home/a", "DaemonSet home/d"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoadNamesTheBadFile(t *testing.T) {
	for name, body := range map[string]string{"no kind": "apiVersion: v1\nmetadata: {name: x}\n", "no YAML": "{{"} {
		_, err := load(fstest.MapFS{"broken.yaml": {Data: []byte(body)}})
		if err == nil || !strings.Contains(err.Error(), "manifest broken.yaml") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestApplySendsEverythingByServerSideApply(t *testing.T) {
	s := kinds(t)
	client := dynamicfake.NewSimpleDynamicClient(s)
	var sent []string
	client.PrependReactor("patch", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		p := a.(clienttesting.PatchActionImpl)
		if p.PatchType != "application/apply-patch+yaml" || p.PatchOptions.FieldManager != fieldManager || p.PatchOptions.Force == nil || !*p.PatchOptions.Force {
			t.Errorf("%s: %s %+v", p.Name, p.PatchType, p.PatchOptions)
		}
		sent = append(sent, a.GetResource().Resource+" "+p.Namespace+"/"+p.Name)
		return true, &unstructured.Unstructured{Object: map[string]any{}}, nil
	})
	var said []string
	objects := loadAll(t)
	if err := apply(t.Context(), client, testrestmapper.TestOnlyStaticRESTMapper(s), objects, func(d string) { said = append(said, d) }); err != nil {
		t.Fatal(err)
	}
	if len(sent) != len(objects) || len(said) != len(objects) {
		t.Errorf("%d objects, %d sent, %d said", len(objects), len(sent), len(said))
	}
	if sent[0] != "namespaces /ropes-system" || !slices.Contains(sent, "daemonsets ropes-system/ropes-volumes") || !slices.Contains(sent, "storageclasses /standard") {
		t.Errorf("sent %v", sent)
	}
}

func TestCreateLeavesWhatIsThere(t *testing.T) {
	s := kinds(t)
	there := &unstructured.Unstructured{}
	there.SetAPIVersion("storage.k8s.io/v1")
	there.SetKind("StorageClass")
	there.SetName("standard")
	there.SetLabels(map[string]string{"changed-by": "learner"})
	client := dynamicfake.NewSimpleDynamicClient(s, there)
	objects := slices.DeleteFunc(loadAll(t), func(o *unstructured.Unstructured) bool { return o.GetKind() != "StorageClass" })
	for range 2 {
		if err := create(t.Context(), client, testrestmapper.TestOnlyStaticRESTMapper(s), objects, func(string) {}); err != nil {
			t.Fatal(err)
		}
	}
	classes := client.Resource(schema.GroupVersionResource{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"})
	list, err := classes.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("classes %v, %v", list, err)
	}
	kept, err := classes.Get(t.Context(), "standard", metav1.GetOptions{})
	if err != nil || kept.GetLabels()["changed-by"] != "learner" {
		t.Errorf("standard is now %v, %v", kept, err)
	}
}

func TestCreateNamesTheObjectThatFails(t *testing.T) {
	s := kinds(t)
	client := dynamicfake.NewSimpleDynamicClient(s)
	client.PrependReactor("create", "daemonsets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no room")
	})
	err := create(t.Context(), client, testrestmapper.TestOnlyStaticRESTMapper(s), loadAll(t), func(string) {})
	if err == nil || !strings.Contains(err.Error(), "no room") || !strings.Contains(err.Error(), "create DaemonSet ropes-system/") {
		t.Errorf("error %v", err)
	}
}

func TestApplyNamesTheObjectThatFails(t *testing.T) {
	s := kinds(t)
	client := dynamicfake.NewSimpleDynamicClient(s)
	client.PrependReactor("patch", "daemonsets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("no room")
	})
	client.PrependReactor("patch", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		return a.GetResource().Resource != "daemonsets", &unstructured.Unstructured{Object: map[string]any{}}, nil
	})
	err := apply(t.Context(), client, testrestmapper.TestOnlyStaticRESTMapper(s), loadAll(t), func(string) {})
	if err == nil || !strings.Contains(err.Error(), "apply DaemonSet ropes-system/ropes-volumes: no room") {
		t.Errorf("error %v", err)
	}
}

func object(t *testing.T, typed runtime.Object, gvk schema.GroupVersionKind) *unstructured.Unstructured {
	t.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(gvk)
	return u
}

func TestJudges(t *testing.T) {
	meta := metav1.ObjectMeta{Name: "x", Namespace: "n", Generation: 2}
	ds := func(st appsv1.DaemonSetStatus) *unstructured.Unstructured {
		return object(t, &appsv1.DaemonSet{ObjectMeta: meta, Status: st}, appsv1.SchemeGroupVersion.WithKind("DaemonSet"))
	}
	dep := func(st appsv1.DeploymentStatus) *unstructured.Unstructured {
		return object(t, &appsv1.Deployment{ObjectMeta: meta, Status: st}, appsv1.SchemeGroupVersion.WithKind("Deployment"))
	}
	api := func(c ...apiregistration.APIServiceCondition) *unstructured.Unstructured {
		return object(t, &apiregistration.APIService{ObjectMeta: meta, Status: apiregistration.APIServiceStatus{Conditions: c}},
			apiregistration.SchemeGroupVersion.WithKind("APIService"))
	}
	tests := map[string]struct {
		object *unstructured.Unstructured
		want   string
	}{
		"daemonset ready":          {ds(appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 3}), ""},
		"daemonset unseen":         {ds(appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 3}), "has not been looked at yet"},
		"daemonset without nodes":  {ds(appsv1.DaemonSetStatus{ObservedGeneration: 2}), "has not been looked at yet"},
		"daemonset short":          {ds(appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 2}), "2 of 3 nodes"},
		"daemonset old template":   {ds(appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 1, NumberAvailable: 3}), "1 of 3 nodes"},
		"deployment ready":         {dep(appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1}), ""},
		"deployment unseen":        {dep(appsv1.DeploymentStatus{Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1}), "has not been looked at yet"},
		"deployment short":         {dep(appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 1, UpdatedReplicas: 1}), "0 of 1 replicas"},
		"deployment surplus":       {dep(appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 2, UpdatedReplicas: 1, AvailableReplicas: 2}), "1 of 1 replicas"},
		"API service available":    {api(apiregistration.APIServiceCondition{Type: apiregistration.Available, Status: apiregistration.ConditionTrue}), ""},
		"API service unavailable":  {api(apiregistration.APIServiceCondition{Type: apiregistration.Available, Status: apiregistration.ConditionFalse, Reason: "MissingEndpoints", Message: "none"}), "MissingEndpoints none"},
		"API service not examined": {api(), "has not been looked at yet"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := judges[tt.object.GetKind()].missing(tt.object)
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestWaitFollowsUntilReady(t *testing.T) {
	o := object(t, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "n"}}, appsv1.SchemeGroupVersion.WithKind("Deployment"))
	client := dynamicfake.NewSimpleDynamicClient(kinds(t), o)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var said []string
	err := wait(ctx, client, fake.NewClientset(), []*unstructured.Unstructured{o}, func(text string) {
		said = append(said, text)
		ready := o.DeepCopy()
		if err := unstructured.SetNestedMap(ready.Object, map[string]any{"replicas": int64(1), "updatedReplicas": int64(1), "availableReplicas": int64(1)}, "status"); err != nil {
			t.Error(err)
		}
		if _, err := client.Resource(judges["Deployment"].resource).Namespace("n").Update(ctx, ready, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"Deployment n/x: 0 of 1 replicas"}, said); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWaitSaysWhatWasLastSeen(t *testing.T) {
	labels := map[string]string{"app": "x"}
	o := object(t, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "n"},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}},
	}, appsv1.SchemeGroupVersion.WithKind("Deployment"))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "x-1", Namespace: "n", Labels: labels},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
			LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2}},
		}}},
	}
	cause := errors.New("out of patience")
	bound, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	ctx, cancel := context.WithCancelCause(bound)
	defer cancel(nil)
	err := wait(ctx, dynamicfake.NewSimpleDynamicClient(kinds(t), o), fake.NewClientset(pod), []*unstructured.Unstructured{o}, func(string) { cancel(cause) })
	if !errors.Is(err, cause) {
		t.Fatalf("error %v does not wrap the cause", err)
	}
	for _, want := range []string{"Deployment n/x is not ready: 0 of 1 replicas", "pod x-1: CrashLoopBackOff (last run exited with status 2)"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}
