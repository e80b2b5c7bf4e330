package servers

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"os"

	"github.com/mccutchen/go-httpbin/v2/httpbin"

	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/applet"
	"github.com/ropes-dev/ropes/cmd/ropes-app/internal/bookinfo"
)

// Bookinfo is the program of one of the bookshop's services.
func Bookinfo(service func(bookinfo.Config) http.Handler) applet.Func {
	return func(ctx context.Context, call *applet.Call) int {
		return program(ctx, call, func(opts *applet.Options) func() ([]endpoint, error) {
			listen := ":9080"
			opts.String(&listen, "listen")
			return func() ([]endpoint, error) {
				return plain(listen, service(bookinfo.FromEnv(hostname(call)))), nil
			}
		})
	}
}

// hostname is the call's environment, with HOSTNAME filled in where a shell would.
func hostname(call *applet.Call) func(string) string {
	return func(name string) string {
		if v := call.Getenv(name); v != "" || name != "HOSTNAME" {
			return v
		}
		h, _ := os.Hostname() // empty is shown as such
		return h
	}
}

// HTTPBin is the program httpbin.
func HTTPBin(ctx context.Context, call *applet.Call) int {
	return program(ctx, call, func(opts *applet.Options) func() ([]endpoint, error) {
		listen := ":8080"
		opts.String(&listen, "listen")
		return func() ([]endpoint, error) {
			return plain(listen, httpbin.New(httpbin.WithHostname(hostname(call)("HOSTNAME"))).Handler()), nil
		}
	})
}

// Outside is the program outside.
func Outside(ctx context.Context, call *applet.Call) int {
	return program(ctx, call, func(opts *applet.Options) func() ([]endpoint, error) {
		plainText, secure, raw := ":8080", ":8443", ":9000"
		names := "outside,outside.outside,outside.outside.svc,outside.outside.svc.cluster.local,localhost"
		var cert, key string
		opts.String(&plainText, "http")
		opts.String(&secure, "https")
		opts.String(&raw, "tcp")
		opts.String(&names, "name")
		opts.String(&cert, "tls-cert")
		opts.String(&key, "tls-key")
		return func() ([]endpoint, error) {
			h := echo{name: "outside", message: "You have reached a service that stands beyond the mesh.", hostname: hostname(call)("HOSTNAME")}
			eps := plain(plainText, h)
			if secure != "" {
				cfg, err := tlsConfig(call, cert, key, addresses(names))
				if err != nil {
					return nil, err
				}
				eps = append(eps, encrypted(secure, cfg, h)...)
			}
			return append(eps, echoing(raw, "outside: beyond the mesh\n")...), nil
		}
	})
}

// Serve is the program serve.
func Serve(ctx context.Context, call *applet.Call) int {
	return program(ctx, call, func(opts *applet.Options) func() ([]endpoint, error) {
		listen := ":8080"
		var dir, raw, secure, cert, key, control string
		opts.String(&listen, "listen")
		opts.String(&control, "control")
		opts.String(&dir, "dir")
		opts.String(&raw, "tcp")
		opts.String(&secure, "listen-tls")
		opts.String(&cert, "tls-cert")
		opts.String(&key, "tls-key")
		return func() ([]endpoint, error) {
			h, err := serveHandler(call, dir)
			if err != nil {
				return nil, err
			}
			sc := &script{next: h}
			if control != "" {
				h = sc
			}
			eps := append(plain(listen, h), echoing(raw, "")...)
			eps = append(eps, plain(control, sc.control())...)
			if secure == "" {
				if cert != "" || key != "" {
					return nil, errors.New("--tls-cert and --tls-key need --listen-tls")
				}
				return eps, nil
			}
			cfg, err := tlsConfig(call, cert, key, []string{"localhost", hostname(call)("HOSTNAME")})
			if err != nil {
				return nil, err
			}
			return append(eps, encrypted(secure, cfg, h)...), nil
		}
	})
}

func plain(list string, h http.Handler) []endpoint {
	var eps []endpoint
	for _, a := range addresses(list) {
		eps = append(eps, endpoint{addr: a, handler: h})
	}
	return eps
}

func encrypted(list string, cfg *tls.Config, h http.Handler) []endpoint {
	eps := plain(list, h)
	for i := range eps {
		eps[i].tls = cfg
	}
	return eps
}

// echoing are endpoints that return what they are sent, after a greeting.
func echoing(list, greeting string) []endpoint {
	var eps []endpoint
	for _, a := range addresses(list) {
		eps = append(eps, endpoint{addr: a, conn: echoTCP(greeting)})
	}
	return eps
}
