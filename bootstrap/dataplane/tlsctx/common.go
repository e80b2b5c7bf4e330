package tlsctx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// Secrets resolves references to secrets.
type Secrets interface{ Ref(Key) *Ref }

// common is what both directions share.
type common struct {
	min, max uint16
	ciphers  []uint16
	curves   []tls.CurveID
	alpn     []string
	certs    []*Ref
	waits    []Wait
	inline   []*tls.Certificate
	roots    *Ref    // validation context from SDS
	static   *Secret // validation context given inline, the default of that from SDS
	verify   bool    // a trusted CA or a pin is configured or expected
}

const commonFields = "tls_params tls_certificates tls_certificate_sds_secret_configs alpn_protocols " +
	"validation_context validation_context_sds_secret_config combined_validation_context"

func compileCommon(c *tlsv3.CommonTlsContext, secrets Secrets) (*common, error) {
	if err := fields.Check(c, commonFields); err != nil {
		return nil, err
	}
	out := &common{alpn: c.GetAlpnProtocols()}
	if err := out.setParams(c.GetTlsParams()); err != nil {
		return nil, err
	}
	for _, cert := range c.GetTlsCertificates() {
		pair, err := keyPair(cert)
		if err != nil {
			return nil, fmt.Errorf("tls_certificates: %w", err)
		}
		out.inline = append(out.inline, pair)
	}
	for _, sds := range c.GetTlsCertificateSdsSecretConfigs() {
		k, err := secretKey(sds)
		if err != nil {
			return nil, err
		}
		out.certs = append(out.certs, secrets.Ref(k))
		out.wait(secrets.Ref(k), sds)
	}
	return out, out.setValidation(c, secrets)
}

func (c *common) setValidation(ctx *tlsv3.CommonTlsContext, secrets Secrets) error {
	var inline *tlsv3.CertificateValidationContext
	var sds *tlsv3.SdsSecretConfig
	switch t := ctx.GetValidationContextType().(type) {
	case nil:
		return nil
	case *tlsv3.CommonTlsContext_ValidationContext:
		inline = t.ValidationContext
	case *tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig:
		sds = t.ValidationContextSdsSecretConfig
	case *tlsv3.CommonTlsContext_CombinedValidationContext:
		inline = t.CombinedValidationContext.GetDefaultValidationContext()
		sds = t.CombinedValidationContext.GetValidationContextSdsSecretConfig()
	default:
		return fields.Unsupported(ctx, fmt.Sprintf("validation_context_type (%T)", t), "")
	}
	if inline != nil {
		c.static = &Secret{}
		if err := c.static.setValidation(inline); err != nil {
			return err
		}
		if c.static.Roots == nil && sds == nil {
			if err := needsCA(c.static); err != nil {
				return err
			}
		}
		c.verify = c.static.Roots != nil || c.static.rules.pinned()
	}
	if sds != nil {
		k, err := secretKey(sds)
		if err != nil {
			return err
		}
		c.roots = secrets.Ref(k)
		c.wait(c.roots, sds)
		c.verify = true
	}
	return nil
}

func secretKey(s *tlsv3.SdsSecretConfig) (Key, error) {
	if s.GetSdsConfig() == nil {
		return Key{}, fields.Unsupported(s, "sds_config", "a static secret name needs static_resources.secrets")
	}
	src, err := ConfigSource(s.GetSdsConfig())
	return Key{Source: src, Name: s.GetName()}, err
}

// ConfigSource reads where a resource is to be fetched from: ADS or one gRPC cluster by name.
func ConfigSource(c *corev3.ConfigSource) (Source, error) {
	switch t := c.GetConfigSourceSpecifier().(type) {
	case *corev3.ConfigSource_Ads:
		return ADS, nil
	case *corev3.ConfigSource_ApiConfigSource:
		services := t.ApiConfigSource.GetGrpcServices()
		if len(services) != 1 || services[0].GetEnvoyGrpc() == nil {
			return "", fields.Unsupported(t.ApiConfigSource, "grpc_services", "one envoy_grpc service is expected")
		}
		return Source(services[0].GetEnvoyGrpc().GetClusterName()), nil
	default:
		return "", fields.Unsupported(c, fmt.Sprintf("config_source_specifier (%T)", t), "")
	}
}

// Wait is something that has to arrive before a configuration is complete, unless it takes longer than Timeout, where
// 0 means to wait without end.
type Wait struct {
	Ready   <-chan struct{}
	Timeout time.Duration
}

// FetchTimeout reads initial_fetch_timeout, 15 seconds where it is not set.
func FetchTimeout(c *corev3.ConfigSource) time.Duration {
	if d := c.GetInitialFetchTimeout(); d != nil {
		return d.AsDuration()
	}
	return 15 * time.Second
}

func (c *common) wait(r *Ref, s *tlsv3.SdsSecretConfig) {
	c.waits = append(c.waits, Wait{r.Ready(), FetchTimeout(s.GetSdsConfig())})
}

// refs lists the secrets that must have arrived before the context can work.
func (c *common) refs() []*Ref {
	out := append([]*Ref(nil), c.certs...)
	if c.roots != nil {
		out = append(out, c.roots)
	}
	return out
}

// ErrNoSecret says that a handshake was due before SDS had delivered the secret.
var ErrNoSecret = errors.New("secret is not supplied by SDS")

// secretWait is how long a handshake waits for a secret that has not arrived. It comes a moment after the configuration
// that names it.
const secretWait = 2 * time.Second

// await waits for secrets that have not arrived. It waits neither long nor beyond the end of ctx.
func (c *common) await(ctx context.Context) {
	var late <-chan time.Time
	for _, r := range c.refs() {
		if r.Load() != nil {
			continue
		}
		if late == nil {
			t := time.NewTimer(secretWait)
			defer t.Stop()
			late = t.C
		}
		select {
		case <-r.Ready():
		case <-late:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (c *common) certificates() ([]tls.Certificate, error) {
	out := make([]tls.Certificate, 0, len(c.certs)+len(c.inline))
	for _, p := range c.inline {
		out = append(out, *p)
	}
	for _, r := range c.certs {
		s := r.Load()
		if s == nil || s.Cert == nil {
			return nil, fmt.Errorf("certificate %q: %w", r.Key.Name, ErrNoSecret)
		}
		out = append(out, *s.Cert)
	}
	return out, nil
}

func (c *common) leaf() *x509.Certificate {
	for _, p := range c.inline {
		return p.Leaf
	}
	for _, r := range c.certs {
		if s := r.Load(); s != nil && s.Cert != nil {
			return s.Cert.Leaf
		}
	}
	return nil
}
