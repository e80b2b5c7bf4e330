package checks

import (
	"context"
	"errors"
	"time"
)

// ErrAbsent says that an expression reached for something that is not there.
var ErrAbsent = errors.New("absent")

// Probe is one question asked of the running system rather than of its objects. Exactly
// one of HTTP, TCP, TLS, DNS, Exec, Access and Admit is set.
type Probe struct {
	Pos     Pos           `yaml:"-"`
	From    Place         `yaml:"from"`
	Timeout time.Duration `yaml:"timeout"` // one attempt; zero is DefaultProbeTimeout

	HTTP   *HTTPProbe   `yaml:"http"`
	TCP    *TCPProbe    `yaml:"tcp"`
	TLS    *TLSProbe    `yaml:"tls"`
	DNS    *DNSProbe    `yaml:"dns"`
	Exec   *ExecProbe   `yaml:"exec"`
	Access *AccessProbe `yaml:"access"`
	Admit  *AdmitProbe  `yaml:"admit"`
}

// The bounds on one probe.
const (
	DefaultProbeTimeout = 3 * time.Second
	MaxProbeTimeout     = 30 * time.Second
)

// Place is where a probe is sent from: this host, or a container of a running pod. Access
// and admit probes have no place, they are put to the API server.
type Place struct {
	Pos       Pos    `yaml:"-"`
	Host      bool   `yaml:"-"` // written as "from: host"
	Namespace string `yaml:"namespace"`
	Pod       string `yaml:"pod"`      // either Pod
	Selector  string `yaml:"selector"` // or Selector: the first ready pod by name
	Container string `yaml:"container"`
}

// HTTPProbe is one request; redirects are not followed and no certificate is verified.
type HTTPProbe struct {
	Pos     Pos               `yaml:"-"`
	URL     string            `yaml:"url"` // http or https
	Method  string            `yaml:"method"`
	Headers map[string]string `yaml:"headers"` // Host sets the request's authority
	Body    string            `yaml:"body"`
}

// TCPProbe opens a connection and closes it again.
type TCPProbe struct {
	Pos     Pos    `yaml:"-"`
	Address string `yaml:"address"` // host:port
}

// TLSProbe makes a handshake and looks at the peer's certificate without verifying it.
type TLSProbe struct {
	Pos        Pos      `yaml:"-"`
	Address    string   `yaml:"address"` // host:port
	ServerName string   `yaml:"serverName"`
	ALPN       []string `yaml:"alpn"`
}

// DNSProbe asks the resolver of the place.
type DNSProbe struct {
	Pos  Pos    `yaml:"-"`
	Name string `yaml:"name"`
	Type string `yaml:"type"` // A, AAAA, CNAME, SRV, TXT; A where empty
}

// ExecProbe runs a command in the place. It never goes through a shell.
type ExecProbe struct {
	Pos     Pos      `yaml:"-"`
	Command []string `yaml:"command"`
	Stdin   string   `yaml:"stdin"`
}

// AccessProbe is a SubjectAccessReview.
type AccessProbe struct {
	Pos            Pos      `yaml:"-"`
	ServiceAccount string   `yaml:"serviceAccount"` // namespace/name; either this
	User           string   `yaml:"user"`           // or User with Groups
	Groups         []string `yaml:"groups"`
	Verb           string   `yaml:"verb"`
	Group          string   `yaml:"group"` // API group, empty is the core group
	Resource       string   `yaml:"resource"`
	Subresource    string   `yaml:"subresource"`
	Namespace      string   `yaml:"namespace"` // empty is all namespaces
	Name           string   `yaml:"name"`
}

// AdmitProbe is a dry-run create: would the API server take this object now?
type AdmitProbe struct {
	Pos            Pos            `yaml:"-"`
	ServiceAccount string         `yaml:"serviceAccount"` // namespace/name to impersonate; optional
	Manifest       map[string]any `yaml:"manifest"`
}

// Kind is the name of the probe's one question.
func (p Probe) Kind() string {
	switch {
	case p.HTTP != nil:
		return "http"
	case p.TCP != nil:
		return "tcp"
	case p.TLS != nil:
		return "tls"
	case p.DNS != nil:
		return "dns"
	case p.Exec != nil:
		return "exec"
	case p.Access != nil:
		return "access"
	case p.Admit != nil:
		return "admit"
	}
	return ""
}

// Live tells whether the answer hangs on more than API objects, so that it can change
// without an API event.
func (p Probe) Live() bool { return p.Access == nil && p.Admit == nil }

// Result is the answer to a probe, as expressions see it; labs/FORMAT.md lists the keys.
type Result map[string]any

// Prober sends probes.
type Prober interface {
	// Probe asks once. A target that refuses, resets or stays silent is a Result. The
	// error is for a question that could not be put: API server gone, forbidden, tool
	// missing in the container.
	Probe(ctx context.Context, p Probe) (Result, error)
}
