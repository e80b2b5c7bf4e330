package kind

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/addons"
	"github.com/ropes-dev/ropes/bootstrap/kubeclient"
	"github.com/ropes-dev/ropes/bootstrap/rollout"
)

const (
	// readyEvery is how often the API server is asked for its nodes.
	readyEvery = 500 * time.Millisecond
	// oneAsk bounds one such question.
	oneAsk = 5 * time.Second
)

// awaitNodes returns once the API server answers and all the nodes are Ready.
func awaitNodes(ctx context.Context, kubeconfig []byte, nodes []string, say func(string)) error {
	c, err := kubeclient.New(kubeconfig)
	if err != nil {
		return err
	}
	var said string
	return bootstrap.Poll(ctx, readyEvery, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, oneAsk)
		defer cancel()
		list, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("the API server does not answer: %w", err)
		}
		missing := notReady(list.Items, nodes)
		if len(missing) == 0 {
			return nil
		}
		text := strings.Join(missing, ", ")
		if text != said {
			said = text
			say(text)
		}
		return errors.New(text)
	})
}

// notReady says of each node that is not Ready what it lacks.
func notReady(have []corev1.Node, want []string) []string {
	var missing []string
	for _, name := range want {
		i := slices.IndexFunc(have, func(n corev1.Node) bool { return n.Name == name })
		if i < 0 {
			missing = append(missing, name+" has not joined")
			continue
		}
		state := name + " has not reported"
		for _, c := range have[i].Status.Conditions {
			if c.Type != corev1.NodeReady {
				continue
			}
			state = ""
			if c.Status != corev1.ConditionTrue {
				state = name + ": " + c.Message
			}
		}
		if state != "" {
			missing = append(missing, state)
		}
	}
	return missing
}

// awaitRestart returns once what the API server says is no longer of before the nodes'
// containers were started.
func awaitRestart(ctx context.Context, kubeconfig []byte, nodes []Container, say func(string)) error {
	c, err := kubeclient.New(kubeconfig)
	if err != nil {
		return err
	}
	started := map[string]time.Time{}
	for _, n := range nodes {
		started[n.Name] = n.Started
	}
	return rollout.AwaitRestart(ctx, c, started, say)
}

// standard is the class that the labs call the default one. kind's is its own
// provisioner's; the labs' is made by ours, as on every cluster of ropes.
const (
	standard    = "standard"
	provisioner = "ropes.dev/local"
)

// applyAddOns makes way for our storage class and applies the add-ons.
func applyAddOns(ctx context.Context, kubeconfig []byte, say func(string)) error {
	c, err := kubeclient.New(kubeconfig)
	if err != nil {
		return err
	}
	class, err := c.StorageV1().StorageClasses().Get(ctx, standard, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("get storage class %s: %w", standard, err)
	case class.Provisioner != provisioner:
		// Its provisioner cannot be changed, only the class be made anew.
		if err := c.StorageV1().StorageClasses().Delete(ctx, standard, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("replace storage class %s: %w", standard, err)
		}
	}
	without, err := needless(ctx, c)
	if err != nil {
		return err
	}
	return addons.Apply(ctx, kubeconfig, say, without...)
}

// needless are the add-ons that the cluster has its own of: kindnet, of kind's node
// images, enforces NetworkPolicies.
func needless(ctx context.Context, c kubernetes.Interface) ([]addons.AddOn, error) {
	_, err := c.AppsV1().DaemonSets("kube-system").Get(ctx, "kindnet", metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look for kindnet: %w", err)
	}
	return []addons.AddOn{addons.NetworkPolicy}, nil
}

func awaitAddOns(ctx context.Context, kubeconfig []byte, say func(string)) error {
	c, err := kubeclient.New(kubeconfig)
	if err != nil {
		return err
	}
	without, err := needless(ctx, c)
	if err != nil {
		return err
	}
	return addons.Wait(ctx, kubeconfig, say, without...)
}
