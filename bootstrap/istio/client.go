package istio

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"istio.io/istio/pkg/kube"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// newClient makes the operator's client. All its requests end with ctx, since the operator
// itself takes no context, and pass through wrap if that is not nil.
func newClient(ctx context.Context, kubeconfig []byte, wrap func(http.RoundTripper) http.RoundTripper) (kube.CLIClient, error) {
	config, err := clientcmd.NewClientConfigFromBytes(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	// The operator's own NewCLIClient would leave a discovery cache under $HOME/.kube,
	// which outlives the cluster and then answers for the next one.
	client, err := kube.NewClient(boundConfig{loader: config, ctx: ctx, wrap: wrap}, "ropes")
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	cli, ok := client.(kube.CLIClient)
	if !ok {
		return nil, fmt.Errorf("make a client: %T is no kube.CLIClient", client)
	}
	return cli, nil
}

// loader is embedded below, where a field may not go by the name of a method.
type loader interface{ clientcmd.ClientConfig }

// boundConfig is a ClientConfig whose clients' requests end with ctx.
type boundConfig struct {
	loader
	ctx  context.Context //nolint:containedctx // the interface has no other place for it
	wrap func(http.RoundTripper) http.RoundTripper
}

// ClientConfig implements clientcmd.ClientConfig.
func (b boundConfig) ClientConfig() (*rest.Config, error) {
	config, err := b.loader.ClientConfig()
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // one installation cannot overrun an API server
	config.WarningHandler = rest.NoWarnings{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		if b.wrap != nil {
			next = b.wrap(next)
		}
		return bound{ctx: b.ctx, next: next}
	})
	return config, nil
}

// bound ends every request when ctx ends.
type bound struct {
	ctx  context.Context //nolint:containedctx // as boundConfig
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b bound) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	stop := context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) }) //nolint:contextcheck // the installation's end is the end of its requests
	end := func() { stop(); cancel(nil) }
	resp, err := b.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		if b.ctx.Err() != nil {
			err = context.Cause(b.ctx) //nolint:contextcheck // the installation's end is the end of its requests
		}
		end()
		return nil, err
	}
	resp.Body = body{ReadCloser: resp.Body, end: end}
	return resp, nil
}

// body calls end when it is closed.
type body struct {
	io.ReadCloser
	end func()
}

// Close implements io.Closer.
func (b body) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// gatewaysLast holds back the gateways' Deployments until open is closed: until istiod has
// published the root certificate that their pods mount. A pod that the kubelet sees
// before finds the mount missing, and the kubelet waits longer after every attempt. The
// operator's own way, to wait for istiod's readiness, looks every other second and later.
type gatewaysLast struct {
	next http.RoundTripper
	open <-chan struct{}
}

// RoundTrip implements http.RoundTripper.
func (g gatewaysLast) RoundTrip(r *http.Request) (*http.Response, error) {
	path := r.URL.Path
	if r.Method == http.MethodPatch && (strings.HasSuffix(path, "/deployments/"+ingressGateway) || strings.HasSuffix(path, "/deployments/"+egressGateway)) {
		select {
		case <-g.open:
		case <-r.Context().Done():
			return nil, context.Cause(r.Context())
		}
	}
	return g.next.RoundTrip(r)
}
