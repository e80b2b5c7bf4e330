package loadbalancer

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

// table is a Router that remembers.
type table map[string]string

func (t table) Lead(addr, via netip.Addr) error { t[addr.String()] = via.String(); return nil }
func (t table) Leave(addr netip.Addr) error     { delete(t, addr.String()); return nil }
func (t table) via(addr string) (string, bool)  { v, ok := t[addr]; return v, ok }

// addresses of the range 10.0.0.8/29: .9 to .14.
var block = netip.MustParsePrefix("10.0.0.8/29")

type lab struct {
	*testing.T
	client *fake.Clientset
	routes table
}

// inLab runs a controller over three nodes, the first kept out of load balancing, in a bubble.
func inLab(t *testing.T, objects []runtime.Object, do func(l lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		nodes := map[string]netip.Addr{}
		for i, name := range []string{"cp", "w1", "w2"} {
			nodes[name] = netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i+1))
			n := &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
			}
			if i == 0 {
				n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
			}
			objects = append(objects, n)
		}
		l := lab{t, fake.NewClientset(objects...), table{}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			New(l.client, block, nodes, l.routes, slog.New(slog.DiscardHandler)).Run(ctx)
		}()
		l.settle()
		do(l)
		cancel()
		<-ended
	})
}

// settle lets everything that was set off come to rest.
func (l lab) settle() {
	time.Sleep(time.Minute)
	synctest.Wait()
}

func (l lab) create(svc *corev1.Service) {
	l.Helper()
	if _, err := l.client.CoreV1().Services("ns").Create(l.Context(), svc, metav1.CreateOptions{}); err != nil {
		l.Fatal(err)
	}
	l.settle()
}

func (l lab) update(name string, change func(*corev1.Service)) {
	l.Helper()
	svc, err := l.client.CoreV1().Services("ns").Get(l.Context(), name, metav1.GetOptions{})
	if err != nil {
		l.Fatal(err)
	}
	change(svc)
	if _, err := l.client.CoreV1().Services("ns").Update(l.Context(), svc, metav1.UpdateOptions{}); err != nil {
		l.Fatal(err)
	}
	l.settle()
}

func (l lab) delete(name string) {
	l.Helper()
	if err := l.client.CoreV1().Services("ns").Delete(l.Context(), name, metav1.DeleteOptions{}); err != nil {
		l.Fatal(err)
	}
	l.settle()
}

// address is what a Service's status says, "" for nothing.
func (l lab) address(name string) string {
	l.Helper()
	svc, err := l.client.CoreV1().Services("ns").Get(l.Context(), name, metav1.GetOptions{})
	if err != nil {
		l.Fatal(err)
	}
	var out []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		out = append(out, in.IP)
	}
	return strings.Join(out, " ")
}

func (l lab) events() []string {
	l.Helper()
	list, err := l.client.CoreV1().Events("ns").List(l.Context(), metav1.ListOptions{})
	if err != nil {
		l.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		out = append(out, e.InvolvedObject.Name+": "+e.Message)
	}
	return out
}

func service(name string, change ...func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
	}
	for _, c := range change {
		c(svc)
	}
	return svc
}

func asking(ip string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = ip }
}

func having(ip string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}} }
}

func TestAddresses(t *testing.T) {
	inLab(t, []runtime.Object{service("kept", having("10.0.0.9"))}, func(l lab) {
		l.create(service("a"))
		l.create(service("b"))
		for name, want := range map[string]string{"kept": "10.0.0.9", "a": "10.0.0.10", "b": "10.0.0.11"} {
			if got := l.address(name); got != want {
				t.Errorf("%s has %q, want %q", name, got, want)
			}
			if via, _ := l.routes.via(want); via != "10.0.0.2" && via != "10.0.0.3" {
				t.Errorf("%s is led to %q, want a worker", want, via)
			}
		}
		l.delete("a")
		if via, ok := l.routes.via("10.0.0.10"); ok {
			t.Errorf("the address of a deleted Service is still led to %s", via)
		}
		l.create(service("c"))
		if got := l.address("c"); got != "10.0.0.12" {
			t.Errorf("c has %q, want the one after the last, not the one just given back", got)
		}
	})
}

