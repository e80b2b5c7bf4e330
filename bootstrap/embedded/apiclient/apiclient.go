// Package apiclient is how ropes' own agents, which run as pods, reach the API server.
// It knows nothing of what they ask.
package apiclient

import (
	"fmt"
	"net"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// dialTimeout bounds one attempt to connect. An agent can be up before its node's
	// kube-proxy knows the API server's Service; the first packets then go nowhere, and
	// the kernel sends all that follow on that connection after them. Only a new
	// connection gets through, so it had better come soon.
	dialTimeout = 2 * time.Second
	keepAlive   = 30 * time.Second
)

// New makes a client from the kubeconfig file of that name, or, where the name is
// empty, from the service account of the pod that the process runs in. It does not
// connect yet.
func New(kubeconfig string) (*kubernetes.Clientset, error) {
	config, err := load(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	config.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return client, nil
}

func load(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}
