package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/ropes-dev/ropes/checks"
)

// fromHost sends a probe from this process.
func fromHost(ctx context.Context, pr checks.Probe) (checks.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, pr.Timeout)
	defer cancel()
	switch {
	case pr.HTTP != nil:
		return hostHTTP(ctx, pr)
	case pr.TCP != nil:
		c, err := new(net.Dialer).DialContext(ctx, "tcp", pr.TCP.Address)
		if err != nil {
			return failed(pr, wordsKind(err.Error()), err.Error()), nil
		}
		_ = c.Close()
		return done(pr), nil
	case pr.TLS != nil:
		c, err := new(net.Dialer).DialContext(ctx, "tcp", pr.TLS.Address)
		if err != nil {
			return failed(pr, wordsKind(err.Error()), err.Error()), nil
		}
		defer c.Close()
		return handshake(ctx, c, pr), nil
	case pr.DNS != nil:
		return hostDNS(ctx, pr)
	}
	return nil, fmt.Errorf("%s: a %s probe cannot be sent from the host", pr.Pos, pr.Kind())
}

func hostHTTP(ctx context.Context, pr checks.Probe) (checks.Result, error) {
	h := pr.HTTP
	req, err := http.NewRequestWithContext(ctx, h.Method, h.URL, strings.NewReader(h.Body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Pos, err)
	}
	for k, v := range h.Headers {
		if strings.EqualFold(k, "host") {
			req.Host = v
			continue
		}
		req.Header.Set(k, v)
	}
	tr := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the gateway's certificate is the lab's own
	}
	client := &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return failed(pr, wordsKind(err.Error()), err.Error()), nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return failed(pr, wordsKind(err.Error()), err.Error()), nil
	}
	return httpResult(pr, resp.StatusCode, resp.Header, body), nil
}

func hostDNS(ctx context.Context, pr checks.Probe) (checks.Result, error) {
	var (
		found []string
		err   error
		name  = pr.DNS.Name
		res   = net.DefaultResolver
	)
	switch pr.DNS.Type {
	case "", "A", "AAAA":
		network := "ip4"
		if pr.DNS.Type == "AAAA" {
			network = "ip6"
		}
		var ips []net.IP
		ips, err = res.LookupIP(ctx, network, name)
		for _, ip := range ips {
			found = append(found, ip.String())
		}
	case "CNAME":
		var s string
		s, err = res.LookupCNAME(ctx, name)
		found = append(found, s)
	case "TXT":
		found, err = res.LookupTXT(ctx, name)
	case "SRV":
		var srvs []*net.SRV
		_, srvs, err = res.LookupSRV(ctx, "", "", name)
		for _, s := range srvs {
			found = append(found, fmt.Sprintf("%d %d %d %s", s.Priority, s.Weight, s.Port, s.Target))
		}
	}
	r := done(pr)
	var dnsErr *net.DNSError
	switch {
	case errors.As(err, &dnsErr) && dnsErr.IsNotFound:
		r["rcode"] = "NXDOMAIN"
	case err != nil:
		return failed(pr, wordsKind(err.Error()), err.Error()), nil
	default:
		r["rcode"] = "NOERROR"
	}
	answers := []any{}
	for _, f := range slices.Sorted(slices.Values(found)) {
		answers = append(answers, f)
	}
	r["answers"] = answers
	return r, nil
}