func TestAddressAskedFor(t *testing.T) {
	inLab(t, nil, func(l lab) {
		l.create(service("first", asking("10.0.0.13")))
		l.create(service("same", asking("10.0.0.13")))
		l.create(service("outside", asking("10.9.9.9")))
		for name, want := range map[string]string{"first": "10.0.0.13", "same": "", "outside": ""} {
			if got := l.address(name); got != want {
				t.Errorf("%s has %q, want %q", name, got, want)
			}
		}
		want := []string{
			"outside: spec.loadBalancerIP 10.9.9.9 is not between 10.0.0.9 and 10.0.0.14",
			"same: spec.loadBalancerIP 10.0.0.13 is another Service's",
		}
		if got := l.events(); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			t.Errorf("events %q, want %q", got, want)
		}
		l.update("first", asking("10.0.0.14"))
		if got := l.address("first"); got != "10.0.0.14" {
			t.Errorf("first has %q after it asked for another", got)
		}
		if got := l.address("same"); got != "10.0.0.13" {
			t.Errorf("same has %q, want what first has given back", got)
		}
	})
}

func TestRangeUsedUp(t *testing.T) {
	inLab(t, nil, func(l lab) {
		for i := range 7 {
			l.create(service(fmt.Sprint("s", i)))
		}
		if got := l.address("s6"); got != "" {
			t.Errorf("the seventh Service has %q of six addresses", got)
		}
		if got := l.events(); len(got) != 1 || got[0] != "s6: no address of 10.0.0.8/29 is free" {
			t.Errorf("events: %q", got)
		}
		l.delete("s3")
		if got := l.address("s6"); got != "10.0.0.12" {
			t.Errorf("s6 has %q, want the one given back", got)
		}
	})
}

func TestNotOurs(t *testing.T) {
	class := "somebody.else/lb"
	inLab(t, nil, func(l lab) {
		l.create(service("classed", func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = &class }))
		l.create(service("internal", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP }))
		l.create(service("foreign", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP }, having("192.0.2.1")))
		for name, want := range map[string]string{"classed": "", "internal": "", "foreign": "192.0.2.1"} {
			if got := l.address(name); got != want {
				t.Errorf("%s has %q, want %q", name, got, want)
			}
		}
		l.create(service("turned"))
		l.update("turned", func(svc *corev1.Service) { svc.Spec.Type = corev1.ServiceTypeClusterIP })
		if got := l.address("turned"); got != "" || len(l.routes) != 0 {
			t.Errorf("no longer a LoadBalancer, it has %q, leads %v", got, l.routes)
		}
	})
}

func TestLocalTrafficGoesToEndpoints(t *testing.T) {
	ready, w1, w2 := true, "w1", "w2"
	slice := func(node *string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: "local-1", Namespace: "ns", Labels: map[string]string{discoveryv1.LabelServiceName: "local"}},
			Endpoints:  []discoveryv1.Endpoint{{NodeName: node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		}
	}
	inLab(t, []runtime.Object{slice(&w2)}, func(l lab) {
		l.create(service("local", func(svc *corev1.Service) {
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}))
		addr := l.address("local")
		if via, _ := l.routes.via(addr); via != "10.0.0.3" {
			t.Errorf("led to %q, want w2", via)
		}
		if _, err := l.client.DiscoveryV1().EndpointSlices("ns").Update(l.Context(), slice(&w1), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		l.settle()
		if via, _ := l.routes.via(addr); via != "10.0.0.2" {
			t.Errorf("after its endpoint moved, led to %q, want w1", via)
		}
	})
}

func TestNodeThatFails(t *testing.T) {
	inLab(t, nil, func(l lab) {
		l.create(service("a"))
		addr := l.address("a")
		via, _ := l.routes.via(addr)
		name := map[string]string{"10.0.0.2": "w1", "10.0.0.3": "w2"}[via]
		n, err := l.client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n.Status.Conditions[0].Status = corev1.ConditionUnknown
		if _, err := l.client.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		l.settle()
		if now, _ := l.routes.via(addr); now == via || now == "10.0.0.1" {
			t.Errorf("led to %s, want the other worker", now)
		}
	})
}
