package tlsctx

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"golang.org/x/crypto/ocsp"
)

// staple reads the OCSP response that goes with a certificate. One that is out of date is left out, as Envoy leaves it
// out where stapling is optional.
func staple(d *corev3.DataSource, now time.Time) ([]byte, error) {
	b, err := dataSource(d)
	if err != nil || len(b) == 0 {
		return nil, err
	}
	r, err := ocsp.ParseResponse(b, nil)
	if err != nil {
		return nil, fmt.Errorf("ocsp_staple: %w", err)
	}
	if !r.NextUpdate.IsZero() && now.After(r.NextUpdate) {
		return nil, nil
	}
	return b, nil
}
