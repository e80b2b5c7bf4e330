// Package extauthz asks an external authorization service about requests and connections, as Envoy's ext_authz filters
// do, by gRPC or by HTTP.
//
// It knows the service's protocol and what its answers mean. It does not know filter chains: which request is asked
// about, what becomes of a verdict and of a failed call is the filter's business.
package extauthz

import (
	"context"
	"fmt"
	"net/http"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	netv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/ext_authz/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/cluster"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
	"github.com/ropes-dev/ropes/bootstrap/dataplane/match"
)

// Client asks the service. An error means that there is no verdict.
type Client interface {
	Check(ctx context.Context, req *authv3.CheckRequest) (*Verdict, error)
}

// Verdict is the service's answer.
type Verdict struct {
	Allowed bool
	// Refusals: what the client gets.
	Status int
	Body   string
	Reply  []Edit
	// Permissions: how the request goes on.
	Request     []Edit
	Remove      []string // header names
	SetQuery    [][2]string
	RemoveQuery []string
	Response    []Edit // of the response, when it comes
	// Metadata is for the filters that follow; nil for none.
	Metadata map[string]any
}

// Action says what an edit does to a header that is there already.
type Action int

// Actions.
const (
	Set            Action = iota // replace, or add
	Append                       // add a value
	AppendExisting               // add a value, where the header is there
	SetExisting                  // replace, where the header is there
	AddAbsent                    // add, where the header is not there
)

// Edit changes one header.
type Edit struct {
	Name, Value string
	Action      Action
}

// Apply makes the edit in h and reports whether h changed.
func (e Edit) Apply(h http.Header) bool {
	name := http.CanonicalHeaderKey(e.Name)
	_, there := h[name]
	switch e.Action {
	case Append:
		h[name] = append(h[name], e.Value)
		return true
	case AppendExisting:
		if there {
			h[name] = append(h[name], e.Value)
		}
		return there
	case SetExisting:
		if there {
			h[name] = []string{e.Value}
		}
		return there
	case AddAbsent:
		if !there {
			h[name] = []string{e.Value}
		}
		return !there
	default:
		h[name] = []string{e.Value}
		return true
	}
}

// Body says how much of a request's body the service gets to see.
type Body struct {
	Max     int
	Partial bool // ask when Max bytes are there, even if there are more
	AsBytes bool
}

// Settings are the compiled form of a filter's configuration.
type Settings struct {
	Client          Client
	FailOpen        bool
	MarkFailOpen    bool // tell the upstream when nobody was asked
	ErrorStatus     int
	Body            *Body // nil to send none
	ClearRoute      bool
	StatPrefix      string
	Enabled         *corev3.RuntimeFractionalPercent
	DenyDisabled    bool
	Namespaces      []string // of dynamic metadata that the service gets
	PeerCertificate bool
	TLSSession      bool

	enabled func(match.Lookup) bool
	keep    func(string) bool
}

// Asked reports whether the metadata of a request says that the service is to be asked.
func (s *Settings) Asked(look match.Lookup) bool { return s.enabled == nil || s.enabled(look) }

const httpFields = "grpc_service http_service transport_api_version failure_mode_allow failure_mode_allow_header_add " +
	"with_request_body clear_route_cache status_on_error metadata_context_namespaces filter_enabled " +
	"filter_enabled_metadata deny_at_disable include_peer_certificate stat_prefix allowed_headers disallowed_headers " +
	"include_tls_session"

