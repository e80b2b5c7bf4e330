package helm

import (
	"cmp"
	"fmt"
	"strings"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/ropes-dev/ropes/bootstrap/rollout"
)

// kubeObject is one object of a manifest, as Helm hands it over.
type kubeObject = resource.Info

// cluster is what all releases share: how to reach the cluster, and what kinds it has.
type cluster struct {
	kubeconfig *api.Config
	rest       *rest.Config
	discovery  discovery.CachedDiscoveryInterface
	mapper     meta.RESTMapper
}

func newCluster(kubeconfig []byte) (*cluster, error) {
	loaded, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config, err := clientcmd.NewDefaultClientConfig(*loaded, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS = -1 // a few charts cannot overrun an API server
	config.WarningHandler = rest.NoWarnings{}
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	cached := memory.NewMemCacheClient(client)
	return &cluster{kubeconfig: loaded, rest: config, discovery: cached, mapper: restmapper.NewDeferredDiscoveryRESTMapper(cached)}, nil
}

// getter is how Helm gets at the cluster, in one namespace.
type getter struct {
	cluster   *cluster
	namespace string
}

var _ genericclioptions.RESTClientGetter = getter{}

// ToRESTConfig implements genericclioptions.RESTClientGetter.
func (g getter) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(g.cluster.rest), nil }

// ToDiscoveryClient implements genericclioptions.RESTClientGetter.
func (g getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.cluster.discovery, nil
}

// ToRESTMapper implements genericclioptions.RESTClientGetter.
func (g getter) ToRESTMapper() (meta.RESTMapper, error) { return g.cluster.mapper, nil }

// ToRawKubeConfigLoader implements genericclioptions.RESTClientGetter.
func (g getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	overrides := &clientcmd.ConfigOverrides{}
	overrides.Context.Namespace = g.namespace
	return clientcmd.NewDefaultClientConfig(*g.cluster.kubeconfig, overrides)
}

// capabilitiesOf is what templates see as .Capabilities.
func capabilitiesOf(client discovery.DiscoveryInterface) (*chartutil.Capabilities, error) {
	version, err := client.ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("ask for the cluster's version: %w", err)
	}
	kinds, err := action.GetVersionSet(client)
	// A group whose server is down, metrics for one, is no reason not to install.
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, fmt.Errorf("ask for the cluster's kinds: %w", err)
	}
	return &chartutil.Capabilities{
		APIVersions: kinds,
		KubeVersion: chartutil.KubeVersion{Version: version.GitVersion, Major: version.Major, Minor: version.Minor},
		HelmVersion: chartutil.DefaultCapabilities.HelmVersion,
	}, nil
}

// deploymentsIn names the Deployments of a manifest. Helm has parsed it before, so what
// cannot be parsed here is not there.
func deploymentsIn(manifest, namespace string) []rollout.Deployment {
	var found []rollout.Deployment
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		var o metav1.PartialObjectMetadata
		if err := decoder.Decode(&o); err != nil {
			return found
		}
		if o.Kind == "Deployment" && strings.HasPrefix(o.APIVersion, "apps/") {
			found = append(found, rollout.Deployment{Namespace: cmp.Or(o.Namespace, namespace), Name: o.Name})
		}
	}
}
