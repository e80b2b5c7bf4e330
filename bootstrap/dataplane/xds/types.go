// Package xds speaks Envoy's discovery protocol over gRPC: aggregated, delta or state of the world, and SDS.
//
// It knows streams, subscriptions, versions, acknowledgements and reconnection with backoff. It does not know what a
// resource means: a Handler decides, and its error becomes the NACK's text. When a stream breaks, whatever was
// accepted stays in force.
package xds

import (
	"sort"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// Type URLs of the resources that the proxy subscribes to.
const (
	ClusterType  = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	EndpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	ListenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	RouteType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	SecretType   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// order is the order in which subscriptions are (re)sent: make before break.
var order = map[string]int{ClusterType: 0, EndpointType: 1, ListenerType: 2, RouteType: 3, SecretType: 4}

// Resource is one named resource as received.
type Resource struct {
	Name    string
	Version string
	Body    *anypb.Any
}

// Update is what one response says about one type.
type Update struct {
	Type      string
	Version   string // the response's own version, for display
	Resources []Resource
	Removed   []string
	// Full means that Resources is the complete set (state of the world for wildcard types).
	Full bool
}

// Handler takes updates, one at a time. An error refuses the update and is sent to the server; where it is made of
// Refuse's errors only, joined, the resources that it does not name have taken effect.
type Handler interface{ Apply(Update) error }

// HandlerFunc adapts a function to Handler.
type HandlerFunc func(Update) error

// Apply implements Handler.
func (f HandlerFunc) Apply(u Update) error { return f(u) }

// Wildcard reports whether a type is subscribed to without names.
func Wildcard(typeURL string) bool { return typeURL == ClusterType || typeURL == ListenerType }

// subscription is the wanted and the known state of one type.
type subscription struct {
	typeURL string
	names   map[string]bool   // wanted; empty for wildcard
	known   map[string]string // name -> version accepted from the server
	sent    map[string]bool   // names told to the server on this stream
	opened  bool              // a first request went out on this stream
	version string            // state of the world: last accepted version
	nonce   string            // state of the world: last nonce on this stream
}

func newSubscription(typeURL string) *subscription {
	return &subscription{typeURL: typeURL, names: map[string]bool{}, known: map[string]string{}, sent: map[string]bool{}}
}

func (s *subscription) reset() {
	s.opened, s.nonce, s.sent = false, "", map[string]bool{}
}

// due reports whether the server has to be told something.
func (s *subscription) due() bool {
	if Wildcard(s.typeURL) {
		return !s.opened
	}
	if len(s.names) != len(s.sent) {
		return true
	}
	for n := range s.names {
		if !s.sent[n] {
			return true
		}
	}
	return false
}

// delta builds the request that tells the server the difference, and marks it as sent.
func (s *subscription) delta() *discoveryv3.DeltaDiscoveryRequest {
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: s.typeURL}
	if !s.opened {
		req.InitialResourceVersions = map[string]string{}
		for n, v := range s.known {
			if Wildcard(s.typeURL) || s.names[n] {
				req.InitialResourceVersions[n] = v
			}
		}
	}
	for n := range s.names {
		if !s.sent[n] {
			req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, n)
		}
	}
	for n := range s.sent {
		if !s.names[n] {
			req.ResourceNamesUnsubscribe = append(req.ResourceNamesUnsubscribe, n)
			delete(s.known, n)
		}
	}
	sort.Strings(req.ResourceNamesSubscribe)
	sort.Strings(req.ResourceNamesUnsubscribe)
	s.markSent()
	return req
}

// world builds a state-of-the-world request with all names, and marks it as sent.
func (s *subscription) world() *discoveryv3.DiscoveryRequest {
	req := &discoveryv3.DiscoveryRequest{TypeUrl: s.typeURL, VersionInfo: s.version, ResponseNonce: s.nonce}
	for n := range s.names {
		req.ResourceNames = append(req.ResourceNames, n)
	}
	sort.Strings(req.ResourceNames)
	s.markSent()
	return req
}

func (s *subscription) markSent() {
	s.opened = true
	s.sent = make(map[string]bool, len(s.names))
	for n := range s.names {
		s.sent[n] = true
	}
}

// accept records an update that was accepted but for the resources named by refused, which stay what they were.
func (s *subscription) accept(u Update, refused map[string]bool) {
	if u.Full && len(refused) == 0 {
		clear(s.known)
	}
	for _, r := range u.Resources {
		if !refused[r.Name] {
			s.known[r.Name] = r.Version
		}
	}
	for _, n := range u.Removed {
		delete(s.known, n)
	}
	if len(refused) == 0 {
		s.version = u.Version
	}
}
