// Package jwt verifies the JSON Web Tokens of requests by the rules of Envoy's jwt_authn filter, which istiod makes from
// RequestAuthentications.
//
// It knows providers, where their tokens are found, their keys and how requirements combine. It knows no filter chain, no
// route and no cluster: keys that lie elsewhere come through a Fetch, and which requirement a request has is the
// caller's business.
package jwt

import (
	"fmt"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

const defaultSkew = 60 // seconds

// provider is one issuer with its keys.
type provider struct {
	name          string
	issuer        string
	audiences     []string
	subjects      match.String
	needsExp      bool
	maxLifetime   time.Duration
	skew          int64
	places        []place
	forward       bool
	payloadHeader string
	pad           bool
	claims        []claimHeader
	payloadKey    string // in dynamic metadata
	headerKey     string
	failedKey     string
	spaceLists    []string
	clearRoute    bool
	keys          keySource
}

type claimHeader struct {
	header string
	path   []string
}

// keySource gives the keys of one provider.
type keySource interface {
	// load returns the keys, or why there are none.
	load(r *Request) (keySet, Status)
}

// Set holds the providers of one filter.
type Set struct {
	byName map[string]*provider
	sorted []*provider
	waits  []<-chan struct{}
}

const providerFields = "issuer audiences subjects require_expiration max_lifetime remote_jwks local_jwks forward from_headers " +
	"from_params from_cookies forward_payload_header pad_forward_payload_header payload_in_metadata " +
	"normalize_payload_in_metadata header_in_metadata failed_status_in_metadata clock_skew_seconds jwt_cache_config " +
	"claim_to_headers clear_route_cache"

// Compile translates the providers of p. fetch gets keys that lie elsewhere.
func Compile(p *jwtv3.JwtAuthentication, fetch Fetch) (*Set, error) {
	out := &Set{byName: map[string]*provider{}}
	for name, body := range p.GetProviders() {
		one, err := compileProvider(name, body, fetch)
		if err != nil {
			return nil, fmt.Errorf("provider %q: %w", name, err)
		}
		out.byName[name] = one
		out.sorted = append(out.sorted, one)
		if r, ok := one.keys.(*remoteKeys); ok && r.first != nil {
			out.waits = append(out.waits, r.first)
		}
	}
	slices.SortFunc(out.sorted, func(a, b *provider) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// Waits lists what has to happen before the first request: keys that are fetched ahead, well or not.
func (s *Set) Waits() []<-chan struct{} { return s.waits }

func compileProvider(name string, p *jwtv3.JwtProvider, fetch Fetch) (*provider, error) {
	if err := fields.Check(p, providerFields); err != nil {
		return nil, err
	}
	out := &provider{
		name: name, issuer: p.GetIssuer(), needsExp: p.GetRequireExpiration(), maxLifetime: p.GetMaxLifetime().AsDuration(),
		skew: defaultSkew, places: places(p), forward: p.GetForward(),
		payloadHeader: textproto.CanonicalMIMEHeaderKey(p.GetForwardPayloadHeader()), pad: p.GetPadForwardPayloadHeader(),
		payloadKey: p.GetPayloadInMetadata(), headerKey: p.GetHeaderInMetadata(), failedKey: p.GetFailedStatusInMetadata(),
		spaceLists: p.GetNormalizePayloadInMetadata().GetSpaceDelimitedClaims(), clearRoute: p.GetClearRouteCache(),
	}
	if n := p.GetClockSkewSeconds(); n > 0 {
		out.skew = int64(n)
	}
	for _, a := range p.GetAudiences() {
		out.audiences = append(out.audiences, plainAudience(a))
	}
	var err error
	if p.GetSubjects() != nil {
		if out.subjects, err = match.Compile(p.GetSubjects()); err != nil {
			return nil, fmt.Errorf("subjects: %w", err)
		}
	}
	for _, c := range p.GetClaimToHeaders() {
		if c.GetHeaderName() == "" || c.GetClaimName() == "" {
			return nil, fmt.Errorf("claim_to_headers: header_name and claim_name must not be empty")
		}
		out.claims = append(out.claims, claimHeader{
			textproto.CanonicalMIMEHeaderKey(c.GetHeaderName()), strings.Split(c.GetClaimName(), "."),
		})
	}
	switch src := p.GetJwksSourceSpecifier().(type) {
	case *jwtv3.JwtProvider_LocalJwks:
		out.keys, err = localKeys(src.LocalJwks)
	case *jwtv3.JwtProvider_RemoteJwks:
		out.keys, err = newRemoteKeys(src.RemoteJwks, fetch)
	default:
		err = fmt.Errorf("jwks_source_specifier is not set")
	}
	return out, err
}

// fixedKeys are keys that stand in the configuration. A document without usable keys lets no token pass, as in Envoy.
type fixedKeys struct{ set keySet }

func (f fixedKeys) load(*Request) (keySet, Status) {
	if len(f.set) == 0 {
		return nil, NoValidKeys
	}
	return f.set, OK
}

func localKeys(d *corev3.DataSource) (keySource, error) {
	var doc []byte
	switch s := d.GetSpecifier().(type) {
	case *corev3.DataSource_InlineString:
		doc = []byte(s.InlineString)
	case *corev3.DataSource_InlineBytes:
		doc = s.InlineBytes
	case *corev3.DataSource_Filename:
		b, err := os.ReadFile(s.Filename)
		if err != nil {
			return nil, fmt.Errorf("local_jwks: %w", err)
		}
		doc = b
	case *corev3.DataSource_EnvironmentVariable:
		doc = []byte(os.Getenv(s.EnvironmentVariable))
	default:
		return nil, fields.Unsupported(d, fmt.Sprintf("specifier (%T)", s), "")
	}
	set, _ := parseKeys(doc)
	return fixedKeys{set}, nil
}

// plainAudience is an audience without its scheme and last slash: services are often named with and without.
func plainAudience(a string) string {
	if rest, ok := strings.CutPrefix(a, "https://"); ok {
		a = rest
	} else if rest, ok := strings.CutPrefix(a, "http://"); ok {
		a = rest
	}
	return strings.TrimSuffix(a, "/")
}

// audienceAllowed holds a token's audiences against those of a provider or requirement; an empty list allows all.
func audienceAllowed(allowed, aud []string) bool {
	if len(allowed) == 0 {
		return true
	}
	for _, a := range aud {
		if slices.Contains(allowed, plainAudience(a)) {
			return true
		}
	}
	return false
}