// Compile translates the HTTP filter's configuration.
func Compile(p *authzv3.ExtAuthz, clusters *cluster.Manager) (*Settings, error) {
	if err := fields.Check(p, httpFields); err != nil {
		return nil, err
	}
	out := &Settings{
		FailOpen: p.GetFailureModeAllow(), MarkFailOpen: p.GetFailureModeAllowHeaderAdd(), ErrorStatus: http.StatusForbidden,
		ClearRoute: p.GetClearRouteCache(), StatPrefix: p.GetStatPrefix(), Enabled: p.GetFilterEnabled(),
		DenyDisabled: p.GetDenyAtDisable().GetDefaultValue().GetValue(), Namespaces: p.GetMetadataContextNamespaces(),
		PeerCertificate: p.GetIncludePeerCertificate(), TLSSession: p.GetIncludeTlsSession(),
	}
	if c := p.GetStatusOnError().GetCode(); c != 0 {
		out.ErrorStatus = int(c)
	}
	var err error
	if out.Body, err = CompileBody(p.GetWithRequestBody()); err != nil {
		return nil, err
	}
	if err := out.setEnabled(p.GetFilterEnabledMetadata()); err != nil {
		return nil, err
	}
	if err := version(p, p.GetTransportApiVersion()); err != nil {
		return nil, err
	}
	allowed, err := headerList(p.GetAllowedHeaders())
	if err != nil {
		return nil, fmt.Errorf("allowed_headers: %w", err)
	}
	switch s := p.GetServices().(type) {
	case *authzv3.ExtAuthz_GrpcService:
		out.Client, err = newGRPC(s.GrpcService, clusters)
		out.keep = allowed
	case *authzv3.ExtAuthz_HttpService:
		var c *httpClient
		if c, err = newHTTP(s.HttpService, clusters); err == nil {
			out.Client, out.keep = c, c.keeps(allowed)
		}
	default:
		err = fields.Unsupported(p, fmt.Sprintf("services (%T)", s), "")
	}
	if err != nil {
		return nil, err
	}
	not, err := headerList(p.GetDisallowedHeaders())
	if err != nil {
		return nil, fmt.Errorf("disallowed_headers: %w", err)
	}
	if keep := out.keep; not != nil {
		out.keep = func(name string) bool { return !not(name) && (keep == nil || keep(name)) }
	}
	return out, nil
}

// CompileNetwork translates the network filter's configuration.
func CompileNetwork(p *netv3.ExtAuthz, clusters *cluster.Manager) (*Settings, error) {
	const known = "stat_prefix grpc_service failure_mode_allow include_peer_certificate transport_api_version " +
		"filter_enabled_metadata include_tls_session metadata_context_namespaces"
	if err := fields.Check(p, known); err != nil {
		return nil, err
	}
	out := &Settings{
		FailOpen: p.GetFailureModeAllow(), StatPrefix: p.GetStatPrefix(), Namespaces: p.GetMetadataContextNamespaces(),
		PeerCertificate: p.GetIncludePeerCertificate(), TLSSession: p.GetIncludeTlsSession(),
	}
	if err := out.setEnabled(p.GetFilterEnabledMetadata()); err != nil {
		return nil, err
	}
	if err := version(p, p.GetTransportApiVersion()); err != nil {
		return nil, err
	}
	var err error
	out.Client, err = newGRPC(p.GetGrpcService(), clusters)
	return out, err
}

func (s *Settings) setEnabled(m *matcherv3.MetadataMatcher) error {
	if m == nil {
		return nil
	}
	f, err := match.Metadata(m)
	if err != nil {
		return fmt.Errorf("filter_enabled_metadata: %w", err)
	}
	s.enabled = f
	return nil
}

// CompileBody translates how much of a body is sent; nil for none.
func CompileBody(b *authzv3.BufferSettings) (*Body, error) {
	if b == nil {
		return nil, nil
	}
	if b.GetMaxRequestBytes() == 0 {
		return nil, fmt.Errorf("with_request_body: max_request_bytes must be greater than 0")
	}
	return &Body{Max: int(b.GetMaxRequestBytes()), Partial: b.GetAllowPartialMessage(), AsBytes: b.GetPackAsBytes()}, nil
}

func version(p interface {
	GetTransportApiVersion() corev3.ApiVersion
}, v corev3.ApiVersion,
) error {
	if v == corev3.ApiVersion_V2 { //nolint:staticcheck // deprecated, and refused
		return fmt.Errorf("%T: transport_api_version V2 is not supported", p)
	}
	return nil
}

// headerList compiles a list of header names; nil where there is no list. Names are matched in lower case.
func headerList(l *matcherv3.ListStringMatcher) (match.String, error) {
	if l == nil {
		return nil, nil
	}
	return match.CompileAny(l.GetPatterns())
}
