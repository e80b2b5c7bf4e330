package xds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sort"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Mode selects the protocol variant.
type Mode int

// Modes.
const (
	Delta         Mode = iota // DeltaAggregatedResources
	StateOfWorld              // StreamAggregatedResources
	SecretService             // StreamSecrets: state of the world on the secret service
)

// Config describes one management server. All fields but Stats are required.
type Config struct {
	Name    string // for logs
	Mode    Mode
	Node    *corev3.Node
	Dial    func(ctx context.Context) (net.Conn, error)
	Handler Handler
	Log     *slog.Logger
	// Connected, when not nil, is told each time a stream opens (true) and breaks (false).
	Connected func(bool)
	// FirstBackoff is the delay after the first failure; 0 means 500 ms. It doubles up to 30 s while nothing is heard
	// from the server, and about half of it is left to chance.
	FirstBackoff time.Duration
}

// Client keeps one stream to a management server alive. Create with New, drive with Run.
type Client struct {
	cfg  Config
	mu   sync.Mutex
	subs map[string]*subscription
	wake chan struct{}
}

// New returns a client with no subscriptions.
func New(cfg Config) *Client {
	if cfg.FirstBackoff == 0 {
		cfg.FirstBackoff = 500 * time.Millisecond
	}
	return &Client{cfg: cfg, subs: map[string]*subscription{}, wake: make(chan struct{}, 1)}
}

// Subscribe sets the complete list of wanted names of a type; for wildcard types names must be empty. It may be called
// at any time, from the handler too.
func (c *Client) Subscribe(typeURL string, names []string) {
	c.mu.Lock()
	s, ok := c.subs[typeURL]
	if !ok {
		s = newSubscription(typeURL)
		c.subs[typeURL] = s
	}
	s.names = make(map[string]bool, len(names))
	for _, n := range names {
		s.names[n] = true
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run keeps the stream open until ctx ends. It returns nil then.
func (c *Client) Run(ctx context.Context) error {
	backoff := c.cfg.FirstBackoff
	for {
		heard, err := c.attempt(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if heard {
			backoff = c.cfg.FirstBackoff
		}
		wait := backoff/2 + rand.N(backoff/2+1)
		c.cfg.Log.Warn("discovery stream broke; the last good configuration stays",
			"server", c.cfg.Name, "err", err, "retry_in", wait.Round(time.Millisecond))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		backoff = min(backoff*2, 30*time.Second)
	}
}

// attempt makes one connection and serves one stream on it. A connection of its own means one dial: gRPC's own redialling
// would come on top of our backoff.
func (c *Client) attempt(ctx context.Context) (heard bool, err error) {
	conn, err := grpc.NewClient("passthrough:///"+c.cfg.Name,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.cfg.Dial(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Minute, Timeout: 20 * time.Second}),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return false, fmt.Errorf("xds %s: %w", c.cfg.Name, err)
	}
	defer func() { _ = conn.Close() }()
	return c.stream(ctx, conn)
}

// transport is one open stream of either variant.
type transport interface {
	// send tells the server about one subscription. first marks the stream's first request, which carries the node.
	send(s *subscription, first bool) error
	// ack answers the update last received for s; a nil err accepts it.
	ack(s *subscription, nonce string, err error) error
	recv() (Update, string, error)
}

var errStreamEnded = errors.New("stream ended")

// stream opens one stream and serves it until it breaks. heard reports whether the server has sent anything on it.
func (c *Client) stream(parent context.Context, conn *grpc.ClientConn) (heard bool, err error) {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	t, err := c.open(ctx, conn)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	for _, s := range c.subs {
		s.reset()
	}
	c.mu.Unlock()
	if c.cfg.Connected != nil {
		c.cfg.Connected(true)
		defer c.cfg.Connected(false)
	}
	type message struct {
		u     Update
		nonce string
	}
	in, failed := make(chan message), make(chan error, 1)
	go func() {
		for {
			u, nonce, err := t.recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case in <- message{u, nonce}:
			case <-ctx.Done():
				failed <- errStreamEnded
				return
			}
		}
	}()
	first := true
	// Only this goroutine sends, so requests and acknowledgements never interleave wrongly.
	for {
		if err := c.flush(t, &first); err != nil {
			return heard, err
		}
		select {
		case <-ctx.Done():
			return heard, ctx.Err()
		case err := <-failed:
			return heard, err
		case <-c.wake:
		case m := <-in:
			heard = true
			if err := c.handle(t, m.u, m.nonce); err != nil {
				return heard, err
			}
		}
	}
}

func (c *Client) flush(t transport, first *bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	due := make([]*subscription, 0, len(c.subs))
	for _, s := range c.subs {
		if s.due() {
			due = append(due, s)
		}
	}
	sort.Slice(due, func(i, j int) bool { return order[due[i].typeURL] < order[due[j].typeURL] })
	for _, s := range due {
		if err := t.send(s, *first); err != nil {
			return err
		}
		*first = false
	}
	return nil
}

func (c *Client) handle(t transport, u Update, nonce string) error {
	c.mu.Lock()
	s, ok := c.subs[u.Type]
	c.mu.Unlock()
	if !ok {
		c.cfg.Log.Warn("resources of a type that was not asked for", "server", c.cfg.Name, "type", u.Type)
		return nil
	}
	err := c.cfg.Handler.Apply(u)
	if err != nil {
		c.cfg.Log.Warn("configuration refused", "server", c.cfg.Name, "type", u.Type, "err", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		s.accept(u, nil)
	} else if names, whole := refused(err); !whole {
		s.accept(u, names)
	}
	return t.ack(s, nonce, err)
}
