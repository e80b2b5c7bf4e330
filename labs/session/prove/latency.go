package prove

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/ropes-dev/ropes/checks"
	"github.com/ropes-dev/ropes/checks/cel"
)

// latencySpace is the namespace that Latency makes for itself and removes.
const latencySpace = "ropes-latency"

// verdictWait bounds the wait for one verdict.
const verdictWait = 10 * time.Second

// Latency changes an object n times under a live watch and returns how long each verdict took
// from the API server's acknowledgement of the change until an observer was told.
func Latency(ctx context.Context, kubeconfig []byte, n int) (took []time.Duration, err error) {
	cluster, err := checks.ConnectKubeconfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	spaces, err := cluster.Resource("v1", "Namespace", "")
	if err != nil {
		return nil, err
	}
	if _, err := spaces.Create(ctx, object("Namespace", "", latencySpace), metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("latency: %w", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verdictWait)
		defer cancel()
		err = errors.Join(err, spaces.Delete(ctx, latencySpace, metav1.DeleteOptions{}))
	}()
	maps, err := cluster.Resource("v1", "ConfigMap", latencySpace)
	if err != nil {
		return nil, err
	}
	if _, err := maps.Create(ctx, object("ConfigMap", latencySpace, "switch"), metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("latency: %w", err)
	}
	check, err := switchCheck()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	verdicts, ended := make(chan checks.Verdict, 1), make(chan struct{})
	go func() {
		defer close(ended)
		r := checks.Runner{Cluster: cluster}
		r.Watch(ctx, "latency", []checks.Check{check}, checks.ObserverFunc(func(v checks.Verdict) {
			select {
			case verdicts <- v:
			case <-ctx.Done():
			}
		}))
	}()
	defer func() { cancel(); <-ended }()
	for i := range n {
		d, err := flip(ctx, maps, verdicts, strconv.Itoa(i))
		if err != nil {
			return took, err
		}
		took = append(took, d)
	}
	return took, nil
}

func object(kind, namespace, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind}}
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

// switchCheck is never met; what it got is the switch's value, so that each change is a new verdict.
func switchCheck() (checks.Check, error) {
	c := checks.Check{
		ID:      "switch",
		Objects: map[string]checks.ObjectRef{"s": {APIVersion: "v1", Kind: "ConfigMap", Namespace: latencySpace, Name: "switch"}},
		Expr:    checks.Expr{Source: `s == null`},
		Got:     checks.Expr{Source: `s.?data.?value.orValue("")`},
	}
	comp, err := cel.NewCompiler([]string{"s"})
	if err != nil {
		return c, err
	}
	var errs [2]error
	c.Expr.Program, errs[0] = comp.Compile(c.Expr.Source, cel.Bool)
	c.Got.Program, errs[1] = comp.Compile(c.Got.Source, cel.String)
	return c, errors.Join(errs[:]...)
}

// flip gives the switch a value and waits for the verdict that tells of it.
func flip(ctx context.Context, maps dynamic.ResourceInterface, verdicts <-chan checks.Verdict, value string) (time.Duration, error) {
	u := object("ConfigMap", latencySpace, "switch")
	u.Object["data"] = map[string]any{"value": value}
	if _, err := maps.Update(ctx, u, metav1.UpdateOptions{}); err != nil {
		return 0, fmt.Errorf("latency: %w", err)
	}
	start := time.Now()
	limit := time.NewTimer(verdictWait)
	defer limit.Stop()
	for {
		select {
		case v := <-verdicts:
			if v.Got == value {
				return time.Since(start), nil
			}
			if v.State == checks.CouldNotRun {
				return 0, fmt.Errorf("latency: %s", v.Why)
			}
		case <-limit.C:
			return 0, fmt.Errorf("latency: no verdict within %v", verdictWait)
		case <-ctx.Done():
			return 0, fmt.Errorf("latency: %w", context.Cause(ctx))
		}
	}
}
