package embedded

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/state"
	"github.com/ropes-dev/ropes/bootstrap/kubeclient"
	"github.com/ropes-dev/ropes/bootstrap/rollout"
)

// nodesEvery is how often nodes are looked at while they come up.
const nodesEvery = 200 * time.Millisecond

// awaitNodes waits until every planned node is Ready.
func (u *up) awaitNodes(ctx context.Context, say func(string)) error {
	client, err := u.client()
	if err != nil {
		return err
	}
	return bootstrap.Poll(ctx, nodesEvery, func(ctx context.Context) error {
		if !state.Locked(u.dir.SupervisorLock()) {
			return bootstrap.Permanent(u.supervisorGone(state.Status{}))
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		waiting := notReady(u.cfg.Nodes, list.Items)
		if len(waiting) == 0 {
			return nil
		}
		detail := strings.Join(waiting, "; ")
		say(detail)
		return fmt.Errorf("nodes not ready: %s", detail)
	})
}

// awaitRestart waits, where the cluster was there before, until what it says is no longer
// of before its nodes were started.
func (u *up) awaitRestart(ctx context.Context, say func(string)) error {
	if u.fresh {
		return bootstrap.ErrSkip
	}
	client, err := u.client()
	if err != nil {
		return err
	}
	status, err := u.dir.LoadStatus()
	if err != nil {
		return err
	}
	started := map[string]time.Time{}
	for _, n := range u.cfg.Nodes {
		started[n.Name] = status.Began(state.PhaseNodes)
	}
	return rollout.AwaitRestart(ctx, client, started, say)
}

func (u *up) client() (clientset.Interface, error) {
	kubeconfig, err := os.ReadFile(u.dir.Kubeconfig())
	if err != nil {
		return nil, err
	}
	return kubeclient.New(kubeconfig)
}

// notReady names the planned nodes that are not Ready and why.
func notReady(plan []state.Node, have []corev1.Node) []string {
	conditions := map[string]corev1.NodeCondition{}
	for _, n := range have {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				conditions[n.Name] = c
			}
		}
	}
	var out []string
	for _, n := range plan {
		c, ok := conditions[n.Name]
		switch {
		case !ok:
			out = append(out, n.Name+" has not reported")
		case c.Status != corev1.ConditionTrue:
			out = append(out, n.Name+" is not Ready: "+c.Message)
		}
	}
	return out
}
