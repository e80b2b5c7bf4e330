package checks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is the bundle of clients through which a cluster is seen. Its methods may be
// called from several goroutines.
type Cluster struct {
	Config    *rest.Config // nil only in tests that send no probe
	Dynamic   dynamic.Interface
	Discovery discovery.CachedDiscoveryInterface

	mu     sync.Mutex
	mapper meta.ResettableRESTMapper
	reset  time.Time // of the mapper, last
}

// apiTimeout bounds one request that is not a watch or an exec.
const apiTimeout = 10 * time.Second

// remapEvery bounds how often discovery is repeated for a kind that nobody knows.
const remapEvery = 3 * time.Second

// ErrUnknownKind says that the cluster has no such kind of object.
var ErrUnknownKind = errors.New("the cluster does not know")

// Connect makes the clients; it sends nothing yet.
func Connect(cfg *rest.Config) (*Cluster, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1 // no limit of our own: the API server has its priority and fairness
	cfg.WarningHandler = rest.NoWarnings{}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "ropes"
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	dyn, err := dynamic.NewForConfigAndClient(cfg, client)
	if err != nil {
		return nil, fmt.Errorf("dynamic client: %w", err)
	}
	disc, err := discovery.NewDiscoveryClientForConfigAndClient(cfg, client)
	if err != nil {
		return nil, fmt.Errorf("discovery client: %w", err)
	}
	c := NewCluster(dyn, memory.NewMemCacheClient(disc))
	c.Config = cfg
	return c, nil
}

// ConnectKubeconfig is Connect for the current context of a kubeconfig.
func ConnectKubeconfig(kubeconfig []byte) (*Cluster, error) {
	cfg, err := clientcmd.RESTConfigFromKubeConfig(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return Connect(cfg)
}

// NewCluster bundles clients that are already there.
func NewCluster(dyn dynamic.Interface, disc discovery.CachedDiscoveryInterface) *Cluster {
	return &Cluster{Dynamic: dyn, Discovery: disc, mapper: restmapper.NewDeferredDiscoveryRESTMapper(disc)}
}

// Mapping finds the resource behind a kind. The error wraps ErrUnknownKind where the
// cluster answers but has no such kind.
func (c *Cluster) Mapping(apiVersion, kind string) (*meta.RESTMapping, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, fmt.Errorf("apiVersion %q: %w", apiVersion, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m, err := c.mapper.RESTMapping(gv.WithKind(kind).GroupKind(), gv.Version)
	if meta.IsNoMatchError(err) && time.Since(c.reset) > remapEvery {
		c.mapper.Reset() // the kind may have come after discovery
		c.reset = time.Now()
		m, err = c.mapper.RESTMapping(gv.WithKind(kind).GroupKind(), gv.Version)
	}
	if meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("%w kind %s in %s", ErrUnknownKind, kind, apiVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("discover %s: %w", kind, err)
	}
	return m, nil
}

// Resource returns the client for a kind, in namespace where the kind has namespaces.
func (c *Cluster) Resource(apiVersion, kind, namespace string) (dynamic.ResourceInterface, error) {
	m, err := c.Mapping(apiVersion, kind)
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace && namespace != "" {
		return c.Dynamic.Resource(m.Resource).Namespace(namespace), nil
	}
	return c.Dynamic.Resource(m.Resource), nil
}

// Read returns what ref names as expressions see it: the object's map, nil where it is
// absent, or a list of maps sorted by namespace and name.
func (c *Cluster) Read(ctx context.Context, ref ObjectRef) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	ri, err := c.Resource(ref.APIVersion, ref.Kind, ref.Namespace)
	if err != nil {
		return nil, err
	}
	if ref.Name != "" {
		u, err := ri.Get(ctx, ref.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", ref, err)
		}
		return u.Object, nil
	}
	list, err := ri.List(ctx, metav1.ListOptions{LabelSelector: ref.Selector, FieldSelector: ref.FieldSelector})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", ref, err)
	}
	slices.SortFunc(list.Items, func(a, b unstructured.Unstructured) int {
		return strings.Compare(a.GetNamespace()+"/"+a.GetName(), b.GetNamespace()+"/"+b.GetName())
	})
	items := make([]any, len(list.Items))
	for i := range list.Items {
		items[i] = list.Items[i].Object
	}
	return items, nil
}
