// Package kubeclient makes clients of a cluster from a self-contained kubeconfig, for the
// few questions and objects that bringing up a lab takes. It knows nothing of what they ask.
package kubeclient

import (
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Config is how to reach the cluster of the kubeconfig's current context: without
// client-go's limit on requests, which are few and come all at once, and without the API
// server's warnings on the learner's terminal.
func Config(kubeconfig []byte) (*rest.Config, error) {
	config, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS, config.WarningHandler = -1, rest.NoWarnings{}
	return config, nil
}

// New makes a client of that cluster. It asks the cluster nothing.
func New(kubeconfig []byte) (kubernetes.Interface, error) {
	config, err := Config(kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return client, nil
}
