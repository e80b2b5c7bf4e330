package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"
)

//go:embed sidecar.yaml.tmpl
var sidecarText string

//go:embed nginx.conf.tmpl
var nginxText string

var (
	sidecarTmpl = template.Must(template.New("sidecar").Parse(sidecarText))
	nginxTmpl   = template.Must(template.New("nginx").Parse(nginxText))
)

// scenario is one way from client to server.
type scenario struct {
	name    string
	port    int
	proxies []*process
	full    []load          // at saturation
	cost    []time.Duration // processor time of the proxies per request at saturation
	steady  []load
}

type bench struct {
	options
	dir           string
	out, progress io.Writer
	front, back   cpus
	running       []*process
	scenarios     []*scenario
}

type sidecar struct {
	Name, Dir               string
	Admin, Listen, Upstream int
	Inbound, TLSIn, TLSOut  bool
}

type nginx struct {
	Name, Dir, Body             string
	Workers                     int
	Listen, ListenTLS, Upstream int
	TLSOut                      bool
}

// Names of the scenarios that the closing lines compare.
const (
	direct   = "direct"
	byNginx  = "nginx"
	onePlain = "one proxy, plain"
	twoMTLS  = "two proxies, mTLS"
)

// open starts the server, nginx and the sidecars of all scenarios.
func (b *bench) open(ctx context.Context) error {
	if err := writeCerts(b.dir); err != nil {
		return err
	}
	p, err := freePorts(2)
	if err != nil {
		return err
	}
	plain, tls := p[0], p[1]
	if _, err := b.nginx(ctx, b.front, nginx{Name: "server", Listen: plain, ListenTLS: tls, Body: strings.Repeat("0123456789abcdef", 32)}); err != nil {
		return err
	}
	b.scenarios = append(b.scenarios, &scenario{name: direct, port: plain})
	for _, s := range []struct {
		name     string
		upstream int
		tls      bool
	}{{byNginx, plain, false}, {"nginx, mTLS to the server", tls, true}} {
		if err := b.scenario(s.name, func() (int, []*process, error) {
			n := nginx{Name: "nginx" + strconv.Itoa(s.upstream), Upstream: s.upstream, TLSOut: s.tls}
			ps, err := freePorts(1)
			if err != nil {
				return 0, nil, err
			}
			n.Listen = ps[0]
			pr, err := b.nginx(ctx, b.back, n)
			return n.Listen, []*process{pr}, err
		}); err != nil {
			return err
		}
	}
	for _, s := range []struct {
		name     string
		upstream int
		tls, two bool
	}{
		{onePlain, plain, false, false},
		{"one proxy, mTLS to the server", tls, true, false},
		{"two proxies, plain", plain, false, true},
		{twoMTLS, plain, true, true},
	} {
		if err := b.scenario(s.name, func() (int, []*process, error) {
			var ps []*process
			up := s.upstream
			if s.two {
				port, pr, err := b.sidecar(ctx, sidecar{Name: "server", Upstream: up, Inbound: true, TLSIn: s.tls})
				if err != nil {
					return 0, nil, err
				}
				up, ps = port, append(ps, pr)
			}
			port, pr, err := b.sidecar(ctx, sidecar{Name: "client", Upstream: up, TLSOut: s.tls})
			return port, append(ps, pr), err
		}); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) scenario(name string, open func() (int, []*process, error)) error {
	if !strings.Contains(name, b.only) && name != byNginx {
		return nil
	}
	port, ps, err := open()
	if err != nil {
		return err
	}
	b.scenarios = append(b.scenarios, &scenario{name: name, port: port, proxies: ps})
	return nil
}

func (b *bench) write(name string, t *template.Template, data any) (string, error) {
	var text strings.Builder
	if err := t.Execute(&text, data); err != nil {
		return "", err
	}
	path := filepath.Join(b.dir, name)
	return path, os.WriteFile(path, []byte(text.String()), 0o600)
}

func (b *bench) nginx(ctx context.Context, on cpus, n nginx) (*process, error) {
	n.Dir, n.Workers = b.dir, on.count()
	path, err := b.write(n.Name+".conf", nginxTmpl, n)
	if err != nil {
		return nil, err
	}
	p, err := start(ctx, n.Name, on.String(), n.Listen, "nginx", "-p", b.dir, "-e", filepath.Join(b.dir, n.Name+".log"), "-c", path)
	if p != nil {
		b.running = append(b.running, p)
	}
	return p, err
}

func (b *bench) sidecar(ctx context.Context, s sidecar) (int, *process, error) {
	ps, err := freePorts(2)
	if err != nil {
		return 0, nil, err
	}
	s.Dir, s.Admin, s.Listen = b.dir, ps[0], ps[1]
	path, err := b.write(fmt.Sprintf("%s-%d.yaml", s.Name, s.Listen), sidecarTmpl, s)
	if err != nil {
		return 0, nil, err
	}
	p, err := start(ctx, s.Name, b.back.String(), s.Listen, b.envoy, "envoy", "-c", path, "-l", "warning", "--concurrency", strconv.Itoa(b.back.count()))
	if p != nil {
		b.running = append(b.running, p)
	}
	return s.Listen, p, err
}

func (b *bench) close() {
	for _, p := range slices.Backward(b.running) {
		p.stop()
	}
}

// measure runs the rounds, after one short one that only warms up.
func (b *bench) measure(ctx context.Context) error {
	for r := range b.rounds + 1 {
		each := b.each
		if r == 0 {
			each = time.Second
		}
		for _, s := range b.scenarios {
			_, _ = fmt.Fprintf(b.progress, "round %d of %d: %s\n", r, b.rounds, s.name)
			before := s.cpu()
			full, err := saturate(ctx, b.front.String(), s.port, b.conns, each)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			used := s.cpu() - before
			calm, err := steady(ctx, s.port, min(b.conns, 32), b.rate, each)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if r == 0 {
				continue
			}
			s.full, s.steady = append(s.full, full), append(s.steady, calm)
			s.cost = append(s.cost, time.Duration(float64(used)/(full.rate*each.Seconds())))
		}
	}
	return nil
}

func (s *scenario) cpu() time.Duration {
	var sum time.Duration
	for _, p := range s.proxies {
		sum += p.cpu()
	}
	return sum
}
