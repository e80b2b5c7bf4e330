package jwt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"

	"github.com/ropes-dev/ropes/bootstrap/dataplane/fields"
)

// Fetch gets the document behind a URI.
type Fetch func(context.Context, *corev3.HttpUri) ([]byte, error)

// Defaults of Envoy.
const (
	defaultCache   = 10 * time.Minute
	defaultRefetch = time.Second
	defaultBackoff = time.Second
)

// remoteKeys are keys that a server has. They are fetched when a token asks for them and are not at hand or too old,
// once for all requests that wait. With async_fetch they are fetched ahead, and what is too old serves until newer keys
// have come.
type remoteKeys struct {
	uri     *corev3.HttpUri
	fetch   Fetch
	cache   time.Duration
	retries int
	base    time.Duration
	ceiling time.Duration
	async   bool
	refetch time.Duration
	first   <-chan struct{} // closed after the first fetch; nil where nobody has to wait for it

	mu      sync.Mutex
	keys    keySet
	expires time.Time
	failed  time.Time // of the latest fetch that failed
	running *fetching
}

type fetching struct {
	done chan struct{}
	keys keySet
}

func newRemoteKeys(p *jwtv3.RemoteJwks, fetch Fetch) (*remoteKeys, error) {
	if err := fields.Check(p, "http_uri cache_duration async_fetch retry_policy"); err != nil {
		return nil, err
	}
	if p.GetHttpUri().GetCluster() == "" || p.GetHttpUri().GetUri() == "" {
		return nil, errors.New("remote_jwks: http_uri needs a uri and a cluster")
	}
	out := &remoteKeys{uri: p.GetHttpUri(), fetch: fetch, cache: defaultCache, base: defaultBackoff, refetch: defaultRefetch}
	if d := p.GetCacheDuration(); d != nil {
		out.cache = d.AsDuration()
	}
	if r := p.GetRetryPolicy(); r != nil {
		if err := fields.Check(r, "retry_back_off num_retries"); err != nil {
			return nil, err
		}
		out.retries = 1
		if n := r.GetNumRetries(); n != nil {
			out.retries = int(n.GetValue())
		}
		if d := r.GetRetryBackOff().GetBaseInterval(); d != nil {
			out.base = d.AsDuration()
		}
		out.ceiling = r.GetRetryBackOff().GetMaxInterval().AsDuration()
	}
	if out.ceiling == 0 {
		out.ceiling = 10 * out.base
	}
	if a := p.GetAsyncFetch(); a != nil {
		out.async = true
		if d := a.GetFailedRefetchDuration(); d != nil {
			out.refetch = d.AsDuration()
		}
		f := out.begin(time.Now())
		if !a.GetFastListener() {
			out.first = f.done
		}
	}
	return out, nil
}

// load implements keySource.
func (k *remoteKeys) load(r *Request) (keySet, Status) {
	k.mu.Lock()
	fresh := k.keys != nil && r.Now.Before(k.expires)
	if fresh || k.async && k.keys != nil {
		keys := k.keys
		if !fresh && k.running == nil && r.Now.Sub(k.failed) >= k.refetch {
			k.beginLocked()
		}
		k.mu.Unlock()
		return keys, OK
	}
	f := k.running
	if f == nil {
		f = k.beginLocked()
	}
	k.mu.Unlock()
	select {
	case <-f.done:
	case <-r.Context.Done():
		return nil, FetchFailed
	}
	if f.keys == nil {
		return nil, FetchFailed
	}
	return f.keys, OK
}

func (k *remoteKeys) begin(time.Time) *fetching {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.beginLocked()
}

// beginLocked starts a fetch that outlives the request that asked for it: others may wait for it too.
func (k *remoteKeys) beginLocked() *fetching {
	f := &fetching{done: make(chan struct{})}
	k.running = f
	go func() {
		defer close(f.done)
		keys, err := k.attempt()
		k.mu.Lock()
		defer k.mu.Unlock()
		k.running = nil
		if err != nil {
			k.failed = time.Now()
			return
		}
		f.keys, k.keys, k.expires = keys, keys, time.Now().Add(k.cache)
	}()
	return f
}

// attempt fetches, again after a pause where the policy allows it.
func (k *remoteKeys) attempt() (keySet, error) {
	pause := k.base
	for n := 0; ; n++ {
		keys, err := k.once()
		if err == nil || n >= k.retries {
			return keys, err
		}
		time.Sleep(time.Duration(rand.Int64N(int64(pause) + 1)))
		pause = min(2*pause, k.ceiling)
	}
}

func (k *remoteKeys) once() (keySet, error) {
	ctx, cancel := context.WithTimeout(context.Background(), k.uri.GetTimeout().AsDuration())
	defer cancel()
	doc, err := k.fetch(ctx, k.uri)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", k.uri.GetUri(), err)
	}
	return parseKeys(doc)
}
