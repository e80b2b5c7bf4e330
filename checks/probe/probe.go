// Package probe puts the questions of checks to a running system: HTTP, TCP, TLS, DNS and
// commands from this host or from inside a real pod, and access reviews and dry-run
// creates to the API server. It knows how a question travels and how an answer is told
// from a question that could not be put; it does not know what an answer means.
package probe

import (
	"context"
	"fmt"
	"time"

	"github.com/ropes-dev/ropes/checks"
)

// maxBody bounds what is kept of a body or of a program's output, in bytes.
const maxBody = 64 << 10

// execAllowance is how long an exec into a pod may take beyond the probe's own timeout
// before it counts as not possible. The timeout itself is kept by the program in the pod,
// so that a slow API server or kubelet is never taken for a silent target.
const execAllowance = 10 * time.Second

// Prober implements checks.Prober for one cluster.
type Prober struct {
	cluster *checks.Cluster
	exec    executor
}

var _ checks.Prober = (*Prober)(nil)

// New returns a Prober; cluster.Config is needed for probes from pods.
func New(cluster *checks.Cluster) *Prober {
	return &Prober{cluster: cluster, exec: remote{cluster.Config}}
}

// Probe implements checks.Prober.
func (p *Prober) Probe(ctx context.Context, pr checks.Probe) (checks.Result, error) {
	if pr.Timeout == 0 {
		pr.Timeout = checks.DefaultProbeTimeout
	}
	switch {
	case pr.Access != nil:
		return p.access(ctx, pr.Access)
	case pr.Admit != nil:
		return p.admit(ctx, pr.Admit)
	case pr.From.Host:
		return fromHost(ctx, pr)
	}
	at, missing, err := p.place(ctx, pr.From)
	if err != nil {
		return nil, err
	}
	if missing != "" {
		return unsent(pr, missing), nil
	}
	ctx, cancel := context.WithTimeout(ctx, pr.Timeout+execAllowance)
	defer cancel()
	return p.fromPod(ctx, at, pr)
}

func (p *Prober) fromPod(ctx context.Context, at target, pr checks.Probe) (checks.Result, error) {
	switch {
	case pr.HTTP != nil:
		return p.podHTTP(ctx, at, pr)
	case pr.TCP != nil:
		return p.podTCP(ctx, at, pr)
	case pr.TLS != nil:
		return p.podTLS(ctx, at, pr)
	case pr.DNS != nil:
		return p.podDNS(ctx, at, pr)
	case pr.Exec != nil:
		return p.podExec(ctx, at, pr)
	}
	return nil, fmt.Errorf("%s: probe asks nothing", pr.Pos)
}

// The values of errorKind.
const (
	kindNoPod   = "no-pod"
	kindRefused = "refused"
	kindReset   = "reset"
	kindTimeout = "timeout"
	kindDNS     = "dns"
	kindTLS     = "tls"
	kindClosed  = "closed"
	kindOther   = "other"
)

// blank is the result of a probe with every key at its zero.
func blank(pr checks.Probe) checks.Result {
	r := checks.Result{"sent": false, "ok": false, "error": "", "errorKind": ""}
	switch {
	case pr.HTTP != nil:
		r["status"], r["body"], r["json"], r["headers"] = int64(0), "", nil, map[string]any{}
	case pr.TLS != nil:
		r["peer"], r["version"], r["alpn"] = nil, "", ""
	case pr.DNS != nil:
		r["rcode"], r["answers"] = "", []any{}
	case pr.Exec != nil:
		r["exitCode"], r["stdout"], r["stderr"] = int64(0), "", ""
	}
	return r
}

func unsent(pr checks.Probe, why string) checks.Result {
	r := blank(pr)
	r["error"], r["errorKind"] = why, kindNoPod
	return r
}

// failed is the answer of a target that did not let the exchange come to its end.
func failed(pr checks.Probe, kind, why string) checks.Result {
	r := blank(pr)
	r["sent"], r["error"], r["errorKind"] = true, why, kind
	return r
}

// done is the answer of an exchange that came to its end.
func done(pr checks.Probe) checks.Result {
	r := blank(pr)
	r["sent"], r["ok"] = true, true
	return r
}
