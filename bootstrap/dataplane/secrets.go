package dataplane

import (
	"errors"
	"fmt"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/tlsctx"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/xds"
)

// applySecrets publishes the secrets of one update. A secret that does not parse is refused by name; connections go on
// with the version before.
func (p *Proxy) applySecrets(src tlsctx.Source, u xds.Update) error {
	var errs []error
	for _, r := range u.Resources {
		s := &tlsv3.Secret{}
		if err := r.Body.UnmarshalTo(s); err != nil {
			errs = append(errs, xds.Refuse(r.Name, fmt.Errorf("secret %q: %w", r.Name, err)))
			continue
		}
		parsed, err := tlsctx.ParseSecret(s, r.Version, time.Now())
		if err != nil {
			errs = append(errs, xds.Refuse(r.Name, err))
			continue
		}
		p.secrets.Set(tlsctx.Key{Source: src, Name: s.GetName()}, parsed)
		p.log.Debug("secret", "name", s.GetName(), "source", src)
	}
	return errors.Join(errs...)
}
