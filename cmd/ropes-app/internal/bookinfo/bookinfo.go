// Package bookinfo is the bookshop that the mesh's lessons are taught with: four
// services that call each other, with the HTTP interface that Istio documents for its
// sample of that name. It knows their handlers and how they call each other. It does not
// listen, and knows no flags.
package bookinfo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Config is what a service learns from its environment.
type Config struct {
	Version string // SERVICE_VERSION
	Pod     string // name shown by reviews and the product page
	Cluster string // name shown by reviews; empty shows as "null"
	// Base URLs of the services called.
	Details, Reviews, Ratings string
	// Stars is the colour of reviews' stars; empty means that ratings are not asked.
	Stars string
	// Client calls the other services. nil is a client of the package's own.
	Client *http.Client
}

// FromEnv reads the variables that the package documentation of ropes-app names.
func FromEnv(getenv func(string) string) Config {
	or := func(name, def string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return def
	}
	service := func(prefix, def string) string {
		host := or(prefix+"_HOSTNAME", def)
		if d := getenv("SERVICES_DOMAIN"); d != "" {
			host += "." + d
		}
		return "http://" + net.JoinHostPort(host, or(prefix+"_SERVICE_PORT", "9080"))
	}
	cfg := Config{
		Version: or("SERVICE_VERSION", "v1"),
		Pod:     getenv("HOSTNAME"),
		Cluster: getenv("CLUSTER_NAME"),
		Details: service("DETAILS", "details"),
		Reviews: service("REVIEWS", "reviews"),
		Ratings: service("RATINGS", "ratings"),
	}
	switch cfg.Version {
	case "v2":
		cfg.Stars = "black"
	case "v3":
		cfg.Stars = "red"
	}
	switch getenv("ENABLE_RATINGS") {
	case "true":
		cfg.Stars = or("STAR_COLOR", or2(cfg.Stars, "black"))
	case "false":
		cfg.Stars = ""
	}
	return cfg
}

func or2(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// client keeps few connections, so that a change of routes shows at once.
func (c Config) client() *http.Client {
	if c.Client != nil {
		return c.Client
	}
	return &http.Client{Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     15 * time.Second,
		DisableCompression:  true,
	}}
}

// handedOn are the request headers that travel from hop to hop: the user, what tells one
// trace from another, and what rules may match on.
var handedOn = []string{
	"End-User", "User-Agent", "Cookie", "Authorization", "Jwt",
	"X-Request-Id", "X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "X-B3-Sampled", "X-B3-Flags", "B3",
	"Traceparent", "Tracestate", "X-Cloud-Trace-Context", "Grpc-Trace-Bin", "X-Ot-Span-Context", "Sw8",
	"X-Datadog-Trace-Id", "X-Datadog-Parent-Id", "X-Datadog-Sampling-Priority",
}

// handOn copies the headers that travel.
func handOn(from http.Header) http.Header {
	to := http.Header{}
	for _, name := range handedOn {
		if v, ok := from[name]; ok {
			to[name] = v
		}
	}
	return to
}

// maxAnswer bounds in bytes what is read of another service's answer.
const maxAnswer = 1 << 20

// callError is another service's refusal.
type callError struct {
	status int // 0 where there was no answer
	detail string
}

func (e *callError) Error() string { return e.detail }

// fetch gets JSON from another service.
func fetch(ctx context.Context, client *http.Client, url string, headers http.Header, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header = headers
	res, err := client.Do(req)
	if err != nil {
		return nil, &callError{0, err.Error()}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, &callError{0, fmt.Sprintf("read %s: %v", url, err)}
	}
	if res.StatusCode != http.StatusOK {
		return nil, &callError{res.StatusCode, fmt.Sprintf("%s answered %s", url, res.Status)}
	}
	return body, nil
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // where it fails, nobody is left to tell
}

func refuse(w http.ResponseWriter, status int, why string) {
	answer(w, status, map[string]string{"error": why})
}

// productID reads the path's {id}; it answers for itself where that is no number.
func productID(w http.ResponseWriter, r *http.Request) (int, bool) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil {
		refuse(w, http.StatusBadRequest, "please provide numeric product ID")
		return 0, false
	}
	return id, true
}

func health(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": name + " is healthy"})
	}
}
