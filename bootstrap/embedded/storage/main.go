package storage

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/ropes-dev/ropes/bootstrap"
	"github.com/ropes-dev/ropes/bootstrap/embedded/apiclient"
)

const (
	// Between two attempts at one claim or volume, in a lab where somebody is watching.
	firstRetry = time.Second
	lastRetry  = 2 * time.Minute
	// startTimeout bounds the wait for the API server at the start.
	startTimeout = time.Minute
)

// options are the flags of Main.
type options struct {
	node       string
	root       string
	dir        string
	kubeconfig string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("storage-provisioner", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.node, "node", os.Getenv("NODE_NAME"), "name of the node to make volumes on")
	flags.StringVar(&o.root, "root", DefaultRoot, "directory of the node that holds the volumes")
	flags.StringVar(&o.dir, "dir", "", "where the root is mounted for this process (default the root's own path)")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig to use instead of the pod's service account")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if o.node == "" {
		return o, errors.New("no node: give -node or set NODE_NAME")
	}
	if o.dir == "" {
		o.dir = o.root
	}
	return o, nil
}

// Main runs the provisioner of one node until ctx ends. args are its flags: -node
// (default $NODE_NAME), -root, -dir and -kubeconfig (default the pod's service
// account). It returns an error where it cannot start; failures to make or remove a
// volume become events on the claim or volume and are tried again.
func Main(ctx context.Context, args []string, log *slog.Logger) error {
	o, err := parse(args)
	if err != nil {
		return fmt.Errorf("storage-provisioner: %w", err)
	}
	klog.SetSlogLogger(log)
	client, err := apiclient.New(o.kubeconfig)
	if err != nil {
		return fmt.Errorf("storage-provisioner: %w", err)
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return fmt.Errorf("storage-provisioner: %w", err)
	}
	hostname, err := awaitHostname(ctx, client, o.node)
	if err != nil {
		return fmt.Errorf("storage-provisioner: node %s: %w", o.node, err)
	}
	v := &Volumes{node: o.node, hostname: hostname, root: o.root, dir: o.dir, placer: placer{client: client}}
	log.Info("serving volumes", "provisioner", Name, "node", o.node, "root", o.root)
	run(ctx, client, v)
	return nil
}

// run serves claims and volumes until ctx ends.
func run(ctx context.Context, client kubernetes.Interface, v *Volumes) {
	controller.NewProvisionController(ctx, client, Name, v,
		controller.LeaderElection(false),
		// A volume that is deleted by hand while its policy is Delete takes its data along.
		controller.AddFinalizer(true),
		controller.FailedProvisionThreshold(0),
		controller.FailedDeleteThreshold(0),
		controller.RateLimiter(workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry)),
		controller.CreateProvisionedPVInterval(firstRetry),
	).Run(ctx)
}

// awaitHostname reads the node's label, with patience: on a node that has just come
// up the way to the API server may not be laid yet.
func awaitHostname(ctx context.Context, client kubernetes.Interface, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var hostname string
	err := bootstrap.Poll(ctx, firstRetry/2, func(ctx context.Context) error {
		node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		hostname = node.Labels[corev1.LabelHostname]
		if hostname == "" {
			return fmt.Errorf("it has no label %s", corev1.LabelHostname)
		}
		return nil
	})
	return hostname, err
}
